"""Read a sweep from an MLflow tracking server. Only `analysis.load` imports this, when needed, since MLflow takes seconds to import."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis.errors import ResultsError
from analysis.reading.mlflow_records import MANIFEST_ARTIFACT, record_from_tags
from analysis.reading.records import Record, SweepInfo, mark_blocked, parse_manifest, record_of
from scalearn.files.json_files import decode
from scalearn.secrets import clause, without_secrets

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

# Otherwise MLflow shows a progress bar per file on stderr, for a manifest of some kilobytes.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

_PAGE = 1000


def read_tracked(uri: str, sweep: str | None) -> tuple[list[Record], SweepInfo | None]:
    """Return the records that `analysis.records.read_records` would read from the store, with the sweep's manifest.

    Args:
        uri: Tracking URI.
        sweep: Name of a sweep. None: every job of every experiment.

    Raises:
        ResultsError: The server does not answer, or has no such sweep.
    """
    try:
        client = MlflowClient(uri)
        if sweep is None:
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            return mark_blocked([record_from_tags(node, tags) for node, tags in _jobs(client, experiments).items()]), None
        experiment, manifest = _sweep(client, uri, sweep)
        runs = _jobs(client, [experiment])
    except MlflowException as error:
        raise ResultsError(
            f"The tracking server {without_secrets(uri)} cannot be read ({clause(error)}); check the address, or name the store."
        ) from error
    records = []
    for entry in manifest.nodes:
        node = str(entry["node"])
        known = record_from_tags(node, runs[node], entry) if node in runs else None
        records.append(known or record_of(node, "pending", entry=entry, benchmark=manifest.benchmark))
    return mark_blocked(records), manifest


def _sweep(client: MlflowClient, uri: str, sweep: str) -> tuple[str, SweepInfo]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = [run for run in _runs(client, experiments, "tags.kind = 'sweep'") if run.data.tags.get("sweep") == sweep]
    if not found:
        raise ResultsError(f"{without_secrets(uri)} knows no sweep named {sweep!r}; run it with tracking on, or name the store.")
    run = found[0]
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run.info.run_id, MANIFEST_ARTIFACT, folder)
            raw = decode(Path(path).read_bytes())
        except (MlflowException, OSError, ValueError) as error:
            raise ResultsError(
                f"The run of sweep {sweep!r} at {without_secrets(uri)} holds no sound {MANIFEST_ARTIFACT}; run the sweep again."
            ) from error
    return run.info.experiment_id, parse_manifest(raw, f"{MANIFEST_ARTIFACT} of sweep {sweep!r} at {without_secrets(uri)}")


def _jobs(client: MlflowClient, experiments: list[str]) -> dict[str, dict[str, str]]:
    """Return the tags of each node's newest run, by node."""
    jobs: dict[str, dict[str, str]] = {}
    for run in _runs(client, experiments, "tags.kind = 'job'"):
        jobs.setdefault(run.data.tags.get("node", ""), run.data.tags)
    jobs.pop("", None)
    return jobs


def _runs(client: MlflowClient, experiments: list[str], what: str) -> Iterator[Any]:
    token = None
    while experiments:
        page = client.search_runs(experiments, what, max_results=_PAGE, order_by=["attributes.start_time DESC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return
