from pathlib import Path

import pytest

import analysis
from analysis.tables.compare import compare
from analysis.tables.render import to_terminal
from tests.analysis.helpers.build_store import YAML, StoreSpec, build_store, default_score


def better(method: str, task: str, seed: int, rate: float, split: str) -> float:
    return default_score(method, task, seed, rate, split) + (0.03 if method == "scalearn" else 0.0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    build_store(one, StoreSpec(sweep="with_dropout", methods={"adapter": (3e-4,), "scalearn": (6e-3,), "scalearn_pp": (6e-3,)}))
    second = StoreSpec(
        sweep="without",
        methods={"adapter": (3e-4,), "scalearn": (6e-3,), "adapterfusion": (5e-5,)},
        settings={"scalearn": {"omega_dropout": 0.0}},
        score=better,
        yaml=YAML + "methods: {scalearn: {settings: {omega_dropout: 0.0}}}\n",
    )
    build_store(two, second)
    return one, two


def test_compare_names_what_differs_and_what_it_did(stores: tuple[Path, Path]) -> None:
    found = compare(*stores, "with_dropout", "without")
    (difference,) = found.configuration
    assert (difference.column, difference.method, difference.first, difference.second) == ("setting_omega_dropout", "scalearn", "0.3", "0")
    assert (found.only_first, found.only_second) == (("ScaLearn++",), ("AdapterFusion",))
    scores = found.scores.set_index(["method", "target"])
    assert scores.loc[("ScaLearn", "average"), "difference"] == pytest.approx(0.03)
    assert scores.loc[("Adapter", "average"), "difference"] == pytest.approx(0.0)
    assert scores.loc[("ScaLearn", "domains/apple"), "second"] - scores.loc[("ScaLearn", "domains/apple"), "first"] == pytest.approx(0.03)
    # The adapters are the same jobs.
    assert found.shared_nodes == 3 + 2


def test_compare_prints_as_markdown_and_on_the_terminal(stores: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = compare(stores[0] / "sweeps" / "with_dropout.json", stores[1] / "sweeps" / "without.json")
    text = found.markdown()
    assert "| omega_dropout | scalearn | 0.3 | 0 |" in text
    assert "ScaLearn: +3.00 points on average in without" in text
    assert "+methods: {scalearn: {settings: {omega_dropout: 0.0}}}" in text
    for grid in found.grids():
        to_terminal(grid)
    assert "What differs in configuration" in capsys.readouterr().out


def test_compare_a_sweep_with_itself_finds_nothing(stores: tuple[Path, Path]) -> None:
    found = compare(stores[0], stores[0], "with_dropout", "with_dropout")
    assert found.configuration == ()
    assert found.yaml_diff == ""
    assert (found.scores["difference"] == 0).all()
    assert "configured alike" in found.markdown()


def test_compare_a_change_to_every_method_is_one_line(stores: tuple[Path, Path], tmp_path: Path) -> None:
    methods = {"adapter": (3e-4,), "scalearn": (6e-3,), "scalearn_pp": (6e-3,)}
    build_store(tmp_path, StoreSpec(sweep="fewer", methods=methods, data={"train_rows": 100}))
    (difference,) = compare(stores[0], tmp_path, "with_dropout", "fewer").configuration
    assert (difference.column, difference.method, difference.first, difference.second) == ("train_rows", "all", "240", "100")


def test_compare_without_a_common_target_is_refused(stores: tuple[Path, Path], tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(sweep="other", targets=("airlines",)))
    with pytest.raises(analysis.ResultsError, match="no target in common"):
        compare(stores[0], tmp_path, "with_dropout", "other")
