"""Published scores, to compare with."""

from dataclasses import dataclass
from importlib import resources

import pandas as pd

from analysis.errors import ResultsError

CITATION = (
    "Frohmann, Holtermann, Masoudian, Lauscher and Rekabsaz: ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to "
    "Scale. Findings of ACL 2024, arXiv:2310.01217."
)
_KEYS = ["benchmark", "backbone", "method"]


@dataclass(frozen=True)
class PublishedScores:
    """The published table of one benchmark."""

    benchmark: str
    backbone: str
    scores: dict[str, dict[str, float]]
    """Scores as fractions, by method and then by short task name or `average`."""
    citation: str = CITATION


def published_table() -> pd.DataFrame:
    """Return all published scores in percent: a row per (benchmark, backbone, method), a column per task."""
    with resources.files(__name__).joinpath("scalearn_2024.csv").open() as file:
        return pd.read_csv(file, comment="#")


def published_scores(benchmark: str | None) -> PublishedScores:
    """Return the published table of one benchmark.

    Raises:
        ResultsError: Nothing is published for it.
    """
    table = published_table()
    rows = table[table["benchmark"] == benchmark]
    if rows.empty:
        known = ", ".join(sorted(table["benchmark"].unique()))
        raise ResultsError(f"The paper publishes no scores for benchmark {benchmark}; leave out `--against paper` or use one of: {known}.")
    scores = {
        str(row["method"]): {str(task): float(row[task]) / 100 for task in table.columns if task not in _KEYS and pd.notna(row[task])}
        for _, row in rows.iterrows()
    }
    return PublishedScores(str(benchmark), str(rows["backbone"].iloc[0]), scores)
