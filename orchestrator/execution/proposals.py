"""The next round of a search, by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

A study is made anew for each round, from the scores of all earlier rounds in the order of their trials. So a proposal depends on these, the
seed and the number of the round, and neither on the order in which jobs end nor on what this process did before.
"""

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.definition.ranges import Point, Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Values = tuple[float, ...]
"""What a trial reached: its validation score and, if parameters are an objective, how many it learns."""


def propose(space: Mapping[str, Range], told: Sequence[tuple[Point, Values | None]], count: int, seed: int) -> list[Point]:
    """Return the points of the next round. A shorter round is the beginning of a longer one.

    Args:
        space: The ranges.
        told: All earlier trials in order. None: a trial has no score, since a job failed.
        count: How many points to return.
        seed: The search's seed.
    """
    import optuna  # it takes seconds to load, which sweeps without a search save

    logging.getLogger("optuna").setLevel(logging.WARNING)
    number = int.from_bytes(hashlib.sha256(f"{seed}/{len(told)}".encode()).digest()[:4])
    weighed = max((len(values) for _, values in told if values is not None), default=1)
    # The first round was random. `multivariate`: what is good together is proposed together. `constant_liar`: trials that were just
    # proposed count as bad, so that a round does not hold one point several times.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(n_startup_trials=1, multivariate=len(space) > 1, constant_liar=True, seed=number)
    directions = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    study = optuna.create_study(directions=directions[:weighed], sampler=sampler)
    distributions = {name: _distribution(span) for name, span in space.items()}
    for point, values in told:
        state = optuna.trial.TrialState.FAIL if values is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(state=state, params=dict(point), distributions=distributions, values=values))
    asked = [study.ask(distributions) for _ in range(count)]
    return [{name: span.nearest(float(trial.params[name])) for name, span in space.items()} for trial in asked]


def _distribution(span: Range) -> "BaseDistribution":
    import optuna

    if span.whole:
        return optuna.distributions.IntDistribution(int(span.low), int(span.high), log=span.log)
    return optuna.distributions.FloatDistribution(span.low, span.high, log=span.log)
