"""A sweep's manifest: what `analysis` and other processes read to know which nodes a sweep has, and in which order."""

from datetime import UTC, datetime
from typing import Any

from orchestrator.graph import Graph, Job
from orchestrator.names import TaskNames
from orchestrator.store import SCHEMA, Store
from orchestrator.sweep import Sweep


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
            "run_id": run_id,
            "created": before.get("created") or datetime.now(UTC).isoformat(timespec="seconds"),
            "nodes": [_entry(graph, job) for job in graph],
        },
    )


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
