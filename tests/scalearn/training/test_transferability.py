"""What is known of sources beforehand: the estimates against plain computations, the job, and jobs that choose by it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from scalearn.backbone.encoder import load_encoder
from scalearn.backbone.registry import get_backbone
from scalearn.config import JobConfig, Measure, OptimisationConfig, SelectConfig
from scalearn.formats.source_adapters import load_source_adapters
from scalearn.tasks import get_task
from scalearn.training.estimates import class_numbers, h_score, logme, target_columns, weight_likeness
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from scalearn.training.transferability import read_measure
from tests.scalearn.helpers.packs import SOURCES
from tests.scalearn.helpers.small import data, job, run

RNG = np.random.default_rng(3)
NAMES = tuple(SOURCES)


@pytest.mark.parametrize("signal", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("shape", [(60, 5), (40, 12)])
def test_logme_is_the_evidence_maximised_directly(signal: float, shape: tuple[int, int]) -> None:
    features = RNG.normal(size=shape)
    target = signal * features[:, 0] + RNG.normal(size=shape[0])

    def minus_evidence(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = features @ features.T / alpha + np.eye(len(target)) / beta
        return -float(stats.multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)) / len(target)

    starts = [
        optimize.minimize(minus_evidence, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
        for start in ([0, 0], [3, 0])
    ]
    assert logme(features, target[:, None]) == pytest.approx(-min(each.fun for each in starts), abs=2e-4)


def test_logme_of_several_classes_is_their_mean_and_prefers_features_that_tell_them_apart() -> None:
    classes = np.repeat([0, 1, 2], 30)
    columns = target_columns(get_task("glue/mnli"), classes)
    assert columns.sum(axis=0).tolist() == [30, 30, 30]
    noise = RNG.normal(size=(90, 6))
    telling = noise + 2 * columns @ RNG.normal(size=(3, 6))
    assert logme(noise, columns) == pytest.approx(np.mean([logme(noise, column[:, None]) for column in columns.T]))
    assert logme(telling, columns) > logme(noise, columns) + 0.1
    assert h_score(telling, classes) > h_score(noise, classes) + 0.5


def test_h_score_is_its_definition() -> None:
    """The shrinkage is Ledoit and Wolf's, written out: their b2 / d2, with the mean variance as the target."""
    features, classes = RNG.normal(size=(50, 4)) @ np.diag([3.0, 1.0, 0.5, 0.2]), RNG.integers(0, 3, size=50)
    centred = features - features.mean(axis=0)
    empirical = centred.T @ centred / 50
    target = np.trace(empirical) / 4 * np.eye(4)
    distance = ((empirical - target) ** 2).sum()
    scatter = sum(((np.outer(row, row) - empirical) ** 2).sum() for row in centred) / 50**2
    shrinkage = min(scatter, distance) / distance
    conditional = np.array([centred[classes == each].mean(axis=0) for each in classes])
    shrunk = (1 - shrinkage) * empirical + shrinkage * target
    expected = np.trace(np.linalg.inv(shrunk) @ ((1 - shrinkage) * conditional.T @ conditional / 50))
    assert h_score(features, classes) == pytest.approx(expected)


def test_h_score_of_many_rows_is_that_without_shrinkage() -> None:
    features, classes = RNG.normal(size=(20_000, 3)) * [1.0, 2.0, 3.0], RNG.integers(0, 2, size=20_000)
    features[:, 0] += classes
    conditional = np.array([features[classes == each].mean(axis=0) for each in (0, 1)])[classes]
    plain = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ np.cov(conditional.T, bias=True))
    assert h_score(features, classes) == pytest.approx(plain, rel=0.01)


def test_h_score_tells_features_apart_that_are_wider_than_the_rows_are_many() -> None:
    classes = np.arange(40) % 4
    noise = RNG.normal(size=(40, 100))
    telling = noise + 2 * RNG.normal(size=(4, 100))[classes]
    assert h_score(telling, classes) > h_score(noise, classes) + 0.5
    assert h_score(np.ones((40, 100)), classes) == 0.0


