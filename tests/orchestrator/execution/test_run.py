"""Whole runs on a real local Ray with two CPUs, real processes and a real SQLite store; only training is a double that sleeps."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.store import Store
from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.launching import Finished, Launch, family, finished, survivors, table_of, wait_until

BAD = "scalearn_uniform/apple/"
EARLY = "scalearn_uniform/bbc/"
"""Needs the adapters of airlines and apple alone."""
FLIPPED, CUT, UNMARKED, GONE = (
    "scalearn/apple/lr6e-03-seed1",
    "scalearn/apple/lr6e-03-seed0",
    "scalearn/bbc/lr6e-03-seed0",
    "scalearn_uniform/bbc/",
)
"""Jobs that are damaged after the first run."""


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> tuple[Launch, Finished]:
    """A run in which a job begins that can do without one source, one fails, and one worker is killed; the tests look at what it left."""
    launch = Launch(tmp_path_factory.mktemp("troubled"), repository)
    behave(
        launch.store,
        ("source/adapter/bbc/", {"hold": {"epoch": 1, "until": "go"}}),
        (BAD, {"error": "The training loss became nan at step 3."}),
        ("source/adapter/airlines/", {"die": {"epoch": 1, "times": 1}}),
    )
    process = launch.start()
    try:
        wait_until(lambda: launch.node(EARLY) in launch.moments("running") or process.poll() is not None)
    finally:
        (launch.store.root / "go").touch()
    return launch, finished(process)


@pytest.mark.slow
def test_run_failed_job_ends_with_code_1_and_names_job_error_and_traceback(troubled):
    launch, done = troubled
    assert done.returncode == 1, done.stdout + done.stderr
    bad = launch.node(BAD)
    assert f"failed   {bad}: The training loss became nan at step 3. ({launch.store.directory(bad) / 'traceback.txt'})" in done.stdout
    assert {node: launch.store.state(node) for node in launch.graph().nodes()} == {
        node: "failed" if node == bad else "succeeded" for node in launch.graph().nodes()
    }


@pytest.mark.slow
def test_run_stage_2_job_starts_before_the_last_source_has_ended(troubled):
    launch, _ = troubled
    begun, ended = launch.moments("running"), launch.moments("succeeded")
    assert begun[launch.node(EARLY)] < ended[launch.node("source/adapter/bbc/")]


@pytest.mark.slow
@pytest.mark.fault
def test_run_killed_worker_resumes_its_job_from_the_checkpoint(troubled):
    launch, _ = troubled
    first, second = launch.log(launch.node("source/adapter/airlines/"))
    assert (first["from"], second["from"]) == (0, 1)
    assert first["pid"] != second["pid"]
    assert set(launch.attempts().values()) == {1, 2}


@pytest.mark.slow
def test_run_uses_warm_workers_with_as_many_threads_as_cpus(troubled):
    launch, _ = troubled
    entries = [entry for node in launch.graph().nodes() for entry in launch.log(node)]
    assert {entry["threads"] for entry in entries} == {1}
    assert len({entry["pid"] for entry in entries}) <= 3  # two CPUs, and one process in place of the killed one


@pytest.mark.slow
def test_run_writes_manifest_runs_and_report(troubled):
    launch, done = troubled
    manifest = json.loads((launch.store.root / "sweeps" / "toy.json").read_text())
    graph = launch.graph()
    assert [entry["node"] for entry in manifest["nodes"]] == list(graph.nodes())
    assert (manifest["targets"], manifest["methods"]) == (["domains/apple", "domains/bbc"], ["scalearn", "scalearn_uniform"])
    assert manifest["yaml"] == SWEEP
    assert manifest["run_id"]
    bad = launch.node(BAD)
    assert launch.tracked() == {node: "FAILED" if node == bad else "FINISHED" for node in graph.nodes()}
    report = launch.store.root / "reports" / "toy"
    assert {path.name for path in (report / "tables").iterdir()} >= {"benchmark.csv", "benchmark.md", "jobs.md"}
    assert "1 failed" in (report / "index.html").read_text().replace("</b>", "")
    assert f"Report:     {report / 'index.html'}" in done.stdout
    assert f"--backend-store-uri sqlite:///{launch.store.root}/mlflow.db --host 127.0.0.1" in done.stdout
    assert list((launch.store.root / ".tune").iterdir()) == []


@pytest.fixture(scope="module")
def mended(troubled: tuple[Launch, Any]) -> tuple[Launch, dict[str, int], Finished]:
    """The same sweep again, with the failure's cause gone and four artifacts damaged in the meantime."""
    launch, _ = troubled
    before = launch.attempts()
    behave(launch.store)
    flipped, cut, unmarked, gone = (launch.store.directory(launch.node(part)) for part in (FLIPPED, CUT, UNMARKED, GONE))
    weights = flipped / "transfer" / "weights.safetensors"
    weights.write_bytes(b"\xff" + weights.read_bytes()[1:])
    (cut / "transfer" / "weights.safetensors").write_bytes(b"")
    (unmarked / "SUCCESS.json").unlink()
    shutil.rmtree(gone)
    return launch, before, launch.run()


