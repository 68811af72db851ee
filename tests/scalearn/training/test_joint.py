"""Joint training: one job that serves several tasks."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from scalearn.config import DataConfig
from scalearn.data import tokenised
from scalearn.passes.batches import BatchPlan, epoch_batches
from scalearn.tasks import benchmark_tasks, definition_of, get_task, own_task
from scalearn.training.learning_rate import learning_rate_factor
from scalearn.training.loop import train
from scalearn.training.pack import PackMember, Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import data, job, run, save_backbone

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


OFFICIAL_TRAIN_ROWS = {
    # What 10 % for validation leaves of the published train splits.
    "glue": {"cola": 8551, "sst2": 67349, "mrpc": 3668, "stsb": 5749, "qqp": 363846, "mnli": 392702, "qnli": 104743, "rte": 2490},
    "super_glue": {"boolq": 9427, "cb": 250, "copa": 400, "multirc": 27243, "rte": 2490, "wic": 5428, "wsc": 554},
}
RECORD_QUERIES, RECORD_PAIRS = 100_730, 1_208_760


@pytest.mark.parametrize(("benchmarks", "share"), [(("super_glue",), 0.71), (("glue", "super_glue"), 0.10)])
def test_record_gets_its_published_share_of_the_batches(benchmarks: tuple[str, ...], share: float) -> None:
    published = {name: rows for each in benchmarks for name, rows in OFFICIAL_TRAIN_ROWS[each].items()}
    others = [rows - -(-rows // 10) for rows in published.values()]
    plans = epoch_batches([*others, RECORD_PAIRS], 32, seed=0, epoch=0, counts=[*others, RECORD_QUERIES])
    drawn = Counter(plan.task for plan in plans)
    for task, count in enumerate([*others, RECORD_QUERIES]):
        assert drawn[task] / len(plans) == pytest.approx(count / (sum(others) + RECORD_QUERIES), abs=0.01)
    assert drawn[len(others)] / len(plans) == pytest.approx(share, abs=0.01)
    assert max(row for plan in plans for row in plan.rows if plan.task == len(others)) > RECORD_QUERIES  # all pairs are drawn from


def test_record_counts_as_its_queries_and_others_as_their_rows(shared: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    def sizes(key: str) -> tuple[int, int]:
        config = DataConfig(key, "test", train_rows=5, evaluation_rows=1)
        task = tokenised(config, tokenizer, "bytes", root=shared / "benchmarks", cache=None)
        return len(task.splits["train"]), task.joint_size

    assert sizes("glue/cola") == sizes("super_glue/multirc") == sizes("super_glue/copa") == (5, 5)
    pairs, counted = sizes("super_glue/record")
    assert counted == 5 < pairs


def test_rows_of_a_task_are_drawn_with_replacement() -> None:
    plans = [plan for plan in epoch_batches([40, 400], 8, seed=3, epoch=0, temperature=100.0) if plan.task == 0]
    assert {len(plan.rows) for plan in plans} == {8}
    first = [row for plan in plans[:5] for row in plan.rows]
    assert len(set(first)) < 40 == len(first)
    # Every row is as likely as the others: of 4,000 draws each gets about 100.
    many = [row for epoch in range(400) for plan in epoch_batches([40, 60], 8, 0, epoch) if plan.task == 0 for row in plan.rows]
    counts = Counter(many)
    assert len(counts) == 40
    assert max(counts.values()) < 1.5 * len(many) / 40


def test_batches_of_several_tasks_grouped_by_length_have_little_padding() -> None:
    lengths = [[(row * 37) % 97 + 3 for row in range(size)] for size in (500, 900)]

    def spread(plans: list[BatchPlan]) -> float:
        each = [[lengths[plan.task][row] for row in plan.rows] for plan in plans]
        return sum(max(batch) - min(batch) for batch in each) / len(each)

    plain, grouped = (epoch_batches([500, 900], 16, 1, 2, lengths=given) for given in (None, lengths))
    assert [len(plan.rows) for plan in grouped] == [16] * len(plain)
    assert spread(grouped) < spread(plain) / 5


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (None, [(1, 9, 5, 6), (4, 3, 8, 0), (2, 7)]),
        ([[9, 1, 8, 2, 7, 3, 6, 4, 5, 5]], [(0, 2, 4, 6), (9, 8, 7, 5), (3, 1)]),
    ],
)
def test_batches_of_one_task_are_those_of_older_results(lengths: list[list[int]] | None, expected: list[tuple[int, ...]]) -> None:
    assert [plan.rows for plan in epoch_batches([10], 4, seed=3, epoch=1, lengths=lengths)] == expected


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


def test_record_is_tested_on_its_validation_rows_and_no_other_published_task_is() -> None:
    keys = {key for name in ("glue", "super_glue", "humset", "domains") for key in benchmark_tasks(name)}
    assert {key for key in keys if get_task(key).splits.tests_on_validation} == {"super_glue/record"}


def test_task_that_is_tested_on_its_validation_rows_selects_only_when_it_is_alone(backbone: str, tmp_path: Path) -> None:
    """Its loss rises, since its labels are turned round; the other task's falls. The mean of both would pick the first evaluation."""
    splits = {"turned": {"validation": "dev", "test": "dev"}, "plain": {"validation": "dev", "test": "test"}}
    configs = []
    for name, published in splits.items():
        directory = tmp_path / "rows" / "mine" / name
        directory.mkdir(parents=True)
        for split in ("train", "dev", "test"):
            first, second = ("b", "a") if name == "turned" and split == "dev" else ("a", "b")
            (directory / f"{split}.csv").write_text("text,label\n" + f"yes yes,{first}\nno,{second}\n" * 12)
        task = own_task(f"mine/{name}", {"columns": "text", "labels": ["a", "b"], "splits": published})
        configs.append(DataConfig(task.key, "files:example", max_length=24, own=definition_of(task)))
    runtime = Runtime(device="cpu", data_root=tmp_path / "rows")
    for name, tasks in {"both": tuple(configs), "alone": tuple(configs[:1])}.items():
        config = job("full_ft_m", tasks, backbone, evaluate_every=4, max_steps=24, epochs=9, learning_rate=1e-2, warmup=0.0)
        (tmp_path / name).mkdir()
        (outcome,) = train([PackMember(config, tmp_path / name, {})], runtime, lambda *_: None)
        assert outcome.error is None
    both = {record["step"]: {key: each["loss"] for key, each in record["tasks"].items()} for record in history(tmp_path / "both")}
    best = min(both, key=lambda step: both[step]["mine/plain"])
    assert result(tmp_path / "both")["best_step"] == best
    assert min(both, key=lambda step: sum(both[step].values())) < best
    alone = {record["step"]: record["validation"]["loss"] for record in history(tmp_path / "alone")}
    assert result(tmp_path / "alone")["best_step"] == min(alone, key=lambda step: alone[step])


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
