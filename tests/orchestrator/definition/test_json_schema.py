"""The JSON schema refuses what pydantic refuses of a whole file, accepts every sweep, describes every key, and is the one in the docs."""

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError

from orchestrator.cli import main
from orchestrator.definition.basis import shipped_sweeps
from orchestrator.definition.json_schema import json_schema
from orchestrator.definition.schema import SweepSchema
from orchestrator.definition.yaml_source import parse_mapping, read_text
from scalearn.errors import UserError
from tests.orchestrator.definition.test_fuzz_schema import GOOD, like

CORPUS = Path(__file__).parents[2] / "bad_inputs" / "sweeps"
UNITS = ("resources_memory_too_large", "resources_memory_unit")
"""Texts with a number of bytes, whose unit no schema can read."""
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def refused_by_pydantic(document: dict[str, Any]) -> bool:
    try:
        SweepSchema.model_validate(document)
    except ValidationError:
        return True
    return False


def wrong_documents() -> dict[str, dict[str, Any]]:
    """Return the files of the corpus that are YAML and that the models of the schema alone refuse."""
    found = {}
    for file in sorted(CORPUS.glob("*.yaml")):
        try:
            document = parse_mapping(read_text(file), file.name).data
        except UserError:
            continue
        if "extends" not in document and file.stem not in UNITS and refused_by_pydantic(document):
            found[file.stem] = document
    return found


WRONG = wrong_documents()


@pytest.mark.parametrize("case", WRONG)
def test_schema_refuses_what_the_models_refuse(case: str):
    assert not VALIDATOR.is_valid(WRONG[case])


def test_corpus_holds_many_files_that_a_schema_can_refuse():
    assert len(WRONG) >= 30


@pytest.mark.parametrize("name", shipped_sweeps())
def test_schema_accepts_every_shipped_sweep(name: str, repository: Path):
    VALIDATOR.validate(parse_mapping(read_text(repository / "sweeps" / f"{name}.yaml"), name).data)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(like(SweepSchema))
def test_schema_accepts_all_that_the_models_accept(changed: dict[str, Any]):
    document = {**GOOD, **changed}
    if not refused_by_pydantic(document) and not {"extends", "tasks", "methods"} & set(changed):  # the schema knows more of these
        VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({"methods": {"method_of_a_package": {"settings": {"depth": 3}}}}, True),
        ({"methods": {"scalearn": {"settings": {"omega_dropuot": 0.1}}}}, False),
        ({"tasks": {"mine": {"columns": ["a", "b"], "metric": "accuracy"}}}, True),
        ({"tasks": {"mine": {"columns": "a", "kind": "clasification"}}}, False),
        ({"training.epochs": 3}, False),
        ({"extends": "glue.yaml", "training.epochs": 3}, True),
    ],
)
def test_schema_knows_settings_own_tasks_and_files_on_a_basis(changed: dict[str, Any], accepted: bool):
    assert VALIDATOR.is_valid({**GOOD, **changed}) == accepted


def test_file_on_a_basis_needs_only_a_name():
    assert VALIDATOR.is_valid({"extends": "glue.yaml", "name": "short", "seeds": [0]})
    assert not VALIDATOR.is_valid({"name": "short", "seeds": [0]})


def blocks(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"": schema, **schema["$defs"]}


def test_every_key_of_every_block_is_described():
    keys = {f"{name}.{key}": value for name, block in blocks(SCHEMA).items() for key, value in block.get("properties", {}).items()}
    assert {"Subsets.nested", "Optimisation.warmup", "Task.splits", ".packing"} <= set(keys)
    assert not [key for key, value in keys.items() if len(value.get("description", "")) < 5 or "](" in value["description"]]


def test_committed_schema_and_tables_are_those_of_the_code(repository: Path):
    written: dict[Path, str] = runpy.run_path(str(repository / "docs/reference.py"))["written"]()
    stale = [file.name for file, text in written.items() if file.read_text(encoding="utf-8") != text]
    assert not stale, "the code says otherwise: run `make reference`"


def test_schema_command_prints_it(capsys: pytest.CaptureFixture[str]):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMA))
