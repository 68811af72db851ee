"""A sweep's manifest: what `analysis` and other processes read to know which nodes a sweep has, and in which order."""

import json
from datetime import UTC, datetime
from typing import Any

from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.identity import to_plain
from orchestrator.definition.names import TaskNames
from orchestrator.definition.sweep import Sweep
from orchestrator.storage.store import SCHEMA, Store


def write_manifest(sweep: Sweep, graph: Graph, store: Store, tracking_uri: str, run_id: str | None) -> None:
    """Write `<store>/sweeps/<name>.json`; the time of the first writing is kept.

    Args:
        sweep: The sweep.
        graph: All its jobs.
        store: Where.
        tracking_uri: Where its runs are logged.
        run_id: The sweep's run there. None: not known yet, so what an earlier run wrote is kept.
    """
    path = store.manifest_path(sweep.name)
    before = store.load_json(path) or {}
    if run_id is None and before.get("tracking_uri") == tracking_uri:
        run_id = before.get("run_id")
    store.write_json(
        path,
        {
            "schema": SCHEMA,
            "name": sweep.name,
            "file": sweep.file,
            "yaml": sweep.text,
            "overrides": list(sweep.overrides),
            "benchmark": sweep.benchmark,
            "targets": list(TaskNames.of(sweep.benchmark, sweep.tasks).keys(sweep.targets)),
            "methods": list(sweep.methods),
            "tracking_uri": tracking_uri,
            "experiment": sweep.tracking.experiment or sweep.name,
            "run_id": run_id,
            "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            **_nodes(graph),
        },
    )


def _nodes(graph: Graph) -> dict[str, Any]:
    """The nodes, each with its configuration as numbers: field by field, which of the field's values it has, -1 for none.

    A benchmark's jobs differ in few fields, and a manifest of 100,000 of them has to stay small.
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
