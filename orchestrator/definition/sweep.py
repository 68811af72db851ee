"""A sweep: a YAML file that is checked against the schema and the registries, and expands to a graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, ValidationError

from orchestrator.definition.basis import Source, find_source, from_keys, manifest_source, overridden, shipped_sweeps, with_basis
from orchestrator.definition.check import check
from orchestrator.definition.expand import expand
from orchestrator.definition.explain import Told, describe_misfit, explain, in_order, without_errors
from orchestrator.definition.graph import Graph
from orchestrator.definition.schema import SweepSchema
from orchestrator.definition.yaml_source import Document
from scalearn.errors import UserErrors

__all__ = ["Sweep", "shipped_sweeps"]


class Sweep(SweepSchema):
    """A checked sweep, with the text that it came from."""

    _file: str = PrivateAttr(default="")
    _text: str = PrivateAttr(default="")
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, source: str | Path, overrides: Sequence[str] = (), *, elsewhere: bool = False) -> "Sweep":
        """Return the sweep in a file, in a manifest, or a sweep that the package ships, by its name.

        Args:
            source: A path of a file or of a manifest `STORE/sweeps/NAME.json`, or the name of a shipped sweep: a word without directory and
                suffix, for example `quickstart`.
            overrides: Each `dotted.key=value`, with the value in YAML. They are applied in order and checked like the file.
            elsewhere: Whether another machine will run it. Then only that machine checks the names and places in the file.

        Raises:
            UserError: The file or an override is wrong. The sentence says in which line of which file, and what is allowed.
        """
        return cls._checked(find_source(source), overrides, elsewhere=elsewhere)

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
        return cls._checked(Source(file, text), overrides)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any], file: str) -> "Sweep":
        """Return the sweep of some keys and values, by the same rules as for a file.

        Args:
            keys: What would stand in the file.
            file: What error messages call it.

        Raises:
            UserError: As for `load`.
        """
        return cls._checked(from_keys(keys, file), ())

    @classmethod
    def in_manifest(
        cls, content: Mapping[str, Any], file: str, store: str, overrides: Sequence[str] = (), *, elsewhere: bool = False
    ) -> "Sweep":
        """Return the sweep that a manifest holds, as it was run.

        Args:
            content: The manifest.
            file: What error messages call it.
            store: The store in which it lies.
            overrides: As for `load`.
            elsewhere: As for `load`. What is only looked at may have been run on another machine.

        Raises:
            UserError: It is no manifest, or one of another version that said other things.
        """
        return cls._checked(manifest_source(content, file, store), overrides, elsewhere=elsewhere)

    @classmethod
    def _checked(cls, source: Source, overrides: Sequence[str], *, elsewhere: bool = False) -> "Sweep":
        basis, text = with_basis(source)
        overrides = (*source.overrides, *overrides)
        document = overridden(basis, overrides)
        sweep, told = cls._validated(document)
        if sweep is not None and not elsewhere:
            told += [describe_misfit(misfit, document) for misfit in check(sweep)]
        if told or sweep is None:
            raise UserErrors(in_order(told))
        sweep._file, sweep._text, sweep._overrides = source.file, text, overrides
        return sweep

    @classmethod
    def _validated(cls, document: Document) -> tuple["Sweep | None", list[Told]]:
        """Return the sweep without the keys that its schema refuses, and what is wrong with these. None: too little is left to check."""
        try:
            return cls.model_validate(document.data), []
        except ValidationError as error:
            told, rest = explain(error, document, SweepSchema), without_errors(error, document)
        try:
            return None if rest is None else cls.model_validate(rest), told
        except ValidationError:  # a block lacks what was taken out
            return None, told

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
        """Exact text of the file, without overrides. If it extends others: what they say together, as one text."""
        return self._text

    @property
    def overrides(self) -> tuple[str, ...]:
        """The values of `--set`, as given."""
        return self._overrides
