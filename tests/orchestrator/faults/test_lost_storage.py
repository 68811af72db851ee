"""Full disks and stores that go away, injected into real worker processes: jobs wait and go on, or end with one sentence."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store, Verdict
from orchestrator.definition.sweep import Sweep
from orchestrator.storage.retrying import Patience, StoreUnavailable
from tests.orchestrator.helpers.doubles import behave, source
from tests.orchestrator.helpers.launching import wait_while_running
from tests.orchestrator.helpers.object_server import BUCKET, ObjectServer
from tests.orchestrator.helpers.one_pack import SMALL_SWEEP

pytestmark = pytest.mark.fault

NODE = source("s0").node


class Process:
    """A process that works on a store. What it prints goes to a file: a pipe would be held open by Ray's own processes."""

    def __init__(self, module: str, arguments: Sequence[str], directory: Path, repository: Path, **environment: str) -> None:
        self._log = directory / f"{uuid.uuid4().hex}.log"
        environment = {**os.environ, "PYTHONPATH": str(repository), **environment}
        command = [sys.executable, "-m", f"tests.orchestrator.helpers.{module}", *arguments]
        with self._log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=directory, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], object], seconds: float = 240) -> None:
        wait_while_running(self.process, happened, lambda: self.said, seconds)

    def waits(self) -> bool:
        return "Trying again" in self.said

    def end(self, seconds: float = 240) -> int:
        """Wait until it has ended, and return its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes, and ends them with the test."""
    with contextlib.ExitStack() as stack:

        def begin(module: str, *arguments: str, **environment: str) -> Process:
            begun = Process(module, arguments, tmp_path, repository, **environment)
            stack.callback(begun.process.wait, timeout=60)
            stack.callback(begun.process.kill)
            return begun

        yield begin


@pytest.fixture
def worker(start: Callable[..., Process]) -> Callable[..., Process]:
    """Starts a worker that trains one job."""
    return lambda store, **environment: start("one_pack", store, "s0", **environment)


@pytest.fixture
def driver(start: Callable[..., Process], tmp_path: Path) -> Callable[..., Process]:
    """Starts `scalearn run` on a small sweep."""
    (tmp_path / "toy.yaml").write_text(SMALL_SWEEP)
    tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    return lambda store, **environment: start("command", "run", "toy.yaml", "--store", store, **tracking, **environment)


def nodes_of_the_sweep() -> tuple[str, ...]:
    return tuple(Sweep.from_text(SMALL_SWEEP).expand().nodes())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB: room for a sweep's report, and soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=60)


@pytest.fixture
def held(small_disk: Path) -> Store:
    """A store on that disk, whose jobs wait after their first epoch until the disk has been filled."""
    store = Store(small_disk / "runs", Patience(0.0))
    behave(store, (".", {"epochs": 3, "hold": {"epoch": 2, "until": "go"}}))
    (store.root / "ready").touch()
    return store


def fill(store: Store) -> Path:
    """Leave no byte free on the store's disk, and let its jobs go on."""
    ballast = store.root.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))  # a block at a time, so that the last one is taken too
    if (store.root / "ready").exists():
        (store.root / "ready").rename(store.root / "go")  # which needs no space
    return ballast


@pytest.mark.slow
def test_full_disk_keeps_the_job_waiting_until_there_is_space_again(held, worker):
    store = held
    begun = worker(store.url, SCALEARN_STORE_PATIENCE="300")
    begun.until((store.directory(NODE) / "checkpoint" / "epoch").exists)
    ballast = fill(store)
    begun.until(begun.waits)
    assert not store.complete(NODE)
    ballast.unlink()
    assert begun.end() == 0, begun.said
    assert store.verify(NODE) == Verdict("complete"), begun.said
    resumed = [json.loads(line)["from"] for line in (store.directory(NODE) / "run.log").read_text().splitlines()]
    assert len(resumed) > 1
    assert resumed[-1] > 0  # from the checkpoint, not anew


