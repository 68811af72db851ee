"""`scalearn prune`: what no sweep names goes, what somebody needs stays, and nothing goes unasked."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.events import Journal
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.drivers import claiming
from tests.orchestrator.helpers.launch import SWEEP


@pytest.fixture
def pruned(tmp_path):
    """A store with a finished sweep, of which the file now names fewer methods, and with something set aside."""
    file = tmp_path / "toy.yaml"
    file.write_text(SWEEP)
    store, everything = Store(tmp_path / "runs"), Sweep.load(file).expand()
    run_jobs(everything, store)
    again = next(iter(everything.nodes()))
    store.set_aside(again, "damaged")
    run_jobs(Graph([everything.job(again)]), store)
    file.write_text(SWEEP.replace("  scalearn: {seeds: [0, 1]}\n", ""))
    sweep = Sweep.load(file)
    write_manifest(sweep, sweep.expand(), store, "sqlite://", None)
    return file, store, everything, set(everything.nodes()) - set(sweep.expand().nodes())


def jobs_in(store: Store, graph: Graph) -> set[str]:
    return {node for node in graph.nodes() if store.verify(node).state != "absent"}


def test_prune_shows_what_would_go_and_removes_nothing(pruned, capsys):
    _, store, everything, unnamed = pruned
    assert main(["prune", str(store.root), "--minutes", "0"]) == 0
    printed = capsys.readouterr().out
    assert all(f"unnamed  {node} " in printed for node in unnamed)
    assert f"{len(unnamed)} jobs and 1 folders that were set aside" in printed
    assert "Nothing was removed: --yes removes it." in printed
    assert jobs_in(store, everything) == set(everything.nodes())


def test_prune_with_yes_removes_exactly_that(pruned, capsys):
    _, store, everything, unnamed = pruned
    assert main(["prune", str(store.root), "--minutes", "0", "--yes"]) == 0
    assert f"Removed {len(unnamed)} jobs and 1 folders" in capsys.readouterr().out
    left = set(everything.nodes()) - unnamed
    assert jobs_in(store, everything) == left
    assert {node: store.verify(node).state for node in left} == dict.fromkeys(left, "complete")
    assert not (store.root / ".set_aside").exists()
    assert (store.root / "sweeps" / "toy.json").exists()
    assert main(["prune", str(store.root), "--minutes", "0"]) == 0
    assert "holds nothing that no sweep names" in capsys.readouterr().out


def test_prune_named_sweeps_decide_in_place_of_manifests(pruned, tmp_path, capsys):
    _, store, everything, _ = pruned
    (tmp_path / "all.yaml").write_text(SWEEP)
    assert main(["prune", str(store.root), str(tmp_path / "all.yaml"), "--minutes", "0", "--yes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item.startswith(".set_aside/") for item in found["removed"]] == [True]
    assert jobs_in(store, everything) == set(everything.nodes())


def test_prune_keeps_what_was_written_to_a_moment_ago(pruned, capsys):
    _, store, everything, unnamed = pruned
    old, *fresh = sorted(unnamed)
    for path in (store.directory(old), *store.directory(old).rglob("*")):
        os.utime(path, (time.time() - 3600,) * 2)
    assert main(["prune", str(store.root), "--yes"]) == 0
    assert "stays: it was written to a moment ago" in capsys.readouterr().out
    assert jobs_in(store, everything) == set(everything.nodes()) - {old}
    assert fresh


def test_prune_keeps_a_claimed_job_and_what_it_is_built_on(pruned, capsys):
    _, store, everything, unnamed = pruned
    running = next(node for node in sorted(unnamed) if everything.parents(node))
    needed = set(everything.parents(running))
    record = store.read_json(running, "job.json")
    store.write_json(store.directory(running) / "job.json", {**record, "parents": list(everything.parents(running))})
    with claiming(store) as claims:
        assert claims.claim(running)
        assert main(["prune", str(store.root), "--minutes", "0", "--yes"]) == 0
    assert "stays: a driver has claimed it" in capsys.readouterr().out
    assert jobs_in(store, everything) == (set(everything.nodes()) - unnamed) | needed | {running}


def test_prune_store_without_manifests_is_refused(pruned, capsys):
    _, store, everything, _ = pruned
    (store.root / "sweeps" / "toy.json").unlink()
    assert main(["prune", str(store.root), "--yes"]) == 2
    assert "name the sweep files whose jobs are to stay" in capsys.readouterr().err
    assert jobs_in(store, everything) == set(everything.nodes())


def test_prune_unreadable_manifest_is_refused(pruned, capsys):
    _, store, everything, _ = pruned
    (store.root / "sweeps" / "other.json").write_text('{"nodes": [')
    assert main(["prune", str(store.root), "--yes"]) == 2
    assert "other.json cannot be read" in capsys.readouterr().err
    assert jobs_in(store, everything) == set(everything.nodes())


def test_prune_never_touches_what_is_no_job_of_ours(pruned):
    _, store, _, _ = pruned
    (store.root / "notes").mkdir()
    (store.root / "notes" / "job.json").write_text("{}")
    (store.root / "mlflow.db").write_bytes(b"x")
    assert main(["prune", str(store.root), "--minutes", "0", "--yes"]) == 0
    assert (store.root / "notes" / "job.json").exists()
    assert (store.root / "mlflow.db").exists()


def prune_on_a_terminal(arguments: list[str], meanwhile: Callable[[], object]) -> str:
    """Start the command on a terminal, do something while its question is open, say yes, and return what it said."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "orchestrator.cli", "prune", *arguments, "--minutes", "0"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"Remove all of it?" not in said:
            said += os.read(ours, 65536)
        meanwhile()
        os.write(ours, b"y\n")
        with contextlib.suppress(OSError):  # how a terminal ends whose last process has left
            while more := os.read(ours, 65536):
                said += more
        os.close(ours)
    assert process.returncode == 0, said
    return said.decode()


