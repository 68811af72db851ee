"""Signals to a process that runs a sweep."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal
from orchestrator.execution.signals import Interrupted, Signals
{before}
with Signals() as signals:
    for _ in range(3):
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except Interrupted as error:
            print("interrupted by", error)
    print("received", signals.received)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", ["interrupted by 1", "received 1"]),  # a terminal that closes may send several
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", ["received None"]),  # as `nohup` has it
    ],
)
def test_hangup_interrupts_once_unless_it_is_ignored(repository: Path, before: str, said: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM.format(before=before)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()) == (0, said), done.stderr
