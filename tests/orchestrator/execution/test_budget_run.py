"""Whole runs with a budget and a webhook, on a real local Ray; only training is a double that sleeps."""

import pytest

from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launch import SWEEP
from tests.orchestrator.helpers.launching import Launch
from tests.orchestrator.helpers.webhook import listening

BUDGET = "packing: {size: 1}\nbudget: {device_hours: 0.007}\n"
"""25 seconds; by the cost model a job takes 7."""
FIRST = ("source/adapter/airlines/", "source/adapter/apple/")
"""What the cheapest cells of the table need, the two of scalearn_uniform."""
BAD = "scalearn_uniform/apple/"


@pytest.mark.slow
def test_run_whose_budget_is_spent_checkpoints_ends_with_3_and_a_later_one_resumes(tmp_path, repository):
    with listening() as hook:
        notify = f"notify: {{webhook: {hook.url}}}\n"
        launch = Launch(tmp_path, repository, SWEEP + notify + BUDGET)
        behave(launch.store, ("source/", {"seconds": 0.1, "epochs": 100_000, "looks": True}))
        done = launch.run()
        assert done.returncode == 3, done.stdout + done.stderr
        assert "10 jobs are left, about" in " ".join(done.stdout.split()), done.stdout
        begun = launch.moments("running")
        assert sorted(begun, key=begun.__getitem__)[:2] == sorted(map(launch.node, FIRST), key=begun.__getitem__)
        (told,) = hook.posts
        assert (told["event"], told["code"], told["jobs"]) == ("budget", 3, {"pending": 10})
        reached = {node: launch.epoch(node) for node in map(launch.node, FIRST)}
        assert min(reached.values()) > 0

        hook.status = 500
        launch.file.write_text(SWEEP + notify)
        behave(launch.store, ("source/", {"epochs": max(reached.values()) + 2}), (BAD, {"error": "The training loss became nan."}))
        again = launch.run()
    assert again.returncode == 1, again.stdout + again.stderr
    assert "The webhook at 127.0.0.1 was not told everything: it answered 500." in again.stdout
    assert {post["event"] for post in hook.posts[1:]} == {"failure", "end"}
    for node, epoch in reached.items():
        assert [entry["from"] for entry in launch.log(node)] == [0, epoch]
    held = [path for path in launch.store.root.rglob("*") if path.is_file() and b"pathsecret" in path.read_bytes()]
    assert not held
    assert "pathsecret" not in done.stdout + done.stderr + again.stdout + again.stderr


@pytest.mark.slow
def test_run_whose_budget_admits_no_job_at_all_says_so(tmp_path, repository):
    launch = Launch(tmp_path, repository, f"{SWEEP}budget: {{hours: 0.0001}}\n")
    done = launch.run()
    assert done.returncode == 3, done.stdout + done.stderr
    assert "more than the whole budget: give a larger one." in " ".join(done.stdout.split())
    assert launch.moments("running") == {}
