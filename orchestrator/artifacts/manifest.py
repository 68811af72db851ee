"""A sweep's manifest. `analysis` and other processes read in it which nodes a sweep has, and in which order.

If another sweep of the same name was run into the store, its manifest is kept beside this one as `NAME-CONTENT.json`, so that its jobs
stay named and can be reported.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.artifacts.store import SCHEMA, Store
from orchestrator.definition.combinations import RATE
from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.names import TaskNames
from orchestrator.definition.ranges import ranges_of
from orchestrator.definition.sweep import Sweep
from orchestrator.definition.titles import names_of
from scalearn.files.json_files import LARGEST
from scalearn.identity import to_plain
from scalearn.methods.registry import METHODS
from scalearn.secrets import without_secrets


def content_of(nodes: Iterable[str]) -> str:
    """Return 10 hexadecimal digits that stand for a sweep's jobs, in any order."""
    return hashlib.sha256("\n".join(sorted(nodes)).encode()).hexdigest()[:10]


def keep_apart(sweep: str, graph: Graph, store: Store) -> str | None:
    """Keep the manifest of an earlier sweep of the same name if it names jobs that this sweep does not have.

    Returns:
        The name of the kept manifest. None: there was none, or this sweep has all its jobs.
    """
    path = store.manifest_path(sweep)
    before = named_by(store, sweep)
    if before <= set(graph.nodes()):
        return None
    name = f"{sweep}-{content_of(before)}"
    store.storage.write(store.manifest_path(name), store.storage.read(path, LARGEST))
    return name


def own_name(sweep: str, graph: Graph, store: Store) -> str:
    """Return the name of a sweep's own manifest. Another sweep may have taken the sweep's name while this driver seemed dead."""
    named = named_by(store, sweep)
    return sweep if named <= set(graph.nodes()) else f"{sweep}-{content_of(graph.nodes())}"


def named_by(store: Store, sweep: str) -> set[str]:
    """Return the jobs that the manifest of a given name lists, or no jobs if no such manifest can be read."""
    return nodes_in(store.load_json(store.manifest_path(sweep))) or set()


def nodes_in(manifest: Mapping[str, Any] | None) -> set[str] | None:
    """Return the jobs that a manifest lists. None: it is not one that we wrote."""
    nodes = (manifest or {}).get("nodes")
    return {str(entry.get("node")) for entry in nodes if isinstance(entry, dict)} if isinstance(nodes, list) else None


def write_manifest(sweep: Sweep, graph: Graph, store: Store, tracking_uri: str, run_id: str | None, name: str | None = None) -> None:
    """Write `<store>/sweeps/<name>.json`. Later writings keep the time of the first one.

    Args:
        sweep: The sweep.
        graph: All its jobs.
        store: Where to write.
        tracking_uri: Where the sweep's runs are logged. Its password is removed, as everywhere in the manifest.
        run_id: The sweep's run in MLflow. None: not known yet, so the id that an earlier run wrote is kept.
        name: Name of the manifest. None: the sweep's name.
    """
    path, tracking_uri = store.manifest_path(name or sweep.name), without_secrets(tracking_uri)
    before = store.load_json(path) or {}
    if run_id is None and before.get("tracking_uri") == tracking_uri:
        run_id = before.get("run_id")
    store.write_json(
        path,
        {
            "schema": SCHEMA,
            "name": sweep.name,
            "file": before.get("file", sweep.file) if sweep.file.endswith(".json") else sweep.file,  # it was run by its manifest
            "yaml": without_secrets(sweep.text),
            "overrides": list(map(without_secrets, sweep.overrides)),
            "benchmark": sweep.benchmark,
            "targets": list(TaskNames.of(sweep.benchmark, sweep.tasks).keys(sweep.targets)),
            "methods": list(sweep.methods),
            **_weighed(sweep),
            "names": names_of(graph),
            "tracking_uri": tracking_uri,
            "experiment": sweep.tracking.experiment or sweep.name,
            "run_id": run_id,
            "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            **_nodes(graph),
        },
    )


def _weighed(sweep: Sweep) -> dict[str, Any]:
    """Return what tables have to know of searches: the settings that ranges were given for, by method, and the objectives."""
    searched = {key: [name for row in rows for name in ranges_of(METHODS[key], row) if name != RATE] for key, rows in sweep.methods.items()}
    known = {"searched": {key: list(dict.fromkeys(names)) for key, names in searched.items() if names}}
    return {name: value for name, value in {**known, "objectives": list(sweep.objectives)}.items() if value not in ({}, ["score"])}


def _nodes(graph: Graph) -> dict[str, Any]:
    """Return the nodes, each with its configuration as numbers: for each field the index of its value among the field's values, or -1.

    The jobs of a benchmark differ in few fields, and a manifest of 100,000 jobs has to stay small.
    """
    values: dict[str, dict[str, int]] = {}
    nodes = []
    for job in graph:
        texts = {name: json.dumps(value) for name, value in to_plain(job.config).items()}
        for name in texts:
            values.setdefault(name, {})
        numbers = [known.setdefault(texts[name], len(known)) if name in texts else -1 for name, known in values.items()]
        nodes.append(_entry(graph, job) | {"config": numbers})
    return {"config_values": {name: [json.loads(text) for text in known] for name, known in values.items()}, "nodes": nodes}


def _entry(graph: Graph, job: Job) -> dict[str, Any]:
    return {
        "node": job.node,
        "stage": graph.stage_of(job.node),
        "method": job.config.method,
        "task": "+".join(job.tasks),
        "seed": job.config.seed,
        "learning_rate": job.config.optimisation.learning_rate,
        "parents": [parent.node for parent in job.parents],
    }
