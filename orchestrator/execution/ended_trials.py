"""Forgets trials that have ended. Tune keeps every trial to the end of a run, and looks at all of them before it starts the next one.

Tune has no public door to where it keeps them. With a Ray that keeps them elsewhere, a driver only grows by some 80 KiB with each trial.
"""

from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler

_ENDED = ("_stopped_trials", "_failed_trials")
_KEPT = ("_live_trials", "_trials_to_cache", *_ENDED)


class ForgetfulScheduler(FIFOScheduler):
    """Tune's own order, first come first served, over the trials that have not ended.

    What became of a trial is known to the searcher and the store, so that nobody asks Tune for it.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Forget the trials that have ended since the last step. Return the trial to run next, or None."""
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        actors = getattr(controller, "_trial_to_actor", {})
        ended = {trial for name in _ENDED for trial in getattr(controller, name, ()) if trial not in actors}
        if ended:
            trials = tune_controller.get_trials()
            trials[:] = [trial for trial in trials if trial not in ended]
            for name in _KEPT:
                getattr(controller, name, set()).difference_update(ended)
            for trial in ended:
                getattr(controller, "_trial_metadata", {}).pop(trial.trial_id, None)
            _forget_requests(getattr(controller, "_actor_manager", None))
        return super().choose_trial_to_run(tune_controller)


def _forget_requests(manager: Any) -> None:
    """Forget tasks for actors that are no longer asked for. Tune asks for one with each trial, though most trials take over a warm one."""
    tasks, asked_for = (getattr(manager, name, {}) for name in ("_pending_actors_to_enqueued_actor_tasks", "_pending_actors_to_attrs"))
    for actor in [actor for actor in tasks if actor not in asked_for]:
        del tasks[actor]


class SilentProgress(TrialProgressCallback):
    """Takes the place of the callback that Tune would add, which prints nothing here, and remembers every trial."""

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        """Print and remember nothing."""

    def on_trial_error(self, *_: Any, **__: Any) -> None:
        """Print and remember nothing."""

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """Print and remember nothing."""
