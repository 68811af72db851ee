"""Ranges: what is drawn, which jobs that makes, and what is refused."""

import pytest

from orchestrator.definition.expand import Expansion
from orchestrator.definition.ranges import Range, draw, sound_points
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserErrors

BASE = """
name: toy
benchmark: domains
backbone: minilm
data: {train_rows: 60, evaluation_rows: 20, max_length: 16}
sources: {tasks: [apple, bbc]}
targets: [apple, bbc]
"""
RATE = "learning_rate: {low: 1e-4, high: 3e-2, log: true}"


def sweep(methods: str, search: str = "search: {by: optuna, trials: 10}") -> Sweep:
    return Sweep.from_text(f"{BASE}{search}\nmethods: {{{methods}}}\n")


def test_draws_depend_on_seed_number_and_name_alone():
    space = {"learning_rate": Range(1e-4, 3e-2, log=True), "omega_dropout": Range(0.0, 0.5)}
    assert [draw(space, 0, number) for number in (0, 1)] == [
        {"learning_rate": 0.00557, "omega_dropout": 0.266},
        {"learning_rate": 0.00565, "omega_dropout": 0.101},
    ]
    assert draw({"omega_dropout": space["omega_dropout"]}, 0, 0) == {"omega_dropout": 0.266}
    assert draw(space, 1, 0) != draw(space, 0, 0)


@pytest.mark.parametrize(
    "span", [Range(4, 32, whole=True), Range(4, 32, log=True, whole=True), Range(0.1234, 7.777), Range(1e-5, 1, log=True)]
)
def test_values_lie_in_the_range_and_are_recognised(span: Range):
    drawn = [span.at(number / 200) for number in range(201)]
    assert (min(drawn), max(drawn)) == (span.low, span.high)
    assert drawn == sorted(drawn)
    assert all(span.holds(value) for value in drawn)
    assert {type(value) for value in drawn} == {int if span.whole else float}


def test_damaged_points_are_left_out_from_the_first_on():
    space = {"rank": Range(2, 16, whole=True)}
    assert sound_points(space, [{"rank": 4}, {"rank": 2.5}, {"rank": 8}]) == ({"rank": 4},)
    assert sound_points(space, [{"rank": 17}]) == sound_points(space, [{"rate": 4}]) == sound_points(space, [{"rank": True}]) == ()


def test_optuna_begins_with_the_first_random_trials_and_random_has_all_at_once():
    begun = Expansion(sweep(f"scalearn: {{{RATE}}}")).expand()
    random = Expansion(sweep(f"scalearn: {{{RATE}}}", "search: {by: random, trials: 10}")).expand()
    first = [[trial.point for trial in group.trials] for group in begun.groups]
    whole = [[trial.point for trial in group.trials] for group in random.groups]
    assert [len(points) for points in first] == [4, 4]
    assert [len(points) for points in whole] == [10, 10]
    assert [points[:4] for points in whole] == first
    ahead = Expansion(sweep(f"scalearn: {{{RATE}}}")).expand(ahead=True)
    assert ahead.graph.nodes() == random.graph.nodes()


def test_known_trials_are_taken_up_to_the_number_of_trials():
    expansion = Expansion(sweep(f"scalearn: {{{RATE}}}", "search: {by: optuna, trials: 5}"))
    first, second = expansion.expand().groups
    points = [dict(trial.point) for trial in first.trials] + [{"learning_rate": rate} for rate in (1e-3, 2e-3)]
    grown = expansion.expand({first.key: points}).groups
    assert [trial.point["learning_rate"] for trial in grown[0].trials][4:] == [1e-3]
    assert grown[1].trials == second.trials


