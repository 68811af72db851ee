"""SQLite files in tracking URIs. Two characters of a path mean something else in a URL: `%` and `?`."""

from pathlib import Path

SCHEME = "sqlite:///"


def sqlite_file(uri: str) -> Path | None:
    """Return the file that a tracking URI names. None: it names no SQLite file.

    >>> sqlite_file("sqlite:////runs/mlflow.db?timeout=5")
    PosixPath('/runs/mlflow.db')
    """
    from sqlalchemy.engine import make_url  # takes a tenth of a second; its versions read a `%` differently

    name = make_url(uri).database if uri.startswith(SCHEME) else None
    return None if not name or name.startswith((":", "file:")) else Path(name)


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a file. Only characters that need it are quoted."""
    from sqlalchemy.engine import URL

    plain = f"{SCHEME}{file}"
    return plain if sqlite_file(plain) == file else URL.create("sqlite", database=str(file)).render_as_string()
