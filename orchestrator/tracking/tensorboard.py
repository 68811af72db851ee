"""TensorBoard's event files from what jobs left in a store, one directory per job."""

from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from orchestrator.artifacts.store import HISTORY, JOB, RESULT, SUCCESS, Store
from orchestrator.definition.graph import Graph
from orchestrator.tracking.run_facts import history_metrics, result_metrics, tags
from scalearn.errors import UserError

_TOLD = ("stage", "method", "target", "seed", "learning_rate", "benchmark", "backbone")
"""Tags by which TensorBoard's page of hyperparameters compares jobs."""


def write_events(store: Store, graph: Graph, to: Path) -> int:
    """Write the metrics of jobs as MLflow has them: each evaluation, then the final scores, counts and timings.

    Args:
        store: Where the jobs' files are.
        graph: The jobs. Those that have not begun are left out.
        to: Receives a directory per job, named by its node. Events that lie there already are replaced.

    Returns:
        How many jobs were written.

    Raises:
        UserError: The directory cannot be written.
    """
    written = 0
    for job in graph:
        record = store.read_json(job.node, JOB)
        values = history_metrics(store.directory(job.node) / HISTORY, -1)
        marker, result = store.read_json(job.node, SUCCESS), store.read_json(job.node, RESULT)
        if marker is not None and result is not None:
            values += result_metrics(result, float(marker.get("time") or 0))
        if record is None or not values:
            continue
        try:
            for old in (to / job.node).glob("events.out.tfevents.*"):
                old.unlink()
            with SummaryWriter(str(to / job.node), write_to_disk=True) as writer:
                for value in values:
                    writer.add_scalar(value.name, value.value, value.step, walltime=value.time)
                about = tags(job, graph.stage_of(job.node), record)
                scores = {value.name: value.value for value in values if value.name == "test_score"}
                for summary in hparams({name: about[name] for name in _TOLD}, scores):
                    writer.file_writer.add_summary(summary)
        except OSError as error:
            raise UserError(f"{to} cannot be written ({error.strerror or error}): name another directory.") from error
        written += 1
    return written
