"""Which trials no other beats in both score and size: the Pareto front of a sweep whose objectives are score and parameters."""

import pandas as pd

from analysis.reading.names import Names
from analysis.reading.selection import table_jobs, table_targets
from analysis.tables.benchmark import trained_parameters
from analysis.tables.grid import Grid, GridCell, GridRow, count, percent

KEYS = ["task", "method", "variant", "learning_rate", "tuned"]


def pareto(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trial, with its mean validation score over seeds and its trained parameters, and mark the front of each task.

    A trial is on the front if none has at least its score with fewer parameters, or a higher score with at most its parameters. Test
    scores are not used.

    Args:
        frame: As `analysis.load` returns it.

    Returns:
        Columns task, method, variant, learning_rate, tuned, score, parameters, front; the largest score of each task first.
    """
    jobs = table_jobs(frame, table_targets(frame))
    jobs = jobs[jobs["primary"].fillna(False).astype(bool) & (jobs["split"] == "validation") & jobs["value"].notna()]
    jobs = jobs.assign(parameters=trained_parameters(jobs))
    trials = jobs.groupby(KEYS, as_index=False).agg(score=("value", "mean"), parameters=("parameters", "max"))
    trials = trials[trials["parameters"].notna()].sort_values(["task", "score", "parameters"], ascending=[True, False, True])
    return trials.assign(front=non_dominated(trials)).reset_index(drop=True)


def weighed_trials(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Return the trials of `pareto`. None: the sweep does not weigh parameters, or nothing has a score."""
    if "parameters" not in frame.attrs.get("sweep", {}).get("objectives", ()):
        return None
    trials = pareto(frame)
    return None if trials.empty else trials


def non_dominated(trials: pd.DataFrame) -> list[bool]:
    """Tell which rows no other row of their task beats: higher `score`, fewer `parameters`, and in neither worse."""
    marks = []
    for row in trials.itertuples(index=False):
        rivals = trials[trials["task"] == row.task]
        better = (rivals["score"] > row.score) | (rivals["parameters"] < row.parameters)
        marks.append(not bool((better & (rivals["score"] >= row.score) & (rivals["parameters"] <= row.parameters)).any()))
    return marks


def pareto_grid(frame: pd.DataFrame) -> Grid | None:
    """Return the front of each target as a table. None: the sweep does not weigh parameters, or nothing has a score."""
    trials = weighed_trials(frame)
    if trials is None:
        return None
    names, rows = Names.of(frame), []
    for entry in trials[trials["front"]].to_dict("records"):
        settings = ", ".join(part for part in (str(entry["variant"]), str(entry["tuned"])) if part)
        cells = (
            GridCell(names.task_title(str(entry["task"]), list(trials["task"].unique()))),
            GridCell(names.method_title(str(entry["method"]))),
            GridCell(f"{entry['learning_rate']:g}", sort=float(entry["learning_rate"])),
            GridCell(settings or "–"),
            GridCell(percent(float(entry["score"])), sort=float(entry["score"])),
            GridCell(count(int(entry["parameters"])), sort=float(entry["parameters"])),
        )
        rows.append(GridRow("", cells))
    header = ("Target", "Method", "Learning rate", "Settings", "Validation score", "Parameters")
    note = f"{len(rows)} of {len(trials)} trials: no other has a better validation score with as few parameters, or as good with fewer."
    return Grid("Pareto front", header, ("",) * 6, tuple(rows), (), (note,), (False, False, True, False, True, True))