@pytest.mark.slow
def test_rerun_trains_what_failed_and_what_was_damaged_and_nothing_else(mended):
    launch, before, done = mended
    assert done.returncode == 0, done.stdout + done.stderr
    flipped, cut, unmarked, gone = map(launch.node, (FLIPPED, CUT, UNMARKED, GONE))
    assert f"Set aside {flipped}: transfer/weights.safetensors does not match its sha256." in done.stdout
    assert f"Set aside {cut}: transfer/weights.safetensors has 0 bytes and not 4096." in done.stdout
    assert f"Set aside {unmarked}: it was done, and its SUCCESS.json is gone." in done.stdout
    assert f"Missing {gone}: it was done, and its files are gone." in done.stdout
    assert len(list(launch.store.root.glob(".set_aside/**/SET_ASIDE.txt"))) == 3
    started = [record["time"] for node in (flipped, cut, unmarked, gone) for record in launch.log(node)]
    assert len(started) == 4  # trained anew, once each
    assert launch.attempts() == {**before, launch.node(BAD): 2}
    assert set(launch.tracked().values()) == {"FINISHED"}


@pytest.mark.slow
def test_rerun_of_a_finished_sweep_trains_nothing_starts_no_ray_and_prints_the_same_table(mended):
    launch, _, earlier = mended
    before = launch.attempts()
    done = launch.run(RAY_ADDRESS="127.0.0.1:1", MLFLOW_TRACKING_URI=f"sqlite:///{launch.store.root}/mlflow.db")
    assert done.returncode == 0, done.stdout + done.stderr
    assert launch.attempts() == before
    assert table_of(done.stdout) == table_of(earlier.stdout)


@pytest.mark.slow
def test_run_with_the_tracking_server_away_succeeds_and_says_what_is_left(tmp_path, repository):
    launch = Launch(tmp_path, repository)
    done = launch.run("--only", "source/adapter/bbc", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 jobs are not in MLflow yet" in done.stdout
    assert launch.run("--only", "source/adapter/bbc").returncode == 0
    assert launch.tracked() == {launch.node("source/adapter/bbc"): "FINISHED"}


@pytest.mark.slow
def test_run_shares_gpus_by_fractions_and_refuses_what_no_node_holds_before_any_job_starts(tmp_path, repository):
    halves = "resources: {source: {cpu: 0.25, gpu: 0.5}, transfer: {cpu: 0.25}}\npacking: {size: 1, profile: h100_estimate}\n"
    (tmp_path / "toy.yaml").write_text(SWEEP + halves)
    store = Store(tmp_path / "runs")
    behave(store, (".", {"hold": {"epoch": 1, "until": "all here"}}))

    def start(*flags: str) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "tests.orchestrator.helpers.command",
            "run",
            str(tmp_path / "toy.yaml"),
            "--store",
            store.url,
            *flags,
        ]
        return subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with start("--gpus", "2", "--cpus", "1", "--set", "resources.transfer.cpu=4") as refused:
        out, err = refused.communicate(timeout=300)
    assert refused.returncode == 2, out + err
    assert re.fullmatch(r"scalearn: \S+ needs 4 CPU and the cluster has 1: lower `resources` in the sweep file, .*\n", err), err
    assert not list(store.root.glob("domains/**/job.json"))

    with start("--gpus", "2", "--cpus", "1") as run:  # GPUs in name: training is a double
        wait_until(lambda: len(list(store.root.glob("domains/*/*/*/*/*/run.log"))) == 4 or run.poll() is not None)
        (store.root / "all here").touch()
        out, err = run.communicate(timeout=300)
    assert run.returncode == 0, out + err
    assert "GPUs: 2, 0.5 to 1 per job or pack\n" in out
    devices = {
        stage: sorted(json.loads(path.read_text())["devices"] for path in store.root.glob(f"domains/minilm/{stage}/**/run.log"))
        for stage in ("source", "transfer")
    }
    assert devices["source"] == ["0", "0", "1", "1"]
    assert len(devices["transfer"]) == 6
    assert set(devices["transfer"]) <= {"0", "1"}  # stated nowhere: each has a GPU of its own


