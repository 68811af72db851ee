"""Nodes of a cluster announce their end in the middle of a sweep: their jobs move with what they have done."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launching import Launch, wait_until
from tests.orchestrator.helpers.starting import patiently

SWEEP = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, self_driving, apple]}
targets: [apple]
packing: {size: 1}
methods:
  scalearn_uniform: {}
"""
REACHED, EPOCHS = 50, 60
"""Jobs stop after so many epochs until the test says that they may go on. They write no checkpoint unless they are asked to stop."""
SIZE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000}


@pytest.mark.slow
@pytest.mark.fault
def test_jobs_of_nodes_that_announce_their_end_move_and_repeat_nothing(tmp_path, repository):
    from ray.cluster_utils import Cluster  # seconds, which other tests do not spend

    launch = Launch(tmp_path, repository, SWEEP)
    held = {"epochs": EPOCHS, "hold": {"epoch": REACHED + 1, "until": "go"}, "looks": True, "saves": 10_000}
    behave(launch.store, (".", held))
    sources = [node for node in launch.graph().nodes() if "/source/" in node]
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={**SIZE, "include_dashboard": False}))
    asked = None
    try:
        drained = patiently(lambda: cluster.add_node(**SIZE))
        options = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        ray = str(Path(sys.executable).with_name("ray"))
        start = [ray, "start", "--block", f"--address={cluster.address}", "--disable-usage-stats", *options]
        asked = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        driver = launch.start("--only", "/source/", "--max-failures", "0", RAY_ADDRESS=cluster.address)
        try:
            wait_until(lambda: sum(len(launch.history(node)) == REACHED for node in sources) == 3)  # one on each node
            spot = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=100"]
            subprocess.run([ray, "drain-node", f"--address={cluster.address}", f"--node-id={drained.node_id}", *spot], check=True)
            os.kill(asked.pid, signal.SIGTERM)
            patiently(lambda: cluster.add_node(**{**SIZE, "num_cpus": 2}))
            wait_until(lambda: sum(len(launch.log(node)) == 2 for node in sources) == 2)
            (launch.store.root / "go").touch()
            out, err = driver.communicate(timeout=400)
        finally:
            driver.kill()
        assert driver.returncode == 0, out + err
        assert asked.wait(timeout=100) is not None
    finally:
        if asked is not None:
            asked.kill()
        cluster.shutdown()
    for node in sources:
        assert [record["epoch"] for record in launch.history(node)] == list(range(1, EPOCHS + 1)), "an epoch was repeated"
    starts = [launch.log(node) for node in sources]
    moved = [(entries[0]["machine"], entries[1]["machine"]) for entries in starts if len(entries) == 2]
    assert sorted(map(len, starts)) == [1, 2, 2]
    assert drained.node_id in [before for before, _ in moved]
    assert {after for _, after in moved}.isdisjoint(before for before, _ in moved)
    assert [entry["from"] for entries in starts for entry in entries[1:]] == [REACHED, REACHED]
