"""What the learned scaling coefficients tell about transfer.

omega has the shape [layers, sources, width]. There is one layer if all layers share it, and width 1 if each source has a scalar. Where it
depends on the token, it is a mean, which the job's result holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load as load_safetensors
from scipy import stats
from scipy.special import softmax

from analysis.errors import ResultsError
from analysis.reading.files import Folder
from analysis.reading.load import locate
from analysis.reading.names import Names, facts_of, short_name
from analysis.reading.records import Record, read_json, read_records
from analysis.tables.benchmark import BenchmarkTable

Nodes = Sequence[str] | Mapping[str, str] | None
GIVEN = ("scalearn_fixed", "source_average", "best_source")
"""Methods whose coefficients are given, not learned."""
HARDLY_MOVED = 0.1
"""If a source's mean coefficient differs from its start by less than this share, it says little about transfer."""
NEAR_ZERO = 0.1
"""A coefficient counts as zero if it is below this share of its mean initial size, which is 2 / T unless the job sets it."""


@dataclass(frozen=True)
class Omega:
    """The coefficients of one transfer job."""

    node: str
    method: str
    task: str
    seed: int
    learning_rate: float
    sources: tuple[str, ...]
    values: npt.NDArray[np.float64]
    """[layers or 1, sources, width or 1], as the layer uses them, so after the constraint if there is one. Vectors over modules of unlike
    sizes lie one behind the other: [1, sources, sum of `widths`]."""
    start: float = 2.0
    """Sum of the coefficients of a dimension at the start of training: 2, unless the job sets it or the method has a constraint."""
    variant: str = ""
    """Label of the job's row in the table, if the method has several rows."""
    names: Names = field(default_factory=Names)
    """Names of methods and tasks in the results."""
    widths: tuple[int, ...] = ()
    """Sizes of the modules' vectors if they are unlike, else empty."""

    @property
    def title(self) -> str:
        """The method's title, with the variant."""
        return self.names.method_title(self.method) + (f" ({self.variant})" if self.variant else "")

    @property
    def even(self) -> float:
        """Mean of the coefficients at the start of training: 2 / T, unless the job sets it or the method has a constraint."""
        return self.start / len(self.sources)

    @property
    def small(self) -> float:
        """The size below which a coefficient counts as zero."""
        return NEAR_ZERO * self.even

    @property
    def by_source(self) -> npt.NDArray[np.float64]:
        """Mean over layers and dimensions, [sources]."""
        return np.asarray(self.values.mean(axis=(0, 2)))

    @property
    def layers(self) -> list[npt.NDArray[np.float64]]:
        """The coefficients of each layer, or of each linear module of LoRAs, [sources, width or 1] each."""
        return np.split(self.values[0], np.cumsum(self.widths)[:-1], axis=1) if self.widths else list(self.values)

    @property
    def by_layer(self) -> npt.NDArray[np.float64]:
        """Mean over dimensions, [layers, sources]."""
        return np.stack([layer.mean(axis=1) for layer in self.layers])


@dataclass(frozen=True)
class OmegaSummary:
    """The coefficients that one method learned for one target, over seeds."""

    method: str
    title: str
    task: str
    task_title: str
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    means: tuple[float, ...]
    """Mean omega of each source, over seeds, layers and dimensions."""
    stds: tuple[float | None, ...]
    """Sample standard deviation over seeds of each source's mean omega. None: there are fewer than two seeds."""
    stability: float | None
    """Mean Spearman correlation of the sources' mean omegas over pairs of seeds. None: fewer than two seeds or three sources."""
    near_zero: float
    """Share of coefficients below a tenth of their mean initial size, `start / T`."""
    negative: float
    """Share of negative coefficients."""
    total: float
    """Sum over sources, averaged over layers, dimensions and seeds. It may move away from `start`, since omega is not normalised."""
    start: float
    effective_sources: float
    """Inverse Simpson index of the sources' mean |omega|: T if all have equal weight, 1 if one source has all of it."""
    other_share: tuple[float, ...]
    """For each layer, the share of sum |omega| on sources other than the target's own: how much the layer uses transfer."""

    @property
    def ranking(self) -> tuple[str, ...]:
        """Sources by mean omega, largest first."""
        return tuple(self.sources[index] for index in np.argsort(-np.array(self.means), kind="stable"))