def test_a_trial_is_the_job_of_a_list_with_its_value():
    (rate,) = [trial.point["learning_rate"] for trial in Expansion(sweep(f"scalearn: {{{RATE}}}")).expand().groups[0].trials][:1]
    listed = sweep(f"scalearn: {{learning_rate: {rate}}}", "").expand()
    searched = sweep(f"scalearn: {{{RATE}}}").expand()
    assert set(listed.nodes()) <= set(searched.nodes())
    both = sweep(f"scalearn: [{{{RATE}}}, {{learning_rate: {rate}}}]").expand()
    assert both.nodes() == searched.nodes()


def test_early_stopping_compares_the_rates_of_one_round():
    expansion = Expansion(sweep(f"scalearn: {{{RATE}, early_stopping: asha}}"))
    group = expansion.expand().groups[0]
    rates = [trial.point["learning_rate"] for trial in group.trials]
    assert {trial.jobs[0].config.compared for trial in group.trials} == {tuple((rate, 0) for rate in sorted(rates))}
    points = [{"learning_rate": rate} for rate in (*rates, 1e-3, 2e-3)]
    later = expansion.expand({group.key: points}).groups[0]
    assert later.trials[:4] == group.trials
    assert {trial.jobs[0].config.compared for trial in later.trials[4:]} == {((1e-3, 0), (2e-3, 0))}


@pytest.mark.parametrize("change", ["seed: 1", "round: 3", "by: random"])
def test_what_decides_the_trials_makes_another_group_but_more_trials_do_not(change: str):
    def keys(search: str, method: str = f"scalearn: {{{RATE}}}") -> list[str]:
        return [group.key for group in Expansion(sweep(method, f"search: {{{search}}}")).expand().groups]

    block = {"by": "optuna", "trials": "10"}
    name, value = change.split(": ")
    changed = ", ".join(f"{key}: {item}" for key, item in (block | {name: value}).items())
    plain = keys("by: optuna, trials: 10")
    assert plain == keys("by: optuna, trials: 99")
    assert not set(plain) & set(keys(changed))
    assert not set(plain) & set(keys("by: optuna, trials: 10", f"scalearn: {{{RATE.replace('3e-2', '2e-2')}}}"))


@pytest.mark.parametrize(
    ("methods", "search", "sentence"),
    [
        ("scalearn: {learning_rate: {low: 1e-2, high: 1e-2}}", None, "goes from 0.01 to 0.01: 'low' must be below 'high'"),
        ("scalearn: {settings: {omega_dropout: {low: 0, high: 0.5, log: true}}}", None, "'log: true' needs a 'low' above 0"),
        ("scalearn: {learning_rate: {low: 0, high: 0.5, log: true}}", None, "learning_rate.low' must be greater than 0"),
        ("scalearn: {learning_rate: {low: 1e-3}}", None, "the key 'high' is missing"),
        ("scalearn: {settings: {omega_dropout: {low: 0, hihg: 1}}}", None, "must be {low: NUMBER, high: NUMBER}"),
        ("scalearn: {settings: {omega_dropout: {low: 0, high: 3}}}", None, "must be a number of at least 0 and below 1, not 3"),
        ("scalearn_fixed: {settings: {omega: {low: 0, high: 1}}}", None, "'omega' of method 'scalearn_fixed' is no number"),
        (f"scalearn: {{{RATE}}}", "", "is a range, and nothing says how to search it"),
        ("scalearn: {}", None, "'search' has nothing to search"),
        (f"scalearn: {{{RATE}}}", "search: {by: bayes, trials: 3}", "must be one of 'random' or 'optuna', not the text 'bayes'"),
        (f"scalearn: {{{RATE}}}", "search: {by: optuna, trials: 0}", "'search.trials' must be at least 1, not 0"),
        (f"scalearn: {{{RATE}}}", "search: {by: optuna, trials: 3}\nobjectives: [parameters]", "must hold 'score'"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(methods: str, search: str | None, sentence: str):
    with pytest.raises(UserErrors) as raised:
        sweep(methods) if search is None else sweep(methods, search)
    (line,) = str(raised.value).splitlines()
    assert sentence in line
