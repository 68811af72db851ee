"""Sweeps in Python: what the commands do, for programs and notebooks."""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.as_run import Run, as_run, load_sweep
from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import graph_ahead, graph_in
from orchestrator.definition.sweep import Sweep as Definition
from orchestrator.execution.apart import run_apart
from orchestrator.execution.options import Options
from orchestrator.forecast.forecast import Expected, forecast
from orchestrator.profiling.profile import DEFAULT_PROFILE, load_profile
from orchestrator.remote.job_server import submit_sweep
from orchestrator.scheduling.cost import cost_of
from orchestrator.watching.notebook import CellDisplay, in_notebook
from orchestrator.watching.plan import PlanResult, plan_sweep
from orchestrator.watching.report import one_sentence, write_report
from orchestrator.watching.status import SweepStatus, read_status

if TYPE_CHECKING:
    import pandas as pd

    from analysis import BenchmarkTable

_KEYS = "Sweep(...)"
"""What error messages call a sweep that was built from keyword arguments."""


class Sweep:
    """A sweep and its store. Its jobs, their fingerprints and all errors are those of a file with the same content.

    >>> Sweep(name="two", benchmark="domains", backbone="minilm", methods={"scalearn": {}}, targets=["apple"], sources={"tasks": ["bbc"]})
    Sweep two: 2 jobs, store /home/me/runs
    """

    def __init__(self, **keys: Any) -> None:
        """Build a sweep from the keys of a sweep file: `name`, `benchmark`, `backbone`, `methods`, ..., `store`.

        Args:
            keys: The keys and their values: texts, numbers, lists and mappings.

        Raises:
            UserError: A key or value is wrong. There is a sentence for each.
        """
        definition = Definition.from_keys(keys, _KEYS)
        self._keep(definition, Store(definition.store), _KEYS)

    @classmethod
    def from_file(cls, file: str | Path, *, set: Mapping[str, Any] | None = None, store: str | Path | None = None) -> "Sweep":
        """Return the sweep of a file, or one that was run, or one that the package ships.

        Args:
            file: A sweep file, a manifest `STORE/sweeps/NAME.json`, or the name of a sweep in the store or of a shipped one.
            set: Values for keys of the file; dots go down, as with `--set`: `{"training.epochs": 3}`.
            store: Where artifacts are, in place of the file's `store`.

        Raises:
            UserError: There is no such sweep, or a key or value is wrong. There is a sentence for each.
        """
        overrides = [f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in (set or {}).items()]
        sweep = cls.__new__(cls)
        place = None if store is None else str(store)
        sweep._keep(*load_sweep(str(file), overrides, place), str(file), place)
        return sweep

    def _keep(self, definition: Definition, store: Store, file: str, place: str | None = None) -> None:
        self._definition, self._store, self._file = definition, store, file
        self._place = place or definition.store
        """The store as it was given, which may be relative."""

    def __repr__(self) -> str:
        return f"Sweep {self.name}: {len(graph_in(self._store, self._definition))} jobs, store {self.store}"

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._definition.name

    @property
    def store(self) -> str:
        """Where artifacts are: a directory or a URL."""
        return self._store.url

    def plan(self, only: str | None = None) -> PlanResult:
        """Return what a run would do. It shows itself in a notebook.

        Args:
            only: Regular expression: only the jobs whose node matches, and what they need.

        Raises:
            UserError: The pattern matches no job, or data is missing.
        """
        graph = graph_in(self._store, self._definition)
        if only is not None:
            return plan_sweep(self._definition, graph.restrict(only), self._store)
        return plan_sweep(self._definition, graph, self._store, graph_ahead(self._store, self._definition))

    def forecast(self, devices: int = 1, *, profile: str | Path = DEFAULT_PROFILE, price_per_hour: float | None = None) -> Expected:
        """Return how long what is not done yet will take, as `scalearn plan --gpus` prints it. It shows itself in a notebook.

        Args:
            devices: Number of devices of the profile's kind.
            profile: The device's speed: a file of `scalearn profile --out`, or the name of a shipped one.
            price_per_hour: What an hour of one device costs. None: not known.

        Raises:
            UserError: There is no such profile, or a job needs more devices.
        """
        cost = cost_of(self._definition, load_profile(str(profile)))
        graph, ahead = graph_in(self._store, self._definition), graph_ahead(self._store, self._definition)
        done = plan_sweep(self._definition, graph, self._store).cached()
        return Expected(forecast(ahead or graph, done, cost, devices, self._definition.resources, price=price_per_hour))

    def run(
        self,
        *,
        progress: bool | Callable[[SweepStatus], None] = True,
        only: str | None = None,
        force: bool = False,
        cpus: int | None = None,
        gpus: int | None = None,
    ) -> SweepStatus:
        """Run the sweep, or resume, extend or repair it, as `scalearn run` does, and return where it stands at the end.

        It runs in a process of its own. An interruption (Ctrl-C, or a notebook's stop button) lets running jobs write a checkpoint, and the
        next `run` goes on from there.

        Args:
            progress: True: show in a notebook a table that redraws itself, elsewhere what `scalearn run` shows. False: show nothing. A
                function: call it with the status every few seconds.
            only: As for `plan`.
            force: Train again what `only` matches (all, without it), done or not.
            cpus: CPUs of a local Ray. None: all that this process may use.
            gpus: GPUs of a local Ray. None: all that Ray finds.

        Raises:
            UserError: Wrong input, a store that cannot be written to, or a cluster that cannot be reached.
            KeyboardInterrupt: It was interrupted, or cancelled by `scalearn cancel`; checkpoints are written.
        """
        options = Options(only=only, force=force, cpus=cpus, gpus=gpus)
        display = CellDisplay() if progress is True and in_notebook() else None

        def now() -> SweepStatus:
            graph = graph_in(self._store, self._definition)  # anew, since a search may have proposed more
            return read_status(self.name, graph if only is None else graph.restrict(only), self._store)

        def look() -> None:
            if display is not None:
                display.show(now()._repr_html_())
            elif callable(progress):
                progress(now())

        try:
            watched = progress is not True or display is not None
            run_apart(self._definition, self._store, options, look if watched else None, None if display is None else _write)
        finally:
            if display is not None:
                display.show("")  # what is returned shows itself
        return now()

    def submit(self, *, address: str | None = None, working_dir: str | Path = ".", runtime_env: Mapping[str, Any] | None = None) -> str:
        """Run the sweep as a job of a Ray cluster. Return the job's id at once; `status` tells how far it is, from the store.

        Args:
            address: URL of the cluster's dashboard. None: as for `scalearn submit`.
            working_dir: Directory to upload. The sweep itself need not lie in it.
            runtime_env: Ray's runtime environment of the job: `pip`, `env_vars`, ...

        Raises:
            UserError: The store would not outlive the job, or the cluster does not answer or accept the job.
        """
        return submit_sweep(address, self._definition, self._place, Path(working_dir), runtime_env or {})

    def status(self, only: str | None = None) -> SweepStatus:
        """Return how far the sweep is, whoever runs it. It shows itself in a notebook.

        Args:
            only: As for `plan`.
        """
        run = self._run().restricted(only)
        return read_status(run.sweep.name, run.graph, run.store)

    def frame(self) -> "pd.DataFrame":
        """Return all results as one long frame; docs/results.md describes its columns.

        Raises:
            UserError: The sweep was not run.
        """
        with one_sentence():
            import analysis  # it loads pandas, most of a second that planning saves

            return analysis.load(self.store, self._run().name)

    def table(self, rule: str = "validation") -> "BenchmarkTable":
        """Return the benchmark table. It shows itself in a notebook; `table().to_frame()` holds its numbers.

        Args:
            rule: How learning rates are chosen: `validation` (by validation score), or a number: fixed at that.

        Raises:
            UserError: The sweep was not run, or the rule is unknown.
        """
        with one_sentence():
            import analysis
            from analysis.reading.selection import check_rule

            return analysis.benchmark_table(self.frame(), check_rule(rule))

    def report(self, to: str | Path | None = None, *, rule: str = "validation", against: str | None = None) -> Path:
        """Write tables, statistics and plots as one folder. Return its page.

        Args:
            to: The folder. None: `reports/NAME` in the store.
            rule: As for `table`.
            against: `paper`: set the published scores beside one's own.

        Raises:
            UserError: The sweep was not run, nothing is published for its benchmark, or the folder cannot be written.
        """
        return write_report(self._store, self._run().name, None if to is None else Path(to), rule=rule, against=against)[0]

    def _run(self) -> Run:
        run = as_run(self._definition, self._store, self._file)
        if run.remark:
            warnings.warn(run.remark, stacklevel=3)
        return run


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
