"""The command line: one module of `commands` per command; errors become one line and an exit code."""

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from orchestrator.commands import (
    cancel,
    compare,
    export,
    logs,
    params,
    plan,
    profile,
    prune,
    report,
    retry,
    run,
    status,
    submit,
    ui,
    verify,
)
from scalearn.errors import UserError

WRONG_INPUT, INTERRUPTED, READER_LEFT = 2, 130, 141

_COMMANDS = (run, submit, plan, status, logs, retry, cancel, verify, prune, report, compare, ui, export, params, profile)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 some jobs failed, 2 wrong input, 130 interrupted, 141 nobody reads the output.

    Args:
        arguments: Those after the program's name. None: the process's own.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # at the interpreter's end a reader that has left would be complained of
    except (BrokenPipeError, SystemExit) as error:
        if not _reader_left(error):
            raise
        return READER_LEFT


def _run(arguments: Sequence[str] | None) -> int:
    try:
        if arguments is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        chosen = _parser().parse_args(arguments)
        code: int = chosen.command(chosen)
        return code
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with the message alone; `--help` shows the usage."""
        raise UserError(f"{message[:1].upper()}{message[1:]} (see {self.prog} --help).")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="scalearn", description="Two-stage transfer learning with scaled source adapters: one YAML file, one table.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _reader_left(error: BaseException) -> bool:
    """Whether it was the reader of the output that went away, as `head` does, and not the other end of some other pipe."""
    if isinstance(error, SystemExit):
        return isinstance(error.__context__, BrokenPipeError)  # how rich leaves
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
    return True


def _complain(sentence: str) -> int:
    print(f"scalearn: {' '.join(sentence.split())}", file=sys.stderr)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main())
