"""The README.md that goes with an exported adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scalearn.methods.registry import get_method
from scalearn.model.transfer_files import TransferSpec


@dataclass(frozen=True)
class SourceOmega:
    """The coefficients of one source, over layers and dimensions."""

    name: str
    mean: float
    std: float
    smallest: float
    largest: float
    magnitude: float
    """Mean absolute value: what pruning goes by."""
    kept: bool
    """Whether the source is in the adapter."""


def model_card(
    spec: TransferSpec,
    name: str,
    width: int,
    omegas: Sequence[SourceOmega],
    scores: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
) -> str:
    """Write the card.

    Args:
        spec: The job that was exported.
        name: Of adapter and head.
        width: Bottleneck width of the adapter.
        omegas: Every source's coefficients.
        scores: Split to metric to value, as shares of 1.
        notes: Further paragraphs.

    Returns:
        Markdown with the front matter that model hubs read.
    """
    head, title = spec.heads[0], get_method(spec.method).title
    kept = [omega.name for omega in omegas if omega.kept]
    parts = [
        "---\ntags:\n- adapters\n- scalearn\nlibrary_name: adapters\n---",
        f"# {head.task or name}: {title} on {spec.backbone}",
        f"A bottleneck adapter of width {width} for `{spec.backbone}` ({spec.backbone_origin}), with a prediction head. It is a trained "
        f"{title} target: the outputs of {len(kept)} frozen source adapters ({', '.join(kept)}), scaled by learned coefficients omega "
        "and added up, folded into one adapter that is the same function of its input.",
        f"## Use\n\n```python\n{_usage(spec, name)}\n```",
        *([f"It predicts {', '.join(f'`{label}`' for label in head.label_names)}, in this order."] if head.label_names else []),
        f"## Sources\n\nomega over layers and dimensions; magnitude is the mean absolute value.\n\n{_omega_table(omegas)}",
        *([f"## Scores\n\n{_score_table(scores)}"] if scores else []),
        *notes,
    ]
    return "\n\n".join(parts) + "\n"


def _usage(spec: TransferSpec, name: str) -> str:
    hub = spec.backbone_origin.startswith("hub:")
    repository, _, revision = spec.backbone_origin.removeprefix("hub:").rpartition("@")
    place = f'"{repository}", revision="{revision}"' if hub else f'"directory/of/{spec.backbone.rpartition("/")[2]}"'
    return (
        "from adapters import AutoAdapterModel\n\n"
        f"model = AutoAdapterModel.from_pretrained({place})\n"
        'model.load_adapter("directory/of/this/file")\n'
        f'model.set_active_adapters("{name}")\n'
        f'model.active_head = "{name}"'
    )


def _omega_table(omegas: Sequence[SourceOmega]) -> str:
    lines = ["| source | mean | std | smallest | largest | magnitude | in the adapter |", "|---|--:|--:|--:|--:|--:|---|"]
    for omega in omegas:
        values = (omega.mean, omega.std, omega.smallest, omega.largest, omega.magnitude)
        lines.append(f"| {omega.name} | {' | '.join(f'{value:.4f}' for value in values)} | {'yes' if omega.kept else 'no'} |")
    return "\n".join(lines)


def _score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    metrics = list(dict.fromkeys(metric for values in scores.values() for metric in values))
    lines = [f"| split | {' | '.join(metrics)} |", f"|---|{'--:|' * len(metrics)}"]
    for split, values in scores.items():
        lines.append(f"| {split} | {' | '.join(f'{values[metric]:.4f}' if metric in values else '' for metric in metrics)} |")
    return "\n".join(lines)
