import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import analysis
from analysis.plots import omega_layer_maps
from analysis.tables.omega import Omega, behind, describe, heat_map, load_omegas, omega_frame, summarise, summary_frame
from tests.analysis.helpers.build_store import LAYERS, WIDTH, StoreSpec, build_store


def omega(values: "np.typing.ArrayLike", seed: int = 0, task: str = "d/a") -> Omega:
    array = np.asarray(values, dtype=float)
    return Omega(f"n{seed}", "scalearn", task, seed, 6e-3, ("a", "b", "c")[: array.shape[1]], array)


def test_load_omegas_reads_each_finished_transfer_job(complete_store: Path) -> None:
    omegas = load_omegas(complete_store, sweep="demo")
    assert {found.method: found.values.shape for found in omegas} == {
        "scalearn": (LAYERS, 3, WIDTH),
        "scalearn_uniform": (LAYERS, 3, 1),
        "scalearn_pp": (1, 3, WIDTH),
        "scalearn_uniform_pp": (1, 3, 1),
    }
    frame = omega_frame(omegas)
    assert len(frame) == sum(found.values.shape[0] * 3 for found in omegas)


def test_load_omegas_restricted_to_the_tables_nodes(complete_store: Path) -> None:
    table = analysis.benchmark_table(analysis.load(complete_store, sweep="demo"))
    nodes = [node for row in table.rows for cell in row.cells for node in cell.nodes]
    omegas = load_omegas(complete_store, "demo", nodes)
    assert len({(found.method, found.task, found.seed) for found in omegas}) == len(omegas) == 4 * 2 * 2


def test_load_omegas_wrong_shape_is_named(tmp_path: Path) -> None:
    build_store(tmp_path)
    path = next(tmp_path.glob("**/scalearn_pp/**/omega.safetensors"))
    save_file({"omega": np.ones((1, 2, 4), dtype=np.float32)}, path)
    with pytest.raises(analysis.ResultsError, match=r"scalearn_pp.*\(1, 2, 4\), which does not fit 3 sources"):
        load_omegas(tmp_path, "demo")


def test_vectors_over_modules_of_unlike_sizes_are_shown_module_by_module(tmp_path: Path) -> None:
    """As a job over LoRAs at queries and smaller values leaves them: two modules of sizes 4 and 2, one behind the other."""
    build_store(tmp_path, StoreSpec(methods={"scalearn": (6e-3,)}))
    modules = [np.array([[2.0] * 4, [0.0] * 4, [1.0] * 4]), np.array([[-1.0] * 2, [0.5] * 2, [1.0] * 2])]
    for path in tmp_path.glob("**/scalearn/**/omega.safetensors"):
        save_file({"omega": np.concatenate(modules, axis=1)[None].astype(np.float32)}, path)
        about = path.with_name("transfer_config.json")
        about.write_text(json.dumps({**(json.loads(about.read_text()) if about.exists() else {}), "omega_widths": [4, 2]}))
    found = load_omegas(tmp_path, "demo")
    for each in found:
        np.testing.assert_array_equal(each.by_layer, [[2.0, 0.0, 1.0], [-1.0, 0.5, 1.0]])
    frame = omega_frame(found[:1]).set_index(["layer", "source"])["mean"]
    assert (frame[0, found[0].sources[0]], frame[1, found[0].sources[1]]) == (2.0, 0.5)
    summary = next(each for each in summarise(found) if each.task == "domains/apple")
    assert summary.sources.index("apple") == 1
    assert summary.other_share == pytest.approx((1.0, 0.8))
    assert [plot.name for plot in omega_layer_maps(found)] == ["omega_layers_scalearn"]


def test_heat_map_shows_what_was_written(complete_store: Path) -> None:
    table = heat_map([omega for omega in load_omegas(complete_store, "demo") if omega.method == "scalearn"])
    assert table.loc["domains/apple", "apple"] == pytest.approx(1.0, abs=0.02)
    assert table.loc["domains/apple", "airlines"] == pytest.approx(0.5, abs=0.02)
    assert table.loc["domains/coachella", "apple"] == pytest.approx(0.1, abs=0.02)