def test_h_score_of_a_regression_is_that_of_its_quarters() -> None:
    values = np.arange(8.0)
    assert class_numbers(get_task("glue/stsb"), values)[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert target_columns(get_task("glue/stsb"), values).tolist() == [[value] for value in values]


@pytest.fixture(scope="module")
def trained(backbone: str, parents: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sources, the similarity of their texts, and what is known of them for the first."""
    root = tmp_path_factory.mktemp("transferability")
    places = {name: parents[name] for name in NAMES}
    like = replace(_config(backbone), stage="similarity", method="sentence_similarity", settings={"rows": 12}, sources=())
    places["similarity"] = root / "similarity"
    assert run(replace(like, data=tuple(data(f"domains/{name}") for name in NAMES)), root / "similarity").error is None
    assert run(_config(backbone), root / "job", places).error is None
    return places | {"transferability": root / "job"}


def _config(backbone: str) -> JobConfig:
    origin, optimisation = get_backbone(backbone).origin, OptimisationConfig(learning_rate=0.0, epochs=1)
    first = data(f"domains/{NAMES[0]}")
    return JobConfig("domains", "transferability", "transferability", (first,), backbone, origin, optimisation, seed=0, sources=NAMES)


def _transfer(backbone: str, sources: tuple[str, ...] = NAMES) -> JobConfig:
    return job("scalearn_uniform_pp", (data(f"domains/{NAMES[0]}"),), backbone, sources=sources, epochs=2)


def test_job_rates_every_source_by_every_measure_and_keeps_the_seconds(trained: dict[str, Path]) -> None:
    table = json.loads((trained["transferability"] / "transferability.json").read_text())
    assert set(table["measures"]) == set(NAMES)
    assert all(set(rated) == {"logme", "h_score", "text", "weights"} for rated in table["measures"].values())
    assert all(np.isfinite(list(rated.values())).all() for rated in table["measures"].values())
    assert table["measures"][NAMES[0]]["weights"] == pytest.approx(1.0)
    assert table["measures"][NAMES[0]]["text"] == pytest.approx(1.0)
    assert max(rated["text"] for rated in table["measures"].values()) <= 1 + 1e-9
    assert set(table["seconds"]) == {"features", "logme", "h_score", "weights", "text"}
    assert all(seconds > 0 for seconds in table["seconds"].values())
    assert table["rows"] == 24


def test_likeness_of_weights_is_the_cosine_of_the_maps_written_out(trained: dict[str, Path], backbone: str) -> None:
    encoder = load_encoder(get_backbone(backbone))
    sources = load_source_adapters(encoder, {name: trained[name] for name in NAMES})
    maps = []
    for place in range(len(NAMES)):
        parts = []
        for stack in sources.stacks:
            width = stack.up_weight.shape[2]
            parts.append((stack.up_weight[:, place] @ stack.down_weight[place * width : (place + 1) * width]).flatten())
        maps.append(torch.cat(parts).double())
    expected = torch.stack([torch.stack([torch.nn.functional.cosine_similarity(a, b, dim=0) for b in maps]) for a in maps])
    torch.testing.assert_close(weight_likeness(sources), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", get_args(Measure))
def test_job_that_selects_is_the_job_on_the_sources_rated_highest(
    measure: Measure, trained: dict[str, Path], backbone: str, tmp_path: Path
) -> None:
    ratings = read_measure(trained["transferability"], measure, NAMES)
    chosen = (max(NAMES, key=lambda name: ratings[name]),)
    selects, named = tmp_path / "selects", tmp_path / "named"
    assert run(replace(_transfer(backbone), select=SelectConfig(measure, 1)), selects, trained).error is None
    assert run(_transfer(backbone, chosen), named, trained).error is None
    ours, theirs = (json.loads((place / "result.json").read_text()) for place in (selects, named))
    assert ours["selected"] == list(chosen)
    assert ours["scores"] == theirs["scores"]
    assert ours["parameters"] == theirs["parameters"]
    assert json.loads((selects / "transfer" / "transfer_config.json").read_text())["sources"] == list(chosen)


def test_job_whose_ratings_are_damaged_fails_with_one_sentence_and_alone(trained: dict[str, Path], backbone: str, tmp_path: Path) -> None:
    places = {**trained, "transferability": tmp_path / "ratings"}
    places["transferability"].mkdir()
    (places["transferability"] / "transferability.json").write_text('{"measures": {"apple": {}}}')
    configs = [replace(_transfer(backbone), select=SelectConfig("logme", 1)), _transfer(backbone)]
    members = [PackMember(config, tmp_path / str(place), places) for place, config in enumerate(configs)]
    for member in members:
        member.directory.mkdir()
    broken, whole = train(members, Runtime(device="cpu"), lambda member, record: None)
    assert whole.error is None
    assert broken.member is members[0]
    assert "does not say 'logme' of every source" in str(broken.error)
