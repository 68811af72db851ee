"""Whole graphs of jobs, trained in this process without Ray."""

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime

ONE_TARGET = """
name: toy
benchmark: domains
backbone: {backbone}
store: runs
data: {{train_rows: 16, evaluation_rows: 8, max_length: 24}}
sources: {{tasks: [apple, coachella], settings: {{reduction_factor: 4}}}}
targets: [apple]
training: {{epochs: 1, batch_size: 8, precision: fp32}}
methods: {{scalearn_pp: {{learning_rate: 5e-2}}}}
"""
"""A sweep of one target on two sources, to be completed by a backbone."""


def train_graph(graph: Graph, store: Store) -> None:
    """Train every job once its parents are done, and commit it."""
    while graph.ready():
        for node in graph.ready():
            job = graph.job(node)
            directory = store.begin(node, {"node": node})
            parents = {parent.source_name: store.directory(parent.node) for parent in job.parents}
            (outcome,) = train([PackMember(job.config, directory, parents)], Runtime(device="cpu"), lambda *_: None)
            assert outcome.error is None, outcome.error
            store.commit(node)
            graph.mark(node, "succeeded")
