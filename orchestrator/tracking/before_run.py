"""What can be checked of a tracking store before a run and without MLflow: that it would be refused, or its experiment is deleted."""

import json
import re
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing

from orchestrator.tracking.sqlite_address import sqlite_file
from scalearn.errors import UserError

_SECONDS = 5.0


def check_tracking_uri(uri: str) -> None:
    """Refuse a directory, since MLflow no longer logs to directories.

    Args:
        uri: Tracking URI. One without a scheme is a directory too.

    Raises:
        UserError: It is a directory.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", uri)
    if (scheme is None and uri != "databricks") or (scheme is not None and scheme[1].lower() == "file"):
        raise UserError(
            f"MLflow does not log to a directory such as {uri}: give tracking.uri or MLFLOW_TRACKING_URI a database, "
            "such as sqlite:////path/mlflow.db, or the address of a server."
        )


def is_deleted(uri: str, experiment: str) -> bool:
    """Tell whether an experiment is deleted in MLflow's sense, so that it can be restored. False if only MLflow could tell."""
    try:
        if (file := sqlite_file(uri)) is not None:
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_SECONDS)) as database:
                found = database.execute("SELECT lifecycle_stage FROM experiments WHERE name = ?", (experiment,)).fetchone()
            return found is not None and found[0] == "deleted"
        if uri.startswith(("http://", "https://")):
            query = urllib.parse.urlencode({"experiment_name": experiment})
            address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}"
            with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
                return bool(json.load(answer)["experiment"]["lifecycle_stage"] == "deleted")
    except (sqlite3.Error, OSError, ValueError, LookupError, TypeError):
        pass  # the writer will meet the same error, and report it
    return False
