"""Full disks and stores that go away, injected into real worker processes: jobs wait and go on, or end with one sentence."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.definition.sweep import Sweep
from orchestrator.storage.patience import Patience, StoreUnavailable
from orchestrator.storage.store import Store, Verdict
from tests.orchestrator.doubles import behave, source
from tests.orchestrator.object_server import BUCKET, ObjectServer
from tests.orchestrator.one_pack import SMALL_SWEEP

pytestmark = pytest.mark.fault

NODE = source("s0").node


class Worker:
    """A worker's process that trains one job."""

    def __init__(self, store: str, log: Path, repository: Path, **environment: str) -> None:
        self._log = log
        command = [sys.executable, "-m", "tests.orchestrator.one_pack", store, "s0"]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=repository, env={**os.environ, **environment}, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def waits(self) -> bool:
        assert self.process.poll() is None, self.said
        return "Trying again" in self.said

    def ends(self) -> bool:
        return self.process.poll() is not None


@pytest.fixture
def worker(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers, and ends them with the test."""
    with contextlib.ExitStack() as stack:

        def start(store: str, **environment: str) -> Worker:
            begun = Worker(store, tmp_path / f"{uuid.uuid4().hex}.log", repository, **environment)
            stack.callback(begun.process.wait)
            stack.callback(begun.process.kill)
            return begun

        yield start


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB: room for a sweep's report, and soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))  # a block at a time, so that the last one is taken too
    return ballast


@pytest.mark.slow
def test_full_disk_keeps_the_job_waiting_until_there_is_space_again(small_disk, worker):
    store = Store(small_disk / "runs")
    behave(store, (".", {"epochs": 3, "seconds": 0.2}))
    begun = worker(store.url, SCALEARN_STORE_PATIENCE="300")
    begun.until((store.directory(NODE) / "checkpoint" / "epoch").exists)
    ballast = fill(small_disk)
    begun.until(begun.waits)
    assert not store.complete(NODE)
    ballast.unlink()
    begun.until(begun.ends)
    assert store.verify(NODE) == Verdict("complete"), begun.said
    resumed = [json.loads(line)["from"] for line in (store.directory(NODE) / "run.log").read_text().splitlines()]
    assert len(resumed) > 1
    assert resumed[-1] > 0  # from the checkpoint, not anew


@pytest.mark.slow
def test_disk_that_stays_full_fails_the_job_in_one_sentence_and_leaves_nothing_half(small_disk, worker):
    store = Store(small_disk / "runs", Patience(0.0))
    behave(store, (".", {"epochs": 2}))
    ballast = fill(small_disk)
    begun = worker(store.url, SCALEARN_STORE_PATIENCE="1")
    begun.until(begun.ends)
    assert begun.process.returncode == 0, begun.said
    assert store.verify(NODE).state in ("absent", "unfinished", "failed")
    assert not [name for name in store.storage.listing(small_disk) if name.startswith("runs/") and "/." in name]
    with pytest.raises(
        StoreUnavailable, match=rf"^The store {store.url} could not be written to \(no space left on device\): free some space"
    ):
        store.begin(NODE, {})
    ballast.unlink()
    again = worker(store.url)
    again.until(again.ends)
    assert store.verify(NODE) == Verdict("complete"), again.said


@pytest.fixture
def s3(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on the server; the double reads how to behave from the worker's own scratch."""
    for name, value in {**object_server.environment, "SCALEARN_SCRATCH": str(tmp_path / "scratch")}.items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def slow(store: Store) -> None:
    work = store.scratch / "work"
    work.mkdir(parents=True)
    (work / "behaviour.json").write_text(json.dumps([[".", {"epochs": 6, "seconds": 0.5}]]))


@pytest.mark.slow
def test_store_that_is_away_for_a_while_keeps_the_job_waiting(s3, object_server, worker):
    slow(s3)
    begun = worker(s3.url, SCALEARN_STORE_PATIENCE="300")
    begun.until(lambda: s3.storage.exists(s3.directory(NODE) / "checkpoint" / "latest.json"))
    object_server.cut_off()
    try:
        begun.until(begun.waits)
    finally:
        object_server.come_back()
    assert not s3.complete(NODE)
    begun.until(begun.ends)
    assert s3.verify(NODE) == Verdict("complete"), begun.said
    assert s3.read_json(NODE, "job.json")["attempts"] == 1


@pytest.mark.slow
def test_store_that_stays_away_ends_the_worker_and_the_next_one_resumes(s3, object_server, worker):
    slow(s3)
    begun = worker(s3.url, SCALEARN_STORE_PATIENCE="0.5")
    begun.until(lambda: s3.storage.exists(s3.directory(NODE) / "checkpoint" / "latest.json"))
    object_server.cut_off()
    try:
        begun.until(begun.ends)
    finally:
        object_server.come_back()
    assert begun.process.returncode == 0, begun.said
    assert s3.verify(NODE).state == "unfinished"
    again = worker(s3.url)
    again.until(again.ends)
    assert s3.verify(NODE) == Verdict("complete"), again.said
    starts = [json.loads(line)["from"] for line in (s3.fetch(NODE) / "run.log").read_text().splitlines()]
    assert starts[-1] > 0


@pytest.mark.slow
def test_driver_on_a_disk_that_stays_full_ends_with_one_sentence_and_goes_on_once_there_is_space(small_disk, tmp_path, repository):
    (tmp_path / "toy.yaml").write_text(SMALL_SWEEP)
    store = Store(small_disk / "runs", Patience(0.0))
    behave(store, (".", {"epochs": 3, "seconds": 0.5}))
    command = [sys.executable, "-m", "tests.orchestrator.command", "run", str(tmp_path / "toy.yaml"), "--store", store.url]
    environment = {**os.environ, "PYTHONPATH": str(repository), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}

    def start(**more: str) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env={**environment, **more}, **pipes)

    with start(SCALEARN_STORE_PATIENCE="2") as process:
        deadline = time.monotonic() + 240
        while not list(store.root.glob("**/checkpoint/epoch")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ballast = fill(small_disk)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 2, out + err
    assert f"scalearn: The store {store.url} could not be written to for " in err
    assert "Traceback" not in out + err
    nodes = Sweep.load(tmp_path / "toy.yaml").expand().nodes()
    assert {store.verify(node).state for node in nodes} <= {"absent", "unfinished"}
    ballast.unlink()
    with start() as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert {store.verify(node).state for node in nodes} == {"complete"}


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
