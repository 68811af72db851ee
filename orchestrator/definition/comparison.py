"""Which jobs early stopping compares: those that differ only in learning rate and seed. Each of them names the whole group."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from orchestrator.definition.graph import Job
from scalearn.identity import canonical_json


def compared_group(job: Job) -> str:
    """Return what the jobs of one group have in common."""
    optimisation = replace(job.config.optimisation, learning_rate=0.0)
    parents = [parent.node for parent in job.parents]
    return canonical_json([replace(job.config, optimisation=optimisation, seed=0), parents])


def with_compared(jobs: Iterable[Job]) -> Iterator[Job]:
    """Iterate over a sweep's jobs in order. Jobs that early stopping may end get the learning rates and seeds of their group.

    Early stopping ends a job by comparison with its group. So in another group it is another job, though its path is the same. Jobs that
    have a group already, such as those of a search, which are compared within their round, keep it.
    """
    listed = list(jobs)
    groups = [None if job.config.optimisation.early_stopping is None or job.config.compared else compared_group(job) for job in listed]
    members: dict[str, set[tuple[float, int]]] = defaultdict(set)
    for job, group in zip(listed, groups, strict=True):
        if group is not None:
            members[group].add((job.config.optimisation.learning_rate, job.config.seed))
    compared = {group: tuple(sorted(pairs)) for group, pairs in members.items()}
    for job, group in zip(listed, groups, strict=True):
        yield job if group is None else Job(replace(job.config, compared=compared[group]), job.parents)
