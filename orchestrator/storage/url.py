"""Which URLs can hold a store, and how they are opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from orchestrator.storage.retrying import reason
from scalearn.errors import UserError

_OPTIONS: dict[str, Mapping[str, Any]] = {
    # The client waits half a minute per request for a server that is away. Our own patience comes on top.
    # Markers of thousands of jobs are read at once, and botocore's own limit is 10 connections.
    "s3": {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 2}, "max_pool_connections": 64}},
}
_LOCAL = (None, "file", "local")
_OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Stores whose objects appear whole and can be claimed. Others that fsspec opens (archives, web pages, caches) hold no store."""


def is_local(text: str) -> bool:
    """Tell whether a store is a directory of this machine, not an object store.

    Raises:
        UserError: The URL names no place that can hold a store.
    """
    return _scheme(text) in _LOCAL


def remote_root(url: str) -> Path:
    """Return the root of a store behind a URL: a `UPath`, with a path's methods.

    Raises:
        UserError: The package that opens such URLs is not installed, or cannot read this URL.
    """
    from upath import UPath  # imported here: a twentieth of a second, saved for directories

    try:
        # No cache of listings, since files that another process wrote must be seen at once.
        path = UPath(url.rstrip("/"), **_OPTIONS.get(url.partition("://")[0], {}), use_listings_cache=False)
        assert path.fs is not None
        return cast("Path", path)
    except ImportError as error:
        scheme = url.partition("://")[0]
        package = "scalearn-orchestrator[s3]" if scheme == "s3" else f"the one that fsspec needs for {scheme}://"
        raise UserError(f"The store {url} needs a package that is not installed ({reason(error)}): install {package}.") from None
    except ValueError as error:
        raise UserError(
            f"The store {url} is of no kind that is known ({error}): name a directory or a URL such as s3://bucket/runs."
        ) from None


def _scheme(text: str) -> str | None:
    """Return the kind of a store's URL. None: it is a path.

    Raises:
        UserError: The URL names no place that can hold a store.
    """
    scheme, found, place = text.partition("://")
    if not found and not text.startswith("data:") and "::" not in text:
        return None
    shown = text if len(text) <= 200 else f"{text[:197]}..."
    if "::" in text or scheme not in (*_LOCAL, *_OBJECT_STORES):
        raise UserError(
            f"The store {shown} is of no kind that is known to hold one: name a directory, or a URL of an object store such as "
            "s3://bucket/runs or gs://bucket/runs."
        )
    if not place.strip("/"):
        raise UserError(f"The store {shown} names no place: give a whole URL such as s3://bucket/runs.")
    return scheme
