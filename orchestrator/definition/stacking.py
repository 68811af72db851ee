"""Which adapters a transfer job stacks: those that source jobs train for tasks, and those that exist already."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.definition.identity import safe_segment
from orchestrator.definition.names import TaskNames, short
from orchestrator.definition.schema import SourceSets
from orchestrator.definition.source_sets import Pool, lists, pool_of
from scalearn.config import ExternalAdapter
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import external_adapter

if TYPE_CHECKING:
    from orchestrator.definition.schema import Sources

TARGET = "target"
"""Means the target's own source adapter in a method's `sources`."""

_OTHER_PARENTS = ("similarity", "transferability")
"""Names under which a job finds parents that are not sources."""


def external_adapters(sources: "Sources") -> dict[str, ExternalAdapter]:
    """Return the adapters that a sweep names by their place, by the names under which they are stacked.

    Raises:
        UserError: A place holds no adapter, or one with pickled weights that the sweep does not allow.
    """
    return {name: named_adapter(name, place, sources.allow_pickle) for name, place in sources.adapters.items()}


def named_adapter(name: str, place: str, allow_pickle: bool) -> ExternalAdapter:
    """Return one adapter that is named by its place.

    Raises:
        UserError: As for `external_adapters`, or the name means something else.
    """
    if name in (TARGET, *_OTHER_PARENTS):
        raise UserError(f"The name '{name}' stands for something else: give the adapter another one.")
    return external_adapter(safe_segment(name, "adapter name"), place, allow_pickle=allow_pickle)


def stacked(sources: "Sources", own: Sequence[str] | None, target: str, names: TaskNames) -> tuple[str, ...]:
    """Return what a job stacks, in order: the full key of a task whose adapter is trained, or the name of an existing adapter.

    An adapter with the short name of a task replaces that task's own.

    Args:
        sources: The sweep's sources.
        own: The method's own list. None: the sweep's tasks, then its other adapters.
        target: Full key of the job's task.
        names: The names of tasks.

    Raises:
        UserError: A name is unknown.
    """
    given = sources.adapters
    if own is not None:
        chosen = [target if name == TARGET else name if name in given else names.key(name) for name in own]
    else:
        tasks = names.keys(sources.tasks)
        taken = {short(task) for task in tasks}
        chosen = [*tasks, *(name for name in given if name not in taken)]
    return tuple(short(name) if short(name) in given else name for name in chosen)


def stacks(sources: "Sources", own: Sequence[str] | SourceSets | None, target: str, names: TaskNames) -> tuple[tuple[str, ...], ...]:
    """Return everything that a row's jobs on one target stack: one list as of `stacked`, or the several that the row asks for.

    Args:
        sources: The sweep's sources.
        own: The row's `sources`, checked.
        target: Full key of the target.
        names: The names of tasks.

    Raises:
        UserError: As for `stacked` and `pool_of`.
    """
    if isinstance(own, SourceSets):
        return lists(own, source_pool(sources, own, target, names))
    return (stacked(sources, own, target, names),)


def source_pool(sources: "Sources", sets: SourceSets, target: str, names: TaskNames) -> Pool:
    """Return what the lists of sources of a target are made from.

    Raises:
        UserError: As for `stacked` and `pool_of`.
    """
    always, never = (sets.subsets.always, sets.subsets.never) if sets.subsets else ((), ())
    every, kept, left = (stacked(sources, chosen, target, names) for chosen in (None, always, never))
    return pool_of(target, every, kept, left)


def source_names(chosen: Sequence[str]) -> tuple[str, ...]:
    """Return the names under which `stacked` sources are stacked."""
    return tuple(map(short, chosen))


def tasks_of(chosen: Sequence[str], external: Mapping[str, object], names: TaskNames) -> tuple[str, ...]:
    """Return the full keys of the tasks that `stacked` sources belong to.

    Raises:
        UserError: An external adapter does not have the name of a task.
    """
    return tuple(names.key(name) if name in external else name for name in chosen)
