"""A sweep of two sources and four transfer jobs with its manifest in a store, as a run leaves it before the first job begins."""

from pathlib import Path

from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep

SWEEP = """
name: small
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [apple, bbc]}
targets: [apple]
methods:
  scalearn: {settings: {omega_dropout: [0.0, 0.3]}, seeds: [0, 1]}
"""


def small_store(directory: Path) -> tuple[Path, Store, Graph]:
    """A sweep of which nothing has run yet: its file, its store with the manifest, and its graph."""
    directory.mkdir(exist_ok=True)
    file, store = directory / "small.yaml", Store(directory / "runs")
    file.write_text(SWEEP)
    sweep = Sweep.load(file)
    graph = sweep.expand()
    store.root.mkdir()
    write_manifest(sweep, graph, store, f"sqlite:///{store.root / 'mlflow.db'}", None)
    return file, store, graph
