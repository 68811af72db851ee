"""Faults of the store's own file system in mid-run, and two faults at once, injected into real worker processes without Ray."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import analysis
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store, Verdict
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.storage.retrying import Patience, StoreUnavailable
from tests.orchestrator.helpers.doubles import behave, run_jobs, source
from tests.orchestrator.helpers.drivers import claim_as, claiming, give_sign, prepare
from tests.orchestrator.helpers.launching import wait_while_running
from tests.orchestrator.helpers.one_pack import SMALL_SWEEP

pytestmark = [pytest.mark.fault, pytest.mark.slow]

NODE = source("s0").node


def mount(place: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for few files."""
    place = tmp_path / "disk"
    place.mkdir()
    mount(place, "-t", "tmpfs", "-o", "size=24m,nr_inodes=100", "tmpfs")
    yield place
    while subprocess.run(["umount", "--lazy", str(place)], capture_output=True, timeout=60).returncode == 0:
        pass  # the one, and what was mounted over it


@pytest.fixture
def store(disk: Path) -> Store:
    """A store there, whose job waits after its first epoch until there is a file `go`."""
    store = Store(disk / "runs", Patience(0.0))
    behave(store, (".", {"epochs": 3, "hold": {"epoch": 2, "until": "go"}}))
    (store.root / "ready").touch()
    return store


class Worker:
    """A process that trains one job."""

    def __init__(self, store: Store, log: Path, repository: Path, patience: float) -> None:
        self._log = log
        environment = {**os.environ, "PYTHONPATH": str(repository), "SCALEARN_STORE_PATIENCE": str(patience)}
        command = [sys.executable, "-m", "tests.orchestrator.helpers.one_pack", store.url, "s0"]
        with log.open("a") as file:
            self.process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], object]) -> None:
        wait_while_running(self.process, happened, lambda: self.said, 240)

    def waits(self) -> bool:
        return "Trying again" in self.said

    def end(self) -> int:
        return self.process.wait(240)


