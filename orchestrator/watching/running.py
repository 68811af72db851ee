"""What a running job has left in the store so far: its newest evaluation, and which worker trains it."""

from dataclasses import dataclass
from typing import Any

from orchestrator.artifacts.artifact import JOB
from orchestrator.artifacts.job_history import history_records, scores
from orchestrator.artifacts.store import HISTORY, Store


@dataclass(frozen=True)
class RunningJob:
    """A job under way. What it has not left yet is None."""

    step: int | None = None
    """Steps at its newest evaluation."""
    total_steps: int | None = None
    epoch: float | None = None
    seconds: float | None = None
    """Seconds of training and evaluation so far."""
    score: str | None = None
    """Its newest validation scores."""
    worker: str | None = None
    """The host that trains it, and the device there: `node3, GPU 0`."""

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        steps = f"step {self.step}/{self.total_steps}" if self.total_steps else f"step {self.step or 0}"
        return steps + ("" if self.epoch is None else f", epoch {self.epoch:.3g}")


def read_running(store: Store, node: str) -> RunningJob:
    """Return what a running job has left. Its files may be absent or half written."""
    newest: dict[str, Any] = next(reversed(list(history_records(store.directory(node) / HISTORY))), {})
    provenance = (store.read_json(node, JOB, patient=False) or {}).get("provenance")
    facts = provenance if isinstance(provenance, dict) else {}
    device = {None: "", "": ", CPU"}.get(facts.get("gpus"), f", GPU {facts.get('gpus')}")
    return RunningJob(
        score=scores(newest),
        worker=f"{facts['host']}{device}" if "host" in facts else None,
        **{name: newest.get(name) for name in ("step", "total_steps", "epoch", "seconds")},
    )
