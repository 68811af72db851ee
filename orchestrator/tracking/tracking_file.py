"""The SQLite file that MLflow logs to if there is no server."""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient

from orchestrator.storage.files import Storage
from orchestrator.storage.retrying import Patience
from orchestrator.tracking.sqlite_address import sqlite_file, sqlite_uri


def create_tracking_file(uri: str) -> None:
    """Create an SQLite tracking store if there is none, whole or not at all.

    MLflow builds its tables in place, in steps. A process that dies between two steps, or two processes at once, would leave a file that no
    later run can open.

    Args:
        uri: Tracking URI. Nothing is done if it names no SQLite file.
    """
    place = sqlite_file(uri)
    if place is None or "?" in uri or place.exists():
        return
    # In another place, so that a process that dies leaves nothing beside the file: building takes seconds.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        built = Path(folder) / "built.db"
        MlflowClient(sqlite_uri(built)).search_experiments(max_results=1)
        storage = Storage(place.parent, Patience(0.0))
        storage.create(storage.root / place.name, built.read_bytes())  # does nothing if another driver has created it first


def take_artifacts_along(uri: str, artifacts: Path) -> None:
    """Make a file that was moved or copied with its store name the artifacts that came with it.

    MLflow notes absolute paths and has no call to change them, so a copy of a store would write its report into the original store.

    Args:
        uri: Tracking URI. Only a file beside the artifacts is changed, since several stores may share any other place.
        artifacts: Where the store keeps its artifacts now.

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
