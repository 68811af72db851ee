from pathlib import Path

import pytest
from build_store import build_store

from analysis.history import Span, load_history, load_spans, utilisation


def test_history_has_every_evaluation_with_train_loss_and_metrics(complete_store: Path) -> None:
    frame = load_history(complete_store, "demo")
    one = frame[frame["node"] == frame["node"].iloc[0]]
    assert one["metric"].value_counts().to_dict() == {"train_loss": 3, "loss": 3, "accuracy": 3}
    assert one["epoch"].unique().tolist() == [1, 2, 3]


def test_history_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    build_store(tmp_path)
    path = next(tmp_path.glob("**/scalearn/**/history.jsonl"))
    path.write_text(path.read_text()[:-20])
    frame = load_history(tmp_path, "demo")
    node = path.parent.relative_to(tmp_path).as_posix()
    assert frame[frame["node"] == node]["epoch"].max() == 2


def test_spans_that_do_not_overlap_share_a_lane(complete_store: Path) -> None:
    spans = load_spans(complete_store, "demo")
    assert {span.lane for span in spans} == {0}
    # Each job takes 6 of the 7 seconds between starts, the last one ends the sweep.
    assert utilisation(spans) == pytest.approx(6 * len(spans) / (7 * len(spans) - 1))


def test_utilisation_counts_the_jobs_of_a_pack_once() -> None:
    def span(start: float, end: float, lane: int) -> Span:
        return Span("n", "transfer", "scalearn", "succeeded", start, end, "h", lane)

    assert utilisation([span(0, 10, 0), span(0, 8, 0), span(0, 5, 1)]) == pytest.approx(0.75)
    assert utilisation([]) == 0
