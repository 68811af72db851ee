"""A job in a pack is the job alone: bit for bit where jobs take turns, and but for rounding, in fp32, where they share passes.

It is compared in losses and gradients at every step, in predictions and in weights.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerFast

from scalearn.config import JobConfig
from scalearn.passes import evaluation
from scalearn.training import loop as training
from scalearn.training.pack import PackMember, Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.packs import stop_at
from tests.scalearn.helpers.small import data, job, run, save_backbone

SOURCES = ("apple", "coachella", "airlines")
TARGET = (data("domains/apple"),)
FEW_SHOT = (data("domains/apple", train_rows=None, few_shot=24),)
"""As many rows of the same task, but others."""
TOLERANCE = 1e-5
SHARED = Runtime(device="cpu", shared_passes=True)

MIXED: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("scalearn", {"omega_dropout": 0.3}, {"learning_rate": 6e-3}),
    ("scalearn", {"omega_dropout": 0.0}, {"learning_rate": 2e-2, "max_gradient_norm": None}),
    ("scalearn_uniform", {}, {"learning_rate": 6e-3, "weight_decay": 0.1}),
    ("scalearn_pp", {}, {"learning_rate": 3e-3, "warmup": 0.5}),
    ("scalearn_uniform_pp", {}, {"learning_rate": 6e-3}),
    ("scalearn_softmax", {}, {"learning_rate": 1e-2}),
    ("adapterfusion", {}, {"learning_rate": 5e-5}),
    ("scalearn_fixed", {"omega": (0.3, 0.0, 0.9)}, {"learning_rate": 6e-3}),
    ("source_average", {}, {"learning_rate": 6e-3}),
    ("task_arithmetic", {}, {"learning_rate": 6e-3}),
    ("ties", {}, {"learning_rate": 2e-2}),
    ("dare_ties", {"density": 0.5}, {"learning_rate": 6e-3}),
    ("lorahub", {"search_rows": 12, "search_evaluations": 10}, {"learning_rate": 1e-2}),
    ("scalearn_gated", {}, {"learning_rate": 6e-3, "weight_decay": 0.1}),
    ("sources_unfrozen", {}, {"learning_rate": 3e-3}),
)
"""Variants, ablations, AdapterFusion, a probe and other compositions, with different rates, settings and, by position, seeds; the fifth on
few-shot rows."""


@dataclass
class Course:
    """What one job went through."""

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    predictions: list[tuple[str, Tensor]] = field(default_factory=list)
    """Split and logits, evaluation by evaluation."""


@pytest.fixture
def courses(monkeypatch: pytest.MonkeyPatch) -> dict[Path, Course]:
    """Every job's losses and gradients before each update, and its logits at each evaluation, by its directory."""
    seen: dict[Path, Course] = defaultdict(Course)
    update = training._PackTrainer._update

    def watched(self: training._PackTrainer, step_losses: dict[int, float]) -> None:
        for active in self.active:
            course = seen[active.member.directory]
            course.losses.append(step_losses[id(active)])
            course.gradients.append({name: value.grad.clone() for name, value in active.learned().items() if value.grad is not None})
        update(self, step_losses)

    scored = evaluation._scores

    def judged(job: Any, split: str, collected: Any) -> Any:
        logits = torch.from_numpy(np.concatenate([values for _, values, _ in collected[id(job), 0]]))
        seen[job.member.directory].predictions.append((split, logits))
        return scored(job, split, collected)

    monkeypatch.setattr(training._PackTrainer, "_update", watched)
    monkeypatch.setattr(evaluation, "_scores", judged)
    return seen


