"""The command line in this process: what it prints, where, and with which exit code."""

import importlib.metadata
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from orchestrator.profiling.profile import load_profile
from orchestrator.scheduling.cost import CostModel
from orchestrator.watching.progress import show_seconds
from tests.orchestrator.helpers.launch import SWEEP


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
        (["run", "toy.yaml", "--max-hours", "nan"], "'nan' is no number above 0"),
        (["plan", "toy.yaml", "--price-per-hour", "0"], "'0' is no number above 0"),
        (["run", "toy.yaml", "--set", "benchmrk=glue"], "benchmark"),
        (["run", "toy.yaml", "--set", "methods.scalern={}"], "scalearn"),
        (["run", "toy.yaml", "--only", "no such node"], "matches none of the 10 jobs"),
        (["run", "toy.yaml", "--only", "("], "not a regular expression"),
        (["plan", "toy.yaml", "--only", "(" * 2000 + ")" * 2000], "is too deeply nested for a regular expression"),
        (["retry", "toy.yaml", "--only", "(" * 2000 + ")" * 2000], "is too deeply nested for a regular expression"),
        (["plan", "toy.yaml", "--only", "a{99999999999999999999}"], "is not a regular expression: the repetition number is too large"),
        (["plan", "toy.yaml", "--gpus", "99999999999"], "--gpus: give at most 1,000,000"),
        (["plan", "toy.yaml", "--gpus", "9" * 5000], "--gpus: give at most 1,000,000"),
        (["plan", "toy.yaml", "--gpus", "²"], "'²' is not a whole number"),
        (["run", "toy.yaml", "--cpus", "99999999999"], "--cpus: give at most 1,000,000"),
        (["profile", "--threads", "99999999999"], "--threads: give at most 1,000,000"),
        (["profile", "--threads", "1000000"], "--threads is 1000000, but this process may use"),
        (["profile", "--seconds", "inf"], "'inf' is no number of seconds"),
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


@pytest.mark.parametrize(
    "store",
    [
        *("zip://runs.zip", "tar://runs.tar", "data:text/plain,runs", "reference://runs", "dir://runs", "github://o:r@m/runs"),
        *("simplecache::s3://bucket/runs", "zip::file://runs.zip", "http://localhost:1/runs", "ftp://localhost:1/runs", "hf://o/r"),
    ],
)
def test_store_that_is_neither_a_directory_nor_an_object_store_is_refused(sweep, capsys, store, tmp_path):
    assert main(["plan", sweep, "--store", store]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"scalearn: The store {store} is of no kind that is known to hold one: ")
    assert line.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]


@pytest.mark.parametrize("store", ["s3://", "memory:///", "file://"])
def test_store_url_without_a_place_is_refused(sweep, capsys, store):
    assert main(["plan", sweep, "--store", store]) == 2
    assert f"The store {store} names no place" in capsys.readouterr().err


