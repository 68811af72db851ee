"""One log file per job, in the job's own directory: messages of Python's logging and warnings while a worker trains the job.

A pack trains several jobs at once. A message about one of them is logged with `extra=about(node)` and goes only to that job's file. Any
other message, from any library, is about the pack and goes to the files of all its jobs.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scalearn.secrets import without_secrets

LOG = "log.txt"
"""A file of the artifact like others. It is complete and closed before the job is committed."""

_OWN = ("scalearn", "orchestrator")
"""Packages whose messages of level INFO are logged. Of other packages only warnings and errors are."""
_JOB = "scalearn_job"
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def about(node: str) -> dict[str, str]:
    """Return the `extra` of a log record about one job alone."""
    return {_JOB: node}


@contextlib.contextmanager
def logged(directories: Mapping[str, Path]) -> Iterator[None]:
    """Append to the log files of some jobs while the block runs.

    A record that cannot be written because the disk is full is dropped, so that logging never ends a job.

    Args:
        directories: The local directory of each job, by node. Each must exist.
    """
    root = logging.getLogger()
    handlers = [_handler(node, directory) for node, directory in directories.items()]
    levels = {name: logging.getLogger(name).level for name in _OWN}
    with warnings.catch_warnings():  # lets warnings appear again, for the next job's log
        logging.captureWarnings(True)
        for name in _OWN:
            logging.getLogger(name).setLevel(logging.INFO)
        for handler in handlers:
            root.addHandler(handler)
        try:
            yield
        finally:
            for handler in handlers:
                root.removeHandler(handler)
                handler.close()
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            logging.captureWarnings(False)


class _Formatter(logging.Formatter):
    """Hides secrets, since libraries put into messages the addresses that they could not reach."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's line or lines."""
        return without_secrets(super().format(record))


def _handler(node: str, directory: Path) -> logging.Handler:
    handler = logging.FileHandler(directory / LOG, encoding="utf-8", errors="backslashreplace")
    formatter = _Formatter(_FORMAT, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(lambda record: getattr(record, _JOB, node) == node)
    return handler


def follow(read: Callable[[int], tuple[bytes, int]], ended: Callable[[], bool], wait: Callable[[], None]) -> Iterator[str]:
    """Iterate over the content of a log, and over what is added to it, until its job has ended.

    Args:
        read: Returns content from a position on, and the size of the whole log in bytes.
        ended: Tells whether no more content will come.
        wait: Called between two looks.
    """
    shown = 0
    while True:
        last = ended()  # asked before reading, or content written in between would be lost
        content, size = read(shown)
        if size < shown:
            shown = 0  # the log got shorter: the job was set aside and begins anew
            continue
        more = shown + len(content) < size
        # Return whole lines where there are any, since the end of the content may lie within a character.
        whole = content.rfind(b"\n") + 1 or (len(content) if more else 0)
        if last and not more:
            whole = len(content)
        if whole:
            yield content[:whole].decode(errors="replace")
            shown += whole
        if more and whole:
            continue
        if last:
            return
        wait()
