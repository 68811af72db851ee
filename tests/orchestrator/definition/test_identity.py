"""What enters a job's identity, what stays out of it, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from orchestrator.definition import identity
from orchestrator.definition.graph import Job
from orchestrator.definition.identity import fingerprint, fingerprint_of, is_called, is_node, node_path, path_of, safe_segment
from orchestrator.definition.sweep import Sweep
from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.identity import canonical_json, flat, identifying_fields, to_plain
from scalearn.methods.registry import get_method

DATA = DataConfig(task="glue/rte", origin="hub:nyu-mll/glue@main")
CONFIG = JobConfig(
    benchmark="glue",
    stage="transfer",
    method="scalearn_pp",
    data=(DATA,),
    backbone="roberta-base",
    backbone_origin="hub:FacebookAI/roberta-base@main",
    optimisation=OptimisationConfig(learning_rate=6e-3, patience=None),
    seed=3,
    sources=("cola", "rte"),
    settings={"omega_dropout": 0.3, "omega_init_scale": 2.0, "omega_weight_decay": 0.0},
)


def test_node_is_readable_path_then_fingerprint():
    job = Job(CONFIG)
    assert job.path == "glue/roberta-base/transfer/scalearn_pp/rte/lr6e-03-seed3"
    assert job.node == f"{job.path}-{job.fingerprint}"
    assert len(job.fingerprint) == 10
    assert int(job.fingerprint, 16) >= 0


def test_name_of_a_node_is_taken_apart_as_it_was_made():
    job = Job(CONFIG)
    assert (path_of(job.node), fingerprint_of(job.node)) == (job.path, job.fingerprint)
    assert is_node(job.node)
    assert is_called(job.node, job.path)
    assert is_called(job.node, job.node)
    assert not is_called(job.node, job.path[:-1])


@pytest.mark.parametrize("name", ["glue/rte", "glue/rte-0123", "/glue/rte-0123456789", ".cache/rte-0123456789", "glue/.x-0123456789", ""])
def test_other_names_are_not_taken_for_a_node_s(name: str):
    assert not is_node(name)


def test_fingerprint_is_the_same_in_another_process_and_hash_seed():
    code = f"import runpy; names = runpy.run_path({__file__!r}); print(names['fingerprint'](names['CONFIG'], ['ab']))"
    environment = {"PYTHONHASHSEED": "7", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == fingerprint(CONFIG, ["ab"])


@pytest.mark.parametrize(
    "changed",
    [
        replace(CONFIG, seed=4),
        replace(CONFIG, method="scalearn"),
        replace(CONFIG, benchmark="gsg"),
        replace(CONFIG, backbone_origin="hub:FacebookAI/roberta-base@abc"),
        replace(CONFIG, sources=("rte", "cola")),
        replace(CONFIG, settings={**CONFIG.settings, "omega_dropout": 0.1}),
        replace(CONFIG, optimisation=replace(CONFIG.optimisation, epochs=29)),
        replace(CONFIG, optimisation=replace(CONFIG.optimisation, patience=5)),
        replace(CONFIG, data=(replace(DATA, train_rows=100),)),
        replace(CONFIG, data=(replace(DATA, origin="hub:nyu-mll/glue@other"),)),
        replace(CONFIG, data=(replace(DATA, template="second"),)),
    ],
)
def test_every_field_that_changes_the_result_changes_the_fingerprint(changed: JobConfig):
    assert fingerprint(changed, []) != fingerprint(CONFIG, [])


def test_parents_enter_the_fingerprint_in_order():
    assert len({fingerprint(CONFIG, parents) for parents in (["a", "b"], ["b", "a"], ["a"], [])}) == 4


def test_schema_version_enters_the_fingerprint(monkeypatch: pytest.MonkeyPatch):
    before = fingerprint(CONFIG, [])
    monkeypatch.setattr(identity, "SCHEMA_VERSION", identity.SCHEMA_VERSION + 1)
    assert fingerprint(CONFIG, []) != before


def test_schema_version_is_higher_for_jobs_with_weight_decay_alone():
    decayed = replace(CONFIG, optimisation=replace(CONFIG.optimisation, weight_decay=0.1))
    assert identity.schema_version(CONFIG) == identity.SCHEMA_VERSION
    assert identity.schema_version(decayed) == identity.SCHEMA_VERSION + 1


def test_schema_version_is_higher_for_jobs_on_humset_alone():
    humset = replace(CONFIG, data=(replace(DATA, task="humset/sectors"),))
    assert identity.schema_version(humset) == identity.SCHEMA_VERSION + 1


@pytest.mark.parametrize(
    ("method", "dropout", "above"),
    [
        ("scalearn_mean", 0.3, 1),
        ("scalearn_softmax", 0.3, 1),
        ("scalearn_mean", 0.0, 0),
        ("scalearn_softmax", 0.0, 0),
        ("scalearn", 0.3, 0),
    ],
)
def test_schema_version_is_higher_for_ablations_with_omega_dropout_alone(method: str, dropout: float, above: int):
    config = replace(CONFIG, method=method, settings={**get_method(method).settings, "omega_dropout": dropout})
    assert identity.schema_version(config) == identity.SCHEMA_VERSION + above


RECORDED = {
    # As they were before joint training, few-shot samples, shares, WiC, WSC, COPA and ReCoRD followed the published protocol.
    "glue": {
        "glue/roberta-base/transfer/scalearn_pp/rte/lr6e-03-seed0": ("dc1a3e6bb4", True),
        "glue/roberta-base/transfer/adaptersoup/cola/lr3e-04-seed0": ("6d7b357cef", True),
        "glue/roberta-base/single/full_ft/mnli/lr2e-05-seed0": ("e5fb63fca3", True),
        "glue/roberta-base/single/propetl/rte/lr1e-03-seed0": ("95b1f4ba22", True),
        "glue/roberta-base/joint/adapter_m/all/lr3e-04-seed0": ("f34e018c19", False),
    },
    "super_glue": {
        "super_glue/roberta-base/single/propetl/boolq/lr1e-03-seed0": ("715bb95f88", True),
        "super_glue/roberta-base/source/adapter/copa/lr3e-04-seed0": ("b6c5431cf1", True),
        "super_glue/roberta-base/single/compacter_pp/copa/lr3e-03-seed0": ("7a3c6e6518", True),
        "super_glue/roberta-base/single/full_ft/multirc/lr2e-05-seed0": ("649a003c2a", True),
        "super_glue/sentence-transformers--all-mpnet-base-v2/similarity/sentence_similarity/all/seed0-rows10000": ("f87df37ba5", True),
        "super_glue/roberta-base/single/full_ft/copa/lr2e-05-seed0": ("e2c392475f", False),
        "super_glue/roberta-base/single/compacter_pp/record/lr3e-03-seed0": ("b0b6226603", False),
        "super_glue/roberta-base/single/ia3/wsc/lr5e-03-seed0": ("3baa2cf04f", False),
        "super_glue/roberta-base/source/adapter/wic/lr3e-04-seed0": ("ff15663655", False),
        "super_glue/roberta-base/transfer/scalearn/boolq/lr6e-03-seed0": ("ff7b398e32", False),  # it stacks the adapters of WiC and WSC
    },
    "few_shot": {
        "glue/roberta-base/source/adapter/sst2/lr3e-04-seed0": ("bf5a905382", True),
        "glue/roberta-base/source/adapter/rte/lr3e-04-seed0-shot4": ("dfbf786b3d", False),
    },
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_fingerprints_hold_but_for_jobs_that_the_corrected_protocol_concerns(name: str):
    nodes = set(Sweep.load(name).expand().nodes())
    for path, (recorded, holds) in RECORDED[name].items():
        assert (f"{path}-{recorded}" in nodes) == holds, path
        assert any(path_of(node) == path for node in nodes), path


@pytest.mark.parametrize(
    ("data", "above"),
    [
        ({"train_share": 0.5}, 1),
        ({"train_share": 1.0}, 0),
        ({"few_shot": 4}, 1),
        ({"task": "humset/sectors"}, 1),  # its classes are those of train
        ({"task": "super_glue/wic"}, 1),
        ({"task": "super_glue/wic", "template": "pair"}, 0),
        ({"task": "super_glue/wsc", "template": "marked"}, 0),
        ({"task": "super_glue/record"}, 1),
        ({"task": "super_glue/copa"}, 1),
        ({"task": "toy/unknown"}, 0),
    ],
)
def test_schema_version_is_higher_where_the_rows_or_texts_of_a_task_changed(data: dict[str, object], above: int):
    config = replace(CONFIG, data=(replace(DATA, **data),))  # type: ignore[arg-type]
    assert identity.schema_version(config) == identity.SCHEMA_VERSION + above


def test_order_of_settings_and_kind_of_mapping_do_not_matter():
    turned = dict(reversed(list(CONFIG.settings.items())))
    assert fingerprint(replace(CONFIG, settings=MappingProxyType(turned)), []) == fingerprint(CONFIG, [])


def test_equal_numbers_are_one_identity_whatever_their_type():
    assert canonical_json(1) == canonical_json(1.0)
    assert canonical_json(0.0) == canonical_json(-0.0) == canonical_json(0)
    assert canonical_json(0.1 + 0.2) != canonical_json(0.3)
    assert canonical_json(True) != canonical_json(1)


def test_name_of_the_weights_stays_out_but_their_identity_does_not():
    here = replace(CONFIG, backbone="/here/model", backbone_origin="files:sha256-00ff00ff00ff")
    there = replace(here, backbone="/there/copy")
    assert Job(here).node == Job(there).node
    assert "/local-00ff00ff/" in Job(here).node


def test_field_added_later_stays_out_while_it_holds_its_default():
    assert "group_by_length" not in canonical_json(CONFIG)
    assert "group_by_length" in canonical_json(replace(CONFIG.optimisation, group_by_length=True))


def test_fields_that_tell_jobs_apart_are_the_fingerprint_s_but_for_defaults():
    fields = identifying_fields(replace(CONFIG, data=(DATA, replace(DATA, few_shot=4))))
    assert fields["data.1.few_shot"] == 4
    assert fields["sources"] == ["cola", "rte"]
    assert not {"backbone", "data.0.few_shot", "optimisation.epochs", "compared"} & fields.keys()
    assert fields.items() <= dict(flat(to_plain(replace(CONFIG, data=(DATA, replace(DATA, few_shot=4)))))).items()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Path("/tmp"), {1, 2}, b"bytes", print, object(), int, {1: "a"}, {"deep": [object()]}, 1j],
)
def test_value_without_canonical_form_is_refused(value: object):
    with pytest.raises(TypeError):
        canonical_json(value)
    with pytest.raises(TypeError):
        fingerprint(replace(CONFIG, settings={"odd": value}), [])  # type: ignore[dict-item]


def test_plain_form_keeps_every_field_and_survives_json():
    plain = to_plain(CONFIG)
    assert plain["backbone"] == "roberta-base"
    assert plain["data"][0]["task"] == "glue/rte"
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("rate", [6e-3, 1.5e-4, 1.0, 3.3333e-5, 0.1 + 0.2])
def test_learning_rate_in_path_is_exact(rate: float):
    path = node_path(replace(CONFIG, optimisation=OptimisationConfig(learning_rate=rate)))
    assert float(path.rpartition("/lr")[2].removesuffix("-seed3")) == rate


def test_path_names_what_departs_from_the_defaults_while_there_is_room():
    few = replace(CONFIG, data=(replace(DATA, few_shot=16),), settings={**CONFIG.settings, "omega_dropout": 0.1})
    assert node_path(few).endswith("/lr6e-03-seed3-shot16-omega_dropout0.1")
    long = replace(CONFIG, method="scalearn_fixed", settings={"omega": tuple(0.12345 for _ in range(50))})
    assert node_path(long).endswith("/lr6e-03-seed3")


def test_joint_job_is_named_for_all_its_tasks():
    joint = replace(CONFIG, stage="joint", data=(DATA, replace(DATA, task="glue/cola")))
    assert node_path(joint) == "glue/roberta-base/joint/scalearn_pp/all/lr6e-03-seed3"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "/etc",
        ".hidden",
        "-rf",
        "a..b",
        "end.",
        "tab\t",
        "nul\x00",
        "e\u0301",
        "\u202eevil",
        "a b",
        "con",
        "x" * 101,
    ],
)
def test_unsafe_segment_is_refused_in_printable_ascii(name: str):
    with pytest.raises(UserError) as caught:
        safe_segment(name, "task")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["rte", "roberta-base", "owner--model", "lr6e-03-seed3", "scalearn_pp", "v1.0", "0"])
def test_safe_segment_is_returned_unchanged(name: str):
    assert safe_segment(name, "name") == name


SWEEP = """\
name: moved
benchmark: domains
backbone: minilm
targets: [apple]
methods: {adapter: {}, scalearn: {}}
"""


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "store=s3://bucket/x",
        "resources.source.gpu=0.5",
        "resources.source.gpu=0",
        "tracking.uri=http://there",
        "description=x",
        "resources.transfer.cpu=2",
    ],
)
def test_where_and_how_a_sweep_runs_never_changes_ids(override: str):
    assert Sweep.from_text(SWEEP, overrides=[override]).expand().nodes() == Sweep.from_text(SWEEP).expand().nodes()


def test_moved_data_of_equal_content_keeps_ids_and_changed_content_does_not(tmp_path: Path):
    def rows(place: str, text: str) -> Path:
        directory = tmp_path / place / "glue" / "rte"
        directory.mkdir(parents=True)
        for split in ("train", "validation"):
            (directory / f"{split}.parquet").write_bytes(text.encode())
        return tmp_path / place

    sweep = "name: x\nbenchmark: glue\nbackbone: minilm\ntargets: [rte]\nsources: {tasks: [rte]}\nmethods: {scalearn: {}}\n"

    def nodes(root: Path) -> tuple[str, ...]:
        return Sweep.from_text(sweep, overrides=[f"data.root={root}"]).expand().nodes()

    assert nodes(rows("here", "same")) == nodes(rows("there", "same"))
    assert set(nodes(rows("else", "other"))).isdisjoint(nodes(tmp_path / "here"))
