"""The runs of one sweep in MLflow: found or created by node, never twice. Imports MLflow, which takes seconds."""

import json
import logging
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from analysis.reading.mlflow_records import MANIFEST_ARTIFACT, UNFINISHED, ending_tags, job_tags, record_from_tags
from analysis.report.mlflow_jobs import CHOSEN, VIEW_TAG, experiment_description, run_description, saved_views
from orchestrator.tracking.run_facts import MetricValue, SplitRows
from orchestrator.tracking.tracking_file import create_tracking_file, take_artifacts_along

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100
_MAX_VALUE = 5000
"""Characters of a tag or parameter; every MLflow server accepts so many."""
_PAGE = 1000

NODE, KIND, SWEEP, STARTED, STEP, STATE, STORE = "node", "kind", "sweep", "started", "logged_step", "state", "store"
PARENT_RUN, NOTE, REPORT_MARK = "mlflow.parentRunId", "mlflow.note.content", "report"
REPORT_ARTIFACT = "report"
"""Folder among the artifacts of the sweep's run that holds its page, tables and plots."""


@dataclass
class JobRun:
    """The MLflow run of one job, as far as the writer knows it."""

    run_id: str
    started: str
    """When the job's training began. Another time means that the job was trained anew."""
    store: str
    state: str
    """`opening` until the parameters are logged, then `running`, `succeeded` or `failed`."""
    step: int
    """Step of the last history record that was logged."""
    chosen: bool = False
    """Whether the sweep's table showed the job when a report was logged last."""

    def is_of_earlier_training(self, started: str, store: str) -> bool:
        """Tell whether the same store has trained the job anew since this run."""
        return self.store == store and self.started != started


