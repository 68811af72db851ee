"""What Optuna proposes from the scores of earlier trials."""

import math

from orchestrator.definition.ranges import Point, Range, draw
from orchestrator.execution.proposals import propose

SPACE = {"learning_rate": Range(1e-4, 3e-2, log=True), "omega_dropout": Range(0.0, 0.5)}
FIRST = [draw(SPACE, 0, number) for number in range(4)]


def hill(point: Point) -> float:
    """Highest, 1, at a rate of 0.01 and a dropout of 0.2."""
    return 1 - 0.1 * math.log10(point["learning_rate"] / 1e-2) ** 2 - (point["omega_dropout"] - 0.2) ** 2


def test_a_proposal_depends_on_scores_and_seed_alone_and_a_shorter_round_begins_a_longer_one():
    told = [(point, (hill(point),)) for point in FIRST]
    round_ = propose(SPACE, told, 4, 0)
    assert propose(SPACE, told, 4, 0) == round_
    assert propose(SPACE, told, 2, 0) == round_[:2]
    assert propose(SPACE, told, 4, 1) != round_
    assert all(span.holds(point[name]) for point in round_ for name, span in SPACE.items())


def test_scores_decide_what_is_proposed():
    up, down = ([(point, (sign * hill(point),)) for point in FIRST] for sign in (1, -1))
    assert propose(SPACE, up, 4, 0) != propose(SPACE, down, 4, 0)


def test_a_search_comes_nearer_to_the_best_than_its_random_beginning():
    told = [(point, (hill(point),)) for point in FIRST]
    while len(told) < 20:
        told += [(point, (hill(point),)) for point in propose(SPACE, told, 4, 0)]
    assert max(values[0] for _, values in told[4:]) > max(values[0] for _, values in told[:4])


def test_a_trial_without_a_score_and_two_objectives_are_taken():
    space = {"rank": Range(2, 16, log=True, whole=True)}
    told = [({"rank": 2}, (0.5, 20.0)), ({"rank": 8}, None), ({"rank": 16}, (0.9, 160.0))]
    assert {type(point["rank"]) for point in propose(space, told, 4, 0)} == {int}
    assert len(propose(space, [(point, None) for point, _ in told], 3, 0)) == 3
