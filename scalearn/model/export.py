"""A trained ScaLearn target as an ordinary adapter: its sources and omegas folded into one bottleneck of width T r.

`sum_t omega_t * (U_t f(D_t x + a_t) + b_t)` equals `U f(D x + a) + b` if the D_t are stacked and the scaled U_t lie side by side. So the
adapters library can run a target without any of this code. A target on LoRAs becomes one LoRA in the same way, without f, a and b, and PEFT
can run it.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from adapters.configuration import BnConfig

from scalearn.errors import UserError
from scalearn.formats.adapter_tensors import bottleneck_width
from scalearn.formats.library_files import library_name, save_adapter, save_head_inputs
from scalearn.formats.lora_files import base_of
from scalearn.layers.source_stack import BottleneckWeights, SourceStack
from scalearn.methods.bottleneck import BottleneckBranch, fill_bottleneck
from scalearn.methods.lora import LoraBranch, LoraShape
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.model import TransferModel
from scalearn.model.model_card import SourceOmega, model_card
from scalearn.model.peft_classifier import write_classifier
from scalearn.model.transfer_files import TransferSpec, job_config, save_transfer


@dataclass(frozen=True)
class Folded:
    """A target, folded into one adapter."""

    model: TransferModel
    """The same backbone and head, with the folded adapter."""
    omegas: tuple[SourceOmega, ...]
    trained: TransferSpec
    """The target that was folded."""

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the sources that are in the adapter."""
        return tuple(omega.name for omega in self.omegas if omega.kept)


def fold(model: TransferModel, *, prune: float | None = None) -> Folded:
    """Fold a target into one adapter.

    Args:
        model: A model of the ScaLearn family on one task. It is not changed.
        prune: Leave out sources whose omegas have a smaller mean absolute value than this. None: keep all.

    Returns:
        The model with the adapter, in evaluation mode, and the coefficients of each source.

    Raises:
        UserError: The method cannot be folded, or no source would remain.
    """
    branch, sources = model.branch, model.sources
    if not isinstance(branch, ScalingBranch) or sources is None:
        if isinstance(branch, BottleneckBranch | LoraBranch):
            raise UserError(f"Method '{model.spec.method}' left an ordinary adapter already: take the adapter/ folder of its job.")
        raise UserError(
            f"Method '{model.spec.method}' is no weighted sum of source adapters, so it cannot be folded into one adapter: "
            "export a method of the ScaLearn family."
        )
    omega = branch.omega.by_site(branch.omega.constrained().detach())
    omegas = tuple(_statistics(name, torch.cat([each[index] for each in omega]), prune) for index, name in enumerate(sources.names))
    kept = [index for index, each in enumerate(omegas) if each.kept]
    if not kept:
        largest = max(each.magnitude for each in omegas)
        raise UserError(f"Pruning at {prune:g} leaves no source: the largest mean absolute omega is {largest:.3g}; give a lower threshold.")
    if sources.lora is not None:
        return Folded(_with_lora(model, branch.stacks, omega, kept), omegas, model.spec)
    weights = []
    for stack, coefficients in zip(branch.stacks, omega, strict=True):
        up, _ = stack.fold(coefficients)
        up = up.unflatten(-1, (stack.sources, -1))[:, kept].flatten(1)
        down = stack.down_weight.unflatten(0, (stack.sources, -1))[kept].flatten(0, 1)
        down_bias = stack.down_bias.unflatten(0, (stack.sources, -1))[kept].flatten()
        weights.append(BottleneckWeights(down, down_bias, up, (coefficients * stack.up_bias)[kept].sum(0)))
    return Folded(_with_adapter(model, weights), omegas, model.spec)


