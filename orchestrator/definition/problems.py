"""What is wrong with a sweep file: each error with the key that it stands at, so that all can be told at once."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from orchestrator.definition.names import TaskNames
from scalearn.errors import UserError

if TYPE_CHECKING:
    from orchestrator.definition.yaml_source import Key

P = ParamSpec("P")
T = TypeVar("T")


class Misfit(NamedTuple):
    """An error at a key of the document. The caller knows the key's line and full name."""

    key: "Key"
    problem: str
    """A sentence, in which `{key}` stands for the key's full name."""


class Problems:
    """The errors that were found so far."""

    def __init__(self) -> None:
        self.found: list[Misfit] = []

    def add(self, key: "Key", problem: str) -> None:
        """Note an error."""
        self.found.append(Misfit(key, problem))

    def at(self, key: "Key", call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run a check. If it refuses, note its sentence at the key and return None."""
        try:
            return call(*args, **kwargs)
        except UserError as error:
            self.add(key, str(error))
            return None

    def below(self, *keys: "Key") -> bool:
        """Tell whether an error stands at one of some keys, or below it."""
        return any(misfit.key[: len(key)] == key for misfit in self.found for key in keys)

    def unique(self, key: "Key", values: Iterable[Hashable]) -> None:
        """Refuse a list that holds a value twice."""
        again = next(repeated(values), None)
        if again is not None:
            self.add(key, f"{{key}} holds {again} twice: keep it once.")

    def tasks(self, key: "Key", given: Sequence[str] | None, names: TaskNames) -> tuple[str, ...]:
        """Return the full keys of a list of tasks, without the unknown ones, and refuse repeats. None: the whole benchmark."""
        if given is None:
            return names.tasks
        found = [self.at((*key, index), names.key, name) for index, name in enumerate(given)]
        keys = tuple(name for name in found if name is not None)
        self.unique(key, keys)
        return keys


def repeated(values: Iterable[Hashable]) -> Iterator[Hashable]:
    """Iterate over the values that came before."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)