class SweepRuns:
    """A connection to one experiment, with the sweep's run open in it."""

    def __init__(self, uri: str, experiment: str, sweep: str, note: str, artifacts: Path) -> None:
        """Connect. Find or create the experiment and the sweep's run.

        Args:
            uri: Tracking URI.
            experiment: Name of the experiment.
            sweep: Name of the sweep.
            note: Markdown that describes the sweep.
            artifacts: Where an SQLite store keeps artifacts. A server has its own place.
        """
        create_tracking_file(uri)
        is_server = uri.startswith(("http://", "https://"))
        if not is_server:
            _open_database(uri)
        self._client = MlflowClient(uri)
        self._sweep = sweep
        self.experiment_id = self._experiment(experiment, None if is_server else artifacts)
        take_artifacts_along(uri, artifacts)
        if not self._sweep_runs():
            self._client.create_run(self.experiment_id, tags={KIND: "sweep", SWEEP: sweep, NOTE: note[:_MAX_VALUE]}, run_name=sweep)
        self.run_id = ""
        self.report_mark: str | None = None
        """Mark of the report that the sweep's run has. None: it has none."""
        self.jobs: dict[str, JobRun] = {}
        """The run of every job of the experiment, by node."""
        self.join_duplicates()
        self._client.update_run(self.run_id, status="RUNNING")

    def lacks(self, node: str, started: str, store: str) -> bool:
        """Tell whether the last look found no complete run of a job that was logged in full: somebody has deleted it."""
        job = self.jobs.get(node)
        return job is None or job.state != "succeeded" or job.is_of_earlier_training(started, store)

    def open_job(
        self,
        node: str,
        started: str,
        store: str,
        *,
        time: float,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, str],
        record: Mapping[str, Any],
    ) -> JobRun:
        """Find or create the run of a job.

        If an earlier training of the same job in the same store left a run, that run is replaced: its metrics belong to that training.

        Args:
            node: The job.
            started: When its training began, as text.
            store: Where its artifact lies.
            time: When its training began, in seconds since 1970.
            name: What the UI calls the run.
            tags: Further tags.
            parameters: The job's configuration, which cannot change later.
            record: Content of `job.json`.
        """
        job = self.jobs.get(node)
        if job is not None and job.is_of_earlier_training(started, store):
            self._client.delete_run(job.run_id)
            job = None
        if job is None:
            own = {NODE: node, KIND: "job", SWEEP: self._sweep, STARTED: started, STORE: store, STATE: "opening", PARENT_RUN: self.run_id}
            every = {key: value[:_MAX_VALUE] for key, value in {**_record_tags(node, record), **tags, **own}.items()}
            run = self._client.create_run(self.experiment_id, start_time=int(time * 1000), tags=every, run_name=name)
            job = self.jobs[node] = _job_run(run)
        if job.state == "opening":
            values = [Param(key, value[:_MAX_VALUE]) for key, value in parameters.items()]
            for first in range(0, len(values), _PARAMS_PER_BATCH):
                self._client.log_batch(job.run_id, params=values[first : first + _PARAMS_PER_BATCH])
            self._set_state(job, "running", {})
        return job

    def reopen_job(self, job: JobRun) -> None:
        """Declare a failed job's run running again."""
        self._set_state(job, "running", UNFINISHED)
        self._client.update_run(job.run_id, status="RUNNING")

    def log(self, job: JobRun, values: Sequence[MetricValue], step: int) -> None:
        """Log values up to a step. MLflow keeps one of two equal values, so values may be sent again if an answer was lost."""
        metrics = [Metric(each.name, each.value, int(each.time * 1000), each.step) for each in values]
        for first in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(job.run_id, metrics=metrics[first : first + _METRICS_PER_BATCH])
        self._client.log_batch(job.run_id, tags=[RunTag(STEP, str(step))])
        job.step = step

    def log_data(self, job: JobRun, splits: Sequence[SplitRows]) -> None:
        """Log which rows a job has read. MLflow keeps one of two equal data sets."""
        data = [
            DatasetInput(
                Dataset(each.task, each.digest, "local", json.dumps({"uri": each.origin}), profile=json.dumps({"num_rows": each.rows})),
                [InputTag("mlflow.data.context", each.split)],
            )
            for each in splits
        ]
        if data:
            self._client.log_inputs(job.run_id, datasets=data)

    def mark_chosen(self, chosen: Mapping[str, bool]) -> None:
        """Tag the jobs that the sweep's table shows, and take the tag from those that it showed before.

        Args:
            chosen: Whether it shows a job, for each of the sweep's jobs.
        """
        for node, shown in chosen.items():
            job = self.jobs.get(node)
            if job is not None and job.chosen != shown:
                self._client.set_tag(job.run_id, CHOSEN, str(shown).lower())
                job.chosen = shown

    def close_job(
        self, job: JobRun, node: str, time: float, record: Mapping[str, Any], result: Mapping[str, Any] | None, marker: Mapping[str, Any]
    ) -> None:
        """Declare a job's run `succeeded` or `failed`.

        Args:
            job: Its run.
            node: The job.
            time: When it ended, in seconds since 1970.
            record: Content of `job.json`.
            result: Content of `result.json`. None: the job failed.
            marker: Content of `SUCCESS.json` or `FAILED.json`.
        """
        state = "failed" if result is None else "succeeded"
        tags = _record_tags(node, record, ending_tags(result, marker)) | ({"error": str(marker.get("error"))} if result is None else {})
        self._client.set_terminated(job.run_id, "FINISHED" if state == "succeeded" else "FAILED", end_time=int(time * 1000))
        # Last, because this tag says that nothing is left to log.
        self._set_state(job, state, tags)

    def log_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Attach the sweep's manifest, which also names the jobs that have no run yet."""
        self._client.log_dict(self.run_id, dict(manifest), MANIFEST_ARTIFACT)

    def log_report(self, folder: Path, mark: str, description: str, metrics: Mapping[str, float]) -> None:
        """Attach a report to the sweep's run.

        Args:
            folder: Its page, tables and plots.
            mark: Stands for what the report was made from.
            description: Markdown.
            metrics: Averages and scores.
        """
        now = int(clock.time() * 1000)
        values = [Metric(name, value, now, 0) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, tags=[RunTag(NOTE, description[:_MAX_VALUE])])
        for first in range(0, len(values), _METRICS_PER_BATCH):
            self._client.log_batch(self.run_id, metrics=values[first : first + _METRICS_PER_BATCH])
        self._client.log_artifacts(self.run_id, str(folder), REPORT_ARTIFACT)
        self._client.log_batch(self.run_id, tags=[RunTag(REPORT_MARK, mark)])
        self.report_mark = mark

    def close(self, status: str) -> None:
        """Declare the sweep's run `FINISHED`, `FAILED` or `KILLED`."""
        self._client.set_terminated(self.run_id, status)

    def join_duplicates(self) -> None:
        """Read which runs exist, keep one of the sweep and one of each job, and delete the others once they are not needed.

        A server that answers late may create a run after its client gave up, and the client's next attempt then creates another one.
        Drivers that work on one sweep may do the same. Each driver joins the runs that it sees, at any moment. So that all keep the same
        run without asking each other, they keep the first by an order that never changes. A job's other runs are deleted only once the
        first is complete.

        Raises:
            MlflowException: The server refused, or no longer has a run of the sweep: connect anew.
        """
        kept, *duplicates = self._sweep_runs() or [self._client.get_run(self.run_id)]
        self.run_id, self.report_mark = kept.info.run_id, kept.data.tags.get(REPORT_MARK)
        found: dict[tuple[str, str, str], list[JobRun]] = {}
        # By run id: where others create runs meanwhile, two pages may show the same run.
        for run_id, run in sorted({run.info.run_id: run for run in self._job_runs()}.items()):
            if (node := run.data.tags.get(NODE)) is not None:
                job = _job_run(run)
                found.setdefault((node, job.started, job.store), []).append(job)
                if run.data.tags.get(SWEEP) == self._sweep and run.data.tags.get(PARENT_RUN) != self.run_id:
                    self._client.log_batch(run_id, tags=[RunTag(PARENT_RUN, self.run_id)])
        self.jobs = {}
        for (node, _, _), (job, *others) in found.items():
            self.jobs[node] = job
            for other in others:
                if job.state == "succeeded" or (job.state == "failed" and other.state != "succeeded"):
                    self._client.delete_run(other.run_id)
        for duplicate in duplicates:
            self._client.delete_run(duplicate.info.run_id)

    def _sweep_runs(self) -> list[Run]:
        """Return the sweep's runs in the order on which all drivers agree. All but the first are duplicates."""
        query = f"tags.{KIND} = 'sweep' and tags.{SWEEP} = '{self._sweep}'"
        return sorted(self._client.search_runs([self.experiment_id], query), key=lambda run: (run.info.start_time, run.info.run_id))

    def _set_state(self, job: JobRun, state: str, tags: Mapping[str, str]) -> None:
        self._client.log_batch(job.run_id, tags=[RunTag(key, value[:_MAX_VALUE]) for key, value in {**tags, STATE: state}.items()])
        job.state = state

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        tags = {NOTE: experiment_description(self._sweep), **saved_views()}
        if found is not None:
            for key, value in tags.items():
                # What a person has changed stays, such as the description. Nobody edits our views: saving one makes another.
                if key not in found.tags or (key.startswith(VIEW_TAG) and found.tags[key] != value):
                    self._client.set_experiment_tag(found.experiment_id, key, value)
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, None if artifacts is None else artifacts.as_uri(), tags=tags))
        except MlflowException:
            # Another driver has created it first.
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _job_runs(self) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], f"tags.{KIND} = 'job'", max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _open_database(uri: str) -> None:
    """Send any request to a database, since MLflow would try for minutes, whatever the reason of a failure.

    Raises:
        SQLAlchemyError: The database cannot be opened or reached.
        ImportError: No driver for this kind of database is installed.
    """
    sqlalchemy.inspect(sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)).get_table_names()


def _record_tags(node: str, record: Mapping[str, Any], ending: Mapping[str, str] = UNFINISHED) -> dict[str, str]:
    """Return the tags that hold a job's record, from which `analysis` reads it back, and the same as text."""
    tags = job_tags(record) | dict(ending)
    return tags | {NOTE: run_description(record_from_tags(node, tags))}


def _job_run(run: Run) -> JobRun:
    tags = run.data.tags
    step = tags.get(STEP, "")
    done = int(step) if step.isdigit() else -1
    return JobRun(run.info.run_id, tags.get(STARTED, ""), tags.get(STORE, ""), tags.get(STATE, ""), done, tags.get(CHOSEN) == "true")
