"""Safe reading of sweep files: plain YAML data, and the place of each key.

The file may come from anywhere. So anything that could run code, grow without bound or hide a mistake is refused: tags, anchors and
aliases, duplicate keys, several documents, deep nesting, large files. Scalars follow YAML 1.2: `6e-3` is a number, `no` a word.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from orchestrator.definition.identity import printable
from scalearn.errors import UserError

MAX_BYTES = 1 << 18
"""Bytes of the largest file that is read. A sweep of the whole paper takes a few thousand."""
MAX_DEPTH = 20
"""Deepest nesting of mappings and lists."""

Key = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_WORDS = {"null": None, "Null": None, "NULL": None, "~": None, "": None, "true": True, "True": True, "false": False, "False": False}


@dataclass(frozen=True)
class Document:
    """The content of a file, and the place of each part."""

    data: dict[str, Any]
    places: dict[Key, str] = field(default_factory=dict)
    """Place of every key and list item, in the form for a sentence: `sweep.yaml, line 3`."""
    extended: bool = False
    """Whether it was made on the basis of another."""

    def place(self, key: Key) -> str:
        """Return the place of a key, or of the nearest key above it that is in the source."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return ""

    def below(self, name: str) -> dict[Key, str]:
        """Return the places of what stands at a key of the top level and below it, without that key."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str | int, dict[Key, str]]:
        found: dict[str | int, dict[Key, str]] = defaultdict(dict)
        for key, place in self.places.items():
            if key:
                found[key[0]][key[1:]] = place
        return found

    def rank(self, key: Key) -> int:
        """Return the number of a key, or of the nearest one above it, among all keys and items in the order of the source."""
        return max((self._ranks[key[:length]] for length in range(len(key) + 1) if key[:length] in self._ranks), default=-1)

    @cached_property
    def _ranks(self) -> dict[Key, int]:
        return {key: rank for rank, key in enumerate(self.places)}


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises:
        UserError: It is missing, unreadable, too large, or not UTF-8. The sentence names the file.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"Cannot read the sweep file {path}: {error.strerror or error}.") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"The sweep file {path} is larger than {MAX_BYTES:,} bytes: a sweep lists methods and tasks, not data.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8.") from None


def parse_mapping(text: str, name: str, *, lines: bool = True) -> Document:
    """Return the mapping that a text holds.

    Args:
        text: YAML.
        name: What error messages call the text, usually a path.
        lines: Whether places name lines.

    Raises:
        UserError: It is not plain YAML, or not a mapping.
    """
    reader = _Reader(text, name, lines=lines)
    data = reader.read()
    if not isinstance(data, dict):
        raise UserError(f"{name}: a sweep is a mapping of keys such as 'benchmark:' and 'methods:', not {describe(data)}.")
    return Document(data, reader.places)


def parse_value(text: str, name: str) -> Any:
    """Return the value in a short text, such as the text after `--set key=`.

    Raises:
        UserError: It is not plain YAML.
    """
    return _Reader(text, name, lines=False).read()


def is_text(text: str) -> bool:
    """Tell whether a text without quotes is read as that text, and not as a number or one of a few words."""
    return text not in _WORDS and not _INTEGER.fullmatch(text) and not _FLOAT.fullmatch(text)


def describe(value: object) -> str:
    """Return what kind of value this is, with the value itself if it is short."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return "the text " + printable(value if len(value) <= 60 else value[:57] + "...")
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Reader:
    """Builds data from the parser's events, which are made without constructing any objects."""

    def __init__(self, text: str, name: str, *, lines: bool = True) -> None:
        self.name = name
        self.lines = lines
        self.places: dict[Key, str] = {}
        self._text = text
        self._depth = 0

    def read(self) -> Any:
        try:
            events = yaml.parse(self._text, Loader=yaml.SafeLoader)
            next(events)  # start of the stream
            event = next(events)
            if isinstance(event, yaml.StreamEndEvent):
                return None
            value = self._node(next(events), events, ())
            next(events)  # end of the document
            if not isinstance(event := next(events), yaml.StreamEndEvent):
                raise self._error(event, "a second document begins here; a sweep file holds one")
        except yaml.MarkedYAMLError as error:
            place = self._place(error.problem_mark)
            raise UserError(f"{place}: not valid YAML: {error.problem or error.context}.") from None
        except yaml.reader.ReaderError as error:
            line = self._text[: error.position].count("\n") + 1
            code = error.character if isinstance(error.character, int) else ord(error.character)
            raise UserError(f"{self._at(line)}: the character U+{code:04X} is not allowed in YAML.") from None
        return value

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], key: Key) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "YAML aliases (*name) are not read; write the value out")
        if getattr(event, "anchor", None) is not None:
            raise self._error(event, "YAML anchors (&name) are not read; write the value out where it is needed")
        if getattr(event, "tag", None) is not None:
            raise self._error(event, f"YAML tags ({printable(str(getattr(event, 'tag', '')))}) are not read; write a plain value")
        self.places.setdefault(key, self._place(event.start_mark))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if self._depth >= MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        value = self._mapping(events, key) if isinstance(event, yaml.MappingStartEvent) else self._list(events, key)
        self._depth -= 1
        return value

    def _mapping(self, events: Iterator[yaml.Event], key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            name = self._key(event)
            if name in data:
                raise self._error(event, f"the key {printable(name)} stands here a second time; keep one")
            self.places[(*key, name)] = self._place(event.start_mark)
            data[name] = self._node(next(events), events, (*key, name))
        return data

    def _key(self, event: yaml.Event) -> str:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise self._error(event, "a key must be a plain word, without anchor, alias or tag")
        if not isinstance(event, yaml.ScalarEvent) or not event.value:
            raise self._error(event, "a key must be a plain word")
        if event.value == "<<":
            raise self._error(event, "YAML merges (<<) are not read; write the keys out")
        return self._text_of(event)

    def _text_of(self, event: yaml.ScalarEvent) -> str:
        text: str = event.value
        bad = _CONTROL.search(text)
        if bad:
            raise self._error(event, f"the character U+{ord(bad.group()):04X} is not allowed")
        return text

    def _list(self, events: Iterator[yaml.Event], key: Key) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, (*key, len(items))))
        return items

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text = self._text_of(event)
        if not event.implicit[0]:  # a quoted or block scalar is always text
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > 19:
                raise self._error(event, f"the number {text[:16]}... is too large")
            return int(text)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if value in (float("inf"), float("-inf")):
                raise self._error(event, f"the number {printable(text[:40])} is too large")
            return value
        return text

    def _error(self, event: yaml.Event, problem: str) -> UserError:
        return UserError(f"{self._place(event.start_mark)}: {problem}.")

    def _place(self, mark: Any) -> str:
        return self._at(mark.line + 1) if mark is not None else self.name

    def _at(self, line: int) -> str:
        return f"{self.name}, line {line}" if self.lines else self.name