def export_adapter(
    folded: Folded,
    directory: str | Path,
    *,
    name: str | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write a folded target in AdapterHub layout, or in PEFT's if it is a LoRA, with its head and a model card.

    The adapters library's own pickled files are written beside the safetensors ones, since a plain `load_adapter(directory)` reads those.

    Args:
        folded: Result of `fold`.
        directory: Created. It must be absent or empty.
        name: Name of adapter and head in the library. Default: the task's name.
        scores: Values by split and metric, for the card.
        notes: Further lines for the card.

    Raises:
        UserError: The directory is not empty, or cannot be written.
    """
    place, model = Path(directory), folded.model
    branch, head = model.branch, model.spec.heads[0]
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place} is not empty: name a directory that does not exist yet.")
    name = library_name(name or head.name or "target")
    lora, own_head = isinstance(branch, LoraBranch), None
    try:
        if isinstance(branch, LoraBranch):
            width = branch.shape.rank
            save_transfer(place, model.spec, branch, [model.head], model.encoder)
            own_head = write_classifier(place, model.encoder, branch, model.head, base_of(job_config(model.spec)))
        else:
            assert isinstance(branch, BottleneckBranch)
            width = branch.sites[0].down_sample
            save_adapter(model.encoder, place, name, branch.weights(), branch.config, model.head, head.label_names, pickle_too=True)
            save_head_inputs(place, head.task, head.max_length)
        reading = model.encoder.reading
        card = model_card(folded.trained, name, width, folded.omegas, scores or {}, notes, lora=lora, reading=reading, own_head=own_head)
        card.save(place / "README.md")
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise UserError(f"{place} cannot be written ({error.strerror or error}): name another directory.") from error


def exact_reduction(hidden: int, width: int) -> float:
    """Return a reduction factor for which the adapters library computes exactly this width: `int(hidden // factor)`.

    >>> exact_reduction(768, 384)
    2.0
    >>> int(768 // exact_reduction(768, 720))
    720
    """
    plain = hidden / width
    # If the ratio is not exact, its floor may be one too small. The middle of the next step is safe.
    return plain if bottleneck_width(hidden, plain) == width else hidden / (width + 0.5)


def _statistics(name: str, omega: torch.Tensor, prune: float | None) -> SourceOmega:
    magnitude = float(omega.abs().mean())
    spread = float(omega.std(correction=0))
    kept = prune is None or magnitude >= prune
    return SourceOmega(name, float(omega.mean()), spread, float(omega.min()), float(omega.max()), magnitude, kept)


def _with_adapter(model: TransferModel, weights: Sequence[BottleneckWeights]) -> TransferModel:
    assert model.sources is not None
    encoder = model.encoder
    reduction = exact_reduction(encoder.hidden_size, len(weights[0].down_bias))
    config = BnConfig.from_dict({**model.sources.config, "reduction_factor": reduction})
    spec = replace(
        model.spec,
        method="adapter",
        settings={"reduction_factor": reduction, "non_linearity": str(config["non_linearity"])},
        sources=(),
        built_on={},
    )
    with torch.random.fork_rng(devices=[]):
        branch = BottleneckBranch(config, encoder.sites, encoder.hidden_size)
    fill_bottleneck(branch, weights)
    return TransferModel(model.backbone, spec, branch.to(encoder.device), model.head).eval()


def _with_lora(model: TransferModel, stacks: Sequence[SourceStack], omega: Iterable[torch.Tensor], kept: Sequence[int]) -> TransferModel:
    """Return the model with one LoRA whose rank is the sum of the kept sources' ranks, without the zeros that fill up smaller ones."""
    assert model.sources is not None
    assert model.sources.lora is not None
    lora, widest = model.sources.lora, model.sources.width
    rows = [index * widest + row for index in kept for row in range(max(lora.ranks[index]))]
    sizes = [stack.size for stack in stacks]
    shape = LoraShape(dict(zip(lora.modules, sizes, strict=True)), len(rows), alpha=float(len(rows)))  # B is scaled already
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        branch = LoraBranch(shape)
        for down, up, stack, coefficients in zip(branch.down, branch.up, stacks, omega, strict=True):
            down.copy_(stack.down_weight[rows])
            up.copy_(stack.fold(coefficients)[0][:, rows])
    spec = replace(model.spec, method="lora", settings=shape.settings, sources=(), built_on={})
    return TransferModel(model.backbone, spec, branch.to(model.encoder.device), model.head).eval()