@pytest.fixture
def worker(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers, and ends them with the test."""
    with contextlib.ExitStack() as stack:

        def begin(store: Store, patience: float = 300) -> Worker:
            begun = Worker(store, tmp_path / "worker.log", repository, patience)
            stack.callback(begun.process.wait, timeout=60)
            stack.callback(begun.process.kill)
            return begun

        yield begin


def begun(store: Store, worker: Callable[..., Worker], patience: float = 300) -> Worker:
    """A worker whose job has its first checkpoint, and waits."""
    process = worker(store, patience)
    process.until((store.directory(NODE) / "checkpoint" / "epoch").exists)
    return process


def go_on(store: Store) -> None:
    (store.root / "ready").rename(store.root / "go")  # which needs no space


def use_up_inodes(disk: Path) -> list[Path]:
    """Leave no room for another file on a disk that has bytes enough."""
    made = []
    with contextlib.suppress(OSError):
        while True:
            made.append(disk / f"empty{len(made)}")
            made[-1].touch()
    return made[:-1]


def starts(store: Store) -> list[int]:
    return [json.loads(line)["from"] for line in (store.directory(NODE) / "run.log").read_text().splitlines()]


def test_disk_without_room_for_another_file_keeps_the_job_waiting(disk, store, worker):
    process = begun(store, worker)
    made = use_up_inodes(disk)
    go_on(store)
    process.until(process.waits)
    assert not store.complete(NODE)
    for path in made:
        path.unlink()
    assert process.end() == 0, process.said
    assert store.verify(NODE) == Verdict("complete"), process.said
    assert starts(store)[-1] > 0
    assert "no space left on device" in process.said


@contextlib.contextmanager
def read_only(store: Store) -> Iterator[None]:
    """Let everybody who opens a file there find it read-only, as after an error of the disk; its job goes on then."""
    place, beneath = store.root.parent, os.open(store.root, os.O_RDONLY)
    mount(place, "--bind", str(place))
    mount(place, "-o", "remount,ro,bind")
    try:
        os.rename("ready", "go", src_dir_fd=beneath, dst_dir_fd=beneath)
        yield
    finally:
        os.close(beneath)
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def test_store_that_becomes_read_only_keeps_the_job_waiting_and_says_so(store, worker):
    process = begun(store, worker)
    with read_only(store):
        process.until(process.waits)
        with pytest.raises(
            StoreUnavailable, match=r"could not be written to \(read-only file system\): make it writable, then run the same"
        ):
            store.begin(NODE, {})
    assert process.end() == 0, process.said
    assert store.verify(NODE) == Verdict("complete"), process.said
    assert starts(store)[-1] > 0


def test_store_that_is_renamed_in_mid_run_is_not_begun_anew_and_goes_on_under_its_new_name(disk, store, worker):
    behave(store, (".", {"epochs": 10_000, "seconds": 0.05}))
    process = begun(store, worker, patience=1)
    store.root.rename(disk / "moved")
    assert process.end() == 0, process.said
    assert "it was moved or removed" in process.said
    assert not store.root.exists()
    moved = Store(disk / "moved", Patience(0.0))
    behave(moved, (".", {"epochs": int((moved.directory(NODE) / "checkpoint" / "epoch").read_text()) + 1}))
    assert moved.verify(NODE).state == "unfinished"
    again = worker(moved)
    assert again.end() == 0, again.said
    assert moved.verify(NODE) == Verdict("complete")
    assert starts(moved)[-1] > 0


def test_worker_killed_on_a_disk_without_inodes_leaves_its_checkpoint_to_the_next(disk, store, worker):
    process = begun(store, worker)
    made = use_up_inodes(disk)
    go_on(store)
    process.until(process.waits)
    process.process.kill()
    process.end()
    for path in made:
        path.unlink()
    again = worker(store)
    assert again.end() == 0, again.said
    assert store.verify(NODE) == Verdict("complete"), again.said
    assert starts(store)[-1] > 0


def test_worker_killed_on_a_read_only_store_leaves_its_checkpoint_to_the_next(store, worker):
    process = begun(store, worker)
    with read_only(store):
        process.until(process.waits)
        process.process.send_signal(signal.SIGKILL)
        process.end()
        assert store.verify(NODE).state in ("unfinished", "corrupt")
    again = worker(store)
    assert again.end() == 0, again.said
    assert store.verify(NODE) == Verdict("complete"), again.said
    assert starts(store)[-1] > 0


def small(store: Store) -> Graph:
    """A finished small sweep in a store."""
    sweep = Sweep.from_text(SMALL_SWEEP)
    run_jobs(sweep.expand(), store)
    write_manifest(sweep, sweep.expand(), store, "sqlite://", None)
    return sweep.expand()


def test_damage_found_on_a_full_disk_ends_in_one_sentence_and_is_set_aside_once_there_is_space(disk):
    store = Store(disk / "runs", Patience(0.0))
    graph = small(store)
    node = graph.nodes()[0]
    (store.directory(node) / "result.json").write_text("{")
    made = use_up_inodes(disk)
    with pytest.raises(StoreUnavailable, match=r"could not be written to \(no space left on device\): free some space there"):
        prepare(Sweep.from_text(SMALL_SWEEP).expand(), store)
    assert store.verify(node).state != "complete"
    for path in made:
        path.unlink()
    fresh = Sweep.from_text(SMALL_SWEEP).expand()
    prepare(fresh, store)
    assert fresh.states[node] == "pending"
    assert len(list((store.root / ".set_aside").rglob("result.json"))) == 1
    run_jobs(Graph([fresh.job(node)]), store)
    assert store.verify(node) == Verdict("complete")


def test_prune_beside_a_silent_driver_and_a_damaged_manifest_removes_nothing(tmp_path, capsys):
    store = Store(tmp_path / "runs")
    graph = small(store)
    stranger = source("s9")
    run_jobs(Graph([stranger]), store)
    give_sign(store, "gone")
    claim_as(store, "gone", stranger.node)
    store.manifest_path("toy").write_text('{"nodes": [')
    assert main(["prune", str(store.root), "--minutes", "0", "--yes"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    sweep = Sweep.from_text(SMALL_SWEEP)
    write_manifest(sweep, sweep.expand(), store, "sqlite://", None)
    assert main(["prune", str(store.root), "--minutes", "0", "--yes"]) == 0
    assert {store.verify(node).state for node in (*graph.nodes(), stranger.node)} == {"complete"}


def test_copied_directory_under_a_silent_drivers_claim_is_set_aside_once_the_lease_is_over(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "0.3")
    store = Store(tmp_path / "runs")
    mine, other, _ = small(store).nodes()
    shutil.rmtree(store.directory(mine))
    shutil.copytree(store.directory(other), store.directory(mine))
    give_sign(store, "gone")
    claim_as(store, "gone", mine)
    fresh, said = Sweep.from_text(SMALL_SWEEP).expand(), []
    (moved,) = prepare(fresh, store, tell=said.append)
    assert (moved.node, fresh.states[mine]) == (mine, "pending")
    assert len(said) == 1
    with claiming(store) as claims:
        assert claims.claim(mine)


KILLED = """
import os, pathlib, signal, sys
from analysis.report import report
write = pathlib.Path.write_text
def killed(path, text, **options):
    if path.name == sys.argv[3]:
        write(path, text[: len(text) // 2], **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, text, **options)
pathlib.Path.write_text = killed
report.write_report(sys.argv[1], "toy", sys.argv[2])
"""


@pytest.mark.parametrize("name", ["index.html", "summary.json", "benchmark.md"])
def test_report_whose_writing_was_killed_is_written_anew(tmp_path, repository, name):
    from analysis.report.report import read_summary, write_report

    store = Store(tmp_path / "runs")
    small(store)
    folder = tmp_path / "report"
    command = [sys.executable, "-c", KILLED, store.url, str(folder), name]
    assert subprocess.run(command, cwd=repository, timeout=300, check=False).returncode == -signal.SIGKILL
    assert read_summary(folder) == {}
    page = write_report(store.url, "toy", folder)
    assert page.read_text().rstrip().endswith("</html>")
    assert read_summary(folder)["mark"]
    assert (folder / "tables" / "benchmark.md").read_text() == analysis.render.to_markdown(
        analysis.benchmark_table(analysis.load(store.url, "toy"))
    )
