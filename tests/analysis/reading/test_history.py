import json
from pathlib import Path

import pytest

from analysis.reading.history import Span, load_history, load_spans, utilisation
from tests.analysis.helpers.build_store import START, build_store


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


def test_spans_have_a_lane_per_worker(complete_store: Path) -> None:
    spans = load_spans(complete_store, "demo")
    # Two workers take turns, so the second takes over the lane that the first has left.
    assert [span.lane for span in spans[:3]] == [0, 0, 0]
    # Each job takes 6 of the 7 seconds between starts, the last one ends the sweep.
    assert utilisation(spans) == pytest.approx(6 * len(spans) / (7 * len(spans) - 1))


def test_spans_of_one_worker_share_a_lane_and_parallel_workers_do_not(tmp_path: Path) -> None:
    build_store(tmp_path)
    jobs = sorted(tmp_path.glob("**/job.json"))[:3]
    for path, pid in zip(jobs, (1, 1, 2), strict=True):
        job = json.loads(path.read_text())
        path.write_text(json.dumps(job | {"started": START - 100, "provenance": {"host": "machine-b", "pid": pid}}))
    lanes = {span.node: span.lane for span in load_spans(tmp_path, "demo") if span.host == "machine-b"}
    assert [lanes[path.parent.relative_to(tmp_path).as_posix()] for path in jobs] in ([0, 0, 1], [1, 1, 0])


def test_utilisation_counts_the_jobs_of_a_pack_once() -> None:
    def span(start: float, end: float, lane: int) -> Span:
        return Span("n", "transfer", "scalearn", "succeeded", start, end, "h", lane)

    assert utilisation([span(0, 10, 0), span(0, 8, 0), span(0, 5, 1)]) == pytest.approx(0.75)
    assert utilisation([]) == 0
