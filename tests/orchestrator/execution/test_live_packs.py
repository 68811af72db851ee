"""Packs of several jobs on a real Ray: each job has its own artifact, failure and run in MLflow."""

import re
from collections import Counter

import pytest
from mlflow import MlflowClient
from rich.console import Console

from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.options import Options
from orchestrator.execution.run import run_sweep
from tests.orchestrator.helpers.doubles import TRAIN, behave

SWEEP = """
name: packs
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, apple]}
targets: [apple]
seeds: [0, 1, 2, 3, 4, 5, 6, 7]
packing: {size: 4, profile: h100_estimate}
methods:
  scalearn: {}
  scalearn_pp: {}
"""


@pytest.mark.slow
def test_jobs_of_a_pack_end_each_in_its_own_way(tmp_path):
    store, sweep = Store(tmp_path / "runs"), Sweep.from_text(SWEEP)
    behave(
        store,
        ("scalearn_pp/apple/lr6e-03-seed5", {"error": "The training loss became nan."}),
        ("scalearn/apple/lr6e-03-seed3", {"crash": "nobody knows this error"}),
        ("scalearn/.*seed[67]", {"fits": 2}),
    )
    console = Console(width=200)
    assert run_sweep(sweep, store, Options(cpus=2, gpus=0, train=TRAIN), console) == 1
    graph = sweep.expand()
    states = Counter(store.state(node) for node in graph.nodes())
    assert states == {"succeeded": 16, "failed": 2}
    results = {node: result for node in graph.nodes() if "transfer" in node and (result := store.result(node))}
    sizes = Counter(result["pack_size"] for result in results.values())
    assert max(sizes) == 4
    assert sum(sizes.values()) == 14
    assert all(result["pack_size"] <= 2 for node, result in results.items() if re.search("scalearn/.*seed[67]", node))
    (crashed,) = [node for node in graph.nodes() if "scalearn/apple/lr6e-03-seed3" in node]
    assert store.read_json(crashed, "FAILED.json")["error"] == "RuntimeError: nobody knows this error"
    client = MlflowClient(store.load_json(store.manifest_path("packs"))["tracking_uri"])
    experiment = client.get_experiment_by_name("packs")
    assert len(client.search_runs([experiment.experiment_id])) == 19  # one per job, and the sweep's

    behave(store)
    assert run_sweep(sweep, store, Options(cpus=2, gpus=0, train=TRAIN), console) == 0
    (again,) = [node for node in graph.nodes() if "scalearn_pp/apple/lr6e-03-seed5" in node]
    assert store.result(again)["pack_size"] == 1