@pytest.fixture(scope="module", params=["dropout off", "dropout on"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    directory = tmp_path_factory.mktemp("backbone")
    save_backbone(directory, tokenizer)
    config = AutoConfig.from_pretrained(directory)
    if request.param == "dropout off":
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def parents(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        assert run(job("adapter", (data(f"domains/{name}"),), backbone, learning_rate=1e-2), root / name).error is None
    return {name: root / name for name in SOURCES}


def mixed_jobs(backbone: str) -> list[JobConfig]:
    return [
        job(method, FEW_SHOT if seed == 4 else TARGET, backbone, settings, seed, SOURCES, **{"epochs": 2, "patience": None, **optimisation})
        for seed, (method, settings, optimisation) in enumerate(MIXED)
    ]


def train_pack(configs: Sequence[JobConfig], root: Path, parents: Mapping[str, Path]) -> list[Path]:
    directories = [root / str(number) for number in range(len(configs))]
    train_in(dict(zip(directories, configs, strict=True)), parents)
    return directories


def train_in(configs: Mapping[Path, JobConfig], parents: Mapping[str, Path], report: Any = lambda *_: None, shared: bool = True) -> None:
    """Trains as one pack, every job in its directory; on a CPU only this test has jobs share passes."""
    for directory in configs:
        directory.mkdir(parents=True, exist_ok=True)
    outcomes = training.train(
        [PackMember(config, directory, parents) for directory, config in configs.items()],
        Runtime(device="cpu", shared_passes=shared),
        report,
    )
    assert [outcome.error for outcome in outcomes] == [None] * len(configs)


def assert_equal(mine: Path, theirs: Path, courses: Mapping[Path, Course]) -> None:
    assert courses[mine].losses == pytest.approx(courses[theirs].losses, rel=TOLERANCE)
    for step, (ours, other) in enumerate(zip(courses[mine].gradients, courses[theirs].gradients, strict=True)):
        assert ours.keys() == other.keys()
        for name, gradient in ours.items():
            assert distance(gradient, other[name]) < TOLERANCE, f"gradient of {name} at step {step}"
    for (split, ours), (same, theirs_) in zip(courses[mine].predictions, courses[theirs].predictions, strict=True):
        assert split == same
        assert distance(ours, theirs_) < TOLERANCE, f"predictions on {split}"
    for name, tensor in weights(mine).items():
        assert distance(tensor, weights(theirs)[name]) < TOLERANCE, name
    scores, others = (json.loads((path / "result.json").read_text())["scores"] for path in (mine, theirs))
    for task, splits in scores.items():
        for split, values in splits.items():
            assert values == pytest.approx(others[task][split], rel=TOLERANCE), f"{task} {split}"


def distance(left: Tensor, right: Tensor) -> float:
    """Norm of the difference, relative to the norm; what is rounding altogether is compared as it is."""
    return float((left - right).norm() / right.norm().clamp(min=1e-6))


def weights(directory: Path) -> dict[str, Tensor]:
    files = [path for path in directory.rglob("*.safetensors") if "checkpoint" not in path.parts]
    return {f"{path.name}/{name}": tensor for path in files for name, tensor in load_file(path).items()}


def test_mixed_jobs_go_the_same_way_packed_and_alone(
    backbone: str, parents: Mapping[str, Path], courses: dict[Path, Course], tmp_path: Path
) -> None:
    configs = mixed_jobs(backbone)
    packed = train_pack(configs, tmp_path / "pack", parents)
    for number, (config, directory) in enumerate(zip(configs, packed, strict=True)):
        (alone,) = train_pack([config], tmp_path / f"alone{number}", parents)
        assert len(courses[alone].losses) == 6
        assert_equal(directory, alone, courses)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_jobs_that_take_turns_end_with_the_bits_of_each_alone(
    precision: str, backbone: str, parents: Mapping[str, Path], courses: dict[Path, Course], tmp_path: Path
) -> None:
    """Sources and transfer jobs of other tasks, lengths and batch sizes, in an order in which each has other neighbours."""
    configs = [replace(config, optimisation=replace(config.optimisation, precision=precision)) for config in mixed_jobs(backbone)]
    configs += [
        job("adapter", (data(f"domains/{task}", train_rows=rows),), backbone, seed=9, epochs=2, batch_size=size, precision=precision)
        for task, rows, size in (("coachella", 24, 8), ("bbc", 16, 5))
    ]
    packed = {tmp_path / "pack" / str(number): config for number, config in enumerate(configs)}
    train_in(packed, parents, shared=False)
    for directory, config in reversed(packed.items()):
        alone = tmp_path / "alone" / directory.name
        train_in({alone: config}, parents, shared=False)
        assert_same_bits(directory, alone, courses)


def assert_same_bits(mine: Path, theirs: Path, courses: Mapping[Path, Course]) -> None:
    assert courses[mine].losses == courses[theirs].losses
    for ours, other in zip(courses[mine].gradients, courses[theirs].gradients, strict=True):
        assert ours.keys() == other.keys()
        assert all(torch.equal(gradient, other[name]) for name, gradient in ours.items())
    for (split, ours_), (same, theirs_) in zip(courses[mine].predictions, courses[theirs].predictions, strict=True):
        assert split == same
        assert torch.equal(ours_, theirs_)
    assert weights(mine).keys() == weights(theirs).keys()
    assert all(torch.equal(tensor, weights(theirs)[name]) for name, tensor in weights(mine).items())
    assert json.loads((mine / "result.json").read_text())["scores"] == json.loads((theirs / "result.json").read_text())["scores"]


def test_jobs_whose_target_adapters_saw_other_rows_go_the_same_way_packed_and_alone(
    backbone: str, parents: Mapping[str, Path], courses: dict[Path, Course], tmp_path: Path
) -> None:
    """What a few-shot sweep packs: sources of the same tasks, the target's own trained on as many rows as each job has."""
    few = {**parents, "apple": tmp_path / "few"}
    assert run(job("adapter", FEW_SHOT, backbone, learning_rate=1e-2), few["apple"]).error is None
    assert max(distance(tensor, weights(parents["apple"])[name]) for name, tensor in weights(few["apple"]).items()) > 0.01
    kinds = [("scalearn", TARGET, parents), ("scalearn", FEW_SHOT, few), ("adapterfusion", FEW_SHOT, few), ("scalearn_pp", TARGET, parents)]
    members = []
    for seed, (method, rows, sources) in enumerate(kinds):
        for name in ("pack", "alone"):
            (tmp_path / name / str(seed)).mkdir(parents=True)
        config = job(method, rows, backbone, {}, seed, SOURCES, epochs=2, patience=None, learning_rate=5e-3)
        members.append(PackMember(config, tmp_path / "pack" / str(seed), sources))
    assert [outcome.error for outcome in training.train(members, SHARED, lambda *_: None)] == [None] * 4
    for member in members:
        alone = tmp_path / "alone" / member.directory.name
        assert [outcome.error for outcome in training.train([replace(member, directory=alone)], SHARED, lambda *_: None)] == [None]
        assert_equal(member.directory, alone, courses)


def test_neighbours_do_not_matter(backbone: str, parents: Mapping[str, Path], courses: dict[Path, Course], tmp_path: Path) -> None:
    jobs = mixed_jobs(backbone)
    first = train_pack([jobs[0], jobs[6], jobs[3]], tmp_path / "first", parents)[0]
    other = train_pack([jobs[7], jobs[1], jobs[0], jobs[2], jobs[4]], tmp_path / "other", parents)[2]
    assert_equal(first, other, courses)


def test_stopped_pack_resumes_job_by_job_among_other_neighbours(
    backbone: str, parents: Mapping[str, Path], courses: dict[Path, Course], tmp_path: Path
) -> None:
    first, second, third, other = (mixed_jobs(backbone)[number] for number in (0, 6, 4, 3))
    with pytest.raises(Stop):
        train_in({tmp_path / "first": first, tmp_path / "second": second, tmp_path / "third": third}, parents, stop_at(3))
    train_in({tmp_path / "other": other, tmp_path / "first": first}, parents)
    train_in({tmp_path / "third": third}, parents)
    for name, config in {"first": first, "third": third, "other": other}.items():
        train_in({tmp_path / f"{name} alone": config}, parents)
        assert len(courses[tmp_path / name].losses) == 6
        assert_equal(tmp_path / name, tmp_path / f"{name} alone", courses)


def test_source_adapters_of_several_tasks_pack(backbone: str, courses: dict[Path, Course], tmp_path: Path) -> None:
    configs = [
        job("adapter", (data(f"domains/{task}", train_rows=rows),), backbone, seed=seed, learning_rate=rate, patience=None, epochs=2)
        for task, seed, rate, rows in (("apple", 0, 1e-3, 24), ("coachella", 1, 3e-4, 40), ("bbc", 0, 1e-3, 16), ("apple", 2, 1e-2, 24))
    ]
    packed = train_pack(configs, tmp_path / "pack", {})
    for number, (config, directory) in enumerate(zip(configs, packed, strict=True)):
        (alone,) = train_pack([config], tmp_path / f"alone{number}", {})
        assert_equal(directory, alone, courses)
    assert [len(courses[directory].losses) for directory in packed] == [6, 10, 4, 6]  # each leaves after its own last step


def test_first_losses_over_many_seeds_are_the_same_packed_and_alone(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    configs = [job("scalearn", TARGET, backbone, {}, seed, SOURCES, max_steps=1, epochs=1, patience=None) for seed in range(12)]
    packed = train_pack(configs, tmp_path / "pack", parents)
    alone = [train_pack([config], tmp_path / f"alone{number}", parents)[0] for number, config in enumerate(configs)]
    ours, theirs = (torch.tensor([history_loss(path) for path in paths]) for paths in (packed, alone))
    assert torch.allclose(ours, theirs, rtol=TOLERANCE)
    assert ours.unique().numel() == 12


def history_loss(directory: Path) -> float:
    (line,) = (directory / "history.jsonl").read_text().splitlines()
    return float(json.loads(line)["train_loss"])
