"""What killed drivers left in a store: the next run removes it, and nothing of a driver that lives."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.drivers.claims import Claims
from orchestrator.drivers.leftovers import TUNE, remove_leftovers
from tests.orchestrator.helpers.drivers import claiming, give_sign, sign_of
from tests.orchestrator.helpers.launching import Launch, wait_until

LEAVE = """
import os, sys
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.artifacts.store import Store
store = Store(sys.argv[1])
heartbeat = Heartbeat(store).__enter__()
(store.root / ".tune" / heartbeat.name / "tune").mkdir(parents=True)
print(heartbeat.name, flush=True)
input()
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def folder(store: Store, name: str, days: float = 0.0):
    place = store.root / TUNE / name
    (place / "tune").mkdir(parents=True)
    for path in (place / "tune", place):
        os.utime(path, (time.time() - 86400 * days,) * 2)
    return place


def look(store: Store, claims: Claims) -> None:
    remove_leftovers(store, claims.signs, folder(store, claims.driver))


@pytest.mark.fault
def test_folder_of_a_killed_driver_goes_and_that_of_a_living_one_stays(store, repository):
    command = [sys.executable, "-c", LEAVE, str(store.root)]
    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        with claiming(store) as claims:
            look(store, claims)
            assert (store.root / TUNE / name).is_dir()
            process.kill()
            process.wait()
            remove_leftovers(store, claims.signs, store.root / TUNE / claims.driver)
            assert sorted(path.name for path in (store.root / TUNE).iterdir()) == [claims.driver]


@pytest.mark.parametrize(("days", "silent", "stays"), [(0, True, True), (2, True, False), (2, False, True)])
def test_folder_of_another_hosts_driver_goes_when_it_is_silent_and_a_day_has_passed(store, days, silent, stays):
    now = [0.0]
    name = "elsewhere-1-0123abcd"
    place = folder(store, name, days)
    give_sign(store, name, count=1)
    with claiming(store, 60, clock=lambda: now[0]) as claims:
        claims.signs.is_dead(name)
        now[0] = 61.0
        if not silent:
            give_sign(store, name, count=2)
        look(store, claims)
    assert place.exists() == stays


def test_driver_that_is_stopped_keeps_its_folder_though_others_took_it_for_dead(store):
    place = folder(store, f"{socket.gethostname()}-{os.getpid()}-0123abcd")  # a process that runs, and has no sign of life any more
    with claiming(store) as claims:
        look(store, claims)
    assert place.is_dir()


@pytest.mark.parametrize(("days", "stays"), [(3.0, False), (0.5, True)])
def test_what_names_no_driver_goes_after_a_day_and_what_belongs_there_stays(store, days, stays):
    nameless = [".mlflow-abc_12xy/built.db", ".tune/0123456789ab/stop", "sweeps/.toy.json-0123abcd", ".leases/drivers/.x.json-0123abcd"]
    ours = ["sweeps/toy.json", "sweeps/toy/events.jsonl", ".cache/entry-0123abcd/rows", ".set_aside/a-0123456789/x/job.json", "mlflow.db"]
    for name in (*nameless, *ours):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("{}")
    for path in sorted(store.root.rglob("*"), reverse=True):
        os.utime(path, (time.time() - 86400 * days,) * 2)
    with claiming(store) as claims:
        look(store, claims)
    assert {(store.root / name).exists() for name in nameless} == {stays}
    assert all((store.root / name).exists() for name in ours)


@pytest.mark.parametrize(("days", "stays"), [(2.0, False), (0.5, True)])
def test_sign_that_is_a_day_old_goes_also_where_an_earlier_version_gave_it(store, days, stays):
    old = [sign_of(store, "gone-1-0123abcd"), store.root / "sweeps" / "toy" / "drivers" / "gone-1-0123ab.json"]
    for path in old:
        store.write_json(path, {"time": 1.0})
        os.utime(path, (time.time() - 86400 * days,) * 2)
    with claiming(store) as claims:
        look(store, claims)
        assert sign_of(store, claims.driver).exists()
    assert [path.exists() for path in old] == [stays, stays]


@pytest.mark.slow
@pytest.mark.fault
def test_run_after_a_killed_driver_leaves_no_folder_of_it(tmp_path, repository, shared_ray):
    launch = Launch(tmp_path, repository)
    process = launch.start("--only", "source/adapter/bbc", RAY_ADDRESS=shared_ray)
    wait_until(lambda: list((launch.store.root / TUNE).glob("*")) or process.poll() is not None)
    process.kill()
    process.communicate()
    assert list((launch.store.root / TUNE).glob("*"))
    done = launch.run("--only", "source/adapter/bbc", RAY_ADDRESS=shared_ray)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((launch.store.root / TUNE).glob("*"))
    assert json.loads(launch.store.manifest_path("toy").read_text())["name"] == "toy"
