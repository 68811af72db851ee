"""SQLite files as tracking URIs name them: some signs of a path mean something else in a URL, `%` and `?`."""

from pathlib import Path

SCHEME = "sqlite:///"


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a tracking URI. None: it names no file of SQLite's.

    >>> sqlite_file("sqlite:////runs/mlflow.db?timeout=5")
    PosixPath('/runs/mlflow.db')
    """
    from sqlalchemy.engine import make_url  # a tenth of a second, and what its versions make of a `%` differs

    name = make_url(uri).database if uri.startswith(SCHEME) else None
    return None if not name or name.startswith((":", "file:")) else Path(name)


def sqlite_uri(file: Path) -> str:
    """Return the tracking URI of a file, in which nothing is quoted that need not be."""
    from sqlalchemy.engine import URL

    plain = f"{SCHEME}{file}"
    return plain if sqlite_file(plain) == file else URL.create("sqlite", database=str(file)).render_as_string()
