"""Read a store's files from a directory or from any URL that fsspec can open."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec

from analysis.errors import ResultsError
from scalearn.files.json_files import LARGEST, SMALL, names_no_file, read_bytes, require_size

JOB_FILES = ("job.json", "SUCCESS.json", "FAILED.json", "history.jsonl")
"""A directory that holds one of these belongs to a node."""

_CHUNK = 512


class Folder:
    """The root of a store in the file system, read only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)
        """Its path or URL, for messages."""

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a file at a path relative to the root. None: there is no such file."""
        try:
            return read_bytes(os.path.join(self.name, path), LARGEST)
        except ValueError as error:
            raise _too_large(path, error) from None
        except OSError as error:
            if names_no_file(error):
                return None
            raise ResultsError(f"{self.name}/{path} cannot be read ({error.strerror}): give this user access to it.") from None

    def prefetch(self, paths: Iterable[str]) -> None:
        """Announce what will be read, for stores where one request for many files is faster. A directory does nothing."""

    def nodes(self) -> Iterator[str]:
        """Iterate over the nodes, as paths relative to the root."""
        # os.walk with pruning, since a node's own folders (adapter/, checkpoint/) hold no further nodes.
        for directory, folders, files in os.walk(self.name):
            node = os.path.relpath(directory, self.name).replace(os.sep, "/")
            folders[:] = sorted(folder for folder in folders if _may_hold_nodes(folder if node == "." else f"{node}/{folder}"))
            if node != "." and any(file in JOB_FILES for file in files):
                folders.clear()
                yield node

    def manifests(self) -> list[str]:
        """Return the names of the sweeps whose manifests lie in `sweeps/`, sorted."""
        return sorted(path.stem for path in (self.root / "sweeps").glob("*.json"))


class RemoteFolder(Folder):
    """A store behind an fsspec URL such as `s3://bucket/runs` or `memory://runs`."""

    def __init__(self, url: str) -> None:
        self.name = url
        # No cache, since files that another process has written since the last listing must be seen.
        self._system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._root = str(root).rstrip("/")
        self._fetched: dict[str, bytes | None] = {}

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a file, as `Folder.read`."""
        if path in self._fetched:
            return self._fetched.pop(path)
        try:
            require_size(self._system.size(f"{self._root}/{path}"), LARGEST)
            return bytes(self._system.cat_file(f"{self._root}/{path}"))
        except ValueError as error:
            raise _too_large(path, error) from None
        except FileNotFoundError:
            return None

    def prefetch(self, paths: Iterable[str]) -> None:
        """Fetch many files at a time, if one listing shows them and they are small, as for `Folder.prefetch`."""
        wanted = {f"{self._root}/{path}": path for path in paths}
        sizes = {name: facts["size"] for name, facts in self._system.find(self._root, detail=True).items() if name in wanted}
        self._fetched.update((path, None) for name, path in wanted.items() if name not in sizes)
        names = [name for name, size in sizes.items() if size <= SMALL]
        for start in range(0, len(names), _CHUNK):
            for name, content in self._system.cat(names[start : start + _CHUNK], on_error="return").items():
                if isinstance(content, bytes):
                    self._fetched[wanted[name]] = content

    def nodes(self) -> Iterator[str]:
        """Iterate over the nodes, as `Folder.nodes`."""
        files = (file[len(self._root) :].strip("/").rpartition("/") for file in self._system.find(self._root))
        found = {folder for folder, _, name in files if name in JOB_FILES}
        yield from sorted(node for node in found if node and _may_hold_nodes(node))

    def manifests(self) -> list[str]:
        """Return the names of the sweeps, as `Folder.manifests`."""
        try:
            files = self._system.ls(f"{self._root}/sweeps", detail=False)
        except FileNotFoundError:
            return []
        return sorted(Path(file).stem for file in files if file.endswith(".json"))


def _too_large(path: str, error: ValueError) -> ResultsError:
    return ResultsError(f"{path} is no file of a job ({error}): run the sweep again, or remove it.")


def _may_hold_nodes(path: str) -> bool:
    """Tell whether a folder belongs or leads to a node: not `sweeps` and `reports`, nor a name that begins with a dot."""
    return path.split("/")[0] not in ("sweeps", "reports") and not any(part.startswith(".") for part in path.split("/"))


def open_folder(store: str | Path) -> Folder:
    """Return the store at a directory or URL.

    Raises:
        ResultsError: The directory does not exist.
    """
    if "://" in str(store) and not str(store).startswith("file://"):
        return RemoteFolder(str(store))
    root = Path(str(store).removeprefix("file://")).expanduser()
    if not root.is_dir():
        raise ResultsError(f"There is no store at {root}; run the sweep first or name the directory that holds its results.")
    return Folder(root)
