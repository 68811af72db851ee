"""A worker that is asked to stop tells training at once, not at the next evaluation."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.artifacts.store import Store
from orchestrator.execution.trial import Ending, MemberOrder, PackOrder, run_pack
from scalearn.training.pack import Outcome, PackMember, Report, Stop
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import source

STOP_FILE = "stop"


def train(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Takes steps and never reports; after the third, the file appears."""
    assert runtime.should_stop is not None
    root = pack[0].directory.parents[5]
    for step in range(10):
        if runtime.should_stop():
            (pack[0].directory / "stopped").write_text(str(step))
            raise Stop
        if step == 3:
            (root / STOP_FILE).touch()
    raise AssertionError("nobody asked to stop")


def test_stop_file_reaches_training_between_its_steps(tmp_path: Path) -> None:
    job, store = source("a"), Store(tmp_path)
    member = MemberOrder(job.node, job.config, {"node": job.node}, {})
    order = PackOrder((member,), str(tmp_path), f"{__name__}:train", Runtime(), tmp_path / STOP_FILE)
    assert run_pack(order) == Ending("stopped", (job.node,))
    assert (store.directory(job.node) / "stopped").read_text() == "4"
    assert not store.complete(job.node)
