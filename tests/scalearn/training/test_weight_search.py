"""LoraHub's search: what it reads, what it finds, and that a stopped one begins anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import scalearn
from scalearn.training import weight_search
from scalearn.training.loop import train
from scalearn.training.pack import PackMember, Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.packs import history, result, weights
from tests.scalearn.helpers.small import data, job, run, save_backbone

SOURCES = ("apple", "coachella")
TASK = (data("domains/apple"),)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def places(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        assert run(job("adapter", (data(f"domains/{name}"),), backbone, learning_rate=3e-2, epochs=2), root / name).error is None
    return {name: root / name for name in SOURCES}


def searching(backbone: str, task: Any = TASK, **settings: Any) -> Any:
    return job("lorahub", task, backbone, settings, 0, SOURCES, learning_rate=1e-2, epochs=4, patience=None)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[float, ...], float]]:
    """All weights that were compared, with their losses."""
    seen: list[tuple[tuple[float, ...], float]] = []
    loss = weight_search._loss

    def watched(encoder: Any, batches: Any, *rest: Any) -> float:
        found = loss(encoder, batches, *rest)
        seen.append((tuple(batches[0].run.branch.source_weights.values.tolist()), found))
        return found

    monkeypatch.setattr(weight_search, "_loss", watched)
    return seen


def test_search_keeps_the_weights_of_the_lowest_loss_and_size(
    backbone: str, places: dict[str, Path], tried: list[tuple[tuple[float, ...], float]], tmp_path: Path
) -> None:
    assert run(searching(backbone, search_evaluations=15, search_l1=0.2), tmp_path, places).error is None
    assert tried[0][0] == (0.5, 0.5)
    assert 5 < len(tried) <= 15
    totals = [loss + 0.2 * float(np.abs(point).sum()) for point, loss in tried]
    best = tried[int(np.argmin(totals))][0]
    found = result(tmp_path)["source_weights"]
    assert list(found.values()) == pytest.approx(best, abs=1e-6)
    assert min(totals) < totals[0]
    sources = scalearn.load_source_adapters(scalearn.load_backbone(backbone).encoder, places)
    saved = next(tensor for name, tensor in weights(tmp_path).items() if name.endswith("0.output.adapters.apple.adapter_up.weight"))
    expected = torch.einsum("t,dtr->dr", torch.tensor(list(found.values())), sources.stacks[0].up_weight)
    torch.testing.assert_close(saved, expected)


def test_search_reads_training_rows_alone(
    backbone: str, places: dict[str, Path], tried: list[tuple[tuple[float, ...], float]], tmp_path: Path
) -> None:
    assert run(searching(backbone), tmp_path / "some", places).error is None
    first = list(tried)
    tried.clear()
    fewer = (data("domains/apple", evaluation_rows=4),)
    assert run(searching(backbone, fewer), tmp_path / "fewer", places).error is None
    assert tried == first


@pytest.mark.parametrize(
    ("few", "schedule"),
    [(4, {"epochs": 300, "max_steps": 300, "patience": 2, "learning_rate": 3e-4, "selection": "metric"}), (None, {"max_steps": 1})],
    ids=["patience ends before a tenth of the steps", "one step"],
)
def test_no_job_ends_with_weights_that_were_not_searched(
    few: int | None, schedule: dict[str, Any], backbone: str, places: dict[str, Path], tmp_path: Path
) -> None:
    task = (data("domains/apple", train_rows=None if few else 8, few_shot=few),)
    config = job("lorahub", task, backbone, {"search_evaluations": 5}, 0, SOURCES, **{"learning_rate": 1e-2, **schedule})
    assert run(config, tmp_path, places).error is None
    assert set(result(tmp_path)["source_weights"].values()) != {0.5}


def test_stopped_search_begins_anew_and_ends_with_the_same_bits(
    backbone: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, calls = searching(backbone), iter(range(10**6))
    assert run(config, tmp_path / "whole", places).error is None
    member = PackMember(config, tmp_path / "parts", places)
    member.directory.mkdir()
    searches = weight_search._loss

    def stops(*given: Any) -> float:
        if next(calls) == 9:
            raise Stop
        return searches(*given)

    monkeypatch.setattr(weight_search, "_loss", stops)
    with pytest.raises(Stop):
        train([member], Runtime(device="cpu"), lambda *_: None)
    assert next(calls) == 10
    assert run(replace(config), member.directory, places).error is None
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert result(tmp_path / "parts")["source_weights"] == result(tmp_path / "whole")["source_weights"]
    assert [line["validation"] for line in history(tmp_path / "parts")] == [line["validation"] for line in history(tmp_path / "whole")]
