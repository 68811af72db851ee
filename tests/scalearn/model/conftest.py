"""A small backbone that the tests of saved jobs share."""

import pytest
from transformers import PreTrainedTokenizerFast

from scalearn.model.model import LoadedBackbone, load_backbone
from tests.scalearn.helpers.small import save_backbone


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def backbone(place: str) -> LoadedBackbone:
    return load_backbone(place)
