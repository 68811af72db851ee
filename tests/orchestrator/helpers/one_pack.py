"""`python -m tests.orchestrator.helpers.one_pack STORE TASK...`: a worker's share of a pack of the double's jobs, without Ray."""

import logging
import sys

from orchestrator.artifacts.store import Store
from orchestrator.definition.graph import Graph
from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import TRAIN, source

SMALL_SWEEP = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [airlines, apple]}
targets: [bbc]
methods:
  scalearn_uniform: {}
"""
"""Two sources, and a job that waits for both: for runs whose number of jobs does not matter."""


def main(store: str, *tasks: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    members = tuple(MemberOrder(job.node, job.config, {"node": job.node}, {}) for job in Graph([source(task) for task in tasks]))
    run_pack(PackOrder(members, store, TRAIN, Runtime(), Store(store).root / ".tune" / "stop"))


if __name__ == "__main__":
    main(*sys.argv[1:])
