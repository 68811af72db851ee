"""A job's parameters in groups for its optimiser. Biases and layer norms have no weight decay, as in the published runs' trainer."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from scalearn.config import JobConfig
from scalearn.layers.branch import Branch, ParameterGroup
from scalearn.layers.heads import Head


def parameter_groups(branch: Branch, heads: Sequence[Head], config: JobConfig) -> list[dict[str, Any]]:
    """Return the groups for a job's optimiser, each with `params`, `lr` and `weight_decay`: first the branch's, then the heads'."""
    optimisation = config.optimisation
    parameters = tuple(parameter for head in heads for parameter in head.parameters() if parameter.requires_grad)
    stated = (*branch.parameter_groups(config), ParameterGroup(parameters, optimisation.learning_rate, optimisation.weight_decay))
    exempt = never_decayed([branch, *heads])
    parts = [part for group in stated for part in split_by_decay(group, exempt) if part.parameters]
    return [{"params": list(part.parameters), "lr": part.learning_rate, "weight_decay": part.weight_decay} for part in parts]


def never_decayed(modules: Iterable[nn.Module]) -> set[int]:
    """Return the identities of all parameters of layer norms, and of those with `bias` in their full name, even generators of biases."""
    found: set[int] = set()
    for module in modules:
        found.update(id(parameter) for name, parameter in module.named_parameters() if "bias" in name)
        norms = (owner for owner in module.modules() if isinstance(owner, nn.LayerNorm))
        found.update(id(parameter) for norm in norms for parameter in norm.parameters())
    return found


def split_by_decay(group: ParameterGroup, exempt: set[int]) -> list[ParameterGroup]:
    """Split a group in two if some of its parameters have no decay. A group without weight decay stays whole.

    Args:
        group: A group, as a method returns it.
        exempt: Result of `never_decayed`.
    """
    decayed = tuple(parameter for parameter in group.parameters if id(parameter) not in exempt)
    if not group.weight_decay or len(decayed) == len(group.parameters):
        return [group]
    rest = tuple(parameter for parameter in group.parameters if id(parameter) in exempt)
    return [ParameterGroup(decayed, group.learning_rate, group.weight_decay), ParameterGroup(rest, group.learning_rate, 0.0)]
