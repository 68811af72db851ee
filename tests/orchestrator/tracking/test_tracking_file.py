"""The SQLite file of MLflow, created by processes that are killed and by several at a time."""

import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tests.orchestrator.helpers.launching import wait_until

CREATE = "import sys; from orchestrator.tracking.tracking_file import create_tracking_file; create_tracking_file(sys.argv[1])"


@pytest.mark.slow
@pytest.mark.fault
def test_tracking_file_is_whole_though_one_creator_is_killed_and_two_work_at_once(tmp_path, repository):
    place, elsewhere = tmp_path / "store" / "runs" / "mlflow.db", tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "TMPDIR": str(elsewhere)}
    command = [sys.executable, "-c", CREATE, f"sqlite:///{place}"]
    killed = subprocess.Popen(command, cwd=repository, env=environment)
    wait_until(lambda: any(file.stat().st_size for file in elsewhere.rglob("*.db")) or killed.poll() is not None)
    killed.kill()
    assert killed.wait() != 0  # it was at work
    assert not any(place.parent.parent.rglob("*.db*"))
    others = [subprocess.Popen(command, cwd=repository) for _ in range(2)]
    assert [other.wait(300) for other in others] == [0, 0]
    client = MlflowClient(f"sqlite:///{place}")
    assert [file.name for file in place.parent.iterdir()] == ["mlflow.db"]
    client.create_experiment("toy")
    assert {experiment.name for experiment in client.search_experiments()} == {"Default", "toy"}