def other_sweep(tmp_path) -> Sweep:
    """What the store's sweep was before it named fewer methods, under another name."""
    file = tmp_path / "other.yaml"
    file.write_text(SWEEP.replace("name: toy", "name: other"))
    return Sweep.load(file)


def test_prune_looks_again_at_what_is_named_once_its_question_is_answered(pruned, tmp_path):
    _, store, everything, _ = pruned
    sweep = other_sweep(tmp_path)
    said = prune_on_a_terminal([str(store.root)], lambda: write_manifest(sweep, sweep.expand(), store, "sqlite://", None))
    assert "Removed 0 jobs and 1 folders" in said
    assert jobs_in(store, everything) == set(everything.nodes())


def test_prune_with_sweeps_looks_again_at_what_the_sweeps_of_living_drivers_name(pruned, tmp_path):
    file, store, everything, unnamed = pruned
    sweep = other_sweep(tmp_path)
    write_manifest(sweep, sweep.expand(), store, "sqlite://", None)  # of a run that has ended: the file alone decides
    arguments = [str(store.root), str(file)]
    with contextlib.ExitStack() as running:
        said = prune_on_a_terminal(arguments, lambda: running.enter_context(Journal(store, "other", sweep.expand())))
        assert "Removed 0 jobs and 1 folders" in said
        assert jobs_in(store, everything) == set(everything.nodes())
    assert main(["prune", *arguments, "--minutes", "0", "--yes"]) == 0
    assert jobs_in(store, everything) == set(everything.nodes()) - unnamed


def test_prune_through_a_link_does_as_in_the_store_itself(pruned, tmp_path, capsys):
    _, store, everything, unnamed = pruned
    link = tmp_path / "link"
    link.symlink_to(store.root)
    assert main(["prune", str(link), "--minutes", "0", "--yes"]) == 0
    assert f"Removed {len(unnamed)} jobs and 1 folders" in capsys.readouterr().out
    assert jobs_in(store, everything) == set(everything.nodes()) - unnamed


def test_prune_of_jobs_whose_parents_are_no_names_ends_well(pruned):
    _, store, _, unnamed = pruned
    node = min(unnamed)
    (store.directory(node) / "job.json").write_text(json.dumps({"parents": [[["deep"]], 5, None]}))
    assert main(["prune", str(store.root), "--yes"]) == 0
