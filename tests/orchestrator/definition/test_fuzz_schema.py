"""Whatever a sweep file holds, as long as it is YAML: it gives a sweep and its graph, or one line for each thing that is wrong."""

import json
import typing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.definition.explain import _model_in
from orchestrator.definition.graph import Graph
from orchestrator.definition.schema import SweepSchema
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError
from scalearn.methods.registry import METHODS

GOOD: dict[str, Any] = {
    "name": "good",
    "benchmark": "domains",
    "backbone": "minilm",
    "targets": ["apple"],
    "sources": {"tasks": ["apple", "bbc"]},
    "methods": {"scalearn": {}},
}
ODD_TEXT = [
    *(
        "",
        " ",
        ".",
        "..",
        "../..",
        "../x",
        "/",
        "/etc/passwd",
        "~",
        "~root",
        "a/b",
        "a\\b",
        "C:\\x",
        "-",
        "--set",
        "con",
        "x" * 300,
        "x" * 5000,
    ),
    *("é", "e\u0301", "\u202egpj", "\ufeff", "\u0000", "\ud7ff", "\U0001f600", "a\nb", "a\tb", "%s", "{0}", "${HOME}", "$(id)", "`id`"),
    *("!!python/object", "*a", "&a", "<<", "null", "true", "nan", ".inf", "1e999", "0x10", "8 GiB", "1 PB", "9" * 30),
    *("apple", "bbc", "domains/apple", "glue/rte", "target", "default", "asha", "auto", "loss", "minilm", "roberta-base", "s3://bucket/x"),
]
ODD_NUMBERS = [0, -1, 1, 2, 3, 0.5, 1.5, -0.0, 1e-300, 1e308, 2**31, 2**32, 2**63, 10**18, 1e-9, 4096, 8192, 8193]
SCALARS = st.none() | st.booleans() | st.sampled_from(ODD_NUMBERS) | st.sampled_from(ODD_TEXT) | st.text(max_size=10)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD_TEXT) | st.text(max_size=6), inner, max_size=3)
)


def like(model: type[BaseModel], depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that mostly have a model's keys, some of them misspelt, with values that mostly have the right shape."""
    fields = {name: value_like(field.annotation, depth) for name, field in model.model_fields.items()}
    chosen = st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
    known = chosen.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in names}))
    misspelt = st.dictionaries(st.sampled_from([f"{name}s" for name in fields] + [name[1:] for name in fields]), SCALARS, max_size=1)
    return st.one_of(known, known, known, st.tuples(known, misspelt).map(lambda pair: {**pair[0], **pair[1]}))


def value_like(annotation: Any, depth: int) -> st.SearchStrategy[Any]:
    model = _model_in(annotation)
    if model is None or depth > 2:
        return ANYTHING
    block = like(model, depth + 1)
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)) and "dict" in str(
        typing.get_origin(annotation) or annotation
    ):
        names = st.sampled_from([*METHODS, "apple", "bbc", "domains/bbc"]) | st.sampled_from(ODD_TEXT)
        return st.one_of(st.dictionaries(names, block | st.lists(block, max_size=2), max_size=2), ANYTHING)
    return st.one_of(block, block, ANYTHING)


def outcome(document: dict[str, Any]) -> str:
    """Return what became of a document; any exception but the user's own is the test's failure."""
    try:
        graph = Sweep.from_text(json.dumps(document), "fuzz.yaml").expand()
    except UserError as error:
        return str(error)
    assert isinstance(graph, Graph)
    return "accepted"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(like(SweepSchema))
def test_any_structure_is_a_sweep_or_lines_that_name_the_file(changed):
    for sentence in outcome({**GOOD, **changed}).split("\n"):
        assert sentence == "accepted" or "fuzz.yaml" in sentence or "pip install" in sentence
        assert sentence.isprintable()
        assert len(sentence) < 2000


@pytest.mark.parametrize("key", sorted(set(SweepSchema.model_fields) - {"methods"}))
@pytest.mark.parametrize("text", ["..", "/etc/passwd", "\u202egpj", "x" * 5000])
def test_no_text_at_any_key_ends_in_another_exception(key, text):
    for value in (text, [text], {text: text}, {"default": text}, {text: {text: [text]}}):
        assert all(sentence.isprintable() for sentence in outcome({**GOOD, key: value}).split("\n"))
