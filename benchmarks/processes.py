"""The same sweep with one fresh process per job, as many at a time as there are CPU cores: what a shell loop would take.

    python benchmarks/processes.py quickstart [--at-once 2]

Compare with the seconds that `scalearn run` prints. Both respect the graph; neither waits between the stages.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime


def child(sweep: Sweep, node: str, folder: Path, threads: int) -> None:
    """Train one job in this process."""
    from scalearn.training.loop import train  # torch: only the children need it

    job = sweep.expand().job(node)
    parents = dict(zip(job.parent_names, (folder / parent.node for parent in job.parents), strict=True))
    root = None if sweep.data.root is None else Path(sweep.data.root)
    runtime = Runtime(data_root=root, cache=folder / ".cache", threads=threads, device="cpu")
    (outcome,) = train([PackMember(job.config, folder / node, parents)], runtime, lambda *_: False)
    if outcome.error is not None:
        raise RuntimeError(outcome.error)


def run(name: str, graph: Graph, folder: Path, at_once: int) -> None:
    """Keep so many processes busy until every job is done, those with most jobs behind them first."""
    threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    running: dict[str, subprocess.Popen[bytes]] = {}
    while not graph.is_finished():
        for node in sorted(graph.ready(), key=lambda ready: -len(set(graph.below(ready))))[: at_once - len(running)]:
            (folder / node).mkdir(parents=True)
            command = [sys.executable, __file__, name, "--child", node, "--folder", str(folder), "--threads", str(threads)]
            running[node] = subprocess.Popen(command)
            graph.mark(node, "running")
        for node, process in list(running.items()):
            if process.poll() is not None:
                del running[node]
                if process.returncode:
                    raise RuntimeError(f"{node} ended with {process.returncode}")
                graph.mark(node, "succeeded")
        time.sleep(0.02)


def main() -> None:
    """Print the seconds from the first process to the last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep", nargs="?", default="quickstart")
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sweep = Sweep.load(arguments.sweep)
    if arguments.child:
        child(sweep, arguments.child, arguments.folder, arguments.threads)
        return
    graph = sweep.expand()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run(arguments.sweep, graph, Path(folder), arguments.at_once)
        print(f"{len(graph)} jobs, {arguments.at_once} processes at a time: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
