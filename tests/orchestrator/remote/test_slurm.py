"""`scalearn submit --slurm` on a SLURM that is real: its daemons run on this machine, with two nodes. Training is a double."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.commands import submit_slurm
from tests.orchestrator.helpers import slurm as helper
from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launching import Launch
from tests.orchestrator.helpers.slurm import Slurm

SWEEP = """
name: NAME
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [apple, bbc]}
targets: [apple]
methods:
  scalearn_uniform: {}
"""
"""Two sources, and a job that waits for both."""

ENDLESS = {"epochs": 1_000_000, "seconds": 0.1}
_SECONDS = 300.0
"""A busy machine needs a minute to start a Ray of two nodes."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(helper.missing() is not None, reason=str(helper.missing()))]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with helper.running() as started:
        yield started


class Batch(Launch):
    """A sweep in a directory of its own, submitted as a batch job with the double in place of training."""

    def __init__(self, slurm: Slurm, directory: Path, repository: Path, name: str) -> None:
        directory.mkdir()
        super().__init__(directory, repository, SWEEP.replace("NAME", name), name)
        self.slurm, self.directory, self.number = slurm, directory, ""

    def submit(self, capsys: pytest.CaptureFixture[str], *options: str) -> None:
        os.chdir(self.directory)
        assert main(["submit", str(self.file), "--slurm", *options]) == 0
        self.number = capsys.readouterr().out.split()[3]

    def printed(self) -> str:
        log = self.directory / f"slurm-{self.number}.out"
        return log.read_text() if log.exists() else ""

    def state(self) -> str:
        return self.slurm.job(self.number)["JobState"]

    def until(self, happened: Callable[[], object]) -> None:
        """Wait for something that is to happen before the job has ended."""
        self._wait(lambda: happened() or self._has_ended())
        assert happened(), self.told()

    def told(self) -> str:
        """All that is known of the job."""
        return f"{self.slurm.job(self.number)}\n{self.printed()}\n{self.slurm.logs()}"

    def _wait(self, happened: Callable[[], object]) -> None:
        self.slurm.wait(happened, _SECONDS, self.told)

    def _has_ended(self) -> bool:
        return self.state() in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def end(self) -> tuple[str, str]:
        """Wait until the job has ended. Returns its state and its exit code, as SLURM tells them."""
        self._wait(self._has_ended)
        return self.state(), self.slurm.job(self.number)["ExitCode"]


def sources(batch: Batch, part: str = "/source/") -> list[str]:
    return [node for node in batch.graph().nodes() if "/source/" in node and part in node]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps what it needs while a job runs: a short path, since sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as directory:
        monkeypatch.setenv("RAY_TMPDIR", directory)
        yield Path(directory)


