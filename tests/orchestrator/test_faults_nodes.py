"""A machine of a cluster is lost in the middle of a sweep, and another joins."""

import pytest

from tests.orchestrator.doubles import behave
from tests.orchestrator.launching import Launch, wait_until

EPOCHS = 25
# A node counts as lost after so many seconds of silence; Ray's own settings take half a minute.
QUICK = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5, "health_check_initial_delay_ms": 0}


@pytest.mark.slow
@pytest.mark.fault
def test_node_that_is_lost_costs_its_job_no_retry_and_one_that_joins_takes_work(tmp_path, repository):
    from ray.cluster_utils import Cluster  # seconds, which other tests do not spend

    launch = Launch(tmp_path, repository)
    behave(launch.store, (".", {"seconds": 0.2, "epochs": EPOCHS}))
    sources = [node for node in launch.graph().nodes() if "/source/" in node]
    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False, "_system_config": QUICK})
    try:
        lost, _ = cluster.add_node(**size), cluster.add_node(**size)
        driver = launch.start("--only", "/source/", "--max-failures", "0", RAY_ADDRESS=cluster.address)
        try:
            wait_until(lambda: sum(launch.epoch(node) > 0 for node in sources) == 3)  # one on each node
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(**size)
            out, err = driver.communicate(timeout=400)
        finally:
            driver.kill()
        assert driver.returncode == 0, out + err
    finally:
        cluster.shutdown()
    assert set(launch.states().values()) == {"succeeded", "pending"}
    starts = {node: [entry["from"] for entry in launch.log(node)] for node in sources}
    assert sorted(map(len, starts.values())) == [1, 1, 1, 2]
    (resumed,) = [froms for froms in starts.values() if len(froms) == 2]
    assert resumed[1] > 0