def load_omegas(store: str | Path, sweep: str | None = None, nodes: Nodes = None) -> list[Omega]:
    """Return the coefficients of every finished transfer job that learned some.

    Args:
        store: As for `analysis.load`.
        sweep: As for `analysis.load`.
        nodes: Only these nodes, for example those of a table's cells (`behind(table)` also gives each one's variant).

    Raises:
        ResultsError: An omega file does not fit its job's list of sources.
    """
    folder, manifest = locate(store, sweep)
    return omegas_of(folder, read_records(folder, manifest), nodes)


def behind(table: BenchmarkTable) -> dict[str, str]:
    """Return the variant of the row of each node behind the table, by node."""
    return {node: row.variant for row in table.rows for node in row.nodes}


def omegas_of(folder: Folder, records: Sequence[Record], nodes: Nodes = None) -> list[Omega]:
    """Do as `load_omegas`, for records that were read already."""
    wanted, names = None if nodes is None else set(nodes), Names(facts_of(records))
    found = []
    for record in records:
        if record.state != "succeeded" or record.config.get("method") in GIVEN or (wanted is not None and record.node not in wanted):
            continue
        means = (record.result.get("omega") or {}).get("mean")
        raw = None if means else folder.read(f"{record.node}/transfer/omega.safetensors")
        if raw is None and not means:
            continue
        about = read_json(folder, f"{record.node}/transfer/transfer_config.json") or {}
        sources = tuple(about.get("sources") or record.config.get("sources") or ())
        given = load_safetensors(raw)["omega"] if raw else pd.DataFrame(means).to_numpy()[:, :, None]
        values = np.asarray(given, dtype=np.float64)
        if values.ndim != 3 or values.shape[1] != len(sources):
            file = "transfer/omega.safetensors" if raw else "result.json"
            raise ResultsError(f"omega in {record.node}/{file} has shape {values.shape}, which does not fit {len(sources)} sources.")
        variant = nodes.get(record.node, "") if isinstance(nodes, Mapping) else ""
        found.append(replace(_omega(record, sources, values, variant, names), widths=_widths(about, values)))
    return found