@pytest.fixture
def environment(slurm: Slurm, repository: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setattr(submit_slurm, "_program", lambda: [sys.executable, "-m", "tests.orchestrator.helpers.command"])
    monkeypatch.chdir(repository)  # set back after the test


def test_two_sweeps_at_once_share_both_nodes_and_each_job_ends_with_its_sweeps_code(
    slurm, tmp_path, repository, environment, scratch, capsys
):
    good, bad = (Batch(slurm, tmp_path / name, repository, name) for name in ("good", "bad"))
    hold = {"hold": {"epoch": 1, "until": "go"}}
    behave(good.store, ("source/", hold))
    behave(bad.store, ("source/", hold), ("transfer/", {"error": "no luck"}))
    for batch in (good, bad):
        batch.submit(capsys, "--nodes", "2", "--time", "30")
    for batch in (good, bad):
        batch.until(lambda batch=batch: all(batch.log(node) for node in sources(batch)))
    assert (good.state(), bad.state()) == ("RUNNING", "RUNNING")
    for batch in (good, bad):
        assert {slurm.job(batch.number)["NodeList"], slurm.job(batch.number)["NumCPUs"]} == {"n[0-1]", "2"}
        assert len({line["machine"] for node in sources(batch) for line in batch.log(node)}) == 2  # one source on each node
        (batch.store.root / "go").touch()
    assert good.end() == ("COMPLETED", "0:0"), good.told()
    assert bad.end() == ("FAILED", "1:0"), bad.told()
    assert set(good.states().values()) == {"succeeded"}
    assert "3/3 succeeded" in good.printed()
    assert sorted(bad.states().values()) == ["failed", "succeeded", "succeeded"]
    slurm.wait(lambda: not any(scratch.iterdir()), 60.0, lambda: f"Left behind: {sorted(path.name for path in scratch.iterdir())}")


def test_time_limit_checkpoints_and_queues_the_sweep_again_until_it_is_done(slurm, tmp_path, repository, environment, capsys):
    batch = Batch(slurm, tmp_path / "long", repository, "long")
    behave(batch.store, ("source/", ENDLESS))
    batch.submit(capsys, "--requeue", "--cpus-per-node", "2", "--time", "60", "--sbatch=--signal=B:USR1@30")
    for start, part in ((1, "/source/"), (2, "/apple/")):  # bbc ends in the second start
        running = sources(batch, part)
        batch.until(lambda start=start, running=running: all(len(batch.log(node)) == start for node in running))
        epochs = {node: batch.epoch(node) for node in running}
        batch.until(lambda epochs=epochs: all(batch.epoch(node) > epoch + 2 for node, epoch in epochs.items()))
        slurm.call("scontrol", "update", f"JobId={batch.number}", "EndTime=now+60")  # it would be an hour
        batch.until(lambda start=start: slurm.job(batch.number)["Restarts"] == str(start))
        batch.until(lambda: batch.state() == "PENDING")
        assert {batch.states()[node] for node in running} == {"pending"}
        behave(batch.store, ("source/", ENDLESS), ("bbc", {"epochs": 1}), *([("apple", {"epochs": 1})] if start == 2 else []))
        slurm.call("scontrol", "update", f"JobId={batch.number}", "StartTime=now+3", "TimeLimit=60")  # it would be two minutes
    assert batch.end() == ("COMPLETED", "0:0"), batch.told()
    starts = {node.split("/")[-2] + node.split("/")[2][0]: count for node, count in batch.attempts().items()}
    assert starts == {"bbcs": 2, "apples": 3, "applet": 1}
    for node in batch.graph().nodes():
        assert [record["epoch"] for record in batch.history(node)] == list(range(1, len(batch.history(node)) + 1))  # none twice
    assert batch.printed().count(f"The time limit is near: job {batch.number} is queued again") == 2
    assert batch.printed().count("ScaLearnUniform") >= 1


def test_cancel_stops_a_running_sweep_for_good_and_takes_a_waiting_one_from_the_queue(slurm, tmp_path, repository, environment, capsys):
    batch = Batch(slurm, tmp_path / "ended", repository, "ended")
    behave(batch.store, ("source/", ENDLESS))
    batch.submit(capsys, "--requeue", "--time", "60")
    batch.until(lambda: any(batch.epoch(node) > 2 for node in sources(batch)))
    assert main(["status", str(batch.file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"] is True
    begun = next(node for node in sources(batch) if batch.epoch(node))
    assert main(["logs", str(batch.file), begun]) == 0
    assert "epoch 1:" in capsys.readouterr().out
    assert main(["cancel", str(batch.file)]) == 0
    assert "has stopped." in capsys.readouterr().out
    assert batch.end() == ("FAILED", "130:0"), batch.told()
    assert slurm.job(batch.number)["Restarts"] == "0"

    batch.submit(capsys, "--sbatch=--hold")
    assert main(["status", str(batch.file)]) == 0
    assert f"Waiting in SLURM's queue: job {batch.number}." in capsys.readouterr().out
    assert main(["cancel", str(batch.file)]) == 0
    assert capsys.readouterr().out == f"Cancelled job {batch.number} of SLURM, which was waiting.\n"
    assert batch.end()[0] == "CANCELLED"
    assert max(batch.attempts().values()) == 1
    assert Store(batch.store.url).storage.names(batch.store.root / ".leases" / "drivers") == []


def test_what_slurm_refuses_is_one_sentence(slurm, tmp_path, repository, environment, capsys):
    batch = Batch(slurm, tmp_path / "refused", repository, "refused")
    assert main(["submit", str(batch.file), "--slurm", "--partition", "nowhere"]) == 2
    reason = "invalid partition specified: nowhere; Batch job submission failed: Invalid partition name specified"
    assert capsys.readouterr() == ("", f"scalearn: SLURM does not take the job: {reason}.\n")
