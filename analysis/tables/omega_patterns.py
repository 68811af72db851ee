"""Patterns in the learned coefficients, each against chance: over layers, targets, seeds, and against sources that learned nothing.

Chance means that the names of the sources are shuffled within each job, which keeps all values. `analysis.tables.omega` describes the
values themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.reading.names import short_name
from analysis.tables.grid import Grid, GridCell, GridRow
from analysis.tables.grids import p_text
from analysis.tables.omega import Omega
from analysis.tables.statistics import RESAMPLES, holm

Array = npt.NDArray[np.float64]
LEVEL = 0.05


@dataclass(frozen=True)
class Pattern:
    """One pattern in the omegas of one method."""

    title: str
    """Of the method."""
    question: str
    answer: str
    """With its numbers."""
    p: float | None
    """By permutation, or exact. None: there is too little to tell."""
    p_holm: float | None = None
    """After Holm's correction over the questions that were put to the method."""


def patterns(omegas: Sequence[Omega], spoilt: Mapping[str, Sequence[str]] | None = None) -> list[Pattern]:
    """Return the patterns of each method with at least two targets or seeds.

    Args:
        omegas: Coefficients of one stack per method and target (`analysis.tables.stacks.largest`), and of those with spoilt sources.
        spoilt: By node, the sources that learned from shuffled labels alone. None, or no such node: chance is the only measure.
    """
    found: list[Pattern] = []
    by_method: dict[str, list[Omega]] = {}
    for omega in omegas:
        by_method.setdefault(omega.method, []).append(omega)
    for method, some in by_method.items():
        title = some[0].names.method_title(method)
        whole = [omega for omega in some if not (spoilt or {}).get(omega.node)]
        told = [_own(title, whole), _layers(title, whole), _seeds(title, whole), _spoilt(title, some, spoilt or {})]
        asked = [pattern for pattern in told if pattern is not None]
        corrected = iter(holm([pattern.p for pattern in asked if pattern.p is not None]))
        found += [_with(pattern, None if pattern.p is None else next(corrected)) for pattern in asked]
    return found


def sentence(pattern: Pattern) -> str:
    """Return one pattern as a sentence."""
    if pattern.p_holm is None:
        return f"**{pattern.title}**: {pattern.answer}; too little to tell it from chance."
    sure = "more than chance" if pattern.p_holm < LEVEL else "no more than chance would give"
    return f"**{pattern.title}**: {pattern.answer}, {sure} (p {p_text(pattern.p_holm)}, Holm)."


def pattern_grid(found: Sequence[Pattern]) -> Grid:
    """Return all patterns as a table."""
    rows = []
    for pattern in found:
        ends = tuple(GridCell(p_text(p), sort=p) for p in (pattern.p, pattern.p_holm))
        rows.append(GridRow(pattern.title, (GridCell(pattern.question), GridCell(pattern.answer), *ends)))
    notes = ("p: by shuffling the sources' names within jobs, or exact; Holm's correction over the questions put to a method.",)
    header = ("Question", "Seen", "p", "p (Holm)")
    return Grid("Patterns in omega", header, ("",) * 4, tuple(rows), (), notes, (False, False, True, True))


def _with(pattern: Pattern, p_holm: float | None) -> Pattern:
    return Pattern(pattern.title, pattern.question, pattern.answer, pattern.p, p_holm)


def _means(omegas: Sequence[Omega]) -> dict[tuple[str, tuple[str, ...]], Array]:
    """Return the mean omega of each source over seeds, by target and stack."""
    cells: dict[tuple[str, tuple[str, ...]], list[Array]] = {}
    for omega in omegas:
        cells.setdefault((omega.task, omega.sources), []).append(omega.by_source)
    return {key: np.mean(some, axis=0) for key, some in cells.items()}


def _own(title: str, omegas: Sequence[Omega]) -> Pattern | None:
    """Ask whether the target's own source is largest. By chance it is in a stack of T with probability 1 / T: an exact test."""
    largest = [
        (int(np.argmax(means)) == sources.index(short_name(task)), len(sources))
        for (task, sources), means in _means(omegas).items()
        if short_name(task) in sources and len(sources) > 1
    ]
    if not largest:
        return None
    hits = sum(hit for hit, _ in largest)
    chance = np.ones(1)
    for _, count in largest:
        chance = np.convolve(chance, [1 - 1 / count, 1 / count])
    what = "targets" if len(largest) == len({task for task, _ in _means(omegas)}) else "stacks"
    expected = sum(1 / count for _, count in largest)
    answer = f"the target's own source has the largest omega for {hits} of {len(largest)} {what} ({expected:.1f} expected by chance)"
    p = float(chance[hits:].sum()) if len(largest) > 1 else None
    return Pattern(title, "Is the target's own source largest?", answer, p)


