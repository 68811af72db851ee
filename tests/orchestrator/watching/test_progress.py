"""What a run prints where there is no terminal."""

import io

from rich.console import Console

from orchestrator.definition.graph import Graph
from orchestrator.watching.progress import ProgressDisplay, show_seconds
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


def test_durations_read_as_people_say_them():
    assert [show_seconds(seconds) for seconds in (4.21, 59, 200, 18600, None)] == ["4.2 s", "59 s", "3 min 20 s", "5 h 10 min", "?"]
