"""A machine of a cluster is lost in the middle of a sweep, and another joins."""

import pytest

from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launching import Launch, wait_until
from tests.orchestrator.helpers.starting import patiently

SWEEP = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, self_driving, apple, bbc, deflategate, coachella]}
targets: [apple]
packing: {size: 1}
methods:
  scalearn_uniform: {}
"""
HELD = 5
"""Jobs stop before this epoch until the test says that they may go on."""
# A node counts as lost after so many seconds of silence; Ray's own settings take half a minute.
QUICK = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5, "health_check_initial_delay_ms": 0}


@pytest.mark.slow
@pytest.mark.fault
def test_node_that_is_lost_costs_its_job_no_retry_and_a_larger_one_that_joins_is_filled(tmp_path, repository):
    from ray.cluster_utils import Cluster  # seconds, which other tests do not spend

    launch = Launch(tmp_path, repository, SWEEP)
    behave(launch.store, (".", {"epochs": HELD + 1, "hold": {"epoch": HELD, "until": "go"}}))
    sources = [node for node in launch.graph().nodes() if "/source/" in node]
    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000}

    def on(machine: str) -> list[str]:
        return [node for node in sources if any(start["machine"] == machine for start in launch.log(node))]

    head = {**size, "include_dashboard": False, "_system_config": QUICK}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        lost, _ = [patiently(lambda: cluster.add_node(**size)) for _ in range(2)]
        driver = launch.start("--only", "/source/", "--max-failures", "0", RAY_ADDRESS=cluster.address)
        try:
            wait_until(lambda: sum(launch.epoch(node) == HELD - 1 for node in sources) == 3)  # one on each node
            cluster.remove_node(lost, allow_graceful=False)
            joined = patiently(lambda: cluster.add_node(**{**size, "num_cpus": 3}))
            wait_until(lambda: len(on(joined.node_id)) == 3)  # with two elsewhere: more than the three nodes before could hold
            (launch.store.root / "go").touch()
            out, err = driver.communicate(timeout=400)
        finally:
            driver.kill()
        assert driver.returncode == 0, out + err
    finally:
        cluster.shutdown()
    assert {launch.states()[node] for node in sources} == {"succeeded"}
    starts = {node: launch.log(node) for node in sources}
    assert sorted(map(len, starts.values())) == [1, 1, 1, 1, 1, 2]
    ((first, second),) = [entries for entries in starts.values() if len(entries) == 2]
    assert first["machine"] == lost.node_id != second["machine"]
    assert (first["from"], second["from"]) == (0, HELD - 1)
