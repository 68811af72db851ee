"""The command line: one module of `commands` per command; errors become one line and an exit code."""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

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
from orchestrator.terminal import make_output_safe
from scalearn.errors import UserError

WRONG_INPUT, INTERRUPTED, READER_LEFT = 2, 130, 141

_COMMANDS = (run, submit, plan, status, logs, retry, cancel, verify, prune, report, compare, ui, export, params, profile)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Those after the program's name. None: the process's own.

    Returns:
        The exit code: 0 well, 1 some jobs failed, 2 wrong input or an output that takes nothing, 130 interrupted, 141 nobody reads the
        output.
    """
    output = _open_output() if arguments is None else _Output(1, "w", closefd=False)
    if output is None:
        return _complain("The standard output is closed: send it to a file, or to /dev/null.")
    if arguments is None:
        make_output_safe()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # at the interpreter's end it would be complained of
    except (OSError, SystemExit):  # SystemExit: how rich leaves when the reader has left
        if output.failure is None:
            raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # what is still buffered goes nowhere
    if isinstance(output.failure, BrokenPipeError):
        return READER_LEFT
    return _complain(f"The output cannot be written ({output.failure.strerror}): send it elsewhere, or make room, and run it again.")


class _Output(io.FileIO):
    """The standard output, which remembers why it could not be written: others raise the same errors."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as a file does."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _open_output() -> _Output | None:
    """Watch the standard output, and stand in for the other streams where they are closed; None: the output itself is."""
    streams: dict[str, Any] = {name: getattr(sys, name) for name in ("stdin", "stderr", "stdout")}
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if streams[name] is None:  # the next file that is opened would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    plain = streams["stdout"]
    if plain is None:
        return None
    output = _Output(plain.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output),
        plain.encoding,
        "backslashreplace",  # as stderr has it: a terminal without a letter must not cost the rest of a table
        line_buffering=plain.line_buffering,
        write_through=plain.write_through,
    )
    return output


def _run(arguments: Sequence[str] | None) -> int:
    try:
        if arguments is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        _check_working_directory()
        chosen = _parser().parse_args(arguments)
        code: int = chosen.command(chosen)
        return code
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _check_working_directory() -> None:
    """Refuse to start where relative paths name nothing."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"The working directory cannot be used ({error.strerror}): change to one that exists, and try again.") from None


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


def _complain(sentence: str) -> int:
    with contextlib.suppress(OSError):  # nobody is there to hear of it
        print(f"scalearn: {' '.join(sentence.split())}", file=sys.stderr)
    return WRONG_INPUT


if __name__ == "__main__":
    sys.exit(main())
