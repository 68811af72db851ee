"""How similar tasks are: the formula, and the job."""

import csv
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.data import load_task
from scalearn.errors import UserError
from scalearn.tasks import get_task
from scalearn.tasks.origin import data_origin
from scalearn.training.similarity import mean_similarity, read_similarity, task_texts
from tests.scalearn.helpers.small import data, run, save_backbone

TASKS = ("domains/apple", "domains/coachella")


@pytest.fixture
def config(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> JobConfig:
    backbone = save_backbone(tmp_path / "backbone", tokenizer)
    return JobConfig(
        "domains",
        "similarity",
        "sentence_similarity",
        tuple(data(task, max_length=48) for task in TASKS),
        backbone,
        get_backbone(backbone).origin,
        OptimisationConfig(learning_rate=0.0),
        seed=0,
        settings={"rows": 10},
    )


def test_mean_of_all_pairs_is_the_product_of_mean_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = [functional.normalize(torch.randn(count, 16, generator=generator).double() + 0.3, dim=1) for count in (5, 9, 1)]
    fast = mean_similarity(torch.stack([embeddings.mean(dim=0) for embeddings in tasks]))
    for row, ours in enumerate(tasks):
        for column, theirs in enumerate(tasks):
            pairs = [float(functional.cosine_similarity(a, b, dim=0)) for a in ours for b in theirs]
            assert float(fast[row, column]) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_similarity_job_leaves_a_table_for_jobs_and_for_people(config: JobConfig, tmp_path: Path) -> None:
    assert run(config, tmp_path / "job").error is None
    table = json.loads((tmp_path / "job" / "similarity.json").read_text())
    line = read_similarity(tmp_path / "job", "domains/apple")
    assert table["rows"] == dict.fromkeys(TASKS, 10)
    assert set(line) == {"apple", "coachella"}
    assert line["coachella"] == pytest.approx(read_similarity(tmp_path / "job", "domains/coachella")["apple"])
    rows = list(csv.reader((tmp_path / "job" / "similarity.csv").read_text().splitlines()))
    assert rows[0] == ["target", *TASKS]
    assert float(rows[1][2]) == pytest.approx(line["coachella"], abs=1e-6)
    assert json.loads((tmp_path / "job" / "result.json").read_text())["scores"] == {}


def test_similarity_job_without_its_encoder_fails_with_one_sentence(config: JobConfig, tmp_path: Path) -> None:
    absent = JobConfig(**{**vars(config), "backbone": "someone/absent", "backbone_origin": "hub:someone/absent@main"})
    outcome = run(absent, tmp_path / "job")
    assert outcome.error is not None
    assert "someone/absent" in outcome.error


def test_table_without_the_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / "similarity.json").write_text('{"similarity": {}}')
    with pytest.raises(UserError, match="domains/apple"):
        read_similarity(tmp_path, "domains/apple")


def test_texts_of_pairs_are_joined_by_a_space(shared: Path) -> None:
    root = shared / "benchmarks"
    config = DataConfig("glue/rte", data_origin(get_task("glue/rte"), root))
    pairs = {f"{row['sentence1']} {row['sentence2']}" for row in load_task(config, root=root).train}
    texts = task_texts(config, rows=30, root=root)
    assert len(set(texts)) == 30
    assert set(texts) <= pairs
