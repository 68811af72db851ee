"""`python -m tests.orchestrator.helpers.launch SWEEP.yaml STORE`: `scalearn run` with a double for training, few CPUs and short pauses."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from orchestrator.artifacts.store import Store
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.options import Options
from orchestrator.execution.run import run_sweep
from tests.orchestrator.helpers.doubles import TRAIN

SWEEP = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, self_driving, apple, bbc]}
targets: [apple, bbc]
methods:
  scalearn: {seeds: [0, 1]}
  scalearn_uniform: {sources: [airlines, apple]}
"""
"""Four sources; four jobs wait for all of them and two for airlines and apple alone."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep", type=Path)
    parser.add_argument("store")
    parser.add_argument("--only")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--max-failures", type=int, default=3)
    arguments = parser.parse_args()
    given = {name: getattr(arguments, name) for name in ("only", "force", "cpus", "max_failures")}
    options = Options(**given, gpus=0, first_pause=0.1, train=TRAIN)
    return run_sweep(Sweep.load(arguments.sweep), Store(arguments.store), options, Console(width=200))


if __name__ == "__main__":
    sys.exit(main())
