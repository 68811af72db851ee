"""Loading from a hub on the loopback interface, and again without it."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from scalearn.tasks.hub_table import CONVERSION, HUB

TEXT, INT = Value("string"), Value("int32")


def texts(*names: str, **rest: Any) -> Features:
    return Features({**dict.fromkeys(names, TEXT), **rest})


SCHEMAS: dict[str, tuple[Features, Callable[[int], dict[str, Any]]]] = {
    "glue/cola": (texts("sentence", label=ClassLabel(2), idx=INT), lambda n: {"sentence": f"Sentence {n}.", "label": n % 2, "idx": n}),
    "glue/rte": (
        texts("sentence1", "sentence2", label=ClassLabel(names=["entailment", "not_entailment"])),
        lambda n: {"sentence1": f"Premise {n}.", "sentence2": f"Hypothesis {n}.", "label": n % 2},
    ),
    "glue/stsb": (
        texts("sentence1", "sentence2", label=Value("float32")),
        lambda n: {"sentence1": f"One {n}.", "sentence2": f"Two {n}.", "label": n / 10},
    ),
    "super_glue/copa": (
        texts("premise", "choice1", "choice2", "question", label=ClassLabel(names=["choice1", "choice2"])),
        lambda n: {"premise": f"P {n}.", "choice1": "A.", "choice2": "B.", "question": ("cause", "effect")[n % 2], "label": n // 2 % 2},
    ),
    "super_glue/multirc": (
        texts(
            "paragraph",
            "question",
            "answer",
            idx={"paragraph": INT, "question": INT, "answer": INT},
            label=ClassLabel(names=["False", "True"]),
        ),
        lambda n: {
            "paragraph": "Text.",
            "question": f"Q {n // 4}?",
            "answer": f"A {n}",
            "idx": {"paragraph": 0, "question": n // 4, "answer": n},
            "label": n % 2,
        },
    ),
    "super_glue/record": (
        texts("passage", "query", entities=List(TEXT), answers=List(TEXT)),
        lambda n: {
            "passage": "Ann met Bo.\n@highlight\nIt rained.",
            "query": "@placeholder smiled.",
            "entities": ["Ann", "Bo"],
            "answers": ["Bo"],
        },
    ),
    "humset/sectors": (
        texts("excerpt", sectors=List(ClassLabel(names=["Health", "WASH"]))),
        lambda n: {"excerpt": f"Excerpt {n}", "sectors": [[], [0], [0, 1]][n % 3]},
    ),
}

PROGRAM = """
import json, sys
from pathlib import Path
from scalearn.config import DataConfig
from scalearn.data import load_task
from scalearn.errors import UserError
from scalearn.tasks import get_task
from scalearn.tasks.origin import data_origin
found = {}
for key in sys.argv[1:]:
    if "@" in key:
        from scalearn.backbone.registry import get_backbone
        from scalearn.backbone.encoder import load_encoder, load_tokenizer
        backbone = get_backbone(key)
        ids = load_tokenizer(backbone)("hello")["input_ids"]
        found[key] = [len(ids), sum(p.numel() for p in load_encoder(backbone).parameters())]
    else:
        try:
            splits = load_task(DataConfig(key, data_origin(get_task(key), None)), root=None)
            found[key] = {name: rows.to_list() for name, rows in splits.splits.items()}
        except UserError as error:
            found[key] = str(error)
print(json.dumps(found))
"""


def parquet(features: Features, make: Callable[[int], dict[str, Any]], count: int) -> bytes:
    buffer = io.BytesIO()
    Dataset.from_list([make(number) for number in range(count)], features=features).to_parquet(buffer)
    return buffer.getvalue()


def serve(hub: Any, key: str, revision: str, layout: str, splits: Mapping[str, int]) -> None:
    benchmark, _, name = key.partition("/")
    for split, count in splits.items():
        path = layout.format(config="1.0.0" if benchmark == "humset" else name, split=split)
        hub.put(f"datasets/{HUB[benchmark].name}", revision, path, parquet(*SCHEMAS[key], count))


def run(environment: dict[str, str], *keys: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *keys], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_every_kind_and_a_model_load_from_the_hub_and_again_offline(
    hub: Any, hub_environment: Callable[..., dict[str, str]], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for key in SCHEMAS:
        if key.startswith("humset"):
            serve(hub, key, CONVERSION, "{config}/{split}/0000.parquet", {"train": 30, "validation": 6, "test": 9})
        else:
            revision = HUB[key.partition("/")[0]].revision
            serve(hub, key, revision, "{config}/{split}-00000-of-00001.parquet", {"train": 40, "validation": 10, "test": 3})
    config = BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        hub.put("someone/tiny", "v1", path.name, path.read_bytes())

    keys = [*SCHEMAS, "someone/tiny@v1"]
    online = run(hub_environment(hub.endpoint), *keys)
    assert online.returncode == 0, online.stderr[-3000:]
    found = json.loads(online.stdout)
    assert {key: [len(rows) for rows in found[key].values()] for key in SCHEMAS} == {
        **{key: [36, 4, 10] for key in SCHEMAS},
        "super_glue/record": [40, 10, 10],
        "humset/sectors": [30, 6, 9],
    }
    assert found["someone/tiny@v1"][0] == len("hello") + 2

    hub.server.shutdown()
    hub.server.server_close()
    requests = len(hub.requests)
    offline = run(hub_environment(hub.endpoint, offline=True), *keys)
    assert offline.returncode == 0, offline.stderr[-3000:]
    assert json.loads(offline.stdout) == found
    assert len(hub.requests) == requests


def test_conversion_is_read_where_a_revision_has_no_parquet_and_what_is_lacking_is_one_sentence(
    hub: Any, hub_environment: Callable[..., dict[str, str]]
) -> None:
    hub.put("datasets/aps/super_glue", HUB["super_glue"].revision, "super_glue.py", b"raise RuntimeError('a script')")
    serve(hub, "super_glue/copa", CONVERSION, "{config}/super_glue-{split}.parquet", {"train": 40, "validation": 10})
    serve(hub, "glue/rte", HUB["glue"].revision, "{config}/{split}-00000-of-00001.parquet", {"train": 40})
    done = run(hub_environment(hub.endpoint), "super_glue/copa", "glue/rte", "humset/sectors")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found["super_glue/copa"]["test"]) == 10
    assert "Task glue/rte: data set nyu-mll/glue" in found["glue/rte"]
    assert "has no files for configuration rte, split validation" in found["glue/rte"]
    assert found["humset/sectors"].startswith("Task humset/sectors: the hub has no data set nlp-thedeep/humset at revision")


@pytest.mark.parametrize("offline", [False, True])
def test_hub_out_of_reach_is_one_sentence(offline: bool, hub: Any, hub_environment: Callable[..., dict[str, str]]) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    done = run(hub_environment(hub.endpoint, offline=offline), "glue/rte")
    assert done.returncode == 0, done.stderr[-3000:]
    sentence = json.loads(done.stdout)["glue/rte"]
    assert sentence.startswith("Task glue/rte: data set nyu-mll/glue is not in the local cache")
    assert "set data.root to a directory that holds glue/rte/<split>.parquet" in sentence
    assert "\n" not in sentence
