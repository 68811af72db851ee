"""Who may start on nodes that come and go; a job that needs many CPUs gets its turn although jobs that need one keep coming."""

import pytest

from orchestrator.scheduling.turns import Turns
from tests.orchestrator.helpers.doubles import behave
from tests.orchestrator.helpers.launching import Launch

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


SHAPES = {"wide": {"CPU": 2.0}, "narrow": {"CPU": 1.0}}


def test_pack_that_as_many_as_fit_have_overtaken_is_let_through():
    turns = Turns(SHAPES, lambda: [{"CPU": 2.0}])
    for trial in ("narrow", "wide", "second"):
        turns.handed_out(trial, "wide" if trial == "wide" else "narrow")
    turns.started("narrow")
    turns.started("second")
    assert not turns.held_back(0)  # overtaken once
    turns.ended("narrow")
    turns.handed_out("third", "narrow")
    turns.started("third")
    assert turns.held_back(1) == {"wide", "narrow"}
    turns.ended("second")
    turns.ended("third")
    assert turns.held_back(2)  # it is being placed
    turns.started("wide")
    assert not turns.held_back(3)


def test_pack_whose_node_is_gone_does_not_hold_up_the_others_for_ever():
    turns = Turns(SHAPES, lambda: [{"CPU": 2.0}])
    for trial in ("wide", "narrow", "second"):
        turns.handed_out(trial, "wide" if trial == "wide" else "narrow")
    turns.started("narrow")
    turns.ended("second")
    assert turns.held_back(0)
    turns.ended("narrow")
    assert turns.held_back(1)
    assert not turns.held_back(100)


def test_pack_that_waits_for_a_gpu_keeps_no_cpu_idle():
    turns = Turns({"gpu": {"CPU": 1.0, "GPU": 1.0}, "cpu": {"CPU": 1.0}}, lambda: [{"CPU": 4.0, "GPU": 1.0}])
    for trial in ("runs", "waits"):
        turns.handed_out(trial, "gpu")
    turns.started("runs")
    for number in range(20):
        turns.handed_out(f"{number}", "cpu")
        turns.started(f"{number}")
        assert not turns.held_back(number)
        turns.ended(f"{number}")


def test_room_follows_the_nodes_and_a_shape_that_fits_none_any_more_is_named_once(caplog):
    nodes = [{"CPU": 2.0}, {"CPU": 1.0}]
    turns = Turns(SHAPES, lambda: nodes)
    assert turns.follow(0)  # the first
    assert turns.room == {"wide": 1, "narrow": 3}
    nodes[:1] = []
    assert not turns.follow(1)  # it does not look as often
    assert turns.follow(10)
    assert turns.room == {"wide": 0, "narrow": 1}
    for trial in ("wide", "narrow", "second"):
        turns.handed_out(trial, "wide" if trial == "wide" else "narrow")
    turns.started("narrow")
    assert not turns.held_back(11)  # nobody makes room for what fits nowhere
    assert not turns.follow(20)
    assert caplog.messages == [
        "Some jobs fit on no node any more (each needs 2 CPU and the cluster has 1): they wait until a node joins that holds them."
    ]
    nodes.append({"CPU": 64.0})
    assert turns.follow(30)
    assert turns.room == {"wide": 32, "narrow": 65}


@pytest.mark.slow
def test_wide_job_starts_before_most_of_the_narrow_ones_that_never_leave_it_room(tmp_path, repository):
    launch = Launch(tmp_path, repository, WIDE)
    behave(launch.store, (".", {"seconds": 0.3, "epochs": 2}), ("uniform/.*seed[13579]", {"epochs": 3}))  # so that they end one by one
    done = launch.run()
    assert done.returncode == 0, done.stdout + done.stderr
    wide = launch.log(launch.node("transfer/scalearn/"))[0]["time"]
    narrow = sorted(launch.log(node)[0]["time"] for node in launch.graph().nodes() if "scalearn_uniform" in node)
    assert sum(time < wide for time in narrow) <= 5
