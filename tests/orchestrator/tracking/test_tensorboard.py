"""TensorBoard's event files from a store, read back as TensorBoard reads them."""

from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from orchestrator.cli import main
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.small_sweep import small_store


def test_tensorboard_has_every_curve_and_score_once_though_written_twice(tmp_path, monkeypatch, capsys):
    file, store, graph = small_store(tmp_path / "small")
    monkeypatch.chdir(file.parent)
    assert main(["log", str(file), "--to", "tensorboard", "events"]) == 2
    assert "No job of small has logged anything" in capsys.readouterr().err
    run_jobs(graph, store)
    for _ in range(2):
        assert main(["log", str(file), "--to", "tensorboard", "events"]) == 0
    assert f"Wrote {len(graph)} jobs" in capsys.readouterr().out
    (target, *_) = [job for job in graph if job.parents]
    (events,) = (file.parent / "events" / target.node).iterdir()
    found = [(value.tag, event.step, value.simple_value) for event in events_in(events) for value in event.summary.value]
    assert [(step, value) for tag, step, value in found if tag == "validation/accuracy"] == [(10, 0.5), (20, 0.75)]
    assert [value for tag, _, value in found if tag == "test_score"] == pytest.approx([0.74])
    assert "_hparams_/session_start_info" in {tag for tag, _, _ in found}
    assert main(["log", str(file), "--to", "paper", "events"]) == 2
    assert "--to paper: the form is tensorboard" in capsys.readouterr().err


def events_in(file: Path) -> list[Event]:
    """The events of a file: each is behind its length of 8 bytes and a checksum of 4, and before another checksum."""
    content, events = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return events
