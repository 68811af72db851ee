"""Joint training: one job that serves several tasks."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from scalearn.batches import BatchPlan, epoch_batches
from scalearn.learning_rate import learning_rate_factor
from scalearn.pack import Stop
from tests.scalearn.small import data, job, run, save_backbone

TASKS = ("domains/apple", "domains/coachella", "domains/bbc")
METHODS = ("full_ft_m", "adapter_m", "propetl_m", "hyperformer", "hyperformer_pp")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


def joint(backbone: str, method: str = "hyperformer_pp", **optimisation: Any) -> Any:
    return job(method, tuple(map(data, TASKS)), backbone, evaluate_every=4, **optimisation)


def history(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def result(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return loaded


def stop_after(evaluations: int) -> Callable[[object, Mapping[str, Any]], None]:
    seen = iter(range(evaluations))

    def report(member: object, record: Mapping[str, Any]) -> None:
        if next(seen) == evaluations - 1:
            raise Stop

    return report


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_batches_hold_one_task_drawn_by_size_and_temperature(temperature: float) -> None:
    sizes = [8000, 2000, 200]
    plans = [plan for epoch in range(8) for plan in epoch_batches(sizes, 8, seed=0, epoch=epoch, temperature=temperature)]
    weights = [size ** (1 / temperature) for size in sizes]
    drawn = Counter(plan.task for plan in plans)
    for task, weight in enumerate(weights):
        assert drawn[task] / len(plans) == pytest.approx(weight / sum(weights), abs=0.01)
    assert all(row < sizes[plan.task] for plan in plans for row in plan.rows)


def test_rows_of_a_task_come_once_before_they_come_again() -> None:
    plans = [plan for plan in epoch_batches([40, 400], 8, seed=3, epoch=0, temperature=100.0) if plan.task == 0]
    rows = [row for plan in plans[:5] for row in plan.rows]
    assert sorted(rows) == list(range(40))
    assert len(plans) > 5


def test_warm_up_rises_to_a_tenth_of_the_steps_then_falls() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:11] == pytest.approx([step / 10 for step in range(11)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[99] == pytest.approx(1 / 90)


@pytest.mark.parametrize("method", METHODS)
def test_joint_job_leaves_scores_of_every_task(method: str, backbone: str, tmp_path: Path) -> None:
    assert run(joint(backbone, method), tmp_path).error is None
    scores = result(tmp_path)["scores"]
    assert set(scores) == set(TASKS)
    assert all({"validation", "test"} <= set(splits) for splits in scores.values())
    assert all(set(record["tasks"]) == set(TASKS) for record in history(tmp_path))


def test_evaluation_comes_at_step_intervals_and_the_best_has_the_lowest_mean_loss(backbone: str, tmp_path: Path) -> None:
    run(joint(backbone, epochs=2, learning_rate=1e-2), tmp_path)
    records = history(tmp_path)
    means = {record["step"]: sum(each["loss"] for each in record["tasks"].values()) / len(TASKS) for record in records}
    assert list(means) == [4, 8, 12, 16, 18]
    best = result(tmp_path)
    assert best["best_step"] == min(means, key=lambda step: means[step])
    assert {task: best["scores"][task]["validation"] for task in TASKS} == next(
        record["tasks"] for record in records if record["step"] == best["best_step"]
    )


def test_patience_counts_evaluations(backbone: str, tmp_path: Path) -> None:
    # A rate so small that float32 parameters stay: no evaluation after the first is better.
    run(joint(backbone, epochs=50, learning_rate=1e-30, patience=2), tmp_path)
    assert result(tmp_path)["stopped_early"]
    assert [record["step"] for record in history(tmp_path)] == [4, 8, 12]


@pytest.mark.parametrize("method", METHODS)
def test_job_stopped_within_an_epoch_continues_as_if_it_had_not(method: str, backbone: str, tmp_path: Path) -> None:
    config = joint(backbone, method, epochs=2, temperature=2.0, warmup=0.1)
    run(config, tmp_path / "whole")
    with pytest.raises(Stop):
        run(config, tmp_path / "parts", report=stop_after(3))  # step 12 of 18: in the second epoch of 9
    assert not (tmp_path / "parts" / "result.json").exists()
    run(config, tmp_path / "parts")
    assert result(tmp_path / "parts")["scores"] == result(tmp_path / "whole")["scores"]
    losses = [[record["train_loss"] for record in history(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_batches_grouped_by_length_hold_every_row_once_with_little_padding() -> None:
    lengths = [[(row * 37) % 97 + 3 for row in range(1000)]]

    def padding(plans: list[BatchPlan]) -> int:
        return sum(max(lengths[0][row] for row in plan.rows) * len(plan.rows) for plan in plans) - sum(lengths[0])

    plain = epoch_batches([1000], 16, seed=1, epoch=2)
    grouped = epoch_batches([1000], 16, seed=1, epoch=2, lengths=lengths)
    assert sorted(row for plan in grouped for row in plan.rows) == list(range(1000))
    assert len(grouped) == len(plain)
    assert padding(grouped) < padding(plain) / 5
    assert grouped == epoch_batches([1000], 16, seed=1, epoch=2, lengths=lengths)
    assert grouped != epoch_batches([1000], 16, seed=1, epoch=3, lengths=lengths)