@pytest.mark.slow
def test_disk_that_stays_full_fails_the_job_in_one_sentence_and_leaves_nothing_half(small_disk, worker):
    store = Store(small_disk / "runs", Patience(0.0))
    behave(store, (".", {"epochs": 2}))
    ballast = fill(store)
    begun = worker(store.url, SCALEARN_STORE_PATIENCE="1")
    assert begun.end() == 0, begun.said
    assert store.verify(NODE).state in ("absent", "unfinished", "failed")
    assert not [name for name in store.storage.listing(small_disk) if name.startswith("runs/") and "/." in name]
    with pytest.raises(
        StoreUnavailable, match=rf"^The store {store.url} could not be written to \(no space left on device\): free some space"
    ):
        store.begin(NODE, {})
    ballast.unlink()
    again = worker(store.url)
    assert again.end() == 0, again.said
    assert store.verify(NODE) == Verdict("complete"), again.said


@pytest.fixture
def s3(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on the server; the double reads how to behave from the worker's own scratch."""
    for name, value in {**object_server.environment, "SCALEARN_SCRATCH": str(tmp_path / "scratch")}.items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def hold(store: Store, *rules: tuple[str, dict[str, object]]) -> Path:
    """Let jobs wait after their first epoch until there is a file `go`, or as the rules say; returns where it goes."""
    work = store.scratch / "work"
    work.mkdir(parents=True)
    (work / "behaviour.json").write_text(json.dumps([[".", {"epochs": 3, "hold": {"epoch": 2, "until": "go"}}], *rules]))
    return work


def checkpointed(store: Store, node: str) -> bool:
    """Whether a job has a checkpoint in the store."""
    return store.storage.exists(store.directory(node) / "checkpoint" / "latest.json")


@contextlib.contextmanager
def cut_off(server: ObjectServer) -> Iterator[None]:
    """Refuse connections to the store while the block runs."""
    server.cut_off()
    try:
        yield
    finally:
        server.come_back()


def starts(store: Store, node: str) -> list[int]:
    """The epochs after which a finished job was begun, again and again."""
    return [json.loads(line)["from"] for line in (store.fetch(node) / "run.log").read_text().splitlines()]


@pytest.mark.slow
def test_worker_that_is_killed_or_finds_the_store_gone_leaves_its_last_checkpoint_to_the_next(s3, object_server, worker):
    work = hold(s3, (".", {"quiet": True}))  # as in an epoch of hours: checkpoints, and no evaluation that would report
    killed = worker(s3.url)
    killed.until(lambda: checkpointed(s3, NODE))
    killed.process.kill()
    assert killed.end() == -signal.SIGKILL
    patient = worker(s3.url, SCALEARN_STORE_PATIENCE="0.5")

    def has_begun() -> bool:
        with contextlib.suppress(FileNotFoundError):  # the new process replaces what the killed one left
            return (work / NODE / "run.log").read_text().count("from") == 2
        return False

    patient.until(has_begun)
    with cut_off(object_server):
        (work / "go").touch()
        assert patient.end() == 0, patient.said
    assert s3.verify(NODE).state == "unfinished"
    again = worker(s3.url)
    assert again.end() == 0, again.said
    assert s3.verify(NODE) == Verdict("complete"), again.said
    assert starts(s3, NODE)[0] == 0
    assert min(starts(s3, NODE)[1:]) > 0
    assert not list((s3.scratch / "work").rglob("job.json")), "a host keeps no working copies of jobs that have ended"


@pytest.mark.slow
def test_run_lives_through_an_outage_of_the_store_and_an_interrupt_ends_it_there(s3, object_server, driver, tmp_path):
    first, second, target = nodes_of_the_sweep()
    work = hold(s3, (target, {"hold": {"epoch": 2, "until": "on"}}))
    interrupted = driver(s3.url)
    interrupted.until(lambda: checkpointed(s3, first))
    with cut_off(object_server):
        interrupted.until(interrupted.waits)
        interrupted.process.send_signal(signal.SIGTERM)
        assert interrupted.end() == 130, interrupted.said
    assert interrupted.said.count("Interrupted. Run the same command again") == 1
    assert "Traceback" not in interrupted.said
    assert {s3.verify(node).state for node in nodes_of_the_sweep()} <= {"absent", "unfinished"}
    (work / "go").touch()
    patient = driver(s3.url, SCALEARN_STORE_PATIENCE="300")
    patient.until(lambda: checkpointed(s3, target))
    with cut_off(object_server):
        (work / "on").touch()
        patient.until(patient.waits)
    assert patient.end() == 0, patient.said
    assert {s3.verify(node) for node in nodes_of_the_sweep()} == {Verdict("complete")}
    assert starts(s3, first)[-1] > 0
    assert starts(s3, target) == [0]
    assert s3.read_json(target, "job.json")["attempts"] == 1
    assert s3.read_json(second, "job.json")["attempts"] <= 2


@pytest.mark.slow
def test_driver_on_a_disk_that_stays_full_ends_with_one_sentence_and_goes_on_once_there_is_space(held, driver):
    store = held
    begun = driver(store.url, SCALEARN_STORE_PATIENCE="2")
    begun.until(lambda: list(store.root.glob("domains/*/*/*/*/*/checkpoint/epoch")))
    ballast = fill(store)
    assert begun.end() == 2, begun.said
    assert f"scalearn: The store {store.url} could not be written to for " in begun.said
    assert "Traceback" not in begun.said
    assert {store.verify(node).state for node in nodes_of_the_sweep()} <= {"absent", "unfinished"}
    ballast.unlink()
    again = driver(store.url)
    assert again.end() == 0, again.said
    assert {store.verify(node).state for node in nodes_of_the_sweep()} == {"complete"}


def test_patience_grows_its_pauses_and_ends_with_a_sentence():
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    def away() -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(
        StoreUnavailable, match=r"The store there could not be reached for 10 seconds \(connection refused\): bring it back, then"
    ):
        Patience(10.0, lambda: now[0], sleep).persist(away, "there")
    assert pauses[:4] == [0.25, 0.5, 1.0, 2.0]
    assert sum(pauses) == 10.0


def test_patience_asks_no_second_time_where_the_answer_is_no():
    asked = []

    def refuse() -> None:
        asked.append(1)
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        Patience(10.0).persist(refuse, "there")
    assert asked == [1]


@pytest.mark.slow
def test_driver_whose_store_is_renamed_ends_with_one_sentence_and_the_next_goes_on_under_the_new_name(tmp_path, driver):
    store = Store(tmp_path / "runs", Patience(0.0))
    behave(store, (".", {"epochs": 10_000, "seconds": 0.05}))
    begun = driver(store.url, SCALEARN_STORE_PATIENCE="2")
    begun.until(lambda: list(store.root.glob("domains/*/*/*/*/*/checkpoint/epoch")))
    store.root.rename(tmp_path / "moved")
    under_way = [path.parents[1].name for path in (tmp_path / "moved").glob("domains/*/*/*/*/*/checkpoint/epoch")]
    assert begun.end() == 2, begun.said
    last = begun.said.strip().splitlines()[-1]
    assert last.startswith(f"scalearn: The store {store.url} could not be reached for ")
    assert "(it was moved or removed): bring it back, then run the same command again." in last
    assert "Traceback" not in begun.said
    assert not [path for path in store.root.rglob("*") if path.name in under_way], "nothing of them is begun anew in the old place"
    moved = Store(tmp_path / "moved", Patience(0.0))
    assert {moved.verify(node).state for node in nodes_of_the_sweep()} <= {"absent", "unfinished"}
    behave(moved)
    again = driver(moved.url)
    assert again.end() == 0, again.said
    assert {moved.verify(node).state for node in nodes_of_the_sweep()} == {"complete"}
