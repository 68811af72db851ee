"""The SQLite file that MLflow logs to where there is no server."""

import sqlite3
import tempfile
from contextlib import closing
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


def take_artifacts_along(uri: str, artifacts: Path) -> None:
    """Let a file that was moved or copied with its store name the artifacts that came along.

    MLflow notes absolute places and has no call that changes them: a copy of a store would write its report into the first one.

    Args:
        uri: Tracking URI. Of other places than a file beside the artifacts, nothing is changed: several stores may share those.
        artifacts: Where the store keeps them now.

    Raises:
        sqlite3.Error: The file cannot be written.
    """
    file, now = sqlite_file(uri), artifacts.as_uri()
    if file is None or file.absolute().parent != artifacts.parent:
        return
    with closing(sqlite3.connect(file)) as database, database:
        places = [place for (place,) in database.execute("SELECT DISTINCT artifact_location FROM experiments")]
        for place in places:
            if place != now and str(place).startswith("file:") and str(place).endswith(f"/{artifacts.name}"):
                database.execute("UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (now, place))
                database.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                    (now, len(place) + 1, len(place) + 1, f"{place}/"),
                )
