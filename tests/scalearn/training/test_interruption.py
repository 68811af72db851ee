"""Stopping, dying and running out of memory at any moment cost little and change no bit of what comes out."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scalearn.model.model import load_backbone
from scalearn.passes import evaluation
from scalearn.training import job as training_job
from scalearn.training import loop as training
from scalearn.training import stop_signal
from scalearn.training.checkpoint import load_checkpoint
from scalearn.training.pack import OutOfMemory, Stop
from scalearn.training.stop_signal import StopSignal
from tests.scalearn.helpers.packs import begun, config_of, difference, history, result, stop_at, train_pack


def patched_passes(monkeypatch: pytest.MonkeyPatch, module: Any, before: Callable[[list[int]], None]) -> None:
    """Calls `before` with the rows of every job ahead of every pass that a module makes."""
    original = module.packed_logits

    def packed_logits(encoder: Any, batches: Any, pad: int) -> Any:
        before([batch.weight for batch in batches])
        return original(encoder, batches, pad)

    monkeypatch.setattr(module, "packed_logits", packed_logits)


def test_pack_stopped_again_and_again_at_any_moment_ends_with_the_same_bits(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between steps, between the passes of one step, before an evaluation and before the test scores."""
    configs = [config_of("scalearn", backbone, 0), config_of("adapter", backbone, 1, patience=1, learning_rate=1e-30)]
    train_pack(configs, tmp_path / "whole", parents, micro_batch_rows=8)
    monkeypatch.setattr(stop_signal, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(stop_signal, "pause_for", lambda cost: 0.0)
    looks = random.Random(0)
    stopped_at: list[int] = []
    while len(stopped_at) < 100:
        left = iter(range(looks.randint(1, 5)))
        try:
            train_pack(configs, tmp_path / "parts", parents, micro_batch_rows=8, should_stop=lambda left=left: next(left, None) is None)
            break
        except Stop:
            saved = load_checkpoint(tmp_path / "parts/0")
            assert saved is not None
            stopped_at.append(saved.state["step"])
    assert len(stopped_at) > 3
    assert {step % 2 for step in stopped_at} == {0, 1}, "no stop fell between evaluations"
    for index in range(len(configs)):
        assert difference(tmp_path / f"whole/{index}", tmp_path / f"parts/{index}") == 0.0
        assert result(tmp_path / f"whole/{index}")["scores"] == result(tmp_path / f"parts/{index}")["scores"]
        whole, parts = history(tmp_path / f"whole/{index}"), history(tmp_path / f"parts/{index}")
        assert [(record["step"], record["train_loss"], record["validation"]) for record in parts] == [
            (record["step"], record["train_loss"], record["validation"]) for record in whole
        ]


def test_job_that_ended_before_its_pack_was_stopped_is_not_trained_again(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [config_of("adapter", backbone, 0, learning_rate=1e-30, patience=1), config_of("adapter", backbone, 1)]
    with pytest.raises(Stop):
        train_pack(configs, tmp_path, {}, stop_at(6))
    assert result(tmp_path / "0")["steps"] == 4
    packs: list[list[int]] = []
    patched_passes(monkeypatch, training, packs.append)
    train_pack(configs, tmp_path, {})
    assert packs == []
    assert [record["step"] for record in history(tmp_path / "0")] == [2, 4]
    assert result(tmp_path / "1")["steps"] == 6
    # Killed once more, after the end of training and before the first commit.
    (tmp_path / "0" / "result.json").unlink()
    train_pack(configs, tmp_path, {})
    assert packs == []
    assert (result(tmp_path / "0")["steps"], result(tmp_path / "1")["steps"]) == (4, 6)


def test_signal_is_looked_for_a_few_times_a_second_and_slow_looks_less_often() -> None:
    now, cost, looks = 0.0, 0.0, 0

    def should_stop() -> bool:
        nonlocal now, looks
        now, looks = now + cost, looks + 1
        return looks > 12

    signal = StopSignal(should_stop, clock=lambda: now)
    for _ in range(1000):
        now += 0.001
        signal.check()
    assert looks == 5
    cost = 0.1
    for _ in range(1000):
        now += 0.01
        signal.check()
    assert looks == 10
    looks, now = 12, now + 10.0
    with pytest.raises(Stop):
        signal.check()
    StopSignal(None).check()


class Killed(Exception):
    """Stands for a process that is gone."""


@pytest.mark.parametrize("method", ["adapter", "scalearn"])
def test_killed_in_a_long_epoch_repeats_no_more_than_the_steps_of_one_interval(
    method: str, backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of 24 steps of 20 seconds each, by a clock of the test's own; checkpoints every 60."""
    config = config_of(method, backbone, epochs=1, batch_size=1, evaluate_every=None)
    train_pack([config], tmp_path / "whole", parents)
    now, steps = 0.0, 0

    def tick(rows: list[int]) -> None:
        nonlocal now, steps
        if steps == 17:
            steps = 0
            raise Killed
        now, steps = now + 20.0, steps + 1

    monkeypatch.setattr(training_job, "time", SimpleNamespace(monotonic=lambda: now))
    patched_passes(monkeypatch, training, tick)
    with pytest.raises(Killed):
        train_pack([config], tmp_path / "parts", parents, checkpoint_seconds=60.0)
    saved = load_checkpoint(tmp_path / "parts/0")
    assert saved is not None
    assert 17 - saved.state["step"] <= 3
    train_pack([config], tmp_path / "parts", parents, checkpoint_seconds=60.0)
    assert steps == 24 - saved.state["step"]
    assert difference(tmp_path / "whole/0", tmp_path / "parts/0") == 0.0


def test_memory_that_runs_out_in_an_evaluation_halves_its_passes_and_the_result_says_so(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [config_of("adapter", backbone, 0), config_of("scalearn", backbone, 1)]
    train_pack(configs, tmp_path / "whole", parents)
    sizes: list[int] = []

    def full(rows: list[int]) -> None:
        sizes.append(max(rows))
        if max(rows) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")

    patched_passes(monkeypatch, evaluation, full)
    assert all(outcome.error is None for outcome in train_pack(configs, tmp_path / "parts", parents))
    assert [size for size in sizes if size > 5] == [12, 12, 12, 8]  # of 64, 32, 16 and 8 rows; remembered then
    for index in (0, 1):
        whole, parts = result(tmp_path / f"whole/{index}"), result(tmp_path / f"parts/{index}")
        assert (whole["evaluation_pass_rows"], parts["evaluation_pass_rows"]) == (64, 4)
        assert parts["micro_batches"] == 1
        assert difference(tmp_path / f"whole/{index}", tmp_path / f"parts/{index}") == 0.0
        for split in ("validation", "test"):
            scores = (outcome["scores"]["domains/apple"][split] for outcome in (whole, parts))
            assert next(scores) == pytest.approx(next(scores), abs=1e-5)


def test_memory_that_does_not_hold_one_row_is_an_error(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: list[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")

    patched_passes(monkeypatch, evaluation, full)
    with pytest.raises(OutOfMemory):
        train_pack([config_of("adapter", backbone)], tmp_path, {})


def test_scale_of_fp16_gradients_is_resumed(backbone: str, tmp_path: Path) -> None:
    config, loaded = config_of("adapter", backbone), load_backbone(backbone)

    def scaler(scale: float) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)

    first = begun(config, tmp_path, {}, loaded, scaler(2.0**16))
    assert first.scaler is not None
    weight = next(iter(first.learned().values()))
    for gradient in (float("inf"), 1.0, 1.0):  # halves the scale, then two steps towards doubling it
        first.scaler.scale((weight * 0.0).sum())
        weight.grad = torch.full_like(weight, gradient)
        first.scaler.step(first.optimizer)
        first.scaler.update()
    first.checkpoint()
    again = begun(config, tmp_path, {}, loaded, scaler(8.0))
    assert again.scaler is not None
    assert again.scaler.get_scale() == 2.0**15
    assert again.scaler.state_dict() == first.scaler.state_dict()
    assert begun(config, tmp_path, {}, loaded).scaler is None
