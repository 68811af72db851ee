"""Workers and drivers that are killed in the middle of a sweep of 30 jobs, at moments drawn with a seed."""

import contextlib
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launching import Launch, family, survivors, table_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.fault]

SWEEP = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, self_driving, apple, bbc]}
targets: [apple, bbc]
packing: {size: 1}
methods:
  scalearn: {seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}
  scalearn_uniform: {seeds: [0, 1, 2]}
"""
JOBS, KILLS, EPOCHS = 30, 20, 8
PACE = {"seconds": 0.15, "epochs": EPOCHS}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, repository: Path, shared_ray: str) -> list[str]:
    """The table of a run in which nothing happens."""
    launch = Launch(tmp_path_factory.mktemp("undisturbed"), repository, SWEEP)
    behave(launch.store, (".", {**PACE, "seconds": 0.0}))
    done = launch.run(RAY_ADDRESS=shared_ray)
    assert done.returncode == 0, done.stdout + done.stderr
    return table_of(done.stdout)


def check_that_nothing_was_lost_or_doubled(launch: Launch, table: list[str], undisturbed: list[str], unlogged: int = 0) -> None:
    """Look at what a run left; a job may have been begun so many times by workers that were gone before they noted it in its log."""
    assert len(launch.graph()) == JOBS
    assert set(launch.states().values()) == {"succeeded"}
    assert table == undisturbed
    assert launch.tracked() == dict.fromkeys(launch.graph().nodes(), "FINISHED")  # which also fails where a node has two runs
    (file,) = (launch.store.root / "reports").rglob("benchmark.csv")
    rows = file.read_text().splitlines()
    assert len(set(rows)) == len(rows)
    for node, attempts in launch.attempts().items():
        entries = launch.log(node)
        assert 0 <= attempts - len(entries) <= unlogged
        done = launch.store.read_json(node, "SUCCESS.json")["time"]
        assert all(entry["time"] < done for entry in entries), f"{node} ran again after it was done"
        history = launch.history(node)
        for entry in entries:
            before = [record["epoch"] for record in history if record["time"] < entry["time"]]
            assert entry["from"] >= max(before, default=0) - 1, f"{node} repeated more than one interval"


class Killer:
    """Kills whichever worker trains a given job, some time after the job has reached a given epoch.

    A job that is still to be killed waits for that before its last epoch but one, however late the killer comes.
    """

    def __init__(self, launch: Launch, seed: int) -> None:
        draw = random.Random(seed)
        victims = draw.sample([node for node in launch.graph().nodes() for _ in range(2)], KILLS)
        self.plan = [(node, epoch, draw.uniform(0.0, PACE["seconds"])) for node in victims for epoch in [draw.randint(1, 5)]]
        self.killed: Counter[str] = Counter()
        self._launch = launch
        holds = [(re.escape(node), {"hold": {"epoch": EPOCHS - 1, "until": self._permission(node)}}) for node in set(victims)]
        behave(launch.store, (".", PACE), *holds)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        open_kills = sorted(self.plan, key=lambda kill: kill[1])
        due: dict[tuple[str, int], float] = {}  # when to kill a node's worker for the n-th time
        while open_kills and not self._ending.wait(0.02):
            for kill in list(open_kills):
                node, epoch, delay = kill
                entries = self._launch.log(node)
                if len(entries) <= self.killed[node] or self._launch.epoch(node) < epoch:
                    continue  # the last one's successor has not begun yet, or has not come so far
                if time.monotonic() >= due.setdefault((node, self.killed[node]), time.monotonic() + delay):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(entries[-1]["pid"], signal.SIGKILL)
                    self.killed[node] += 1
                    open_kills.remove(kill)
                    if all(node != other for other, *_ in open_kills):
                        (self._launch.store.root / self._permission(node)).touch()

    @staticmethod
    def _permission(node: str) -> str:
        return f"go-{node.replace('/', '-')}"


def test_twenty_workers_killed_at_random_cost_no_job_more_than_one_interval(tmp_path, repository, shared_ray, undisturbed):
    launch = Launch(tmp_path, repository, SWEEP)
    with Killer(launch, seed=20) as killer:
        done = launch.run(RAY_ADDRESS=shared_ray)
    assert done.returncode == 0, done.stdout + done.stderr
    assert killer.killed.total() == KILLS
    check_that_nothing_was_lost_or_doubled(launch, table_of(done.stdout), undisturbed)
    assert sum(launch.attempts().values()) - JOBS == KILLS


def test_driver_killed_at_five_moments_and_run_again_ends_with_the_same_table(tmp_path, repository, shared_ray, undisturbed, started):
    launch = Launch(tmp_path, repository, SWEEP)
    behave(launch.store, (".", PACE))
    nodes = launch.graph().nodes()
    finished: dict[str, int] = {}
    for moment in (0, 5, 10, 15, 20):
        environment = {} if moment == 20 else {"RAY_ADDRESS": shared_ray}  # the last one has a Ray of its own
        begun = sum(launch.attempts().values())
        driver = launch.start(**environment)
        started.append(driver)
        wait_until(lambda moment=moment: list(launch.states().values()).count("succeeded") >= moment)
        wait_until(lambda begun=begun: sum(launch.attempts().values()) > begun)  # there are checkpoints of the driver before, too
        wait_until(lambda: any(0 < launch.epoch(node) < EPOCHS - 2 for node in nodes))
        members = family(driver.pid)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        finished |= {node: launch.attempts()[node] for node, state in launch.states().items() if state == "succeeded"}
        # The agents of a Ray whose head was killed look for it for a minute, and do nothing else: the next run need not wait for them.
        wait_until(lambda members=members: all("agent" in command.lower() for command in survivors(members).values()))
    assert len(members) > 5  # a driver with a Ray of its own
    done = launch.run(RAY_ADDRESS=shared_ray)
    assert done.returncode == 0, done.stdout + done.stderr
    # Workers die with their driver, and one may have just begun a job.
    check_that_nothing_was_lost_or_doubled(launch, table_of(done.stdout), undisturbed, unlogged=5)
    assert {node: launch.attempts()[node] for node in finished} == finished
    assert any(launch.log(node)[-1]["from"] > 0 for node in nodes)  # it went on where a killed driver had left it
    wait_until(lambda: not survivors(members))


def test_second_interrupt_leaves_at_once_and_takes_its_ray_along(tmp_path, repository, started):
    launch = Launch(tmp_path, repository)
    behave(launch.store, (".", {"seconds": 3600}))
    driver = launch.start("--only", "source/adapter/bbc")
    started.append(driver)
    node = launch.node("source/adapter/bbc")
    wait_until(lambda: (launch.store.directory(node) / "run.log").exists())
    members = family(driver.pid)
    driver.send_signal(signal.SIGINT)
    wait_until(lambda: list(launch.store.root.glob(".tune/*/stop")) or driver.poll() is not None)
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, out + err
    assert "Traceback" not in err
    assert launch.states()[node] == "pending"
    wait_until(lambda: not survivors(members))
