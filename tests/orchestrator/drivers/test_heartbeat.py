"""Whether a driver lives, told by its count or its process; no clock of the day is asked."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from orchestrator.artifacts.store import Store
from orchestrator.drivers.heartbeat import DRIVERS, Heartbeat, ask_to_stop, drivers, living
from tests.orchestrator.helpers.drivers import give_sign, read_sign
from tests.orchestrator.helpers.launching import wait_until


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_heartbeat_counts_up_and_says_what_runs(store):
    running = []
    with Heartbeat(store, "toy", lease=0.2, running=lambda: running) as heartbeat:
        assert read_sign(store, heartbeat.name)["running"] == []
        before = read_sign(store, heartbeat.name)["count"]
        running.append("a")
        wait_until(lambda: read_sign(store, heartbeat.name)["running"] == ["a"])
        assert read_sign(store, heartbeat.name)["count"] > before
    assert store.storage.names(store.root / DRIVERS) == []


def test_request_to_stop_is_passed_on_until_it_is_taken_and_signs_go_on(store):
    asked = []

    def take_the_second():
        asked.append(None)
        return len(asked) == 2

    with Heartbeat(store, "toy", lease=0.2, on_cancel=take_the_second) as heartbeat:
        (driver,) = drivers(store, "toy")
        ask_to_stop(store, driver)
        wait_until(lambda: len(asked) == 2)
        count = read_sign(store, heartbeat.name)["count"]
        wait_until(lambda: read_sign(store, heartbeat.name)["count"] > count + 2)
    assert len(asked) == 2
    assert store.storage.names(store.root / DRIVERS) == []


def test_driver_of_another_machine_is_told_by_its_next_beat_and_a_dead_one_by_none(store):
    give_sign(store, "far", count=7, sweep="toy", running=["a"])
    looks = []
    assert living(store, lambda driver: driver.sweep == "toy", looks.append) == []
    assert living(store, lambda driver: driver.sweep == "another", lambda seconds: pytest.fail("waited for nobody")) == []
    assert sum(looks) == pytest.approx(10.0)  # two beats, whatever the clock of the day says

    def beat(seconds):
        give_sign(store, "far", count=8, sweep="toy", running=["b"])

    (driver,) = living(store, lambda driver: driver.sweep == "toy", beat)
    assert (driver.host, driver.running) == ("elsewhere", ("b",))


@pytest.mark.fault
def test_stopped_driver_of_this_machine_is_told_by_its_count_and_one_that_ended_at_once(store, repository, monkeypatch):
    monkeypatch.setenv("SCALEARN_LEASE_SECONDS", "1")
    beating = "import sys; from orchestrator.artifacts.store import Store; from orchestrator.drivers.heartbeat import Heartbeat\n"
    command = [sys.executable, "-c", f"{beating}with Heartbeat(Store(sys.argv[1]), 'toy'): print(flush=True), input()", str(store.root)]

    def look(sleep):
        return [driver.pid for driver in living(store, lambda driver: driver.sweep == "toy", sleep)]

    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert look(lambda seconds: pytest.fail("waited for a process that runs")) == [process.pid]
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        assert look(lambda seconds: None) == []
        os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.wait()
        assert look(lambda seconds: pytest.fail("waited for a process that has ended")) == []
    assert [name for name in store.storage.names(store.root / DRIVERS) if name.endswith(".json")]  # who looks removes nothing


@pytest.mark.parametrize("sign", [{"sweep": "../toy"}, {"sweep": ["toy"]}, {"pid": -1, "sweep": "toy"}, {"running": "a", "sweep": "toy"}])
def test_sign_that_a_stranger_wrote_is_nobodys_or_waited_for(store, sign):
    give_sign(store, "far", **sign)
    assert living(store, lambda driver: store.manifest_path(driver.sweep) if driver.sweep else None, lambda seconds: None) == []
