"""The training loop over packs, in fp32: stops, failures, early stopping and lack of memory leave every other job as it would be alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from scalearn.errors import UserError
from scalearn.model.model import load_backbone
from scalearn.training import loop as training
from scalearn.training.checkpoint import load_checkpoint
from scalearn.training.loop import train
from scalearn.training.pack import OutOfMemory, PackMember, Stop
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.packs import SOURCES, TARGET, begun, config_of, difference, history, result, stop_at, train_pack, weights
from tests.scalearn.helpers.small import job, run, save_backbone

METHODS = ("adapter", "scalearn", "adapterfusion")


@pytest.mark.parametrize("step", [2, 4, 6])
@pytest.mark.parametrize("method", METHODS)
def test_job_stopped_in_the_middle_ends_with_the_same_bits(
    method: str, step: int, backbone: str, parents: Mapping[str, Path], tmp_path: Path
) -> None:
    config = config_of(method, backbone)
    train_pack([config], tmp_path / "whole", parents)
    with pytest.raises(Stop):
        train_pack([config], tmp_path / "parts", parents, stop_at(step))
    assert not (tmp_path / "parts/0/result.json").exists()
    torch.manual_seed(99)  # what else the process draws must not matter
    train_pack([config], tmp_path / "parts", parents)
    assert difference(tmp_path / "whole/0", tmp_path / "parts/0") == 0.0
    assert result(tmp_path / "whole/0")["scores"] == result(tmp_path / "parts/0")["scores"]
    steps = [record["step"] for record in history(tmp_path / "parts/0")]
    assert steps == [2, 4, 6]


def test_pack_stopped_in_the_middle_ends_with_the_same_bits_as_a_pack(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    configs = [config_of(method, backbone, seed) for seed, method in enumerate(METHODS)]
    train_pack(configs, tmp_path / "whole", parents)
    with pytest.raises(Stop):
        train_pack(configs, tmp_path / "parts", parents, stop_at(4))
    train_pack(configs, tmp_path / "parts", parents)
    for index in range(len(configs)):
        assert difference(tmp_path / f"whole/{index}", tmp_path / f"parts/{index}") == 0.0
        assert [record["step"] for record in history(tmp_path / f"parts/{index}")] == [2, 4, 6]


def test_pack_resumed_as_packs_of_one_ends_as_each_job_alone(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    configs = [config_of(method, backbone, seed) for seed, method in enumerate(METHODS)]
    with pytest.raises(Stop):
        train_pack(configs, tmp_path / "parts", parents, stop_at(2))
    for index, config in enumerate(configs):
        directory = tmp_path / "parts" / str(index)
        assert run(config, directory, parents if config.sources else {}).error is None
        assert run(config, tmp_path / "alone" / str(index), parents if config.sources else {}).error is None
        assert difference(directory, tmp_path / "alone" / str(index)) < 1e-5, config.method


def test_packed_jobs_equal_the_jobs_alone_with_dropout_on(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    methods = ("scalearn", "scalearn", "scalearn_uniform_pp", "adapterfusion", "adapter", "adapter")
    configs = [config_of(method, backbone, seed, learning_rate=2e-3 * (1 + seed % 3)) for seed, method in enumerate(methods)]
    assert all(outcome.error is None for outcome in train_pack(configs, tmp_path / "pack", parents))
    for index, config in enumerate(configs):
        run(config, tmp_path / "alone" / str(index), parents if config.sources else {})
        assert difference(tmp_path / "pack" / str(index), tmp_path / "alone" / str(index)) < 1e-5, config.method
        assert result(tmp_path / "pack" / str(index))["pack_size"] == len(configs)


def test_loss_that_is_not_finite_fails_its_job_alone(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    configs = [config_of("scalearn", backbone, 0), config_of("scalearn", backbone, 1, learning_rate=1e30, max_gradient_norm=None)]
    configs.append(config_of("adapterfusion", backbone, 2))
    first, failed, last = train_pack(configs, tmp_path / "pack", parents)
    assert first.error is None
    assert last.error is None
    assert failed.error is not None
    assert "not finite" in failed.error or "loss became" in failed.error
    assert not (tmp_path / "pack/1/result.json").exists()
    for index in (0, 2):
        run(configs[index], tmp_path / "alone" / str(index), parents)
        assert difference(tmp_path / "pack" / str(index), tmp_path / "alone" / str(index)) < 1e-5


def test_logits_that_are_not_finite_fail_their_job_alone(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    diverging = config_of("scalearn", backbone, 1, learning_rate=1e30, max_gradient_norm=None, evaluate_every=1)
    well, failed = train_pack([config_of("scalearn", backbone, evaluate_every=1), diverging], tmp_path, parents)
    assert well.error is None
    assert failed.error is not None
    assert "validation loss is not finite after step 1" in failed.error
    assert [record["step"] for record in history(tmp_path / "0")] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "1/history.jsonl").exists()


def test_failure_says_step_and_learning_rate(backbone: str, tmp_path: Path) -> None:
    outcome = run(config_of("adapter", backbone, learning_rate=1e30, max_gradient_norm=None, evaluate_every=6), tmp_path)
    assert outcome.error is not None
    assert "at step 2" in outcome.error
    assert "learning rate" in outcome.error
    assert outcome.error.count(".") >= 1


def test_member_that_stops_early_leaves_and_the_rest_goes_on(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    early = config_of("scalearn", backbone, 0, learning_rate=1e-30, patience=1, epochs=6)
    configs = [early, config_of("scalearn", backbone, 1, epochs=4), config_of("adapter", backbone, 2, epochs=4)]
    train_pack(configs, tmp_path / "pack", parents)
    assert result(tmp_path / "pack/0")["stopped_early"]
    assert result(tmp_path / "pack/0")["steps"] == 4
    for index in (0, 1, 2):
        run(configs[index], tmp_path / "alone" / str(index), parents if configs[index].sources else {})
        assert difference(tmp_path / "pack" / str(index), tmp_path / "alone" / str(index)) < 1e-5
        assert result(tmp_path / "pack" / str(index))["steps"] == result(tmp_path / "alone" / str(index))["steps"]


def test_source_that_cannot_be_read_fails_its_job_alone(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    configs = [config_of("scalearn", backbone), config_of("adapter", backbone)]
    members = []
    for index, config in enumerate(configs):
        (tmp_path / str(index)).mkdir()
        members.append(PackMember(config, tmp_path / str(index), dict.fromkeys(SOURCES, tmp_path / "nowhere")))
    failed, well = train(members, Runtime(device="cpu"), lambda *_: None)
    assert failed.error is not None
    assert "'apple'" in failed.error
    assert well.error is None


def test_jobs_of_different_precision_are_no_pack(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    configs = [config_of("adapter", backbone), config_of("adapter", backbone, precision="bf16")]
    with pytest.raises(UserError, match="precision"):
        train_pack(configs, tmp_path, parents)


def without_dropout(directory: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    place = save_backbone(directory, tokenizer)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (directory / "config.json").write_text(json.dumps(config))
    return place


@pytest.fixture(scope="module")
def still_backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return without_dropout(tmp_path_factory.mktemp("still"), tokenizer)


def out_of_memory_once(monkeypatch: pytest.MonkeyPatch, times: int = 1) -> list[int]:
    """Makes the first passes fail as a full device does; returns the numbers of rows of all passes."""
    original, rows = training.packed_logits, []

    def packed_logits(encoder: Any, batches: Any, pad: int) -> Any:
        logits = original(encoder, batches, pad)
        if encoder.training:
            rows.append(sum(batch.weight for batch in batches))
            if len(rows) <= times:
                raise torch.OutOfMemoryError("CUDA out of memory (as a test has it)")
        return logits

    monkeypatch.setattr(training, "packed_logits", packed_logits)
    return rows


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("method", ["adapter", "adapterfusion", "scalearn"])
def test_batch_that_does_not_fit_is_computed_in_parts_to_the_same_effect_with_dropout_on(
    method: str, times: int, backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [config_of(method, backbone, 0), config_of("adapter", backbone, 1)]
    train_pack(configs, tmp_path / "whole", parents, shared_passes=True)
    rows = out_of_memory_once(monkeypatch, times)
    assert all(outcome.error is None for outcome in train_pack(configs, tmp_path / "parts", parents, shared_passes=True))
    assert rows[0] == 16
    assert rows[times] == 16 // 2**times
    for index in (0, 1):
        assert difference(tmp_path / f"whole/{index}", tmp_path / f"parts/{index}") < 2e-5
        assert result(tmp_path / f"parts/{index}")["micro_batches"] == 2**times


def test_micro_batches_are_remembered_by_a_resumed_job(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("scalearn", backbone)
    with monkeypatch.context() as patched:
        out_of_memory_once(patched)
        with pytest.raises(Stop):
            train_pack([config], tmp_path, parents, stop_at(2))
    rows = out_of_memory_once(monkeypatch, 0)
    train_pack([config], tmp_path, parents)
    assert max(rows) == 4
    assert result(tmp_path / "0")["micro_batches"] == 2


def test_job_that_was_divided_in_a_larger_pack_is_whole_where_it_resumes_alone(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [config_of("scalearn", backbone, seed) for seed in range(2)]
    with monkeypatch.context() as patched:
        out_of_memory_once(patched)
        with pytest.raises(Stop):
            train_pack(configs, tmp_path, parents, stop_at(2), shared_passes=True)
    rows = out_of_memory_once(monkeypatch, 0)
    train_pack(configs[:1], tmp_path, parents)
    assert set(rows) == {8}
    assert result(tmp_path / "0")["micro_batches"] == 1


def test_row_limit_bounds_every_pass(backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = out_of_memory_once(monkeypatch, 0)
    train_pack([config_of("scalearn", backbone, seed) for seed in range(2)], tmp_path, parents, micro_batch_rows=6)
    assert max(rows) <= 6
    assert sum(rows) == 2 * 6 * 8


def test_memory_that_never_suffices_is_one_sentence(
    backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_once(monkeypatch, 1000)
    with pytest.raises(
        OutOfMemory, match=r"^Memory does not hold this job \(CUDA out of memory \(as a test has it\)\): use a smaller backbone"
    ):
        train_pack([config_of("scalearn", backbone)], tmp_path, parents)


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), MemoryError()]
)
def test_memory_that_ends_outside_of_a_pass_is_said_to_have_ended(
    error: Exception, backbone: str, parents: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser's moments come with the first step; a processor's allocator has no error of its own."""

    def full(self: Any) -> None:
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(OutOfMemory, match="these 2 jobs together"):
        train_pack([config_of("scalearn", backbone, seed) for seed in range(2)], tmp_path, parents)


