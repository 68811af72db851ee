"""Questions about sources, on made-up sweeps of known answers, against a few lines of numpy and scipy."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from analysis.reading.records import Record
from analysis.report.questions import questions, questions_by_backbone
from analysis.tables import foresight, gains, interference, omega_patterns, quality
from analysis.tables.stacks import largest, mean_correlation, rank_correlation, stack_scores
from tests.analysis.helpers.stacks import TASKS, Stacks

HELP = {"cola": -0.03, "sst2": 0.01, "mrpc": 0.02, "rte": 0.04}


def noise(seed: int, *about: object) -> float:
    return 0.004 * hashlib.sha256(repr((seed, about)).encode()).digest()[0] / 255


def additive(method: str, target: str, stack: tuple[str, ...], seed: int) -> float:
    """Each source adds its own help, whatever the target."""
    helps = sum(HELP[source.partition(" ")[0]] for source in stack)
    return 0.6 + helps + noise(seed, target, stack)


def saturating(method: str, target: str, stack: tuple[str, ...], seed: int) -> float:
    """Nearly everything is gained with two sources, except on CoLA, which loses."""
    gain = {1: 0.0, 2: 0.096, 4: 0.1}[len(stack)]
    return 0.6 + (-0.5 * gain if target == "cola" else gain) + noise(seed, target, stack) + 0.02 * ("mrpc" in stack and len(stack) == 2)


def subsets(*sizes: int) -> list[tuple[str, ...]]:
    return [stack for size in sizes for stack in combinations(TASKS, size)]


def test_interference_says_where_the_curve_bends_and_whom_more_sources_hurt() -> None:
    made = Stacks(saturating).add("scalearn_pp", [stack for stack in subsets(1, 2, 4) if "rte" in stack], targets=["rte", "sst2", "mrpc"])
    made.add("scalearn_pp", [("cola",), ("cola", "sst2"), TASKS], targets=["cola"])
    (entry,) = [each for each in interference.interference(stack_scores(made.frame()), made.names()) if each.own]
    assert dict(entry.changes.set_index("task")["verdict"])["glue/cola"] == "hurts"
    told = interference.sentence(entry, made.names())
    assert "CoLA (−4.99)" in told.partition(" and hurt ")[2]
    assert "Which sources are drawn moves a score by" in told
    rte = entry.points[(entry.points["task"] == "glue/rte") & (entry.points["count"] == 2)].iloc[0]
    means = [np.mean([saturating("", "rte", stack, seed) for seed in (0, 1, 2)]) for stack in subsets(2) if "rte" in stack]
    assert rte["mean"] == pytest.approx(np.mean(means))
    assert rte["draws"] == 3


def test_share_of_the_gain_that_few_sources_reach() -> None:
    stacks = [("rte",), ("rte", "sst2"), TASKS]
    made = Stacks(saturating).add("scalearn_pp", stacks, targets=["rte"])
    (entry,) = interference.interference(stack_scores(made.frame()), made.names())
    assert entry.bend == 2
    share = entry.reached[2]
    assert f"With 2 of 4 sources {share:.0%} of the gain is reached" in interference.sentence(entry, made.names())
    values = np.array([[saturating("", "rte", stack, seed) for stack in stacks] for seed in (0, 1, 2)])
    assert share == pytest.approx((values[:, 1] - values[:, 0]).mean() / (values[:, 2] - values[:, 0]).mean())
    test = stats.ttest_rel(values[:, 2], values[:, 0])
    assert (entry.average.low, entry.average.high) == pytest.approx(tuple(test.confidence_interval()))


def test_one_seed_is_said_to_be_too_few() -> None:
    made = Stacks(saturating).add("scalearn_pp", [("rte",), ("rte", "sst2"), TASKS], targets=["rte"], seeds=[0])
    scores = stack_scores(made.frame())
    (entry,) = interference.interference(scores, made.names())
    assert entry.bend is None
    assert "too little to tell" in interference.sentence(entry, made.names())
    found = gains.gains(stack_scores(Stacks(additive).add("scalearn_pp", subsets(3, 4), seeds=[0]).frame()), made.names())
    assert set(found["verdict"]) == {"unclear"}
    (matrix,) = gains.matrices(found)
    assert "With 1 seed that is too little to tell one source from another" in gains.sentence(*matrix, made.names())


def test_gains_by_leaving_out_are_paired_by_seed_and_corrected_over_all_pairs() -> None:
    made = Stacks(additive).add("scalearn_pp", subsets(3, 4))
    found = gains.gains(stack_scores(made.frame()), made.names())
    assert set(found["kind"]) == {"left out"}
    assert len(found) == len(TASKS) * len(TASKS)
    raw = {}
    for target in TASKS:
        for source in TASKS:
            without = tuple(name for name in TASKS if name != source)
            pairs = [[additive("", target, stack, seed) for seed in (0, 1, 2)] for stack in (TASKS, without)]
            raw[f"glue/{target}", source] = (np.subtract(*pairs).mean(), stats.ttest_rel(*pairs).pvalue)
    table = found.set_index(["task", "source"])
    for key, (gain, p) in raw.items():
        assert table.loc[key, "gain"] == pytest.approx(gain)
        assert table.loc[key, "p"] == pytest.approx(p)
    smallest = min(p for _, p in raw.values())
    assert table["p_holm"].min() == pytest.approx(min(1.0, 16 * smallest))
    hurt = table[table["verdict"] == "hurts"]
    assert set(hurt.index.get_level_values("source")) <= {"cola"}


def test_a_source_alone_is_compared_with_nothing_where_omega_was_zero_and_else_with_the_own() -> None:
    made = Stacks(lambda method, target, stack, seed: additive(method, target, stack, seed))
    zero = Stacks(lambda method, target, stack, seed: 0.6 + noise(seed, "zero"), records=made.records)
    singles = [(name,) for name in TASKS]
    zero.add("scalearn_fixed", singles, settings={"omega": [0.0]})
    made.add("scalearn_fixed", singles, settings={"omega": [0.5]})
    Stacks(lambda *about: 0.1, records=made.records).add("scalearn_fixed", singles, settings={"omega": [0.9]})
    found = gains.gains(stack_scores(made.frame()), made.names()).set_index(["task", "source"])
    assert set(found["against"]) == {"nothing"}
    expected = np.mean([additive("", "rte", ("mrpc",), seed) - 0.6 - noise(seed, "zero") for seed in (0, 1, 2)])
    assert found.loc[("glue/rte", "mrpc"), "gain"] == pytest.approx(expected)  # at the omega that validation chose, not at 0.9
    own = Stacks(additive).add("scalearn_pp", singles)
    found = gains.gains(stack_scores(own.frame()), own.names())
    assert set(found["against"]) == {"own"}
    assert not (found["task"].str.removeprefix("glue/") == found["source"]).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_learned_omegas_are_ranked_against_gains_per_target(sign: int) -> None:
    made = Stacks(additive, omega=lambda method, target, source, seed: 0.3 + sign * HELP[source]).add("scalearn_pp", subsets(3, 4))
    scores = stack_scores(made.frame())
    found = gains.gains(scores, made.names())
    agreement = gains.omega_agreement(found, scores, made.omegas, made.names())
    assert set(agreement["rho"].round(6)) == {sign}
    assert len(agreement) == len(TASKS)
    (told,) = gains.agreement_sentences(agreement, made.names())
    assert f"mean rank correlation of {'−' if sign < 0 else ''}1.00" in told
    assert "for no target certainly" in told  # of four values, one order in twelve is as far from chance


def test_rank_correlation_by_permutation_is_near_the_exact_one() -> None:
    one, two = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 3.0, 2.0, 4.0, 6.0, 5.0]
    found = rank_correlation(one, two)
    assert found is not None
    assert found[0] == pytest.approx(stats.spearmanr(one, two).statistic)
    exact = stats.permutation_test((one,), lambda x: stats.spearmanr(x, two).statistic, permutation_type="pairings")
    assert found[1] == pytest.approx(exact.pvalue, abs=0.015)
    assert rank_correlation(one[:3], two[:3]) is None
    assert rank_correlation(one, [2.0] * 6) is None


def _rated(values: dict[str, dict[str, float]], seconds: dict[str, float]) -> list[Record]:
    """Jobs that rate sources for every target alike."""
    told = {"measures": values, "seconds": seconds}
    config = {"stage": "transferability", "method": "transferability", "sources": list(values)}
    return [
        Record(
            f"rate-{task}",
            "succeeded",
            stage="transferability",
            config={**config, "data": [{"task": f"glue/{task}"}]},
            result={"transferability": told},
        )
        for task in TASKS
    ]


def test_ratings_are_judged_by_rank_and_by_what_they_would_have_cost() -> None:
    made = Stacks(additive).add("scalearn_pp", subsets(3, 4))
    found = gains.gains(stack_scores(made.frame()), made.names())
    ratings = {name: {"logme": HELP[name], "h_score": -HELP[name], "text": None} for name in TASKS}
    records = _rated(ratings, {"features": 2.0, "logme": 0.5, "h_score": 0.25, "text": 3.0, "weights": 1.0})  # type: ignore[arg-type]
    told = foresight.foresight(found, foresight.ratings(records))
    assert set(told["measure"]) == {"logme", "h_score"}
    for _, row in told.iterrows():
        line = found[found["task"] == row["task"]].set_index("source")["gain"]
        order = sorted(TASKS, key=lambda name: -ratings[name][row["measure"]])
        assert row["rho"] == pytest.approx(
            stats.spearmanr([line[name] for name in order], [ratings[name][row["measure"]] for name in order])[0]
        )
        for top in (1, 3):
            assert row[f"regret_{top}"] == pytest.approx(line.max() - line[order[:top]].max())
            assert row[f"chance_{top}"] == pytest.approx(np.mean([line.max() - max(some) for some in combinations(line, top)]))
    assert told[told["measure"] == "logme"]["regret_1"].max() < told[told["measure"] == "h_score"]["regret_1"].min()
    assert foresight.seconds(records) == {"logme": 10.0, "h_score": 9.0, "text": 3.0, "weights": 4.0}
    lines = foresight.sentences(told, made.frame().assign(train_seconds=1.0), foresight.seconds(records), made.names())
    assert any(line.startswith("**LogME** against the gains of ScaLearn++, each source by leaving it out: mean rank") for line in lines)
    assert "It took 10.0 s, trying 60.0 s." in lines[0]


def _patterns(made: Stacks) -> dict[str, omega_patterns.Pattern]:
    scores = stack_scores(made.frame())
    spoilt = quality.spoilt(scores)
    kept = [omega for omega in made.omegas if omega.node in largest(scores) | spoilt.keys()]
    return {pattern.question: pattern for pattern in omega_patterns.patterns(kept, spoilt)}


def test_own_source_that_is_always_largest_is_more_than_chance() -> None:
    own = Stacks(additive, omega=lambda method, target, source, seed: 0.5 if source == target else 0.1 + HELP[source])
    found = _patterns(own.add("scalearn_pp", [TASKS, TASKS[:2]]))
    pattern = found["Is the target's own source largest?"]
    assert "for 4 of 4 targets (1.0 expected by chance)" in pattern.answer
    assert pattern.p == pytest.approx(0.25**4)
    assert "more than chance" in omega_patterns.sentence(pattern)
    never = Stacks(additive, omega=lambda method, target, source, seed: 0.0 if source == target else 0.1).add("scalearn_pp", [TASKS])
    assert _patterns(never)["Is the target's own source largest?"].p == pytest.approx(1.0)


def test_seeds_that_agree_and_seeds_that_do_not() -> None:
    alike = Stacks(additive, omega=lambda method, target, source, seed: HELP[source]).add("scalearn_pp", [TASKS])
    pattern = _patterns(alike)["Do seeds agree?"]
    assert pattern.p is not None
    assert pattern.p < 0.01
    assert "1.00 over 4 stacks" in pattern.answer
    apart = Stacks(additive, omega=lambda method, target, source, seed: HELP[TASKS[(TASKS.index(source) + seed) % 4]])
    assert _patterns(apart.add("scalearn_pp", [TASKS], seeds=range(4)))["Do seeds agree?"].p > 0.05
    alone = Stacks(additive).add("scalearn_pp", [TASKS], seeds=[0])
    assert "Do seeds agree?" not in _patterns(alone)


def test_sources_of_shuffled_labels_are_the_null_that_trained_ones_are_compared_with() -> None:
    def omega(method: str, target: str, source: str, seed: int) -> float:
        return 0.1 if " " in source else 0.3

    deals = [("cola labels_shuffled=1", "sst2", "mrpc", "rte"), ("cola", "sst2 labels_shuffled=1", "mrpc labels_shuffled=1", "rte")]
    made = Stacks(additive, omega=omega).add("scalearn_pp", [TASKS, *deals])
    pattern = _patterns(made)["Do trained sources get more than empty ones?"]
    assert "mean omega of 0.300, those trained on shuffled labels 0.100, over 24 jobs" in pattern.answer
    assert pattern.p is not None
    assert pattern.p < 0.01
    equal = Stacks(additive).add("scalearn_pp", [TASKS, *deals])
    assert _patterns(equal)["Do trained sources get more than empty ones?"].p == 1.0


def test_unequal_sources_tell_whether_omega_falls_and_which_method_suffers_least() -> None:
    deals = [("cola rows_kept=0.05", "sst2", "mrpc labels_shuffled=0.5", "rte"), ("cola", "sst2 rows_kept=0.05", "mrpc", "rte")]
    deals += [("cola labels_shuffled=0.5", "sst2 labels_shuffled=0.5", "mrpc rows_kept=0.05", "rte rows_kept=0.05")]

    def score(method: str, target: str, stack: tuple[str, ...], seed: int) -> float:
        poor = sum(" " in source for source in stack)
        return 0.7 - (0.01 if method == "scalearn_pp" else 0.02) * poor + noise(seed, target, method, poor)

    def omega(method: str, target: str, source: str, seed: int) -> float:
        return (0.3 if " " not in source else 0.2 if "rows" in source else 0.1) + 0.001 * seed * (" " in source)

    made = Stacks(score, omega=omega).add("scalearn_pp", [TASKS, *deals]).add("scalearn_uniform", [TASKS, *deals])
    scores, names = stack_scores(made.frame()), made.names()
    lost = quality.losses(scores, names)
    average = {row["title"]: row["estimate"] for row in lost.to_dict("records") if row["task"] == "average"}
    assert list(average) == ["ScaLearn++", "ScaLearnUniform"]
    values = [
        [np.mean([score("scalearn_pp", task, s, seed) for task in TASKS for s in stacks]) for seed in (0, 1, 2)]
        for stacks in (deals, [TASKS])
    ]
    assert average["ScaLearn++"].mean == pytest.approx(np.subtract(*values).mean())
    by_quality = quality.omega_by_quality(scores, made.omegas)
    one = by_quality[by_quality["title"] == "ScaLearn++"].set_index("quality")
    assert list(one.index) == ["whole", "rows_kept=0.05", "labels_shuffled=0.5"]
    assert one.loc["whole", "omega"] == pytest.approx(0.3)
    assert one.loc["rows_kept=0.05", "difference"].mean == pytest.approx(-0.099)
    first, *others = quality.sentences(lost, by_quality, names)
    assert first.index("ScaLearn++") < first.index("ScaLearnUniform")
    assert "it falls certainly for 2 of 2 qualities" in others[0]
    assert "with 5% of the rows" in others[0]


def test_a_sweep_without_such_jobs_asks_nothing_about_stacks() -> None:
    made = Stacks(additive).add("scalearn_pp", [TASKS])
    assert [question.name for question in questions(stack_scores(made.frame()), [], made.names())] == []


def test_every_question_of_a_sweep_has_sentences_a_table_and_plots_that_draw() -> None:
    deal = ("cola rows_kept=0.05", "sst2", "mrpc labels_shuffled=1", "rte")
    made = Stacks(additive, omega=lambda method, target, source, seed: 0.2 + HELP[source.partition(" ")[0]])
    made.add("scalearn_pp", [*subsets(1, 2, 3, 4), deal], layers=2)
    asked = questions(stack_scores(made.frame()), made.omegas, made.names())
    assert [question.name for question in asked] == ["interference", "gains", "patterns", "quality"]
    for question in asked:
        assert question.sentences
        assert question.table.rows
        for plot in question.plots:
            for theme in ("light", "dark"):
                assert plot.render("svg", theme).startswith(b"<?xml")
    assert sum(len(question.plots) for question in asked) == 4


def test_fixed_omegas_that_no_job_states_are_no_reason_to_fail() -> None:
    frame = Stacks(lambda method, target, stack, seed: 0.5).add("scalearn_fixed", [("cola", "sst2")]).frame()
    assert "setting_omega" not in frame
    assert set(stack_scores(frame)["value"]) == {0.5}


def test_each_backbone_of_a_sweep_answers_for_itself() -> None:
    made = Stacks(additive).add("scalearn_pp", subsets(3, 4))
    other = Stacks(lambda *about: 0.9 - additive(*about), backbone="mpnet", records=made.records, omegas=made.omegas)
    other.add("scalearn_pp", subsets(3, 4))
    asked = questions_by_backbone(stack_scores(made.frame()), made.omegas, made.names(), made.frame(), made.records)
    gains_of = {question.name: question for question in asked if question.name.startswith("gains")}
    assert list(gains_of) == ["gains_minilm", "gains_mpnet"]
    assert gains_of["gains_mpnet"].title == "Who helps whom on mpnet"
    assert "rte's for" in gains_of["gains_minilm"].sentences[0].partition("the largest")[0]
    assert "cola's for" in gains_of["gains_mpnet"].sentences[0].partition("the largest")[0]
    assert len({plot.name for question in asked for plot in question.plots}) == sum(len(question.plots) for question in asked)


def test_interval_of_a_mean_correlation_ends_where_correlations_do() -> None:
    # Student's interval of 0.60, 0.89, 0.97 is 0.34 to 1.30.
    assert mean_correlation([0.60, 0.89, 0.97]) == "mean rank correlation of 0.82 (95% interval 0.34 to 1.00 over 3 targets)"
    assert mean_correlation([-0.9, -0.2, -0.9]).startswith("mean rank correlation of −0.67 (95% interval −1.00 to ")
    assert mean_correlation([0.5]) == "mean rank correlation of 0.50"
