"""Resources against a cluster that is described."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.definition.graph import Graph
from orchestrator.definition.resources import shape_of
from orchestrator.definition.sweep import Sweep
from orchestrator.execution import cluster as cluster_module
from orchestrator.execution import local_ray
from orchestrator.execution.cluster import Cluster, describe_gpus, refuse_unplaceable
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.policy import Policy
from orchestrator.scheduling.turns import Turns
from scalearn.errors import UserError
from tests.orchestrator.helpers.doubles import source, transfer

SMALL = """
name: small
benchmark: domains
backbone: minilm
methods: {scalearn: {}, scalearn_pp: {}}
"""


def cluster(*nodes: dict[str, float]) -> Cluster:
    return Cluster(nodes, None, None)


@pytest.mark.parametrize(
    ("nodes", "shapes", "expected"),
    [
        ([{"CPU": 8}], [{"CPU": 1}], 8),
        ([{"CPU": 8, "GPU": 2}], [{"CPU": 1, "GPU": 0.25}], 8),
        ([{"CPU": 8, "GPU": 1}], [{"CPU": 1, "GPU": 0.3}], 3),
        ([{"CPU": 8}], [{"CPU": 4}, {"CPU": 2}], 4),
        ([{"CPU": 3}, {"CPU": 3}], [{"CPU": 2}], 2),  # the third CPU of each node is of no use
        ([{"CPU": 4, "memory": 6e9}, {"CPU": 4, "fast": 1, "memory": 64e9}], [{"CPU": 1, "memory": 4e9}], 5),
        ([{"CPU": 4}, {"CPU": 4, "fast": 1}], [{"CPU": 1, "fast": 0.5}], 2),
    ],
)
def test_room_is_what_fits_of_the_smallest_job_node_by_node(nodes, shapes, expected):
    assert max(Turns(dict(zip("abc", shapes, strict=False)), lambda: nodes).room.values()) == expected


@pytest.mark.parametrize(
    ("nodes", "shape", "sentence"),
    [
        (
            [{"CPU": 8}],
            {"CPU": 1, "GPU": 1},
            "glue/x needs 1 GPU and the cluster has 0: lower `resources` in the sweep file, or use a larger cluster; `gpu: 0` keeps",
        ),
        ([{"CPU": 4}, {"CPU": 4}], {"CPU": 6}, "needs 6 CPU on one node and the largest has 4:"),
        ([{"CPU": 16}, {"CPU": 2, "GPU": 1}], {"CPU": 4, "GPU": 1}, "needs 4 CPU and 1 GPU on one node, and no node has them together:"),
        ([{"CPU": 4, "memory": 2**32}], {"CPU": 1, "memory": 2**33}, "needs 8 GiB of memory and the cluster has 4 GiB:"),
        ([{"CPU": 4}], {"CPU": 1, "fast": 1}, "needs 1 fast and the cluster has 0:"),
        ([{"CPU": 4, "accelerator_type:T4": 1}], {"CPU": 1, "accelerator_type:A100": 0.001}, "of type A100 and the cluster has T4:"),
        ([], {"CPU": 1}, "needs 1 CPU and the cluster has 0:"),
    ],
)
def test_job_that_no_node_can_hold_is_refused_with_what_is_missing(nodes, shape, sentence):
    with pytest.raises(UserError) as caught:
        refuse_unplaceable(cluster(*nodes), {"glue/fits": {"CPU": 0.5} if nodes else shape, "glue/x": shape})
    assert sentence in str(caught.value)


def test_nodes_that_an_autoscaler_may_start_count_and_dead_and_drained_ones_do_not(monkeypatch):
    alive = {"NodeID": "alive", "Alive": True, "Resources": {"CPU": 4.0, "node:10.0.0.1": 1.0}}
    gone = [{"NodeID": name, "Alive": name == "drained", "Resources": {"CPU": 64.0}} for name in ("dead", "drained")]
    monkeypatch.setattr(cluster_module.ray, "nodes", lambda: [alive, *gone])
    monkeypatch.setattr(cluster_module.global_state, "get_draining_nodes", lambda: {"drained": 0})
    groups = [SimpleNamespace(resources={"CPU": 8, "GPU": 2}, max_count=2), SimpleNamespace(resources={"CPU": 96}, max_count=0)]
    config = SimpleNamespace(node_group_configs=groups)
    monkeypatch.setattr(cluster_module.global_state, "get_cluster_config", lambda: config)
    shapes = {"a": {"CPU": 1, "GPU": 1}, "b": {"CPU": 16}}
    assert Turns(shapes, cluster_module.nodes).room == {"a": 4, "b": 0}
    with pytest.raises(UserError, match="b needs 16 CPU on one node and the largest has 8"):
        refuse_unplaceable(cluster(*cluster_module.nodes()), {"b": {"CPU": 16}})
    groups[1].max_count = -1  # no limit
    assert Turns(shapes, cluster_module.nodes).room["b"] >= 1000


def test_methods_resources_win_over_the_stages_and_never_enter_the_identity():
    text = (
        "resources: {transfer: {cpu: 2, gpu: 0.5}, methods: {scalearn: {gpu: 1, memory: 8 GiB, custom: {fast: 1}, accelerator_type: A100}}}"
    )
    plain, sweep = Sweep.from_text(SMALL), Sweep.from_text(SMALL + text)
    assert shape_of(sweep.resources.of("transfer", "scalearn")) == {
        "CPU": 2.0,
        "GPU": 1.0,
        "memory": 8 * 2**30,
        "fast": 1.0,
        "accelerator_type:A100": 0.001,
    }
    assert shape_of(sweep.resources.of("transfer", "scalearn_pp")) == {"CPU": 2.0, "GPU": 0.5}
    assert sweep.expand().nodes() == plain.expand().nodes()


GPU_NODES = ({"CPU": 8.0}, {"CPU": 8.0, "GPU": 8.0})
STATED = "resources: {transfer: {gpu: 0.25}, single: {gpu: 0}, methods: {scalearn: {cpu: 2}}}"
NO_TORCH = "GPUs: 8, not used (the torch that is installed cannot use them); jobs run on CPUs"


@pytest.mark.parametrize(
    ("cluster", "amounts", "line"),
    [
        (Cluster(GPU_NODES, None, None, gpus=8.0), {"source": 1.0, "transfer": 0.25, "single": 0.0}, "GPUs: 8, 0 to 1 per job or pack"),
        (Cluster(GPU_NODES, None, None), {"source": 1.0}, "GPUs: none up yet, some are started when jobs wait, 1 per job or pack"),
        (Cluster(GPU_NODES[:1], None, None), {"source": 0.0, "single": 0.0}, "GPUs: none; jobs run on CPUs"),
        (Cluster(GPU_NODES, None, None, gpus=8.0), {"single": 0.0}, "GPUs: 8, not used (`gpu: 0` in the sweep file); jobs run on CPUs"),
        (Cluster(GPU_NODES, None, None, gpus=8.0, torch_sees_gpus=False), {"source": 0.0, "single": 0.0}, NO_TORCH),
    ],
)
def test_trial_without_a_stated_gpu_gets_one_where_the_cluster_has_any(cluster, amounts, line):
    resources = Sweep.from_text(SMALL + STATED).resources
    shapes = {stage: shape_of(resources.of(stage), cluster.default_gpu) for stage in amounts}
    assert {stage: shape.get("GPU", 0.0) for stage, shape in shapes.items()} == amounts
    assert shape_of(resources.of("transfer", "scalearn"), cluster.default_gpu) == {"CPU": 2.0, "GPU": 0.25}
    assert describe_gpus(cluster, shapes.values()) == line


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without an address of a cluster, whose environment a test may change."""
    named = ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR")
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name not in named})


