"""What a run prints where there is no terminal."""

import io
import json
from functools import partial

from rich.console import Console

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.watching.progress import ProgressDisplay, show_seconds
from orchestrator.watching.running import RunningJob, read_running
from scalearn.errors import UserError
from tests.orchestrator.helpers.doubles import source, transfer


def test_every_ended_job_is_a_line_with_count_duration_and_time_left():
    top = source("s0")
    graph = Graph([transfer("t0", [top]), transfer("t1", [top])])
    console = Console(file=io.StringIO(), width=200)
    with ProgressDisplay(graph, console) as progress:
        for node, state in ((top.node, "running"), (top.node, "succeeded")):
            graph.mark(node, state)
            progress.listen(node, state)
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line[9:].startswith(f"1/3 succeeded {top.node} in 0.0 s, about 0.0 s left")


def test_live_table_names_running_jobs_with_epoch_score_and_device(tmp_path):
    store = Store(tmp_path / "runs")
    top = source("s0")
    graph = Graph([transfer("t0", [top])])
    record = {"step": 10, "total_steps": 40, "epoch": 2.0, "validation": {"loss": 0.5, "accuracy": 0.75}}
    (store.begin(top.node, {"provenance": {"host": "node3", "gpus": ""}}) / "history.jsonl").write_text(json.dumps(record) + "\n")
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with ProgressDisplay(graph, console, partial(read_running, store)) as progress:
        graph.mark(top.node, "running")
        progress.listen(top.node, "running")
        progress._live.refresh()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    name = "/".join(top.node.split("/")[2:]).rpartition("-")[0]
    assert f"{name}  " in text
    assert "step 10/40, epoch 2, loss 0.5, accuracy 0.75, node3, CPU" in text
    assert "time left not known yet" in text


def test_store_that_is_away_hides_no_running_job():
    def read(node: str) -> RunningJob:
        raise UserError("The store is away.")

    top = source("s0")
    graph = Graph([transfer("t0", [top])])
    graph.mark(top.node, "running")
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with ProgressDisplay(graph, console, read) as progress:
        progress._live.refresh()
    assert "step 0" in console.file.getvalue()  # type: ignore[attr-defined]


def test_durations_read_as_people_say_them():
    assert [show_seconds(seconds) for seconds in (4.21, 59, 200, 18600, None)] == ["4.2 s", "59 s", "3 min 20 s", "5 h 10 min", "?"]
