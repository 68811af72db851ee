from pathlib import Path

from analysis.reading.load import read_sweep
from analysis.report.results import gather
from analysis.report.summary import findings
from tests.analysis.helpers.build_store import StoreSpec, build_store


def test_findings_name_the_best_how_sure_it_is_and_what_little_suffices(tmp_path: Path) -> None:
    methods = {"adapter": (3e-4,), "scalearn": (6e-3,), "scalearn_uniform_pp": (6e-3,)}
    scores = {"adapter": 0.70, "scalearn": 0.75, "scalearn_uniform_pp": 0.74}

    def score(method: str, task: str, seed: int, rate: float, split: str) -> float:
        return scores[method] + 0.01 * seed * (method == "scalearn")

    build_store(tmp_path, StoreSpec(methods=methods, score=score))
    first, best, frugal, targets = findings(gather(read_sweep(tmp_path, "demo")))
    assert first == "All 13 jobs succeeded."
    assert best.startswith("**ScaLearn** has the highest average, 75.50% (± 0.71 over 2 seeds), before ScaLearnUniform++ with 74.00%")
    assert "Its average is +5.50 points from that of Adapter (95% interval +5.00 to +6.00, which excludes zero; 2 seeds)" in best
    assert "6 for all targets, are ScaLearnUniform++'s: 0.04% of ScaLearn's, at an average of 74.00% (−1.50 points)" in frugal
    assert targets == "Best per target: Apple: ScaLearn (75.50); Coachella: ScaLearn (75.50)."


def test_findings_round_no_share_of_parameters_to_nothing(tmp_path: Path) -> None:
    methods = {"adapter": (3e-4,), "scalearn_uniform_pp": (6e-3,)}
    build_store(tmp_path, StoreSpec(methods=methods, score=lambda method, task, seed, rate, split: 0.8 if method == "adapter" else 0.7))
    assert "are ScaLearnUniform++'s: less than 0.01% of Adapter's" in " ".join(findings(gather(read_sweep(tmp_path, "demo"))))


def test_findings_about_equal_methods_name_no_winner(tmp_path: Path) -> None:
    methods = {"adapter": (3e-4,), "adapterfusion": (5e-5,), "scalearn": (6e-3,)}
    build_store(tmp_path, StoreSpec(methods=methods, score=lambda method, task, seed, rate, split: 0.74))
    text = " ".join(findings(gather(read_sweep(tmp_path, "demo"))))
    assert "**Adapter**, **AdapterFusion** and **ScaLearn** share the highest average, 74.00%." in text
    assert "Best per target" not in text


def test_findings_of_a_broken_sweep_say_what_is_missing(tmp_path: Path) -> None:
    build_store(tmp_path, StoreSpec(states={"scalearn_pp/apple": "failed"}))
    first, *_ = findings(gather(read_sweep(tmp_path, "demo")))
    assert first == "27 of 29 jobs succeeded (2 failed). What failed or is blocked is missing from the tables."