def test_local_ray_that_starts_too_slowly_twice_or_not_at_all_is_one_sentence_and_leaves_no_process(own_ray, monkeypatch):
    slow = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
    said = [slow, slow, "Failed to start GCS.  Last 1 lines of error files:\nno port"]
    begun: list[subprocess.Popen[bytes]] = []

    def start(address: str, **settings: object) -> None:
        assert address == "local"  # of one's own, whatever else runs on the machine
        begun.append(subprocess.Popen(["sleep", "600"]))
        raise Exception(said.pop(0))

    monkeypatch.setattr(local_ray.ray, "init", start)
    for reason, left in (("The current node timed out during startup", 1), ("Failed to start GCS", 0)):  # only the slow one is tried again
        sentence = rf"^Ray could not be started on this machine \({reason}\): .* in /tmp/ray"
        with pytest.raises(UserError, match=sentence), cluster_module.connected(1, 0):
            pass
        assert len(said) == left
    assert [process.wait(60) for process in begun] == [-signal.SIGKILL] * 3


@pytest.fixture
def short() -> Iterator[str]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="sl", dir="/tmp") as directory:
        yield directory


def test_local_ray_lies_where_its_sockets_have_room_and_it_may_write(own_ray, tmp_path, short, monkeypatch):
    chosen = []

    def start(address: str, **settings: object) -> None:
        chosen.append(settings["_temp_dir"])
        raise Exception("no memory")

    monkeypatch.setattr(local_ray.ray, "init", start)
    occupied, long = Path(short, "occupied"), tmp_path / ("x" * 100)
    occupied.mkdir()
    (occupied / "ray").touch()
    for named in ({}, {"TMPDIR": str(long)}, {"RAY_TMPDIR": str(occupied), "TMPDIR": str(long)}, {"RAY_TMPDIR": short}):
        os.environ.update({"RAY_TMPDIR": "", "TMPDIR": ""} | named)
        with pytest.raises(UserError, match="no memory"), cluster_module.connected(1, 0):
            pass
    assert chosen == ["/tmp/ray", "/tmp/ray", "/tmp/ray", f"{short}/ray"]
    assert not long.exists()
    monkeypatch.setattr(local_ray, "_SOCKET_PATH_BYTES", 72)
    sentence = r"and .*/ray, /tmp/ray, /tmp/ray-\d+ are not fit for it: set RAY_TMPDIR to one"
    with pytest.raises(UserError, match=sentence), cluster_module.connected(1, 0):
        pass


def test_jobs_of_unlike_resources_are_not_packed_together():
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(4)])
    graph.mark(top.node, "cached")
    cost = CostModel(load_profile("h100_estimate"), pack=4)
    assert len(Policy(graph, cost).take()) == 4
    policy = Policy(graph, cost, apart=lambda job: job.config.seed % 2)
    taken = [{graph.job(node).config.seed for node in policy.take()} for _ in range(2)]
    assert sorted(map(sorted, taken)) == [[0, 2], [1, 3]]