def _widths(about: Mapping[str, Any], values: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return the sizes of vectors that lie one behind the other. Empty: they do not."""
    widths = tuple(about.get("omega_widths") or ())
    return widths if all(isinstance(width, int) and width > 0 for width in widths) and sum(widths) == values.shape[2] else ()


def omega_frame(omegas: Sequence[Omega]) -> pd.DataFrame:
    """Return the coefficients as a long frame: a row per (node, layer, source).

    Returns:
        Columns node, method, task, seed, learning_rate, layer (from 0), source, mean, std (over dimensions), and the shares negative and
        near_zero.
    """
    rows = []
    for omega in omegas:
        for layer, plane in enumerate(omega.layers):
            for source, values in zip(omega.sources, plane, strict=True):
                about = (omega.node, omega.method, omega.task, omega.seed, omega.learning_rate, layer, source)
                rows.append((*about, values.mean(), values.std(), (values < 0).mean(), (np.abs(values) < omega.small).mean()))
    columns = ["node", "method", "task", "seed", "learning_rate", "layer", "source", "mean", "std", "negative", "near_zero"]
    return pd.DataFrame(rows, columns=columns)


def heat_map(omegas: Sequence[Omega]) -> pd.DataFrame:
    """Return the mean omega of one method, target x source, over seeds, dimensions and layers.

    Returns:
        Index: task keys. Columns: source names. A value is missing if the target does not have the source.
    """
    return omega_frame(omegas).pivot_table(index="task", columns="source", values="mean", sort=False)


def summarise(omegas: Sequence[Omega]) -> list[OmegaSummary]:
    """Return one summary per method, variant, target and set of sources. Otherwise jobs may differ only in seed (use a table's jobs)."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Omega]] = {}
    for omega in omegas:
        groups.setdefault((omega.title, omega.task, omega.sources), []).append(omega)
    return [_summary(group) for group in groups.values()]


def describe(summary: OmegaSummary) -> str:
    """Return what one method learned for one target, in one or two Markdown sentences with the numbers."""
    count = len(summary.seeds)
    order = np.argsort(-np.array(summary.means), kind="stable")
    parts = []
    for index in order[:3]:
        std = summary.stds[index]
        parts.append(f"{summary.sources[index]} ({summary.means[index]:.2f}{'' if std is None else f' ± {std:.2f}'})")
    own = short_name(summary.task)
    own_rank = (
        f"its own source ranks {summary.ranking.index(own) + 1} of {len(summary.sources)}"
        if own in summary.sources
        else "it has no own source"
    )
    text = f"**{summary.title} on {summary.task_title}** ({count} seed{'s' if count > 1 else ''}): "
    text += f"the largest mean coefficients are those of {', '.join(parts)}; {own_rank}. "
    text += f"The {len(summary.sources)} coefficients sum to {summary.total:.2f} ({summary.start:g} at the start), as if spread over "
    text += f"{summary.effective_sources:.1f} equal sources; {summary.negative:.0%} are negative and {summary.near_zero:.0%} near zero. "
    even = summary.start / len(summary.sources)
    if max(abs(mean - even) for mean in summary.means) < HARDLY_MOVED * abs(even):
        text += f"No source's mean is further than {HARDLY_MOVED:.0%} from its start of {even:.2f}: their order says little yet. "
    if own in summary.sources:
        text += f"Other tasks' sources hold {fmean(summary.other_share):.0%} of the weight"
        most, least = int(np.argmax(summary.other_share)), int(np.argmin(summary.other_share))
        shares = [f"{summary.other_share[layer]:.0%}" for layer in (most, least)]
        if shares[0] != shares[1]:
            text += f", most in layer {most + 1} ({shares[0]}) and least in layer {least + 1} ({shares[1]})"
        elif len(summary.other_share) > 1:
            text += ", in every layer alike"
        text += ". "
    if summary.stability is not None:
        text += f"Seeds agree on the order of the sources with a mean rank correlation of {summary.stability:.2f}.".replace("-", "−")
    return text.rstrip()


def summary_frame(summaries: Sequence[OmegaSummary]) -> pd.DataFrame:
    """Return the summaries' numbers: a row per method and target."""
    rows = [
        {
            "method": summary.method,
            "title": summary.title,
            "task": summary.task,
            "seeds": len(summary.seeds),
            "top_source": summary.ranking[0],
            "own_rank": summary.ranking.index(own) + 1 if (own := short_name(summary.task)) in summary.sources else None,
            "sum": summary.total,
            "effective_sources": summary.effective_sources,
            "other_share": fmean(summary.other_share),
            "negative": summary.negative,
            "near_zero": summary.near_zero,
            "stability": summary.stability,
        }
        for summary in summaries
    ]
    return pd.DataFrame(rows)


def _omega(record: Record, sources: tuple[str, ...], values: npt.NDArray[np.float64], variant: str, names: Names) -> Omega:
    """Return the coefficients as the layer uses them. The artifact has them before an ablation's constraint (docs/protocol.md)."""
    config = record.config
    method, start = str(config["method"]), float((config.get("settings") or {}).get("omega_init_scale", 2.0))
    if method == "scalearn_mean":
        values, start = values / values.sum(axis=1, keepdims=True), 1.0
    if method == "scalearn_softmax":
        values, start = softmax(values, axis=1), 1.0
    if said := record.result.get("omega"):
        start = float(said["start"]) * len(sources)
    rate = float((config.get("optimisation") or {}).get("learning_rate", "nan"))
    return Omega(record.node, method, str(config["data"][0]["task"]), int(config["seed"]), rate, sources, values, start, variant, names)


def _summary(group: Sequence[Omega]) -> OmegaSummary:
    first = group[0]
    per_seed = np.stack([omega.by_source for omega in group])
    values = np.concatenate([omega.values for omega in group])
    magnitude = np.abs(np.stack([omega.values for omega in group]))
    weight = magnitude.mean(axis=(0, 1, 3))
    others = np.array([short_name(first.task) != source for source in first.sources])
    per_layer = np.mean([[np.abs(layer).mean(axis=1) for layer in omega.layers] for omega in group], axis=0)
    share = weight / weight.sum() if weight.sum() > 0 else np.full(len(weight), 1 / len(weight))
    pairs = list(combinations(per_seed, 2)) if len(first.sources) > 2 else []
    correlations = [float(stats.spearmanr(one, two).statistic) for one, two in pairs]
    return OmegaSummary(
        method=first.method,
        title=first.title,
        start=first.start,
        task=first.task,
        task_title=first.names.task_title(first.task),
        sources=first.sources,
        seeds=tuple(omega.seed for omega in group),
        means=tuple(float(mean) for mean in per_seed.mean(axis=0)),
        stds=tuple(stdev(column) if len(group) > 1 else None for column in per_seed.T.tolist()),
        stability=fmean(correlations) if correlations else None,
        near_zero=float((np.abs(values) < first.small).mean()),
        negative=float((values < 0).mean()),
        total=float(per_seed.sum(axis=1).mean()),
        effective_sources=float(1 / (share**2).sum()),
        other_share=tuple(float(value) for value in per_layer[:, others].sum(axis=1) / np.maximum(per_layer.sum(axis=1), 1e-30)),
    )
