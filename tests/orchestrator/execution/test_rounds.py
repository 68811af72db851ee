"""Searches while they run: rounds that are proposed live, kept in the store, and resumed after a real kill."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import expand_in, graph_in
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.rounds import Rounds
from tests.orchestrator.helpers.doubles import behave, run_jobs
from tests.orchestrator.helpers.launching import Launch, wait_until
from tests.orchestrator.helpers.read_events import events

SWEEP = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [apple, bbc]}
targets: [apple, bbc]
search: {by: optuna, trials: 7, round: 3}
methods:
  scalearn:
    learning_rate: {low: 1e-4, high: 3e-2, log: true}
    settings: {omega_dropout: {low: 0, high: 0.5}}
    seeds: [0, 1]
"""
SCORES = [(r"lr\de-|lr\d\.[0-4]", {"epochs": 4}), ("lr.*e-03", {"epochs": 3}), ("seed1", {"epochs": 5})]
"""A job that trains longer has a better score."""


def trials_of(store: Store, file: Path) -> list[list[dict[str, float]]]:
    return [[dict(trial.point) for trial in group.trials] for group in expand_in(store, Sweep.load(file)).groups]


def run_all(sweep: Sweep, store: Store) -> Graph:
    """Run every round in this process, one after the other."""
    rounds = Rounds(sweep, store)
    graph = rounds.expanded.graph
    while True:
        run_jobs(graph, store)
        if not rounds.grow(graph):
            return graph


def test_rounds_follow_one_another_and_are_proposed_once(tmp_path: Path) -> None:
    sweep, stores = Sweep.from_text(SWEEP), [Store(tmp_path / name) for name in ("first", "second")]
    for store in stores:
        behave(store, *SCORES)
    graph = run_all(sweep, stores[0])
    groups = expand_in(stores[0], sweep).groups
    assert [len(group.trials) for group in groups] == [7, 7]
    assert set(graph.nodes()) == set(graph_in(stores[0], sweep).nodes())
    assert run_all(sweep, stores[0]).nodes() == graph_in(stores[0], sweep).nodes()
    run_all(sweep, stores[1])
    assert expand_in(stores[1], sweep).groups == groups
    # More trials continue the search, and complete the round that the smaller number had cut short.
    more = Sweep.from_text(SWEEP, overrides=["search.trials=9"])
    run_all(more, stores[0])
    assert [[trial.point for trial in group.trials[:7]] for group in expand_in(stores[0], more).groups] == [
        [trial.point for trial in group.trials] for group in groups
    ]
    nine = Store(tmp_path / "nine")
    behave(nine, *SCORES)
    run_all(more, nine)
    assert expand_in(nine, more).groups == expand_in(stores[0], more).groups


def test_test_scores_change_no_proposal_and_validation_scores_do(tmp_path: Path) -> None:
    sweep, found = Sweep.from_text(SWEEP, overrides=["search.trials=6", "targets=[apple]"]), {}
    for split in ("none", "test", "validation"):
        store = Store(tmp_path / split)
        behave(store, *SCORES)
        rounds = Rounds(sweep, store)
        run_jobs(rounds.expanded.graph, store)
        for number, job in enumerate(rounds.expanded.groups[0].trials[0].jobs if split != "none" else ()):
            path = store.directory(job.node) / "result.json"
            result = json.loads(path.read_text())
            result["scores"]["domains/apple"][split]["accuracy"] = 0.1 + 0.1 * number
            path.write_text(json.dumps(result))
        rounds.grow(rounds.expanded.graph)
        found[split] = [trial.point for trial in rounds.expanded.groups[0].trials]
        assert len(found[split]) == 6
    assert found["test"] == found["none"]
    assert found["validation"] != found["none"]


def test_a_round_of_which_every_trial_failed_is_the_last_until_it_is_mended(tmp_path: Path) -> None:
    sweep, store = Sweep.from_text(SWEEP), Store(tmp_path)
    behave(store, ("scalearn/apple/", {"error": "The loss is nan."}))
    run_all(sweep, store)
    assert [len(group.trials) for group in expand_in(store, sweep).groups] == [3, 7]
    behave(store, *SCORES)
    run_all(sweep, store)
    assert [len(group.trials) for group in expand_in(store, sweep).groups] == [7, 7]


def test_a_damaged_file_of_trials_is_proposed_again(tmp_path: Path) -> None:
    sweep, store = Sweep.from_text(SWEEP), Store(tmp_path)
    behave(store, *SCORES)
    run_all(sweep, store)
    groups = expand_in(store, sweep).groups
    file = store.sidecar("toy", f"trials/{groups[0].key}.json")
    kept = json.loads(file.read_text())
    for damaged in ("[]", "{", json.dumps(kept | {"points": [*kept["points"][:5], {"learning_rate": 7.0}]})):
        file.write_text(damaged)
        run_all(sweep, store)
        assert expand_in(store, sweep).groups == groups


@pytest.mark.slow
@pytest.mark.fault
def test_killed_search_resumes_in_the_middle_and_a_rerun_proposes_nothing(tmp_path: Path, repository: Path, shared_ray: str) -> None:
    here, there = (Launch(tmp_path / name, repository, SWEEP) for name in ("whole", "killed") if not (tmp_path / name).mkdir())
    behave(here.store, *SCORES)
    done = here.run(RAY_ADDRESS=shared_ray)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = trials_of(here.store, here.file)
    assert [len(trials) for trials in expected] == [7, 7]

    # The second round of a target is known and its jobs are held when the driver is killed.
    first = graph_in(there.store, Sweep.load(there.file)).nodes()
    held = (("scalearn/apple/", {"hold": {"epoch": 1, "until": "go"}}), ("|".join(map(re.escape, first)), {"hold": None}))
    behave(there.store, *SCORES, *held)
    process = there.start(RAY_ADDRESS=shared_ray)
    try:
        wait_until(lambda: len(trials_of(there.store, there.file)[0]) > 3 or process.poll() is not None)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    begun = trials_of(there.store, there.file)
    assert begun[0] == expected[0][:6]
    (there.store.root / "go").touch()
    done = there.run(RAY_ADDRESS=shared_ray)
    assert done.returncode == 0, done.stdout + done.stderr
    assert trials_of(there.store, there.file) == expected
    assert graph_in(there.store, Sweep.load(there.file)).nodes() == graph_in(here.store, Sweep.load(here.file)).nodes()

    kept = {path.name: path.read_bytes() for path in (here.store.root / "sweeps/toy/trials").iterdir()}
    again = here.run(RAY_ADDRESS=shared_ray)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"(\d+) jobs, \1 done before, 0 to run", again.stdout)
    assert {path.name: path.read_bytes() for path in (here.store.root / "sweeps/toy/trials").iterdir()} == kept
    states = [event for event in events(here.store.sidecar("toy", "events.jsonl")) if event.get("state") == "succeeded"]
    assert len(states) == len(graph_in(here.store, Sweep.load(here.file)))
