"""The findings of a sweep, in sentences that can be quoted, each with its numbers."""

import pandas as pd

from analysis.report.results import Results
from analysis.tables.benchmark import Row, tuning_note
from analysis.tables.grid import count, percent
from analysis.tables.grids import signed
from analysis.tables.omega import describe


def findings(results: Results) -> list[str]:
    """Return Markdown sentences: the progress, the best method and its certainty, whether tuning was equal, and which few suffice."""
    return [*progress(results), *_best(results), *tuning_note(results.table.rows), *_frugal(results), *_targets(results)]


def progress(results: Results) -> list[str]:
    """Return how many jobs are done, and what that means for the table."""
    states = results.states
    done, total = states.get("succeeded", 0), len(results.records)
    if done == total:
        return [f"All {total} jobs succeeded."]
    rest = ", ".join(f"{number} {state}" for state, number in states.items() if state != "succeeded")
    waiting = states.get("running", 0) + states.get("pending", 0)
    outlook = "The sweep is not finished: its numbers may change." if waiting else "What failed or is blocked is missing from the tables."
    return [f"{done} of {total} jobs succeeded ({rest}). {outlook}"]


def omega_findings(results: Results) -> list[str]:
    """Return one paragraph per method and target on the learned coefficients."""
    return [describe(summary) for summary in results.omegas]


def markdown(results: Results) -> str:
    """Return the findings and the benchmark table as a Markdown document, for a tracking server's description."""
    from_ = f"`{results.sweep.file}`" if results.sweep.file else f"`{results.sweep.name}`"
    lines = [f"Sweep {from_}, benchmark {results.table.benchmark}, backbone {', '.join(results.table.backbones)}.", ""]
    return "\n".join([*lines, *(f"- {line}" for line in findings(results)), ""])


def _best(results: Results) -> list[str]:
    complete = [row for row in results.table.rows if row.is_complete]
    if not complete:
        return ["No method has a score on every target yet, so averages cannot be compared."]
    best = max(complete, key=_average)
    if len(complete) == 1:
        return [f"**{best.title}** has the highest average, {_score(best)}, as the only method with a score on every target."]
    equal = [row for row in complete if percent(row.average) == percent(best.average)]
    if len(equal) > 1:
        return [f"{_listed([f'**{row.title}**' for row in equal])} share the highest average, {percent(best.average)}%."]
    second = max((row for row in complete if row is not best), key=_average)
    text = f"**{best.title}** has the highest average, {_score(best)}, before {second.title} with {_score(second)}."
    row = _difference(results, best.title)
    if row is not None:
        text += f" Its average is {signed(row['difference'])} points from that of {row['second']}"
        if pd.notna(row["low"]):
            sure = "excludes" if row["low"] > 0 or row["high"] < 0 else "includes"
            text += f" (95% interval {signed(row['low'])} to {signed(row['high'])}, which {sure} zero; {row['n']} seeds)"
        text += "."
    ranks = results.ranks
    if ranks is not None and ranks.friedman_p is not None and ranks.friedman_p >= ranks.alpha:
        text += f" Over these {ranks.targets} targets the methods' ranks do not differ significantly (Friedman p = {ranks.friedman_p:.2g})."
    return [text]


def _frugal(results: Results) -> list[str]:
    rows = [row for row in results.table.rows if row.is_complete and row.parameters_total]
    totals = {row.parameters_total for row in rows}
    if len(totals) < 2:
        return []
    least, best = min(rows, key=lambda row: row.parameters_total or 0), max(rows, key=_average)
    if least is best:
        among = "" if len(rows) == len(results.table.rows) else " of the methods with a score on every target"
        return [f"{best.title} is also the one with the fewest parameters{among}, {count(best.parameters_total)} in total."]
    share = (least.parameters_total or 0) / (best.parameters_total or 1)
    gap = signed(_average(least) - _average(best))
    return [
        f"The fewest parameters, {count(least.parameters_total)} for all targets, are {least.title}'s: {_share(share)} of {best.title}'s, "
        f"at an average of {percent(least.average)}% ({gap} points)."
    ]


def _targets(results: Results) -> list[str]:
    parts = []
    for index, target in enumerate(results.table.target_titles):
        scored = [(percent(mean), row.title) for row in results.table.rows if (mean := row.cells[index].mean) is not None]
        best = max((score for score, _ in scored), key=float, default="")
        titles = [title for score, title in scored if score == best]
        if 0 < len(titles) < len(scored):
            parts.append(f"{target}: {_listed(titles)} ({best})")
    return [f"Best per target: {'; '.join(parts)}."] if parts else []


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 5e-5 else "less than 0.01%"


def _average(row: Row) -> float:
    return row.average if row.average is not None else float("-inf")


def _score(row: Row) -> str:
    spread = "" if row.average_std is None else f" (± {percent(row.average_std)} over {len(row.average_seeds)} seeds)"
    return f"{percent(row.average)}%{spread}"


def _difference(results: Results, title: str) -> "pd.Series[float] | None":
    frame = results.differences
    found = frame[(frame["first"] == title) & (frame["target"] == "average")]
    return None if found.empty else found.iloc[0]
