"""The files of a store, in a directory or behind a URL that fsspec can open.

Nothing here relies on a rename or on directories where there are none. An object store shows a file whole once its upload has ended. On a
file system, a file is written beside its place and then moved there. Every action is tried again while storage is full or away.
"""

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from orchestrator.storage.directory import create_whole, make_folder_of, walk
from orchestrator.storage.retrying import Patience, StoreUnavailable, is_trouble, reason
from orchestrator.storage.url import is_local, remote_root
from scalearn.files.json_files import LARGEST, SMALL, encode, names_no_file, parse, read_bytes, require_size
from scalearn.files.whole_files import write_whole

T = TypeVar("T")


_BLOCK = 1 << 20
_LISTING_THREADS = 8
_CHUNK = 512


class Storage:
    """The bytes at paths below one root."""

    def __init__(self, root: str | os.PathLike[str], patience: Patience | None = None) -> None:
        """Name the root. Nothing is read or written yet.

        Args:
            root: A directory, relative to the working directory or absolute, or the URL of an object store.
            patience: How long to wait for storage that is full or away. None: as usual.

        Raises:
            UserError: URLs of this kind are not supported.
        """
        text = os.fspath(root)
        self.patience = patience or Patience.usual()
        self.is_local = is_local(text)
        if self.is_local:
            self._files, path = fsspec.core.url_to_fs(text)
            self.root = Path(str(path)).absolute()
            """Fixed at once, since a new working directory must not move half a store. Behind a URL, a `UPath` with a path's methods."""
        else:
            self.root = remote_root(text)
            self._files = cast("Any", self.root).fs
        self.url = str(self.root).rstrip("/")
        self._seen: int | None = None
        """The root directory's number, once it was seen. If somebody moves the root, it must not be made anew."""

    @cached_property
    def impatient(self) -> "Storage":
        """The same storage for callers that do not wait, since they do later what cannot be done now."""
        return Storage(self.url, Patience(0.0))

    def key(self, path: Path) -> str:
        """Return the file system's name of a path."""
        return str(path) if self.is_local else str(cast("Any", path).path)

    def _do(self, action: Callable[[], T], path: Path) -> T:
        """Run an action on a path, with patience.

        Raises:
            StoreUnavailable: The store is away, this user may not do this, or the path holds something else.
        """

        def act() -> T:
            self._see_root()
            return action()

        try:
            return self.patience.persist(act, self.url)
        except OSError as error:
            if error.errno is None or isinstance(error, FileNotFoundError | FileExistsError):
                raise
            remedy = "give this user access to it" if isinstance(error, PermissionError) else "remove what lies in its place"
            refused = StoreUnavailable(f"{path} cannot be read or written ({reason(error)}): {remedy}, then run the same command again.")
            refused.errno = error.errno
            raise refused from error

    def _see_root(self) -> None:
        """Check that the root is still the same directory.

        Raises:
            OSError: It was moved or removed.
        """
        if not self.is_local:
            return
        with contextlib.suppress(FileNotFoundError):
            number = os.stat(self.root).st_ino
            # Some file systems give a directory a new number. If it was moved, Ray may have remade the directory, but without sweeps in it.
            if number == self._seen or self._seen is None or os.path.exists(self.root / "sweeps"):
                self._seen = number
                return
        if self._seen is not None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.url)

    def read(self, path: Path, limit: int | None = None) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It has more than `limit` bytes.
            StoreUnavailable: The store was away for too long.
        """

        def act() -> bytes:
            if self.is_local:
                return read_bytes(path, limit)
            if limit is not None:
                require_size(self._files.size(self.key(path)), limit)
            return bytes(self._files.cat_file(self.key(path)))

        return self._do(act, path)

    def read_from(self, path: Path, start: int, most: int) -> tuple[bytes, int]:
        """Return some of a file's bytes from a position on, and the file's size. A missing file has no bytes."""

        def act() -> tuple[bytes, int]:
            try:
                if self.is_local:
                    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                        size = file.seek(0, os.SEEK_END)
                        file.seek(min(start, size))
                        return file.read(most), size
                size = int(self._files.size(self.key(path)))
                end = min(size, start + most)
                return (bytes(self._files.cat_file(self.key(path), start=start, end=end)) if start < end else b""), size
            except OSError as error:
                if names_no_file(error) or isinstance(error, io.UnsupportedOperation):  # a pipe instead of a file
                    return b"", 0
                raise

        return self._do(act, path)

    def read_many(self, paths: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
        """Iterate over the files that exist and are no larger than a job's. Behind a URL, many are fetched at a time."""
        if self.is_local:
            for path in paths:
                try:
                    yield path, self.read(path, SMALL)
                except ValueError:
                    continue
                except OSError as error:
                    if not names_no_file(error):
                        raise
            return
        wanted = {self.key(path): path for path in paths}
        keys = list(wanted)
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            found = self.patience.persist(lambda chunk=chunk: self._heads(chunk), self.url)  # type: ignore[misc]
            yield from ((wanted[key], data) for key, data in found.items() if len(data) <= SMALL)

    def _heads(self, keys: list[str]) -> dict[str, bytes]:
        """Return the first bytes of those objects that exist, one byte more than the limit."""
        found = dict(zip(keys, self._files.cat_ranges(keys, 0, SMALL + 1, on_error="return"), strict=True))
        for value in found.values():
            if isinstance(value, Exception) and not isinstance(value, FileNotFoundError) and is_trouble(value):
                raise value
        return {key: bytes(value) for key, value in found.items() if not isinstance(value, Exception)}

    def write(self, path: Path, data: bytes) -> None:
        """Write a file. Readers see it whole or not at all."""
        self._do(lambda: self._write(path, data), path)

    def _write(self, path: Path, data: bytes) -> None:
        if not self.is_local:
            self._files.pipe_file(self.key(path), data)
        else:
            make_folder_of(path)
            write_whole(path, data)

    def create(self, path: Path, data: bytes) -> bool:
        """Write a file that does not exist yet. Of several writers exactly one succeeds, on file systems and object stores alike.

        Returns:
            Whether this call has written it.
        """
        tried = False

        def act() -> bool:
            nonlocal tried
            again, tried = tried, True
            try:
                if self.is_local:
                    create_whole(path, data)
                else:
                    # On S3, this is a put with `If-None-Match: *`.
                    self._files.pipe_file(self.key(path), data, mode="create")
                return True
            except FileExistsError:
                # An earlier attempt, whose answer was lost, may have written it.
                return again and self.read(path) == data

        return self._do(act, path)

    def read_json(self, path: Path, limit: int = LARGEST) -> dict[str, Any] | None:
        """Read a JSON object. None: it is absent, half-written, too large, too deep, or no object of finite numbers."""
        try:
            return parse(self.read(path, limit))
        except ValueError:
            return None
        except OSError as error:
            if names_no_file(error):
                return None
            raise

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        self.write(path, encode(value))

    def exists(self, path: Path) -> bool:
        """Tell whether a file or directory exists."""
        return bool(self._do(lambda: self._files.exists(self.key(path)), path))

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""

        def act() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self.key(path))

        self._do(act, path)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and its content, or all objects with this prefix. A link is removed, not followed."""

        def act() -> None:
            if self.is_local and path.is_symlink():
                path.unlink()
                return
            with contextlib.suppress(FileNotFoundError):
                self._files.rm(self.key(path), recursive=True)

        self._do(act, path)

    def move(self, path: Path, to: Path) -> None:
        """Move a file. Behind a URL, it is copied and then removed."""

        def act() -> None:
            if self.is_local:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, to)  # works between file systems: a folder of the store may lie on another
            else:
                self._files.mv(self.key(path), self.key(to))

        self._do(act, path)

    def names(self, path: Path) -> list[str]:
        """Return the sorted names of the entries of a directory; none if there is no such directory."""

        def act() -> list[str]:
            try:
                entries = self._files.ls(self.key(path), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)

        return self._do(act, path)

    def listing(self, path: Path) -> dict[str, dict[str, Any]]:
        """Return every file below a path by relative name, with what the storage says about it: `size`, for some also `ETag`.

        Links are listed as links (`type` is `link`) and not followed. Folders that this user may not read are listed as `closed`.
        """
        if self.is_local:
            place = path.resolve() if path == self.root else path  # the root itself may be a link
            return self._do(lambda: dict(sorted(walk(place))), path)
        base = self.key(path).rstrip("/") + "/"
        try:
            found = self._do(lambda: self._files.find(base.rstrip("/"), detail=True), path)
        except FileNotFoundError:
            return {}
        return {key.removeprefix(base): facts for key, facts in sorted(found.items()) if key.startswith(base)}

    def listings(self, paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
        """Iterate over the listings of several paths. Some are fetched at a time."""
        wanted = list(paths)
        with ThreadPoolExecutor(_LISTING_THREADS) as pool:
            yield from zip(wanted, pool.map(self.listing, wanted), strict=True)

    def size_and_hash(self, path: Path) -> dict[str, Any]:
        """Return a file's size and sha256."""

        def act() -> dict[str, Any]:
            with self._files.open(self.key(path), "rb") as file:
                return digest(file)

        return self._do(act, path)

    def upload(self, file: Path, path: Path) -> None:
        """Copy a local file into the store, where it appears whole."""
        self._do(lambda: self._files.put_file(str(file), self.key(path)), path)

    def download(self, path: Path, file: Path) -> None:
        """Copy a file of the store to a local path."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._do(lambda: self._files.get_file(self.key(path), str(file)), path)


def written_at(facts: Mapping[str, Any]) -> float:
    """Return when a listed file was written, in seconds since 1970, for any storage; infinity if the storage does not say."""
    value = next((facts[name] for name in ("mtime", "LastModified", "last_modified", "created", "updated") if name in facts), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else float("inf")


def digest(file: BinaryIO) -> dict[str, Any]:
    """Return the size and sha256 of the rest of an open file."""
    sha256, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK):
        sha256.update(block)
        size += len(block)
    return {"size": size, "sha256": sha256.hexdigest()}
