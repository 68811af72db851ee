"""The README.md of an exported adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from scalearn.backbone.reading import Reading
from scalearn.methods.registry import get_method
from scalearn.model.transfer_files import TransferSpec

_READ: dict[Reading, str] = {"first": "the first token's", "last": "the last token's", "mean": "the mean of all tokens'"}
_CODE: dict[Reading, str] = {
    "first": "states[:, 0]",
    "last": "states[range(len(states)), mask.sum(1) - 1]",
    "mean": "(states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)",
}
"""What is read of `states`, whose padding is on the right, with `mask`."""


HERE = "directory/of/this/file"


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the adapter itself."""

    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Values by split and metric, as shares of 1."""
    notes: Sequence[str] = ()
    """Further paragraphs."""
    datasets: Sequence[str] = ()
    """Data sets of the hub that it was trained on."""
    license: str | None = None
    """Identifier of the licence, as the hub has it: `mit`, `cc-by-4.0`."""
    place: str = HERE
    """Where a reader loads it from: a directory, or a hub id."""


@dataclass(frozen=True)
class SourceOmega:
    """The coefficients of one source, over layers and dimensions."""

    name: str
    mean: float
    std: float
    smallest: float
    largest: float
    magnitude: float
    """Mean absolute value, by which sources are pruned."""
    kept: bool
    """Whether the source is in the adapter."""


def model_card(
    spec: TransferSpec,
    name: str,
    width: int,
    omegas: Sequence[SourceOmega],
    facts: CardFacts,
    *,
    lora: bool = False,
    reading: Reading = "first",
    own_head: str | None = None,
) -> ModelCard:
    """Return the card, with the base model and the scores in the front matter that model hubs read.

    Args:
        spec: The job that was exported.
        name: Name of adapter and head.
        width: Bottleneck width of the adapter, or rank of the LoRA.
        omegas: The coefficients of every source.
        facts: What else it says.
        lora: Whether it is a LoRA in PEFT's layout.
        reading: Where the head reads.
        own_head: The folder that holds LoRA and head for transformers' own classifier. None: it cannot hold this head.
    """
    head = spec.heads[0]
    task_type = "multiple-choice" if head.kind == "multiple_choice" else "text-classification"
    rows = [(split, metric, value) for split, values in facts.scores.items() for metric, value in values.items()]
    results = [EvalResult(task_type, head.task, head.task, metric, value, dataset_split=split) for split, metric, value in rows]
    hub = spec.backbone_origin.startswith("hub:")
    repository, _, revision = spec.backbone_origin.removeprefix("hub:").rpartition("@")
    card: ModelCard = ModelCard.from_template(
        ModelCardData(
            base_model=repository if hub else None,
            library_name="peft" if lora else "adapters",
            license=facts.license,
            datasets=sorted(set(facts.datasets)) or None,
            tags=["lora" if lora else "adapters", "scalearn"],
            model_name=name,
            eval_results=results or None,
        ),
        template_path=str(Path(__file__).with_suffix(".md.j2")),
        spec=spec,
        head=head,
        name=name,
        title=get_method(spec.method).title,
        width=width,
        lora=lora,
        read=_READ[reading],
        code=_CODE[reading],
        own_head=own_head,
        omegas=omegas,
        kept=[omega.name for omega in omegas if omega.kept],
        scores=rows,
        notes=facts.notes,
        here=facts.place,
        on_hub=facts.place != HERE,
        place=f'"{repository}", revision="{revision}"' if hub else f'"directory/of/{spec.backbone.rpartition("/")[2]}"',
    )
    return card
