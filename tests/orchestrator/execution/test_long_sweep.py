"""What a driver keeps of jobs that have ended: nothing of Tune's, on a real local Ray with warm workers; training is a double."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
name: many
benchmark: domains
backbone: minilm
sources: {tasks: [airlines, apple]}
targets: [apple]
seeds: [SEEDS]
packing: {size: 1}
methods: {scalearn: {}}
"""
PROGRAM = """
import collections, gc, json, sys
from rich.console import Console
from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from orchestrator.execution import run
from orchestrator.execution.options import Options
from tests.orchestrator.helpers.doubles import TRAIN

class Counting(run.ProgressDisplay):
    ended = 0

    def listen(self, node, state):
        super().listen(node, state)
        if state == "succeeded":
            Counting.ended += 1
            if Counting.ended in (20, 60):
                gc.collect()
                kept = collections.Counter(type(each).__name__ for each in gc.get_objects())
                print(json.dumps({name: kept[name] for name in ("Trial", "TrackedActor", "PackOrder", "Ending", "ObjectRef")}), flush=True)

run.ProgressDisplay = Counting
sys.exit(run.run_sweep(Sweep.load("many.yaml"), Store("runs"), Options(cpus=2, gpus=0, train=TRAIN), Console(quiet=True)))
"""


@pytest.mark.slow
def test_driver_keeps_no_trials_of_jobs_that_have_ended(tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(SWEEP.replace("SEEDS", ", ".join(map(str, range(60)))))
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    early, late = map(json.loads, done.stdout.splitlines())
    assert {name: late[name] <= early[name] + 8 for name in late} == dict.fromkeys(late, True), (early, late)
