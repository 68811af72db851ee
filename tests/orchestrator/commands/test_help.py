"""What the command line says of itself: help that ends with an example which parses, and completion by a shell."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main, make_parser

(SUBPARSERS,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))


@pytest.mark.parametrize("command", SUBPARSERS.choices)
def test_help_of_every_command_ends_with_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    last = capsys.readouterr().out.splitlines()[-1]
    example = last.removeprefix("example: scalearn ").partition(" > ")[0]
    assert example != last
    arguments = make_parser().parse_args(shlex.split(example))
    assert shlex.split(example)[0] == command
    assert callable(arguments.command)


@pytest.mark.parametrize(("words", "offered"), [("pla", "plan"), ("plan --gp", "--gpus"), ("run qui", "quick.yaml")])
def test_shell_completes_commands_options_and_files(tmp_path: Path, words: str, offered: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "quick.yaml").touch()
    typed = ["scalearn", *words.split()]
    ask = f"source ./script; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; _shtab_scalearn; echo ${{COMPREPLY[@]}}"
    answer = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True)
    assert offered in answer.stdout.split(), answer.stderr


def test_module_is_the_same_program(repository: Path):
    shown = subprocess.run([sys.executable, "-m", "orchestrator", "--version"], cwd=repository, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout.partition(" ")[0]) == (0, "scalearn")
