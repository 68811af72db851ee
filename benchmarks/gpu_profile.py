"""A profile for `scalearn plan`, measured by `gpu.py` at the level of passes, heads and optimisers, without data and artifacts."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from interleaved import mean_seconds
from layer import peak_bytes
from paths import SOURCES, Inputs, Pack, Setting, batch_of, branches_of, own_steps

from orchestrator.profiling.deadline import Deadline, Extent, take
from orchestrator.profiling.fit import EVALUATION_ROWS, MeasuredPack, fit_paces
from orchestrator.profiling.profile import DEFAULT_PROFILE, Profile, Rates, load_profile
from scalearn.backbone.device import device_memory, device_name
from scalearn.backbone.encoder import Encoder


def rates_of(setting: Setting, backbone: str, rows: int, extent: Extent, seconds: float) -> tuple[Rates, tuple[str, ...]]:
    """Measure a backbone.

    Args:
        setting: Its size, with device and precision.
        backbone: The registered name that the rates are for.
        rows: Rows per job.
        extent: What to measure. Rows have no padding.
        seconds: Time for it.

    Returns:
        The rates, and what was left out, mostly for want of time.
    """
    began = time.perf_counter()
    encoder = setting.encoder(pads=True)
    load_seconds = time.perf_counter() - began

    def measured(method: str, jobs: int, length: int, steps: int) -> MeasuredPack:
        return measured_pack(setting, encoder, method, jobs, rows, length, steps)

    measured("adapter", 1, extent.lengths[0], 1)  # warms up
    per_token = bytes_per_token(setting, encoder, extent.lengths[1])
    room = 0.6 * device_memory(setting.device)  # AdapterFusion takes more per token than what was measured
    packs = tuple(jobs for jobs in extent.packs if jobs == 1 or jobs * rows * extent.lengths[0] * per_token < room)
    taken = take(measured, replace(extent, packs=packs), Deadline(seconds))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    rates = Rates(
        backbone,
        setting.precision,
        load_profile(DEFAULT_PROFILE).rates[0].job_seconds,  # no data is read here, and no artifact written
        round(load_seconds, 3),
        round(per_token, 1),
        float(weights),
        *fit_paces(taken.points),
        SOURCES,
    )
    return rates, (*taken.left_out, *(f"packs of {jobs}, for want of memory" for jobs in extent.packs if jobs not in packs))


def measured_pack(setting: Setting, encoder: Encoder, method: str, jobs: int, rows: int, length: int, steps: int) -> MeasuredPack:
    """Measure steps of a pack and, of a single job, evaluation passes."""
    pack = Pack.of(setting, encoder, branches_of(method, encoder, SOURCES, jobs))
    batches = [batch_of([length] * rows, "cpu", job) for job in range(jobs)]
    step = mean_seconds(lambda number: pack.step(batches, [number] * jobs), steps, setting.device)
    evaluation = 0.0
    if jobs == 1:
        evaluate = own_steps(setting, encoder, pack.branches[0])[1]
        judged = batch_of([length] * EVALUATION_ROWS, setting.device, 0)
        evaluation = 2 * mean_seconds(lambda _: evaluate(judged), steps, setting.device)
    return MeasuredPack(jobs, rows, length, step, evaluation, 0.0)


def bytes_per_token(setting: Setting, encoder: Encoder, length: int) -> float:
    """Return by how much the peak of a step grows with each token."""
    pack, peaks = Pack.of(setting, encoder, branches_of("adapter", encoder, SOURCES, 1)), []
    for rows in (4, 8):
        batch = batch_of([length] * rows, "cpu", 0)

        def step(batch: Inputs = batch) -> None:
            pack.step([batch], [0])

        step()  # the first one also makes the optimiser's moments
        peaks.append(recorded_peak(step) if setting.device == "cuda" else peak_bytes(step))
    return max(0.0, (peaks[1] - peaks[0]) / (4 * length))


def recorded_peak(run: Callable[[], object], *, beyond: bool = True) -> int:
    """Return the bytes of tensors on the GPU at the peak of a run, by default beyond what is held already."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if beyond else 0
    run()
    return torch.cuda.max_memory_allocated() - before


def profile_of(setting: Setting, rates: tuple[Rates, ...], worker_seconds: float, *, remark: str = "") -> Profile:
    """Return the profile of this device. With a remark, it does not count as measured."""
    note = f"{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, benchmarks/gpu.py with random weights; job_seconds is assumed{remark}"
    memory = device_memory(setting.device)
    return Profile(device_name(setting.device), not remark, note, memory, setting.precision, round(worker_seconds, 1), rates)