@pytest.mark.slow
@pytest.mark.fault
def test_run_job_whose_workers_always_die_fails_alone_and_blocks_exactly_what_needs_it(tmp_path, repository):
    launch = Launch(tmp_path, repository, SWEEP + "packing: {size: 4, profile: h100_estimate}\n")
    culprit = launch.node("source/adapter/self_driving")
    # The first pack holds the sources with the longest paths behind them, and its worker dies before any of them is committed.
    behave(launch.store, ("source/adapter/self_driving", {"epochs": 99, "die": {"epoch": 1, "times": 99}}))
    done = launch.run("--cpus", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    packs = [entry["pack"] for entry in launch.log(culprit)]
    assert packs[0] > 1  # or this test shows nothing: the culprit takes others down with it
    assert packs[1:] == [1] * 4  # which is not charged; then the first start alone, and three retries
    blocked = {node for node in launch.graph().nodes() if "transfer/scalearn/" in node}
    succeeded = {node for node in launch.graph().nodes() if launch.store.state(node) == "succeeded"}
    assert succeeded == set(launch.graph().nodes()) - blocked - {culprit}
    assert f"failed   {culprit}: The worker died" in done.stdout
    for node in blocked:
        assert f"blocked  {node}: its parent {culprit} failed" in done.stdout
    assert {attempts for node, attempts in launch.attempts().items() if node != culprit} <= {1, 2}


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("moment", ["before Ray", "while Ray starts"])
def test_run_interrupted_while_it_starts_leaves_with_130(tmp_path, repository, moment):
    """Ray, while it comes up, would end the process by a handler of its own."""
    launch = Launch(tmp_path, repository)
    process = launch.start()

    def has_come() -> bool:
        if moment == "before Ray" or process.poll() is not None:
            return (launch.store.root / "sweeps" / "toy.json").exists()
        return any("gcs_server" in line for line in survivors(family(process.pid)).values())

    try:
        wait_until(has_come)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, out + err
    assert out.rstrip().endswith("Interrupted. Run the same command again to go on from the last checkpoints."), out + err
    assert "Traceback" not in out + err
    assert set(launch.states().values()) == {"pending"}


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_interrupted_leaves_with_130_and_resumes_from_the_checkpoint(tmp_path, repository, number):
    launch = Launch(tmp_path, repository)
    behave(launch.store, (".", {"seconds": 0.5, "epochs": 1000}))
    process = launch.start("--only", "source/adapter/bbc")
    node = launch.node("source/adapter/bbc")
    marker = launch.store.directory(node) / "checkpoint" / "epoch"
    try:
        wait_until(lambda: marker.exists() or process.poll() is not None)
        workers = {pid: started for entry in launch.log(node) for pid, started in family(entry["pid"]).items()}
        process.send_signal(number)
    finally:
        done = finished(process)
    assert done.returncode == 130, done.stdout + done.stderr
    assert "Interrupted." in done.stdout
    wait_until(lambda: not survivors(workers))  # one that the machine kept waiting writes an epoch more
    reached = int(marker.read_text())
    behave(launch.store, (".", {"epochs": reached + 1}))
    again = launch.run("--only", "source/adapter/bbc")
    assert again.returncode == 0, again.stdout + again.stderr
    assert launch.log(node)[-1]["from"] == reached
