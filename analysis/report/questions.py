"""The questions about sources and methods that a sweep's jobs answer, each with its sentences, tables and plots."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.plots.backbones import backbone_plot
from analysis.plots.ladder import ladder_plot
from analysis.plots.sources import foresight_plot, gain_plots, interference_plot, quality_plot
from analysis.plots.style import Plot
from analysis.reading.names import Names
from analysis.reading.records import Record
from analysis.tables import foresight, gains, interference, ladder, omega_patterns, quality
from analysis.tables.backbones import backbone_grid, backbone_ranks, blocks
from analysis.tables.backbones import sentence as rank_sentence
from analysis.tables.benchmark import BenchmarkTable
from analysis.tables.grid import Grid
from analysis.tables.omega import Omega
from analysis.tables.stacks import largest


@dataclass(frozen=True)
class Question:
    """One question, as far as the sweep answers it."""

    name: str
    """Its place in the page, and the name of its table's file."""
    title: str
    sentences: tuple[str, ...]
    """Markdown, each with its numbers."""
    table: Grid
    plots: tuple[Plot, ...] = ()


def questions(
    scores: pd.DataFrame, omegas: Sequence[Omega], names: Names, frame: pd.DataFrame | None = None, records: Sequence[Record] = ()
) -> list[Question]:
    """Return the questions for which a sweep holds the jobs.

    Args:
        scores: As `stack_scores` returns them.
        omegas: The coefficients that these jobs learned.
        names: Names of methods and tasks.
        frame: As `analysis.load` returns it, for what trying took. None: what was known beforehand is left out.
        records: The sweep's jobs, among them those that rate sources.
    """
    asked = [_interference(scores, names), _gains(scores, omegas, names)]
    asked += [] if frame is None else [_foresight(scores, frame, records, names)]
    asked += [_patterns(scores, omegas), _quality(scores, omegas, names)]
    return [question for question in asked if question is not None]


def questions_by_backbone(
    scores: pd.DataFrame, omegas: Sequence[Omega], names: Names, frame: pd.DataFrame, records: Sequence[Record]
) -> list[Question]:
    """Return the questions of each backbone by itself, since neither gains nor omegas of two encoders compare. See `questions`."""
    places = frame.drop_duplicates("node").set_index("node")["backbone"]
    backbones = list(dict.fromkeys(places[list(scores["node"])].dropna()))
    if len(backbones) < 2:
        return questions(scores, omegas, names, frame, records)
    found = []
    for backbone in map(str, backbones):
        own = set(places.index[places == backbone])
        parts = (scores[scores["node"].isin(own)], [omega for omega in omegas if omega.node in own])
        asked = questions(*parts, names, frame[frame["node"].isin(own)], [record for record in records if record.node in own])
        for question in asked:
            plots = tuple(replace(plot, name=_on(plot.name, backbone), title=f"{plot.title} on {backbone}") for plot in question.plots)
            found.append(replace(question, name=_on(question.name, backbone), title=f"{question.title} on {backbone}", plots=plots))
    return found


def _on(name: str, backbone: str) -> str:
    return "_".join([name, *re.findall(r"\w+", backbone)])


def questions_of_methods(table: BenchmarkTable) -> list[Question]:
    """Return the questions that a sweep's table answers."""
    parts = blocks(table)
    asked = [_ladder(part, part.backbones[0] if len(parts) > 1 else "") for part in parts]
    ranks = backbone_ranks(table)
    if ranks is not None:
        asked.append(Question("backbones", "Other backbones", (rank_sentence(ranks),), backbone_grid(ranks), (backbone_plot(ranks),)))
    return [question for question in asked if question is not None]


def _ladder(table: BenchmarkTable, backbone: str) -> Question | None:
    """Return the ladder of one backbone, which is named if there are several."""
    found = ladder.ladder(table)
    if found is None:
        return None
    name, plot = _on("ladder", backbone), ladder_plot(found, table)
    title = "What scaling could reach" + (f" on {backbone}" if backbone else "")
    plots = () if plot is None else (replace(plot, name=name, title=f"{plot.title} on {backbone}" if backbone else plot.title),)
    return Question(name, title, (ladder.sentence(found),), ladder.ladder_grid(found, table), plots)


def _interference(scores: pd.DataFrame, names: Names) -> Question | None:
    found = interference.interference(scores, names)
    plot = interference_plot(found, names)
    if plot is None:
        return None
    told = tuple(interference.sentence(entry, names) for entry in found)
    return Question("interference", "How many sources are enough", told, interference.interference_grid(found, names), (plot,))


def _gains(scores: pd.DataFrame, omegas: Sequence[Omega], names: Names) -> Question | None:
    found = gains.gains(scores, names)
    if found.empty:
        return None
    told = [gains.sentence(kind, title, pairs, names) for kind, title, pairs in gains.matrices(found)]
    told += gains.agreement_sentences(gains.omega_agreement(found, scores, omegas, names), names)
    return Question("gains", "Who helps whom", tuple(told), gains.gain_grid(found, names), tuple(gain_plots(found, names)))


def _foresight(scores: pd.DataFrame, frame: pd.DataFrame, records: Sequence[Record], names: Names) -> Question | None:
    told = foresight.foresight(gains.gains(scores, names), foresight.ratings(records))
    plot = foresight_plot(told)
    if plot is None:
        return None
    sentences = tuple(foresight.sentences(told, frame, foresight.seconds(records), names))
    return Question("foresight", "Known beforehand", sentences, foresight.foresight_grid(told, names), (plot,))


def _patterns(scores: pd.DataFrame, omegas: Sequence[Omega]) -> Question | None:
    spoilt, whole = quality.spoilt(scores), largest(scores)
    told = [omega for omega in omegas if omega.node in whole or omega.node in spoilt]
    found = omega_patterns.patterns(told, spoilt)
    if not found:
        return None
    sentences = tuple(map(omega_patterns.sentence, found))
    return Question("patterns", "Patterns in omega, against chance", sentences, omega_patterns.pattern_grid(found))


def _quality(scores: pd.DataFrame, omegas: Sequence[Omega], names: Names) -> Question | None:
    if (scores["quality"] == "").all():
        return None
    lost, by_quality = quality.losses(scores, names), quality.omega_by_quality(scores, omegas)
    plot = quality_plot(by_quality)
    told = tuple(quality.sentences(lost, by_quality, names))
    return Question("quality", "Unequal sources", told, quality.quality_grid(lost, names), () if plot is None else (plot,))
