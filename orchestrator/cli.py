"""The command line: one module of `commands` per command. Errors become one line each and an exit code."""

import argparse
import importlib.metadata
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

import shtab

from orchestrator.commands import (
    cancel,
    compare,
    doctor,
    export,
    init,
    log,
    logs,
    params,
    plan,
    profile,
    prune,
    report,
    retry,
    run,
    schema,
    status,
    submit,
    ui,
    verify,
)
from orchestrator.terminal import make_output_safe
from scalearn.errors import UserError, UserErrors

WRONG_INPUT, INTERRUPTED, READER_LEFT = 2, 130, 141

_COMMANDS = (
    init,
    run,
    submit,
    plan,
    status,
    logs,
    retry,
    cancel,
    verify,
    prune,
    report,
    compare,
    ui,
    export,
    log,
    params,
    profile,
    schema,
    doctor,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The arguments after the program's name. None: those of the process.

    Returns:
        The exit code: 0 success, 1 some jobs failed, 2 wrong input or an output that cannot be written, 130 interrupted, 141 nobody reads
        the output.
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
            sys.stdout.flush()  # otherwise the interpreter would report the error at its end
    except (OSError, SystemExit):  # SystemExit: raised by rich when nobody reads the output
        if output.failure is None:
            raise
    _discard(sys.stdout)
    if isinstance(output.failure, BrokenPipeError):
        return READER_LEFT
    return _complain(f"The output cannot be written ({output.failure.strerror}): send it elsewhere, or make room, and run it again.")


class _Output(io.FileIO):
    """The standard output, which remembers why it could not be written, since other files raise the same errors."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write as a file does, and remember an error."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _open_output() -> _Output | None:
    """Watch the standard output, and replace other streams that are closed. None: the output itself is closed."""
    streams: dict[str, Any] = {name: getattr(sys, name) for name in ("stdin", "stderr", "stdout")}
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if streams[name] is None:  # otherwise the next opened file would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    plain = streams["stdout"]
    if plain is None:
        return None
    output = _Output(plain.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output),
        plain.encoding,
        "backslashreplace",  # as on stderr: one letter that a terminal lacks must not end a table
        line_buffering=plain.line_buffering,
        write_through=plain.write_through,
    )
    return output


def _run(arguments: Sequence[str] | None) -> int:
    try:
        if arguments is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        _check_working_directory()
        chosen = make_parser().parse_args(arguments)
        code: int = chosen.command(chosen)
        return code
    except UserErrors as errors:
        return _complain(*errors.sentences)
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED


def _check_working_directory() -> None:
    """Refuse to start in a working directory that is gone, where relative paths mean nothing."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"The working directory cannot be used ({error.strerror}): change to one that exists, and try again.") from None


class _Help(argparse.HelpFormatter):
    """Help whose last line, the example, stays whole, so that it can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example: ") else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print only the message, and exit. `--help` shows the usage."""
        raise UserError(f"{message[:1].upper()}{message[1:]} (see {self.prog} --help).")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = _Parser(prog="scalearn", description="Two-stage transfer learning with scaled source adapters: one YAML file, one table.")
    parser.add_argument("--version", action="version", version=f"scalearn {importlib.metadata.version('scalearn-orchestrator')}")
    shtab.add_argument_to(parser, "--print-completion", help="print the script by which a shell completes this program's arguments")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
        added = next(reversed(commands.choices.values()))
        added.epilog, added.formatter_class = f"example: {command.EXAMPLE}", _Help
    return parser


def _complain(*sentences: str) -> int:
    try:
        for sentence in sentences:
            print(f"scalearn: {' '.join(sentence.split())}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)  # nobody would read it, nor what a library leaves there at the end, for which Python would exit with 120
    return WRONG_INPUT


def _discard(stream: TextIO) -> None:
    """Send what is still buffered, and what follows, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
