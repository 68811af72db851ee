"""Who may read what is written: every file follows the umask, weights too."""

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from scalearn.model.export import export_adapter, fold
from scalearn.model.model import LoadedBackbone, load_backbone, load_model
from scalearn.training.checkpoint import save_checkpoint
from tests.scalearn.helpers.small import data, job, run

TARGET = (data("domains/apple"),)


@pytest.fixture(scope="module")
def loaded(backbone: str) -> LoadedBackbone:
    return load_backbone(backbone)


@pytest.fixture(params=[0o022, 0o002, 0o077], ids="{:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def usual(path: Path) -> int:
    return 0o777 if path.is_dir() else 0o666


def test_every_file_that_is_written_follows_the_umask(
    umask: int, backbone: str, loaded: LoadedBackbone, parents: Mapping[str, Path], tmp_path: Path
) -> None:
    """Sources, a target, an adapter of the library's own, checkpoint, cache and export."""
    made = tmp_path / "made"
    made.mkdir()
    places = {"apple": made / "source", "coachella": parents["coachella"]}
    assert run(job("adapter", TARGET, backbone), made / "source").error is None
    assert run(job("scalearn_fixed", TARGET, backbone, {"omega": (0.5, 0.5)}, sources=tuple(places)), made / "job", places).error is None
    assert run(job("ia3", TARGET, backbone), made / "ia3").error is None
    model = load_model(made / "job", loaded, places)
    model.save(made / "saved")
    model.evaluate(data("domains/apple"), cache=made / "cache")
    save_checkpoint(made / "checkpointed", 1, model.state_dict(), {})
    export_adapter(fold(model), made / "exported")
    paths = list(made.rglob("*"))
    weights = {"adapter.safetensors", "model_head.safetensors", "omega.safetensors", "head.safetensors", "state.safetensors"}
    assert weights <= {path.name for path in paths}
    wrong = {str(path.relative_to(made)): oct(mode) for path in paths if (mode := mode_of(path)) != usual(path) & ~umask}
    assert not wrong
    shutil.rmtree(made)
