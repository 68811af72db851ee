"""Source adapters that no job parents: loaded, checked against what was planned, and stacked like any others."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.configuration import SeqBnConfig
from safetensors.torch import load_file, save_file

from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from scalearn.config import JobConfig
from scalearn.formats.adapterhub_layout import SEQ_BN, external_adapter, read_adapter_config
from scalearn.model.model import load_backbone, load_model
from scalearn.training.loop import train
from scalearn.training.pack import Outcome, PackMember
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import data, job

TARGET = (data("domains/apple"),)
SWEEP = """\
name: toy
benchmark: domains
backbone: {backbone}
targets: [apple]
data: {{train_rows: 24, evaluation_rows: 12, max_length: 24}}
sources: {{tasks: [apple], adapters: {{other: ./downloaded}}, settings: {{reduction_factor: 4}}}}
methods: {{scalearn: {{}}}}
training: {{epochs: 1, batch_size: 8}}
"""


@pytest.fixture
def places(parents: Mapping[str, Path], tmp_path: Path) -> dict[str, Path]:
    """A job's directory, and a bare adapter that came from elsewhere."""
    shutil.copytree(parents["coachella"] / "adapter", tmp_path / "downloaded")
    return {"apple": parents["apple"], "other": tmp_path / "downloaded"}


def config_of(backbone: str, places: Mapping[str, Path], *, allow_pickle: bool = False) -> JobConfig:
    plain = job("scalearn", TARGET, backbone, sources=tuple(places))
    return replace(plain, external=(external_adapter("other", str(places["other"]), allow_pickle=allow_pickle),))


def train_job(config: JobConfig, directory: Path, places: Mapping[str, Path], **runtime: Any) -> Outcome:
    directory.mkdir(parents=True)
    (outcome,) = train([PackMember(config, directory, places)], Runtime(device="cpu", **runtime), lambda *_: None)
    return outcome


def omega(directory: Path) -> torch.Tensor:
    return load_file(directory / "transfer/omega.safetensors")["omega"]


def test_external_adapter_does_what_the_adapter_of_a_job_does(
    backbone: str, parents: Mapping[str, Path], places: dict[str, Path], tmp_path: Path
) -> None:
    assert train_job(config_of(backbone, places), tmp_path / "external", places).error is None
    own = job("scalearn", TARGET, backbone, sources=tuple(parents))
    assert train_job(own, tmp_path / "own", parents).error is None
    assert torch.equal(omega(tmp_path / "external"), omega(tmp_path / "own"))


def test_adapter_that_changed_since_the_job_was_planned_is_refused(backbone: str, places: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(backbone, places)
    path = places["other"] / "adapter_config.json"
    path.write_text(path.read_text() + " ")
    outcome = train_job(config, tmp_path / "job", places)
    assert outcome.error is not None
    assert "'other'" in outcome.error
    assert "has changed since this job was planned" in outcome.error


def test_pickled_adapter_is_loaded_only_where_the_runtime_allows_it(backbone: str, places: dict[str, Path], tmp_path: Path) -> None:
    reference = config_of(backbone, places)
    assert train_job(reference, tmp_path / "safe", places).error is None
    weights = places["other"] / "adapter.safetensors"
    torch.save(load_file(weights), places["other"] / "pytorch_adapter.bin")
    weights.unlink()
    config = config_of(backbone, places, allow_pickle=True)
    refused = train_job(config, tmp_path / "refused", places)
    assert "write allow_pickle: true" in str(refused.error)
    assert train_job(config, tmp_path / "allowed", places, allow_pickle=True).error is None
    assert torch.equal(omega(tmp_path / "allowed"), omega(tmp_path / "safe"))


def test_adapter_of_another_size_fails_its_job_alone_by_name(backbone: str, places: dict[str, Path], tmp_path: Path) -> None:
    path = places["other"] / "adapter_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "hidden_size": 48}))
    weights = places["other"] / "adapter.safetensors"
    sizes = {32: 48, 8: 12}
    save_file({name: torch.zeros([sizes[size] for size in tensor.shape]) for name, tensor in load_file(weights).items()}, weights)
    members = []
    for index, config in enumerate((config_of(backbone, places), job("adapter", TARGET, backbone))):
        (tmp_path / str(index)).mkdir()
        members.append(PackMember(config, tmp_path / str(index), places))
    failed, well = train(members, Runtime(device="cpu"), lambda *_: None)
    assert "'other' has hidden size 48, but the backbone has 32" in str(failed.error)
    assert well.error is None


REVISION = "ab" * 20
LOAD = """
import sys
import torch
import scalearn
from scalearn.errors import UserError

encoder = scalearn.load_backbone(sys.argv[1]).encoder
for place in sys.argv[2:]:
    try:
        stacks = scalearn.load_source_adapters(encoder, {"other": place}).stacks
        print(sum(float(buffer.double().abs().sum()) for stack in stacks for buffer in stack.buffers()))
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_hub_id_is_downloaded_at_its_revision_and_found_again_offline(
    backbone: str, places: dict[str, Path], hub: Any, hub_environment: Callable[..., dict[str, str]]
) -> None:
    for revision, place in ((REVISION, places["other"]), ("main", places["apple"] / "adapter")):
        for name in ("adapter_config.json", "adapter.safetensors"):
            hub.put("owner/adapter", revision, name, (place / name).read_bytes())

    def load(*places: str, offline: bool = False) -> list[str]:
        environment = hub_environment(hub.endpoint, offline=offline)
        done = subprocess.run([sys.executable, "-c", LOAD, backbone, *places], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    pinned, local, absent = load(f"owner/adapter@{REVISION}", str(places["other"]), "owner/nothing")
    assert pinned == local
    assert "owner/nothing is neither a directory nor a reachable hub id" in absent
    hub.server.shutdown()
    assert load(f"owner/adapter@{REVISION}", offline=True) == [local]


def test_sweep_with_an_adapter_from_elsewhere_trains_and_exports(
    backbone: str, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack  # Ray, which the other tests of this module do without

    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SWEEP.format(backbone=backbone))
    store = Store(tmp_path / "runs")
    for each in Sweep.load("toy.yaml").expand():
        parents = {parent.source_name: parent.node for parent in each.parents}
        order = MemberOrder(each.node, each.config, {"node": each.node}, parents)
        run_pack(PackOrder((order,), str(store.root), "scalearn.training.loop:train", Runtime(device="cpu"), tmp_path / "stop"))
        assert store.complete(each.node)
    assert each.config.sources == ("apple", "other")
    assert main(["export", "toy.yaml", "--node", each.node, "--to", "exported"]) == 0
    loaded = load_backbone(backbone)
    found = {"apple": store.directory(parents["apple"]), "other": places["other"]}
    whole, exported = load_model(store.directory(each.node), loaded, found), load_model("exported", loaded)
    inputs = whole.tokenise(["one text", "another one"])
    torch.testing.assert_close(whole(inputs), exported(inputs), atol=1e-5, rtol=0)


def test_defaults_are_those_of_the_library() -> None:
    assert dict(SEQ_BN) == SeqBnConfig().to_dict()


def test_field_that_an_older_file_lacks_has_its_usual_value(places: dict[str, Path]) -> None:
    path = places["other"] / "adapter_config.json"
    whole = read_adapter_config("other", places["other"], None)
    saved = json.loads(path.read_text())
    for field in ("phm_bias", "init_weights_seed", "stochastic_depth", "leave_out"):
        del saved["config"][field]
    path.write_text(json.dumps(saved))
    assert read_adapter_config("other", places["other"], None) == whole