def test_summary_worked_example() -> None:
    # Two layers, three sources, one dimension; the target's own source is a.
    first = omega([[[1.0], [0.5], [0.0]], [[0.5], [0.5], [-0.5]]], seed=0)
    second = omega([[[1.0], [0.5], [0.0]], [[0.5], [0.5], [-0.1]]], seed=1)
    (found,) = summarise([first, second])
    # Per seed (.75, .5, -.25) and (.75, .5, -.05).
    assert found.means == pytest.approx((0.75, 0.5, -0.15))
    assert found.stds == (0.0, 0.0, pytest.approx(0.2 / 2**0.5))
    assert found.stability == pytest.approx(1.0)
    assert found.total == pytest.approx((1.0 + 1.2) / 2)
    assert found.negative == pytest.approx(2 / 12)
    # Near zero is below a tenth of 2/3, .0667: the two zeros.
    assert found.near_zero == pytest.approx(2 / 12)
    # Mean |omega| .75, .5, .15 of 1.4: 1.4^2 / (.5625 + .25 + .0225) = 2.347.
    assert found.effective_sources == pytest.approx(1.96 / 0.835)
    # Layer 1: .5 of 1.5; layer 2: (.5 + .3) of 1.3.
    assert found.other_share == pytest.approx((1 / 3, 0.8 / 1.3))
    assert found.ranking == ("a", "b", "c")


def test_stability_of_opposite_orders_is_minus_one() -> None:
    (found,) = summarise([omega([[[3.0], [2.0], [1.0]]], 0), omega([[[1.0], [2.0], [3.0]]], 1)])
    assert found.stability == pytest.approx(-1.0)


def test_describe_quotes_the_numbers_of_the_summary() -> None:
    (found,) = summarise([omega([[[1.0], [0.5], [0.0]], [[0.5], [0.5], [-0.5]]])])
    text = describe(found)
    for part in (
        "a (0.75), b (0.50), c (-0.25)",
        "ranks 1 of 3",
        "sum to 1.00",
        "17% are negative",
        "least in layer 1 (33%)",
        "most in layer 2 (67%)",
    ):
        assert part in text
    assert "rank correlation" not in text
    assert summary_frame([found])["own_rank"].tolist() == [1]


def test_constrained_methods_show_the_coefficients_that_the_layer_uses(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(methods={"scalearn_mean": (6e-3,), "scalearn_softmax": (6e-3,), "scalearn_fixed": (6e-3,)}))
    written = np.array([[[3.0], [1.0], [0.0]]], dtype=np.float32)
    for path in tmp_path.glob("**/transfer/scalearn_*/**/SUCCESS.json"):
        (path.parent / "transfer").mkdir()
        save_file({"omega": written}, path.parent / "transfer" / "omega.safetensors")
    found = {omega.method: omega for omega in load_omegas(tmp_path, "demo")}
    assert set(found) == {"scalearn_mean", "scalearn_softmax"}
    assert found["scalearn_mean"].by_source == pytest.approx([0.75, 0.25, 0.0])
    assert found["scalearn_softmax"].by_source == pytest.approx(np.exp([3, 1, 0]) / np.exp([3, 1, 0]).sum())
    assert found["scalearn_mean"].start == 1.0


def test_coefficients_that_depend_on_the_token_are_read_as_the_means_in_the_result(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(methods={"scalearn_gated": (1e-3,), "scalearn": (6e-3,)}))
    means = [[0.75, 0.5, 0.25], [0.25, 0.5, 0.5]]
    for path in tmp_path.glob("**/transfer/scalearn_gated/**/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "omega": {"mean": means, "start": 2 / 3}}))
    found = [omega for omega in load_omegas(tmp_path, "demo") if omega.method == "scalearn_gated"]
    assert len(found) == 4
    assert found[0].values.tolist() == [[[value] for value in layer] for layer in means]
    assert found[0].start == pytest.approx(2.0)
    summaries = [summary for summary in summarise(load_omegas(tmp_path, "demo")) if summary.method == "scalearn_gated"]
    assert [summary.means for summary in summaries] == [(0.5, 0.5, 0.375)] * 2
    path.write_text(json.dumps({**json.loads(path.read_text()), "omega": {"mean": [[0.5, 0.5]], "start": 1.0}}))
    with pytest.raises(analysis.ResultsError, match=r"scalearn_gated.*result.json has shape \(1, 2, 1\), which does not fit 3 sources"):
        load_omegas(tmp_path, "demo")


def test_variants_of_a_method_are_summarised_apart(tmp_path: Path) -> None:
    for sweep, dropout in (("one", 0.0), ("two", 0.3)):
        build_store(tmp_path, StoreSpec(sweep=sweep, methods={"scalearn": (6e-3,)}, settings={"scalearn": {"omega_dropout": dropout}}))
    table = analysis.benchmark_table(analysis.load(tmp_path))
    summaries = summarise(load_omegas(tmp_path, nodes=behind(table)))
    assert {summary.title for summary in summaries} == {"ScaLearn (omega_dropout=0)", "ScaLearn (omega_dropout=0.3)"}
    assert all(summary.seeds == (0, 1) for summary in summaries)
