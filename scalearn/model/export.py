"""A trained ScaLearn target as an ordinary adapter: its sources and omegas folded into one bottleneck of width T r.

So the adapters library can run a target without any of this code. A target on LoRAs becomes one LoRA, and PEFT can run it.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from scalearn.errors import UserError
from scalearn.formats.library_files import library_name, save_adapter, save_head_inputs
from scalearn.formats.lora_files import base_of
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.folding import folded
from scalearn.methods.lora import LoraBranch
from scalearn.methods.scaling import ScalingBranch
from scalearn.model.model import TransferModel
from scalearn.model.model_card import CardFacts, SourceOmega, model_card
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
            f"Method '{model.spec.method}' is no sum of source adapters with fixed weights, so it cannot be folded into one adapter: "
            "export a method of the ScaLearn family."
        )
    omega = branch.omega.by_site(branch.omega.constrained().detach())
    omegas = tuple(_statistics(name, torch.cat([each[index] for each in omega]), prune) for index, name in enumerate(sources.names))
    kept = [index for index, each in enumerate(omegas) if each.kept]
    if not kept:
        largest = max(each.magnitude for each in omegas)
        raise UserError(f"Pruning at {prune:g} leaves no source: the largest mean absolute omega is {largest:.3g}; give a lower threshold.")
    one = folded(replace(sources, stacks=tuple(branch.stacks)), omega, kept)
    if isinstance(one, LoraBranch):
        method, settings = "lora", one.shape.settings
    else:
        method, settings = "adapter", {key: one.config[key] for key in ("reduction_factor", "non_linearity")}
    spec = replace(model.spec, method=method, settings=settings, sources=(), built_on={})
    return Folded(TransferModel(model.backbone, spec, one.to(model.encoder.device), model.head).eval(), omegas, model.spec)


def export_adapter(
    folded: Folded,
    directory: str | Path,
    *,
    name: str | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    notes: Sequence[str] = (),
    facts: CardFacts | None = None,
) -> None:
    """Write a folded target in AdapterHub layout, or in PEFT's if it is a LoRA, with its head and a model card.

    The adapters library's own pickled files are written beside the safetensors ones, since a plain `load_adapter(directory)` reads those.

    Args:
        folded: Result of `fold`.
        directory: Created. It must be absent or empty.
        name: Name of adapter and head in the library. Default: the task's name.
        scores: Values by split and metric, for the card.
        notes: Further lines for the card.
        facts: All that the card says, in place of `scores` and `notes`.

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
            save_head_inputs(place, head.task, head.max_length, folded.trained.backbone)
        reading = model.encoder.reading
        said = facts or CardFacts(scores or {}, notes)
        card = model_card(folded.trained, name, width, folded.omegas, said, lora=lora, reading=reading, own_head=own_head)
        card.save(place / "README.md")
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)
        raise UserError(f"{place} cannot be written ({error.strerror or error}): name another directory.") from error


def _statistics(name: str, omega: torch.Tensor, prune: float | None) -> SourceOmega:
    magnitude = float(omega.abs().mean())
    spread = float(omega.std(correction=0))
    kept = prune is None or magnitude >= prune
    return SourceOmega(name, float(omega.mean()), spread, float(omega.min()), float(omega.max()), magnitude, kept)