def shell(line: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", "-c", line.replace("scalearn", f"{sys.executable} -m orchestrator.cli")], capture_output=True, text=True)


CLOSED = "scalearn: The standard output is closed: send it to a file, or to /dev/null.\n"
FULL = "scalearn: The output cannot be written (No space left on device): send it elsewhere, or make room, and run it again.\n"


@pytest.mark.parametrize("command", ["run toy.yaml", "plan toy.yaml --json", "status toy.yaml", "params --backbone minilm", "--help"])
@pytest.mark.parametrize(("redirection", "line"), [(">&-", CLOSED), ("> /dev/full", FULL)])
def test_output_that_takes_nothing_ends_every_command_in_one_line(sweep, command, redirection, line):
    done = shell(f"scalearn {command} {redirection}")
    assert (done.returncode, done.stderr) == (2, line)


def test_working_directory_that_is_gone_is_one_line(sweep, tmp_path):
    program = [sys.executable, "-m", "orchestrator.cli", "run", str(tmp_path / sweep), "--store", str(tmp_path / "runs")]
    repository = str(Path(__file__).parents[2])
    shell = 'mkdir gone && cd gone && rmdir "$PWD" && exec "$@"'
    environment = {**os.environ, "PYTHONPATH": repository}
    done = subprocess.run(["sh", "-c", shell, "sh", *program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("scalearn: The working directory cannot be used (No such file or directory): change to")
    assert done.stderr.count("\n") == 1


def test_run_of_a_user_without_a_home_is_one_line(sweep, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])  # as for a container's user that has no name
    assert main(["run", sweep, "--store", str(tmp_path / "runs")]) == 2
    assert (
        capsys.readouterr().err
        == "scalearn: This user has no home directory, and Ray needs one: set HOME to a directory that can be written to.\n"
    )


def test_output_that_lacks_a_letter_shows_it_by_its_number(sweep):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["plan", sweep, "--store", "läufe/→", "--only", "/transfer/"]
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", *words], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    words = ["prune", "läufe→", sweep]
    done = subprocess.run([sys.executable, "-m", "orchestrator.cli", *words], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "l\\xe4ufe\\u2192 holds nothing that no sweep names" in done.stdout


@pytest.mark.parametrize(
    ("redirection", "code"),
    [("<&-", 0), ("2>&-", 0), ("2> /dev/full", 0), ("--store zip://x 2>&-", 2), ("--store zip://x 2> /dev/full", 2)],
)
def test_other_closed_or_full_streams_do_no_harm(sweep, redirection, code):
    done = shell(f"scalearn plan toy.yaml --json {redirection}")
    assert (done.returncode, done.stderr) == (code, "")
    assert code or json.loads(done.stdout)["jobs"]["total"] == 10


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


FILES = {
    "one": ("train.csv", ["text,label", *(f"text {n},pos" for n in range(40))], "every label of train is 'pos'"),
    "spaces": (
        "train.json",
        [json.dumps([{"text": "a", "label": label} for label in ("pos", "pos ")])],
        "the labels 'pos', 'pos ' of train",
    ),
    "marks": ("train.tsv", ["text\tlabel", '"a"\tx', '"b"\ty'], "the quotation marks around 2 fields of train.tsv stay part of them"),
    "latin": ("train.csv", ["text,label", "d\xe9j\xe0,x"], "row 0: byte 0xE9 in its column 'text' is not UTF-8"),
    "good": ("train.csv", ["text,label", "a,x", "b,y"], None),
}


def test_plan_warns_of_what_is_suspicious_about_local_files(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    definition = "{columns: text, splits: {validation: null, test: null}}"
    Path("own.yaml").write_text(OWN.replace(f"{{spam: {definition}}}", "{" + ", ".join(f"{name}: {definition}" for name in FILES) + "}"))
    for name, (file, lines, _) in FILES.items():
        Path("data/mine", name).mkdir(parents=True)
        Path("data/mine", name, file).write_bytes("\n".join(lines).encode("latin-1"))
    assert main(["plan", "own.yaml"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning  ")]
    expected = {name: sentence for name, (_, _, sentence) in FILES.items() if sentence}
    assert len(warnings) == len(expected)
    for name, sentence in expected.items():
        assert [sentence in line for line in warnings if line.startswith(f"warning  Task mine/{name}: ")] == [True]
    assert main(["plan", "own.yaml", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == len(expected)


def test_plan_warns_of_parquet_labels_and_of_saved_data_sets(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(OWN)
    rows = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "x"]})
    Path("data/mine/spam").mkdir(parents=True)
    for write in (lambda: rows.to_parquet("data/mine/spam/train.parquet"), lambda: rows.save_to_disk("data/mine/spam/train")):
        write()
        assert main(["plan", "own.yaml"]) == 0
        assert "warning  Task mine/spam: every label of train is 'x'" in capsys.readouterr().out
        Path("data/mine/spam/train.parquet").unlink(missing_ok=True)


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


def finish(store: Store, node: str) -> None:
    """Leave the artifact of a job that is done."""
    (store.begin(node, {"node": node}) / "result.json").write_text("{}")
    store.commit(node)


def test_forecast_leaves_done_jobs_out_and_says_what_was_not_measured(sweep, capsys, tmp_path):
    def planned(*flags: str) -> str:
        assert main(["plan", sweep, "--gpus", "2", *flags]) == 0
        return capsys.readouterr().out

    before = json.loads(planned("--json"))["forecast"]
    assert (before["jobs"], before["jobs_done_before"]) == (10, 0)
    assert "not measured" in planned()
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"]
    graph = Sweep.load(sweep).expand()
    done = [job.node for job in graph if job.config.stage == "source"]
    for node in done[:3]:
        finish(Store("runs"), node)

    after = json.loads(planned("--json"))["forecast"]
    assert (after["jobs"], after["jobs_done_before"]) == (7, 3)
    assert {(row["stage"], row["method"]): row["jobs"] for row in after["by_method"]} == {
        ("source", "adapter"): 1,
        ("transfer", "scalearn"): 4,
        ("transfer", "scalearn_uniform"): 2,
    }
    cost = CostModel(load_profile("h100_estimate"))
    alone = {job.node: cost.estimate(job).seconds for job in graph} | dict.fromkeys(done[:3], 0.0)
    chains = [alone[job.node] + max((alone[parent.node] for parent in job.parents), default=0.0) for job in graph]
    assert after["critical_path_seconds"] == pytest.approx(cost.worker_seconds + max(chains))
    assert after["least_device_seconds"] < before["least_device_seconds"]
    assert after["seconds"] >= max(after["critical_path_seconds"], after["least_device_seconds"] / 2)
    assert after["device_seconds"] == pytest.approx(sum(row["device_seconds"] for row in after["by_method"]))
    assert after["utilisation"] == pytest.approx(after["device_seconds"] / (2 * after["seconds"]))


def test_forecast_is_printed_in_full(sweep, capsys):
    finish(Store("runs"), Sweep.load(sweep).expand().nodes()[0])
    assert main(["plan", sweep, "--gpus", "2", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["forecast"]
    assert main(["plan", sweep, "--gpus", "2"]) == 0
    text = capsys.readouterr().out
    assert f"{show_seconds(expected['seconds'])} for 9 jobs in {expected['packs']} packs; 1 are done" in text
    assert f"{expected['utilisation']:.0%} of the devices' time in use" in text
    assert "0.0 device hours" not in text, "a small sweep takes some"
    assert f"critical path {show_seconds(expected['critical_path_seconds'])}, " in text
    printed = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.partition("What dominates")[2].splitlines()]
    (headings,) = [line for line in text.partition("What dominates")[2].splitlines() if "device hours" in line]
    assert [name.strip() for name in headings.strip("┃").split("┃")] == [
        *("stage", "method", "jobs", "packs", "device hours", "share", "from", "to")
    ]
    for row in expected["by_method"]:
        hours, share = f"{row['device_seconds'] / 3600:.2f}", f"{row['device_seconds'] / expected['device_seconds']:.0%}"
        span = (show_seconds(row["begin"]), show_seconds(row["end"]))
        assert [row["stage"], row["method"], str(row["jobs"]), str(row["packs"]), hours, share, *span] in printed


@pytest.mark.parametrize(
    ("profile", "changes", "sentence"),
    [
        ("h100_estimate", ["backbone=roberta-base"], None),
        (
            "h100_estimate",
            ["backbone=roberta-base", "training.precision=fp32"],
            "roberta-base in fp32 is not in the profile, and is reckoned as roberta-base in bf16",
        ),
        ("epyc_2_cores", [], None),
        (
            "epyc_2_cores",
            ["backbone=roberta-base"],
            "roberta-base in bf16 is not in the profile, and is reckoned as 8 times minilm in bf16",
        ),
    ],
)
def test_forecast_says_what_stands_in_for_what_the_profile_does_not_hold(sweep, capsys, profile, changes, sentence):
    assert main(["plan", sweep, "--gpus", "2", "--profile", profile, *[part for change in changes for part in ("--set", change)]]) == 0
    text = capsys.readouterr().out
    assert ("is not in the profile" in text) == (sentence is not None)
    if sentence is not None:
        assert sentence in text.splitlines()
    assert ("(measured)" in text) == (profile == "epyc_2_cores" and sentence is None)


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


def test_version_is_that_of_the_installed_package(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert (left.value.code, capsys.readouterr().out) == (0, f"scalearn {importlib.metadata.version('scalearn-orchestrator')}\n")