def _layers(title: str, omegas: Sequence[Omega]) -> Pattern | None:
    """Ask whether late layers use other tasks' sources more than early ones, over targets, by Wilcoxon's exact signed ranks."""
    changes: dict[str, list[float]] = {}
    shares: list[tuple[float, float]] = []
    for omega in omegas:
        layers = omega.values.shape[0]
        if layers < 2 or short_name(omega.task) not in omega.sources or len(omega.sources) < 2:
            continue
        magnitude = np.abs(omega.values).mean(axis=2)
        others = np.array([source != short_name(omega.task) for source in omega.sources])
        share = magnitude[:, others].sum(axis=1) / np.maximum(magnitude.sum(axis=1), 1e-30)
        early, late = float(share[: layers // 2].mean()), float(share[-(layers // 2) :].mean())
        shares.append((early, late))
        changes.setdefault(omega.task, []).append(late - early)
    if not shares:
        return None
    early, late = (fmean(pair[end] for pair in shares) for end in (0, 1))
    answer = f"other tasks' sources hold {early:.1%} of the weight in the first half of the layers and {late:.1%} in the last"
    means = [fmean(some) for some in changes.values()]
    p = (
        float(stats.wilcoxon(means, method="exact").pvalue)
        if len(means) > 4 and all(means) and len(set(map(abs, means))) == len(means)
        else None
    )
    return Pattern(title, "Do early and late layers differ?", answer, p)


def _seeds(title: str, omegas: Sequence[Omega]) -> Pattern | None:
    """Ask whether seeds agree on the order of the sources."""
    cells: dict[tuple[str, tuple[str, ...]], list[Array]] = {}
    for omega in omegas:
        if len(omega.sources) > 2:
            cells.setdefault((omega.task, omega.sources), []).append(_standard_ranks(omega.by_source))
    cells = {key: some for key, some in cells.items() if len(some) > 1}
    if not cells:
        return None
    found = fmean(_agreement(some) for some in cells.values())

    def by_chance(rng: np.random.Generator) -> float:
        return fmean(_agreement([rng.permutation(ranks) for ranks in some]) for some in cells.values())

    answer = f"seeds agree on the order of the sources with a mean rank correlation of {found:.2f} over {len(cells)} stacks"
    return Pattern(title, "Do seeds agree?", answer.replace("-", "−"), _p(found, by_chance))


def _spoilt(title: str, omegas: Sequence[Omega], spoilt: Mapping[str, Sequence[str]]) -> Pattern | None:
    """Ask whether trained sources have larger omegas than those in the same stack that learned from shuffled labels alone."""
    stacks = [
        (omega.by_source, np.array([source in spoilt[omega.node] for source in omega.sources]))
        for omega in omegas
        if spoilt.get(omega.node)
    ]
    stacks = [(values, which) for values, which in stacks if which.any() and not which.all()]
    if not stacks:
        return None
    trained, empty = (fmean(float(values[which == side].mean()) for values, which in stacks) for side in (False, True))

    def by_chance(rng: np.random.Generator) -> float:
        shuffled = ((values, rng.permutation(which)) for values, which in stacks)
        return fmean(float(values[~which].mean() - values[which].mean()) for values, which in shuffled)

    answer = f"trained sources have a mean omega of {trained:.3f}, those trained on shuffled labels {empty:.3f}, over {len(stacks)} jobs"
    return Pattern(title, "Do trained sources get more than empty ones?", answer, _p(trained - empty, by_chance))


def _standard_ranks(values: Array) -> Array:
    ranks = stats.rankdata(values)
    return np.asarray((ranks - ranks.mean()) / max(float(ranks.std()), 1e-30))


def _agreement(ranks: Sequence[Array]) -> float:
    """Return the mean Spearman correlation over pairs, of standardised ranks."""
    return fmean(float((one * two).mean()) for one, two in combinations(ranks, 2))


def _p(found: float, by_chance: Callable[[np.random.Generator], float]) -> float:
    """Return the one-sided p of a value among those that chance gives."""
    rng = np.random.default_rng(0)
    draws = RESAMPLES // 10
    return (1 + sum(by_chance(rng) >= found - 1e-12 for _ in range(draws))) / (1 + draws)
