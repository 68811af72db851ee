"""`python -m tests.orchestrator.helpers.log_store STORE SWEEP GATE DRIVERS`: a driver that brings a finished store into MLflow.

It begins once so many drivers have come to the gate, a directory, with every other job. Once a file `killed` lies there, it goes on with
the rest and leaves word when its tracker fails. It ends when a file `end` lies there.
"""

import os
import sys
import time
from pathlib import Path

from orchestrator.artifacts.store import Store
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.drivers.prepare import prepare
from orchestrator.tracking import mlflow_runs, writer
from tests.orchestrator.helpers.doubles import two_stages


def main() -> None:
    root, sweep, gate, drivers = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    writer._INTERVAL, writer._LONGEST_PAUSE, writer._OTHERS_PATIENCE = 0.1, 0.5, 600.0
    store, graph = Store(root), two_stages(sources=4, targets=12)
    assert mlflow_runs  # seconds, which every driver is to have spent before the first one begins
    (gate / f"driver-{os.getpid()}").touch()
    while len(list(gate.glob("driver-*"))) < drivers:
        time.sleep(0.01)
    with Heartbeat(store) as heartbeat:
        prepare(graph, store, heartbeat)
        tracker = writer.Tracker(writer.Target.of(None, None, sweep, "", store), graph, store)
        untracked = tracker.untracked(graph.nodes())
        for node in untracked[::2]:
            tracker.add(node)
        tracker.start()
        while not (gate / "killed").exists():
            time.sleep(0.05)
        for node in untracked[1::2]:
            tracker.add(node)
        while not (gate / "end").exists():
            if tracker.problem:
                (gate / f"problem-{os.getpid()}").touch()
            time.sleep(0.05)
        print(tracker.finish("FINISHED", patience=300), "left")


if __name__ == "__main__":
    main()
