"""A job that needs many CPUs gets its turn although jobs that need one keep coming."""

import pytest

from orchestrator.execution.turns import Turns
from tests.orchestrator.doubles import behave
from tests.orchestrator.launching import Launch

WIDE = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, apple]}
targets: [apple]
packing: {size: 1}
resources: {methods: {scalearn: {cpu: 2}}}
methods:
  scalearn: {}
  scalearn_uniform: {seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}
"""


def test_pack_that_as_many_as_fit_have_overtaken_is_let_through():
    turns = Turns(slots=2)
    for trial in ("narrow", "wide", "second"):
        turns.handed_out(trial)
    turns.started("narrow")
    turns.started("second")
    assert not turns.must_wait(0)  # overtaken once
    turns.ended("narrow")
    turns.handed_out("third")
    turns.started("third")
    assert turns.must_wait(1)
    turns.ended("second")
    turns.ended("third")
    assert turns.must_wait(2)  # it is being placed
    turns.started("wide")
    assert not turns.must_wait(3)


def test_pack_whose_node_is_gone_does_not_hold_up_the_others_for_ever():
    turns = Turns(slots=1)
    for trial in ("wide", "narrow"):
        turns.handed_out(trial)
    turns.started("narrow")
    assert turns.must_wait(0)
    turns.ended("narrow")
    assert turns.must_wait(1)
    assert not turns.must_wait(100)


@pytest.mark.slow
def test_wide_job_starts_before_most_of_the_narrow_ones_that_never_leave_it_room(tmp_path, repository):
    launch = Launch(tmp_path, repository, WIDE)
    behave(launch.store, (".", {"seconds": 0.3, "epochs": 2}), ("uniform/.*seed[13579]", {"epochs": 3}))  # so that they end one by one
    done = launch.run()
    assert done.returncode == 0, done.stdout + done.stderr
    wide = launch.log(launch.node("transfer/scalearn/"))[0]["time"]
    narrow = sorted(launch.log(node)[0]["time"] for node in launch.graph().nodes() if "scalearn_uniform" in node)
    assert sum(time < wide for time in narrow) <= 5