def test_omega_takes_no_weight_decay_unless_asked(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    loaded = load_backbone(backbone)

    def groups(settings: dict[str, Any]) -> dict[str, float]:
        config = job("scalearn", TARGET, backbone, settings, sources=SOURCES, weight_decay=0.1)
        one = begun(config, tmp_path / "job", parents, loaded)
        decays = {id(parameter): group["weight_decay"] for group in one.optimizer.param_groups for parameter in group["params"]}
        return {"omega": decays[id(one.branch.learned()["omega"])], "head": decays[id(one.heads[0].out.weight)]}

    assert groups({}) == {"omega": 0.0, "head": 0.1}
    assert groups({"omega_weight_decay": 0.3}) == {"omega": 0.3, "head": 0.1}


def test_fixed_omegas_learn_nothing_but_the_head(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    config = job("scalearn_fixed", TARGET, backbone, {"omega": (0.3, 0.7)}, sources=SOURCES, learning_rate=1e-2)
    assert run(config, tmp_path, parents).error is None
    assert load_file(tmp_path / "transfer/omega.safetensors")["omega"].flatten().tolist() == pytest.approx([0.3, 0.7])
    parameters = result(tmp_path)["parameters"]
    assert parameters["transfer"] == 0
    assert parameters["head"] > 0


def test_head_starts_the_same_for_every_method_of_a_seed(backbone: str, parents: Mapping[str, Path], tmp_path: Path) -> None:
    heads = []
    for method in METHODS:
        directory = tmp_path / method
        run(config_of(method, backbone, seed=3, learning_rate=1e-30), directory, parents if method != "adapter" else {})
        tensors = weights(directory)
        heads.append(next(tensor for name, tensor in tensors.items() if name.endswith(("head.safetensors/out.weight", "4.weight"))))
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[1], heads[2])


def test_checkpoint_of_the_same_step_replaces_the_one_before_it(backbone: str, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(config_of("adapter", backbone), tmp_path, report=stop_at(2))
    saved = load_checkpoint(tmp_path)
    assert saved is not None
    assert saved.state["step"] == 2
    assert len(list((tmp_path / "checkpoint").glob("step-*"))) == 1


@pytest.mark.parametrize("file", ["latest.json", "state.safetensors"])
def test_damaged_checkpoint_makes_the_job_start_anew(file: str, backbone: str, tmp_path: Path) -> None:
    config = config_of("adapter", backbone)
    run(config, tmp_path / "whole")
    with pytest.raises(Stop):
        run(config, tmp_path / "parts", report=stop_at(4))
    (path,) = (tmp_path / "parts/checkpoint").rglob(file)
    path.write_bytes(path.read_bytes()[:50])
    assert run(config, tmp_path / "parts").error is None
    assert difference(tmp_path / "whole", tmp_path / "parts") == 0.0
    assert [record["step"] for record in history(tmp_path / "parts")] == [2, 4, 6]
