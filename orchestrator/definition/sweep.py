"""A sweep: a YAML file that is checked against the schema and the registries, and expands to a graph."""

import copy
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError

from orchestrator.definition.check import Misfit, check
from orchestrator.definition.expand import expand
from orchestrator.definition.explain import explain, locate
from orchestrator.definition.graph import Graph
from orchestrator.definition.schema import SweepSchema
from orchestrator.definition.yaml_source import Document, Key, describe, parse_mapping, parse_value, read_file
from scalearn.errors import UserError
from scalearn.unknown_name import unknown


class Sweep(SweepSchema):
    """A checked sweep, with the text that it came from."""

    _file: str = PrivateAttr(default="")
    _text: str = PrivateAttr(default="")
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, source: str | Path, overrides: Sequence[str] = (), *, elsewhere: bool = False) -> "Sweep":
        """Return the sweep in a file, or a sweep that the package ships, by its name.

        Args:
            source: A path, or the name of a shipped sweep: a word without directory and suffix, for example `quickstart`.
            overrides: Each `dotted.key=value`, with the value in YAML. They are applied in order and checked like the file.
            elsewhere: Whether another machine will run it. Then only that machine checks the names and places in the file.

        Raises:
            UserError: The file or an override is wrong. The sentence says in which line of which file, and what is allowed.
        """
        path = Path(source)
        if len(path.parts) == 1 and path.suffix not in (".yaml", ".yml"):
            file, text = f"{source}.yaml (shipped)", _shipped_text(str(source))
            document = parse_mapping(text, file)
        else:
            file = str(path)
            text, document = read_file(path)
        return cls._checked(document, file, text, overrides, elsewhere=elsewhere)

    @classmethod
    def from_text(cls, text: str, file: str = "sweep.yaml", overrides: Sequence[str] = ()) -> "Sweep":
        """Return the sweep that a text holds.

        Args:
            text: YAML.
            file: What error messages call the text.
            overrides: As for `load`.

        Raises:
            UserError: As for `load`.
        """
        return cls._checked(parse_mapping(text, file), file, text, overrides)

    @classmethod
    def _checked(cls, document: Document, file: str, text: str, overrides: Sequence[str], *, elsewhere: bool = False) -> "Sweep":
        document = _overridden(document, overrides)
        try:
            sweep = cls.model_validate(document.data)
        except ValidationError as error:
            raise UserError(explain(error, document, SweepSchema)) from None
        try:
            if not elsewhere:
                check(sweep)
        except Misfit as misfit:
            place, name = locate(document, misfit.key)
            raise UserError(f"{place}: {str(misfit).replace('{key}', repr(name))}") from None
        sweep._file, sweep._text, sweep._overrides = file, text, tuple(overrides)
        return sweep

    def expand(self) -> Graph:
        """Return the graph of the sweep's jobs.

        Raises:
            UserError: The data of a task is missing.
        """
        return expand(self)

    @property
    def file(self) -> str:
        """Path of the file, or the shipped sweep's name."""
        return self._file

    @property
    def text(self) -> str:
        """Exact text of the file, without overrides."""
        return self._text

    @property
    def overrides(self) -> tuple[str, ...]:
        """The values of `--set`, as given."""
        return self._overrides


def shipped_sweeps() -> tuple[str, ...]:
    """Return the names of the sweeps that the package ships."""
    names = (entry.name for entry in importlib.resources.files("sweeps").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def _shipped_text(name: str) -> str:
    names = shipped_sweeps()
    if name not in names:
        raise UserError(f"{unknown('sweep', name, names)} A file of your own is named by its path: {name}.yaml.")
    return (importlib.resources.files("sweeps") / f"{name}.yaml").read_text(encoding="utf-8")


def _overridden(document: Document, overrides: Sequence[str]) -> Document:
    """Return the document after every `dotted.key=value` was applied."""
    data: dict[str, Any] = copy.deepcopy(document.data)
    places = dict(document.places)
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set '{override}': write it as key=value, e.g. --set training.epochs=3.")
        place = f"--set {name}"
        _assign(data, keys, parse_value(text, place), place)
        target: Key = tuple(keys)
        places = {key: where for key, where in places.items() if key[: len(target)] != target} | {target: place}
    return Document(data, places)


def _assign(data: dict[str, Any], keys: Sequence[str], value: Any, place: str) -> None:
    """Set a nested key, and make the blocks above it where they are missing."""
    block: dict[str, Any] = data
    for depth, key in enumerate(keys[:-1], start=1):
        inner = block.get(key)
        if inner is None:
            inner = block[key] = {}
        if not isinstance(inner, dict):
            raise UserError(f"{place}: '{'.'.join(keys[:depth])}' is {describe(inner)}, which has no keys to set.")
        block = inner
    block[keys[-1]] = value
