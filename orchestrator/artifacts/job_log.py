"""One log file per job, in the job's own directory: what Python's logging and warnings say while a worker trains it.

A pack trains several jobs at once. What concerns one of them is logged with `extra=about(node)` and goes to that job's file alone;
everything else, from whichever library, concerns the pack and goes to the files of all of its jobs.
"""

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from scalearn.secrets import without_secrets

LOG = "log.txt"
"""A file of the artifact like others: complete, and closed, before the job is committed."""

_OWN = ("scalearn", "orchestrator")
"""Packages whose information is logged; of others only warnings and errors are."""
_JOB = "scalearn_job"
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def about(node: str) -> dict[str, str]:
    """Return the `extra` of a log record that concerns one job alone."""
    return {_JOB: node}


@contextlib.contextmanager
def logged(directories: Mapping[str, Path]) -> Iterator[None]:
    """Append to the log files of some jobs while the block runs.

    A record that cannot be written, since the disk is full, is dropped: logging never ends a job.

    Args:
        directories: Existing local directory of each job, by node.
    """
    root = logging.getLogger()
    handlers = [_handler(node, directory) for node, directory in directories.items()]
    levels = {name: logging.getLogger(name).level for name in _OWN}
    with warnings.catch_warnings():  # also forgets which warnings this process has shown: the next job's log needs them too
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
    """Writes no secrets: libraries name the addresses that they could not reach."""

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
    """Iterate over what a log holds and what is added to it, until its job has ended.

    Args:
        read: Returns some of the log from a position on, and how many bytes it has in all.
        ended: Whether nothing more will come.
        wait: Called between two looks.
    """
    shown = 0
    while True:
        last = ended()  # before reading, or what is written in between would be lost
        content, size = read(shown)
        if size < shown:
            shown = 0  # the job was set aside and begins anew
            continue
        more = shown + len(content) < size
        # Whole lines, as far as there are any: a character may have been cut in two.
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
