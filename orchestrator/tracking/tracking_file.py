"""The SQLite file that MLflow logs to where there is no server."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient

_SCHEME = "sqlite:///"


def create_tracking_file(uri: str) -> None:
    """Create an SQLite tracking store where there is none, whole or not at all.

    MLflow builds its tables in place, in steps. A process that dies between two of them, or two processes at once, would leave a file that
    no later run can open.

    Args:
        uri: Tracking URI; nothing is done for other ones.
    """
    place = Path(uri.removeprefix(_SCHEME))
    if not uri.startswith(_SCHEME) or "?" in uri or place.name == ":memory:" or place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=place.parent, ignore_cleanup_errors=True) as folder:
        built, copy = Path(folder) / "built.db", Path(folder) / "copy.db"
        MlflowClient(f"{_SCHEME}{built}").search_experiments(max_results=1)
        shutil.copyfile(built, copy)  # MLflow keeps the first one open
        with contextlib.suppress(FileExistsError):  # another driver was faster
            os.link(copy, place)
