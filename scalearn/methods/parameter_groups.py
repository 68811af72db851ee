"""A job's parameters as its optimiser gets them: weight decay leaves biases and layer norms alone, as the published runs' trainer does."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from scalearn.config import JobConfig
from scalearn.layers.branch import Branch, ParameterGroup
from scalearn.layers.heads import Head


def parameter_groups(branch: Branch, heads: Sequence[Head], config: JobConfig) -> list[dict[str, Any]]:
    """Return what a job's optimiser is made of: groups with `params`, `lr` and `weight_decay`, the branch's, then the heads'."""
    optimisation = config.optimisation
    parameters = tuple(parameter for head in heads for parameter in head.parameters() if parameter.requires_grad)
    stated = (*branch.parameter_groups(config), ParameterGroup(parameters, optimisation.learning_rate, optimisation.weight_decay))
    exempt = never_decayed([branch, *heads])
    parts = [part for group in stated for part in split_by_decay(group, exempt) if part.parameters]
    return [{"params": list(part.parameters), "lr": part.learning_rate, "weight_decay": part.weight_decay} for part in parts]


def never_decayed(modules: Iterable[nn.Module]) -> set[int]:
    """Return the identities of all parameters of layer norms, and of those with `bias` in their full name, generators of biases too."""
    found: set[int] = set()
    for module in modules:
        found.update(id(parameter) for name, parameter in module.named_parameters() if "bias" in name)
        norms = (owner for owner in module.modules() if isinstance(owner, nn.LayerNorm))
        found.update(id(parameter) for norm in norms for parameter in norm.parameters())
    return found


def split_by_decay(group: ParameterGroup, exempt: set[int]) -> list[ParameterGroup]:
    """Split a group in two where some of its parameters take no decay. A group without weight decay stays whole.

    Args:
        group: As a method states it.
        exempt: From `never_decayed`.
    """
    decayed = tuple(parameter for parameter in group.parameters if id(parameter) not in exempt)
    if not group.weight_decay or len(decayed) == len(group.parameters):
        return [group]
    rest = tuple(parameter for parameter in group.parameters if id(parameter) in exempt)
    return [ParameterGroup(decayed, group.learning_rate, group.weight_decay), ParameterGroup(rest, group.learning_rate, 0.0)]
