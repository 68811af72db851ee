"""A driver whose Ray, working directory or reader goes away in the middle of a run."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launching import Launch, family, finished, survivors, table_of, wait_until

ONLY = ("--only", "source/adapter/bbc")
LONGER = 20
"""Epochs until the test lets the job go on."""


@pytest.fixture
def ray_directory(shared_ray: str) -> Iterator[Path]:
    """Where a local Ray lies that finds there the address of a Ray that others have started, as `ray start` leaves it."""
    directory = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short: the paths of sockets have a limit
    (directory / "ray").mkdir()
    (directory / "ray" / "ray_current_cluster").write_text(shared_ray)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def kill(members: dict[int, str], command: str, number: int = signal.SIGKILL) -> None:
    """Send a signal to the one process of a family that a part of its command line names."""
    (victim,) = [pid for pid, line in survivors(members).items() if command in line]
    os.kill(victim, number)


@pytest.mark.slow
@pytest.mark.fault
def test_run_whose_local_ray_is_killed_ends_with_one_sentence_and_no_process_and_the_next_goes_on(
    tmp_path, repository, shared_ray, ray_directory, started
):
    launch = Launch(tmp_path, repository)
    launch.place = tmp_path / "gone"
    behave(launch.store, (".", {"seconds": 0.1, "epochs": 3 * LONGER, "hold": {"epoch": LONGER, "until": "go"}}))
    node = launch.node("source/adapter/bbc")
    machines = set()
    for victim, part in (("gcs_server", "its head process"), ("raylet/raylet", "its raylet process")):
        launch.place.mkdir()
        before = len(launch.log(node))
        driver = launch.start(*ONLY, RAY_TMPDIR=str(ray_directory))
        started.append(driver)
        wait_until(lambda before=before, driver=driver: len(launch.log(node)) > before or driver.poll() is not None)
        members = family(driver.pid)
        if victim != "gcs_server":  # what a run survives, before what it does not
            kill(members, "log_monitor")
            launch.place.rmdir()
            os.kill(launch.log(node)[-1]["pid"], signal.SIGKILL)
            wait_until(lambda before=before: len(launch.log(node)) == before + 2)
            members |= family(driver.pid)
            (launch.store.root / "go").touch()
            wait_until(lambda: launch.epoch(node) > LONGER)
            os.kill(launch.log(node)[-1]["pid"], signal.SIGSTOP)  # a worker that cannot notice by itself
        else:
            launch.place.rmdir()
            wait_until(lambda: launch.epoch(node) == LONGER - 1)
        machines |= {entry["machine"] for entry in launch.log(node)}
        kill(members, victim)
        done = finished(driver)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        (sentence,) = [line for line in done.stdout.splitlines() if "The local Ray is gone" in line]
        assert part in sentence
        assert "run the same command again to go on" in sentence
        assert "(raylet) Raylet is terminated" not in done.stdout
        assert table_of(done.stdout)
        wait_until(lambda members=members: not survivors(members), 60)
        assert launch.states()[node] == "pending"
    launch.place.mkdir()
    reached = launch.epoch(node)
    behave(launch.store, (".", {"epochs": reached + 1}))
    again = launch.run(*ONLY, RAY_ADDRESS=shared_ray)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [entry["from"] for entry in launch.log(node)] == [0, LONGER - 1, LONGER - 1, reached]
    assert launch.log(node)[-1]["machine"] not in machines  # a local Ray is one's own, whatever is known of others


@pytest.mark.slow
@pytest.mark.fault
def test_run_whose_rays_directory_is_removed_marks_no_job_failed(tmp_path, repository, ray_directory, started):
    launch = Launch(tmp_path, repository)
    behave(launch.store, (".", {"hold": {"epoch": 2, "until": "go"}}))
    node = launch.node("source/adapter/bbc")
    driver = launch.start(*ONLY, RAY_TMPDIR=str(ray_directory))
    started.append(driver)
    wait_until(lambda: launch.epoch(node) == 1 or driver.poll() is not None)
    members = family(driver.pid)
    shutil.rmtree(ray_directory)
    done = finished(driver)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "The local Ray is gone: its directory" in done.stdout
    assert launch.states()[node] == "pending"
    wait_until(lambda: not survivors(members), 60)
    (launch.store.root / "go").touch()
    ray_directory.mkdir(exist_ok=True)  # what ended has perhaps left its last words there
    assert launch.run(*ONLY, RAY_TMPDIR=str(ray_directory)).returncode == 0
    assert launch.epoch(node) == 0  # done
    assert [entry["from"] for entry in launch.log(node)] == [0, 1]


@pytest.mark.slow
@pytest.mark.fault
def test_call_of_a_thread_that_outlives_its_ray_joins_no_other(repository, shared_ray, ray_directory):
    program = """
import os, ray
from orchestrator.execution.cluster import connected
with connected(None, None):
    del os.environ["RAY_ADDRESS"]
for call in (lambda: ray.put(1), lambda: ray.remote(lambda: 1).remote(), lambda: ray.util.placement_group([{"CPU": 1}])):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, ray.is_initialized())
"""
    environment = {**os.environ, "PYTHONPATH": str(repository), "RAY_ADDRESS": shared_ray, "RAY_TMPDIR": str(ray_directory)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["False"] * 3, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.fault
def test_driver_whose_working_directory_is_removed_ends_as_ever(tmp_path, repository, shared_ray, started):
    launch = Launch(tmp_path, repository)
    launch.place = tmp_path / "gone"
    launch.place.mkdir()
    behave(launch.store, (".", {"hold": {"epoch": 2, "until": "go"}}))
    driver = launch.start(*ONLY, RAY_ADDRESS=shared_ray, MLFLOW_TRACKING_URI="sqlite:///../runs/mlflow.db")
    started.append(driver)
    wait_until(lambda: launch.epoch(launch.node("source/adapter/bbc")) == 1 or driver.poll() is not None)
    launch.place.rmdir()
    (launch.store.root / "go").touch()
    done = finished(driver)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert table_of(done.stdout)
    assert (launch.store.root / "reports" / "toy" / "index.html").is_file()
    assert launch.tracked() == {launch.node("source/adapter/bbc"): "FINISHED"}


@pytest.mark.slow
@pytest.mark.fault
def test_run_whose_reader_leaves_ends_quietly_with_141_and_the_next_goes_on(tmp_path, repository, shared_ray, started):
    launch = Launch(tmp_path, repository)
    behave(launch.store, (".", {"hold": {"epoch": 2, "until": "go"}}))
    command = [sys.executable, "-m", "tests.orchestrator.helpers.command", "run", str(launch.file), "--store", launch.store.url, *ONLY]
    environment = {**os.environ, "PYTHONPATH": str(repository), "RAY_ADDRESS": shared_ray}
    driver = subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.append(driver)
    node = launch.node("source/adapter/bbc")
    wait_until(lambda: launch.epoch(node) == 1 or driver.poll() is not None)
    assert driver.stdout is not None
    driver.stdout.close()
    (launch.store.root / "go").touch()
    assert driver.wait(300) == 141
    assert driver.stderr is not None
    assert "Traceback" not in driver.stderr.read()
    assert launch.run(*ONLY, RAY_ADDRESS=shared_ray).returncode == 0
    assert launch.states()[node] == "succeeded"
