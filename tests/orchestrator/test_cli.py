"""The command line in this process: what it prints, where, and with which exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.orchestrator.launch import SWEEP


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SWEEP)
    return "toy.yaml"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "required: SWEEP"),
        (["run", "absent.yaml"], "absent.yaml"),
        (["run", "toy.yaml", "--cpus", "many"], "'many' is not a whole number"),
        (["run", "toy.yaml", "--set", "benchmrk=glue"], "benchmark"),
        (["run", "toy.yaml", "--set", "methods.scalern={}"], "scalearn"),
        (["run", "toy.yaml", "--only", "no such node"], "matches none of the 10 jobs"),
        (["run", "toy.yaml", "--only", "("], "not a regular expression"),
        (["run", "toy.yaml", "--store", "toy.yaml/runs"], "cannot be written to"),
        (["plan", "toy.yaml", "--store", "nosuch://bucket"], "The store nosuch://bucket is of no kind that is known"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(sweep, capsys, arguments, sentence):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err
    assert output.err.startswith("scalearn: ")
    assert output.err.count("\n") == 1


OWN = """
name: own
benchmark: mine
backbone: minilm
data: {root: data}
tasks: {spam: {columns: text, splits: {validation: null, test: null}}}
methods: {scalearn: {}}
"""


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("train.csv", b"text,label\n", "train.csv holds no rows"),
        ("train.jsonl", b"\n", "train.jsonl holds no rows"),
        ("train.parquet", b"", "train.parquet is broken or not in its format"),
    ],
)
def test_run_on_empty_data_is_one_line_and_writes_nothing(capsys, monkeypatch, tmp_path, file, content, sentence):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    Path("data/mine/spam").mkdir(parents=True)
    (Path("data/mine/spam") / file).write_bytes(content)
    assert main(["run", "own.yaml"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Task mine/spam: " in output.err
    assert sentence in output.err
    assert output.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "own.yaml"]


def test_run_reads_a_data_root_in_the_home_directory(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN.replace("root: data", 'root: "~/data"'))
    directory = tmp_path / "home/data/mine/spam"
    directory.mkdir(parents=True)
    (directory / "train.csv").write_text("text,label\n")
    assert main(["run", "own.yaml"]) == 2
    assert f"{directory / 'train.csv'} holds no rows" in capsys.readouterr().err


def test_plan_json_counts_and_writes_nothing(sweep, capsys, tmp_path):
    assert main(["plan", sweep, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["jobs"]["by_stage"] == {"source": 4, "transfer": 6}
    assert planned["jobs"]["by_method"] == {"scalearn": 4, "scalearn_uniform": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


def test_status_json_of_a_sweep_never_run_is_all_pending(sweep, capsys, tmp_path):
    assert main(["status", sweep, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["jobs"]["by_state"] == {"pending": 10}
    assert not status["running"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


def test_planning_imports_neither_ray_nor_torch_nor_mlflow(sweep):
    program = "import sys; from orchestrator.cli import main; main(['plan', 'toy.yaml']); "
    program += "print(sorted({'ray', 'torch', 'mlflow', 'transformers', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_console_script_leaves_with_the_exit_code(sweep):
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", "plan", "absent.yaml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_forecast_leaves_done_jobs_out_and_says_what_was_not_measured(sweep, capsys, tmp_path):
    assert main(["plan", sweep, "--gpus", "2", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["forecast"]
    assert expected["jobs"] == 10
    assert expected["seconds"] >= max(expected["critical_path_seconds"], expected["least_device_seconds"] / 2)
    assert main(["plan", sweep, "--gpus", "2"]) == 0
    assert "not measured" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpus", "0"], "at least 1"),
        (["--gpus", "2", "--profile", "h100_estimat"], "h100_estimate"),
        (["--gpus", "2", "--profile", "absent.json"], "cannot be read"),
        (["--gpus", "2", "--profile", "toy.json"], "is damaged"),
    ],
)
def test_wrong_profile_is_one_line_on_stderr_and_exit_code_2(sweep, capsys, arguments, sentence):
    Path("toy.json").write_text("{}")
    assert main(["plan", sweep, *arguments]) == 2
    assert sentence in capsys.readouterr().err
