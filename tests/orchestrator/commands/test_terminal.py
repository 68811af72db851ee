"""What comes from files and names is printed by the real command, to a terminal and to a pipe, and nothing in it is obeyed."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from orchestrator.artifacts.job_log import LOG
from orchestrator.artifacts.store import JOB, Store
from orchestrator.definition.sweep import Sweep
from orchestrator.terminal import SafeConsole, shown
from tests.orchestrator.helpers.launch import SWEEP

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m \x9b2J \x9d8;;http://x\x9c \x08\x08\x08ok\rdone \u202egnp.exe\u2066 \x1bP+q\x1b\\ \u200bend"
)
OBEYED = ("\x1b]0;", "\x1b[2J", "\x9b", "\x9d", "\x9c", "\x07", "\x08", "\rdone", "\u202e", "\u2066", "\u200b", "\x1bP", "\x1b\\")
READABLE = "\\x1b]0;owned\\x07\\x1b[2Jred \\x9b2J \\x9d8;;http://x\\x9c \\x08\\x08\\x08ok\\rdone \\u202egnp.exe\\u2066"


def test_text_keeps_lines_letters_and_emoji_and_shows_every_control_character():
    assert shown(HOSTILE).startswith(READABLE)
    assert shown("a\tb\r\nc\n") == "a\tb\nc\n"
    assert shown("Grüße, 你好, 👩\u200d🔬") == "Grüße, 你好, 👩\u200d🔬"
    assert shown("\x1b[") + shown("2J") == "\\x1b[2J", "a sequence in two pieces"


def test_console_draws_its_own_colours_and_tables_around_safe_content():
    with open(os.devnull, "w") as nowhere:
        console = SafeConsole(file=nowhere, force_terminal=True, width=60, color_system="standard")
        table = Table("name")
        table.add_row(Text(HOSTILE, style="red"))
        with console.capture() as captured:
            console.print(table)
            console.print(Text(HOSTILE, style="red"), soft_wrap=True)
    output = captured.get()
    assert "\x1b[31m" in output
    assert "┃" in output
    assert not [sequence for sequence in OBEYED if sequence in output]


def test_console_takes_brackets_and_colons_as_they_are():
    name = "/runs/[a]/x[/red] :apple: [link=http://x]y"
    console = SafeConsole(width=60)
    table = Table(name, title=name)
    table.add_row(name)
    with console.capture() as captured:
        console.print(name, soft_wrap=True)
        console.print(table)
    assert captured.get().count(name) == 4


def through_a_terminal(command: list[str], repository: Path) -> tuple[int, str]:
    """Run a command with a terminal as its input and output; returns its exit code and all that it wrote."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(repository)
        os.execve(command[0], command, {**os.environ, "PYTHONPATH": str(repository), "TERM": "xterm", "COLUMNS": "150"})
    written = b""
    try:
        while piece := os.read(terminal, 65536):
            written += piece
    except OSError:  # the other end is closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[str, Store, str]:
    """A sweep of which one job failed, whose log, error and traceback hold what a terminal would obey."""
    file = tmp_path / "toy.yaml"
    file.write_text(SWEEP)
    graph = Sweep.load(file).expand()
    store, node = Store(tmp_path / "runs"), graph.nodes()[0]
    store.write_json(store.directory(node) / JOB, {"node": node, "started": 1.0})
    (store.directory(node) / LOG).write_text(f"A line: {HOSTILE}\r\nand another\n", newline="")
    store.fail(node, f"No: {HOSTILE.splitlines()[0]}", HOSTILE)
    return str(file), store, node


@pytest.mark.parametrize(
    "words", [["logs", "FILE", "NODE"], ["status", "FILE"], ["logs", "FILE", f"no{HOSTILE}"]], ids=["logs", "status", "error"]
)
def test_command_shows_what_strangers_wrote_and_no_terminal_obeys_it(hostile, repository, words):
    file, store, node = hostile
    words = [{"FILE": file, "NODE": node}.get(word, word) for word in words]
    command = [sys.executable, "-m", "orchestrator.cli", *words, "--store", str(store.root)]
    piped = subprocess.run(command, cwd=repository, capture_output=True, timeout=600)
    code, drawn = through_a_terminal(command, repository)
    assert code == piped.returncode == (2 if words[-1] != node and words[0] == "logs" else 0), drawn
    for output in (piped.stdout.decode() + piped.stderr.decode(), drawn.replace("\r\n", "\n")):
        assert "\\x1b]0;owned" in output
        assert not [sequence for sequence in OBEYED if sequence in output]
