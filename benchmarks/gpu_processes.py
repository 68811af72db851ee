"""Trials of `gpu.py` in processes of their own, one after the other or several at a time, with NVIDIA's MPS where it can be started."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gpu_bench import LeftOut
from interleaved import mean_seconds
from lengths import drawn_batches
from paths import SOURCES, Inputs, Pack, Setting, batch_of, branches_of

TASK = "mnli"
"""The task whose rows the trials have."""

_CONTROL = "nvidia-cuda-mps-control"
_PROBE = "import torch; torch.zeros(1, device='cuda').cpu()"


@dataclass(frozen=True)
class Trial:
    """One job, from its first import to its last step."""

    size: str
    method: str
    device: str
    precision: str
    rows: int
    steps: int

    @property
    def setting(self) -> Setting:
        """The setting that it shares with other trials of the same backbone."""
        return Setting(self.size, self.device, self.precision)

    def batches(self) -> list[Inputs]:
        """Return the batches that trials take in turn."""
        return [batch_of(lengths, "cpu", seed) for seed, lengths in enumerate(drawn_batches([TASK], self.rows, 16)[TASK])]


def take_step(pack: Pack, batches: Sequence[Inputs], number: int) -> None:
    """Take a step of a pack whose jobs are at different places of the same data."""
    jobs = range(len(pack.branches))
    pack.step([batches[(job + number) % len(batches)] for job in jobs], [number * len(jobs) + job for job in jobs])


def run_here(trial: Trial) -> None:
    """Run a trial in this process, and print the mean seconds of its steps."""
    encoder = trial.setting.encoder(pads=True)
    pack, batches = Pack.of(trial.setting, encoder, branches_of(trial.method, encoder, SOURCES, 1)), trial.batches()
    seconds = mean_seconds(lambda number: take_step(pack, batches, number), trial.steps - 2, trial.device)
    print(json.dumps({"step": seconds}))


def run_processes(trial: Trial, count: int, most_seconds: float, environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a trial in so many processes at once.

    Args:
        trial: The trial.
        count: The number of processes.
        most_seconds: Processes that are still there after this time are ended.
        environment: Variables in addition to those of this process.

    Returns:
        The seconds from the start of the first process to the end of the last, and the mean seconds of a step.

    Raises:
        LeftOut: A process failed, or there was not enough time.
    """
    command = [sys.executable, str(Path(__file__).with_name("gpu.py")), "--child", json.dumps(asdict(trial))]
    began = time.perf_counter()
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) for _ in range(count)]
    try:
        said = [process.communicate(timeout=max(0.0, began + most_seconds - time.perf_counter()))[0] for process in processes]
    except subprocess.TimeoutExpired:
        raise LeftOut("no time") from None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - began
    if any(process.returncode for process in processes):
        raise LeftOut(f"{sum(process.returncode != 0 for process in processes)} of {count} processes failed")
    return seconds, statistics.mean(json.loads(text.splitlines()[-1])["step"] for text in said)


@contextmanager
def mps(device: str) -> Iterator[tuple[Mapping[str, str], str]]:
    """Start MPS, through which processes compute on one GPU at the same time, and end it afterwards.

    Yields:
        The variables of processes that use it, and a sentence that says whether there are any.
    """
    if device != "cuda" or shutil.which(_CONTROL) is None:
        yield {}, f"MPS did not run: {'there is no ' + _CONTROL + ' here' if device == 'cuda' else 'it is for GPUs'}."
        return
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        if _answer([_CONTROL, "-d"], places) is None:
            yield {}, f"MPS did not run: {_CONTROL} -d failed."
            return
        try:
            # A process that finds no server may compute without one, so the daemon is asked whether it has started any.
            probed = _answer([sys.executable, "-c", _PROBE], places) is not None
            served = probed and bool(_answer([_CONTROL], places, "get_server_list\n"))
            yield (places, "MPS ran.") if served else ({}, "MPS did not run: its daemon started, but served no process.")
        finally:
            _answer([_CONTROL], places, "quit -t 5\n")


def _answer(command: Sequence[str], environment: Mapping[str, str], question: str = "") -> str | None:
    """Return what a command says. None: it fails, or takes more than half a minute."""
    with tempfile.TemporaryFile("w+") as said:  # no pipe, since a daemon would hold it open
        given = {"input": question, "stdout": said, "stderr": subprocess.DEVNULL, "text": True, "timeout": 30}
        try:
            done = subprocess.run(command, env=os.environ | environment, check=False, **given)
        except subprocess.TimeoutExpired:
            return None
        said.seek(0)
        return said.read().strip() if done.returncode == 0 else None
