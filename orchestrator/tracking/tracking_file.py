"""The SQLite file that MLflow logs to where there is no server."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient

from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import Patience
from orchestrator.tracking.sqlite_address import sqlite_file, sqlite_uri


def create_tracking_file(uri: str) -> None:
    """Create an SQLite tracking store where there is none, whole or not at all.

    MLflow builds its tables in place, in steps. A process that dies between two of them, or two processes at once, would leave a file that
    no later run can open.

    Args:
        uri: Tracking URI; nothing is done for other ones.
    """
    place = sqlite_file(uri)
    if place is None or "?" in uri or place.exists():
        return
    # Elsewhere, so that a process that dies meanwhile leaves nothing beside the file: building takes seconds.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        built = Path(folder) / "built.db"
        MlflowClient(sqlite_uri(built)).search_experiments(max_results=1)
        storage = Storage(place.parent, Patience(0.0))
        storage.create(storage.root / place.name, built.read_bytes())  # or another driver was faster
