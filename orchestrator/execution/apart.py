"""A run in a process of its own, for programs and notebooks, which live on whatever becomes of Ray, and keep their signals and directory.

The caller writes one line of JSON to the standard input of that process, and keeps it open. When it closes, because the caller was
interrupted or has ended, the run stops as at a signal: it checkpoints and leaves.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.options import Options
from orchestrator.execution.run import BUDGET_SPENT, INTERRUPTED, SOME_FAILED, SUCCEEDED, run_sweep
from orchestrator.terminal import SafeConsole, make_output_safe
from scalearn.errors import UserError, UserErrors
from scalearn.secrets import first_line

_WRONG_INPUT = 2
_LOOK_SECONDS = 1.0
_REST = 10.0
"""How many times as long as a look the pause after it is, since a look at very many jobs takes a while."""
_COLUMNS = 110
"""Width of a notebook's cell."""


def run_apart(sweep: Sweep, store: Store, options: Options, look: Callable[[], None] | None, relay: Callable[[str], None] | None) -> None:
    """Run a sweep in a process of its own, until nothing of it is left to run or its budget is spent.

    Args:
        sweep: What to run.
        store: Where artifacts are read and written.
        options: How this launch proceeds.
        look: Called every few seconds, and once at the end. None: the process shows on this one's output how far it is.
        relay: Called with what the process prints, if `look` is given. None: that is not shown.

    Raises:
        UserError: As for `run_sweep`; or the process ended otherwise than a run does.
        KeyboardInterrupt: The caller was interrupted, or somebody has stopped the run. What was running has checkpoints.
    """
    with tempfile.TemporaryDirectory() as scratch:
        errors, printed = Path(scratch) / "errors.json", Path(scratch) / "printed.txt"
        order = {"text": sweep.text, "file": sweep.file, "overrides": sweep.overrides, "store": store.url, "errors": str(errors)}
        options = dataclasses.replace(options, progress=look is None)
        with printed.open("wb") as output, printed.open(encoding="utf-8", errors="replace") as reading:
            process = _start(order | {"options": dataclasses.asdict(options)}, output if look else None)

            def look_and_relay() -> None:
                if relay is not None and (text := reading.read()):
                    relay(text)
                if look is not None:
                    look()

            try:
                _follow(process, look_and_relay)
            finally:
                _stop(process)
            look_and_relay()
        _judge(process.returncode, errors, printed)


def _start(order: dict[str, Any], output: "IO[bytes] | None") -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator.execution.apart"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,  # Ctrl-C would otherwise reach it by itself, and be passed on as a second signal, which ends it at once
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already: its exit code tells
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    return process


def _follow(process: "subprocess.Popen[bytes]", look: Callable[[], None]) -> None:
    while process.poll() is None:
        began = time.monotonic()
        look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(_LOOK_SECONDS, _REST * (time.monotonic() - began)))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Let the run stop in good order, if it has not ended. A second interruption ends it at once."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()


def _judge(code: int, errors: Path, printed: Path) -> None:
    if code in (SUCCEEDED, SOME_FAILED, BUDGET_SPENT):
        return
    if code == INTERRUPTED:
        raise KeyboardInterrupt("The run was stopped; the next one goes on from the last checkpoints.")
    if errors.exists():
        raise UserErrors(json.loads(errors.read_text(encoding="utf-8")))
    last = printed.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    why = f": {first_line(last)}" if last else ""
    raise UserError(f"The process of the run ended with code {code}{why}. Run the sweep again to go on from the last checkpoints.")


def main() -> int:
    """Run the sweep that standard input tells. Return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    make_output_safe()
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_caller, daemon=True).start()
    options = Options(**order["options"])
    console = SafeConsole() if options.progress else SafeConsole(width=_COLUMNS)
    try:
        sweep = Sweep.from_text(order["text"], order["file"], order["overrides"])
        return run_sweep(sweep, Store(order["store"]), options, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except UserErrors as several:
        sentences = list(several.sentences)
    except UserError as error:
        sentences = [str(error)]
    Path(order["errors"]).write_text(json.dumps(sentences), encoding="utf-8")
    return _WRONG_INPUT


def _end_with_caller() -> None:
    """Stop this process as a signal would, once nobody holds the other end of its standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
