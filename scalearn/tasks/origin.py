"""The origin of a task's rows, as part of a job's identity, found without a network and without slow imports."""

import hashlib
from pathlib import Path

from scalearn.errors import UserError
from scalearn.files.content import sha256_of
from scalearn.secrets import clause
from scalearn.tasks.spelling import listed
from scalearn.tasks.task import FileSource, HubSource, PackageSource, Task

FORMATS = ("parquet", "jsonl", "json", "csv", "tsv")
"""File endings. Data sets on the hub are also read in all of these formats."""


def data_origin(task: Task, root: Path | None) -> str:
    """Return the identity of a task's rows, never their place.

    Args:
        task: The task.
        root: Directory of local data, `<root>/<benchmark>/<task>/<split>.parquet`. None: the hub, or the task's own directory.

    Returns:
        `hub:NAME@REVISION`, `files:sha256-HEX` for the names and contents of the task's files, or `package:NAME==VERSION`.

    Raises:
        UserError: Local files are missing or unreadable.
    """
    match task.source:
        case PackageSource(package, version):
            return f"package:{package}=={version}"
        case HubSource(name, _, revision) if root is None:
            return f"hub:{name}@{revision}"
    digest = hashlib.sha256(task.source.definition.encode() if isinstance(task.source, FileSource) else b"")
    directory = task_directory(task, root)
    for split in task.splits.published:
        for path in split_files(task, directory, split):
            if path.name == "state.json":  # it differs each time that the same rows are saved
                continue
            digest.update(f"{path.relative_to(directory).as_posix()}\0{_sha256(path)}\n".encode())
    return f"files:sha256-{digest.hexdigest()}"


def task_directory(task: Task, root: Path | None) -> Path:
    """Return the directory that holds the task's local files.

    Raises:
        UserError: There is no such directory.
    """
    if isinstance(task.source, FileSource) and task.source.directory is not None:
        directory = Path(task.source.directory).expanduser()
    elif root is None:
        raise UserError(f"Task {task.key} reads local files; set data.root to the directory that holds {task.key}/.")
    else:
        directory = Path(root).expanduser() / task.benchmark / task.name
    if not directory.is_dir():
        seen = "" if directory.is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"Task {task.key}: there is no directory {directory}{seen}; put the files of its splits there, or mend data.root, "
            "which counts from the working directory."
        )
    return directory.resolve()


def split_files(task: Task, directory: Path, split: str) -> list[Path]:
    """Return the files of one published split: `<split>.<format>`, or what `datasets.save_to_disk` has written under `<split>/`.

    Raises:
        UserError: There is no such file, or there are several.
    """
    found = [path for ending in FORMATS if (path := directory / f"{split}.{ending}").is_file()]
    saved = (directory / split / "state.json").is_file()
    if len(found) + saved > 1:
        names = [*(path.name for path in found), *([f"{split}/"] if saved else [])]
        raise UserError(f"Task {task.key} has its split {split!r} in {directory} more than once: {', '.join(names)}; keep one of them.")
    if found:
        return found
    if saved:
        return sorted(path for path in (directory / split).iterdir() if path.suffix in (".arrow", ".json"))
    others = listed(sorted(path.name for path in directory.iterdir() if path.name.casefold().startswith(f"{split}.".casefold())))
    endings = "csv, .jsonl or .parquet" if isinstance(task.source, FileSource) else "parquet"
    drawn = isinstance(task.source, FileSource) and split != task.splits.train
    raise UserError(
        f"Task {task.key} has no split {split!r} in {directory}: {f'there is {others}, but ' if others else ''}expected {split}.{endings}, "
        f"or the directory {split} as datasets.save_to_disk writes it"
        f"{'; to draw it from train, set the split to null in the definition' if drawn else ''}."
    )


def broken(task: Task, path: Path, error: Exception) -> UserError:
    """Return the error for a broken file, whatever reading it raised."""
    return UserError(f"Task {task.key}: {path} is broken or not in its format ({clause(error)}); fetch or write it again.")


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"The data file {path} cannot be read ({error.strerror}); check its permissions.") from None
