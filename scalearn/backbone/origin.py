"""How a user names weights (a local directory or a hub id), and what identifies their content, wherever it lies.

Planning imports this module, so it imports neither torch nor transformers, and touches no network.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scalearn.files.content import sha256_of

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w][\w./-]{0,99}))?", re.ASCII)


class HubId(NamedTuple):
    """A repository of the hub at a revision."""

    repository: str
    revision: str

    @property
    def origin(self) -> str:
        """Identity of its content, as far as it is known without a request to the hub."""
        return f"hub:{self.repository}@{self.revision}"


def local_directory(name: str) -> Path | None:
    """Return the directory of that name, if there is one. None: there is none, or no file system takes the name."""
    try:
        path = Path(name).expanduser()
        return path if name and path.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def hub_id(name: str) -> HubId | None:
    """Return what `owner/model` or `owner/model@revision` names. The default revision is `main`. None: the name has neither form."""
    match = _HUB_ID.fullmatch(name)
    if match is None or ".." in name or "--" in name:
        return None
    return HubId(match["id"], match["revision"] or "main")


def content_origin(files: Iterable[Path]) -> str:
    """Return the identity of files by their names and contents, in the given order: `files:sha256-...`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    return f"files:sha256-{digest.hexdigest()}"
