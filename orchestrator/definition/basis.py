"""Where a sweep file lies, and what it says once its basis (`extends`) and the values of `--set` are put to it, by the same rules.

Each key of the file, or of `--set`, is assigned to what is there already: dots in its name go down, and its value replaces the old one.
"""

import copy
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from orchestrator.definition.identity import printable
from orchestrator.definition.yaml_source import Document, Key, describe, is_text, parse_mapping, parse_value, read_text
from scalearn.errors import UserError
from scalearn.files.json_files import LARGEST, decode, read_bytes
from scalearn.unknown_name import unknown

EXTENDS = "extends"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Source:
    """A sweep file before it is read as YAML."""

    file: str
    """What error messages call it."""
    text: str
    directory: Path | None = None
    """Where its basis may lie. None: only in the package."""
    overrides: tuple[str, ...] = ()
    """Values of `--set` that belong to it."""
    lines: bool = True
    """Whether error messages say in which line of the text something stands."""


def find_source(source: str | Path) -> Source:
    """Return the file at a path, a sweep that the package ships, by a name without directory and suffix, or what a manifest holds.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    path = Path(source)
    if path.suffix == ".json":
        return _in_manifest(path)
    if len(path.parts) == 1 and path.suffix not in _SUFFIXES:
        names = shipped_sweeps()
        if source not in names:
            raise UserError(f"{unknown('sweep', str(source), names)} A file of your own is named by its path: {source}.yaml.")
        return _shipped(f"{source}.yaml")
    return Source(str(path), read_text(path), path.parent)


def from_keys(keys: Mapping[str, Any], file: str) -> Source:
    """Return the text of a sweep that a program holds as keys and values, as its file would say it.

    Raises:
        UserError: A value is no plain data.
    """
    try:
        return Source(file, as_yaml(dict(keys)), Path(), lines=False)
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not plain data, of which a file could be made: {' '.join(str(error).split())}.") from None


def shipped_sweeps() -> tuple[str, ...]:
    """Return the names of the sweeps that the package ships."""
    names = (entry.name for entry in importlib.resources.files("sweeps").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def _in_manifest(path: Path) -> Source:
    """Return the sweep of a manifest `STORE/sweeps/NAME.json`, as it was run, in the store where the manifest lies."""
    try:
        content = decode(read_bytes(path, LARGEST))
    except OSError as error:
        raise UserError(f"Cannot read the manifest {path}: {error.strerror or error}.") from None
    except ValueError as error:
        raise UserError(f"{path} is no manifest of a sweep: {error}.") from None
    if path.absolute().parent.name != "sweeps":
        raise UserError(f"{path} is no manifest of a sweep: name a sweep file, or a file STORE/sweeps/NAME.json.")
    return manifest_source(content, str(path), str(path.parent.parent))


def manifest_source(content: Mapping[str, Any], file: str, store: str) -> Source:
    """Return the sweep that a manifest holds, as it was run, in the store where the manifest lies.

    Args:
        content: The manifest.
        file: Its place.
        store: The store's directory or URL.

    Raises:
        UserError: It is no manifest.
    """
    text, overrides = content.get("yaml"), content.get("overrides")
    if not isinstance(text, str) or not isinstance(overrides, list):
        raise UserError(f"{file} is no manifest of a sweep: name a sweep file, or a file STORE/sweeps/NAME.json.")
    others = (str(override) for override in overrides if not str(override).startswith("store="))
    return Source(file, text, overrides=(*others, f"store={json.dumps(store)}"))


def with_basis(source: Source) -> tuple[Document, str]:
    """Return what a file says on the basis of the file that it extends, and the text that says it without another file.

    Raises:
        UserError: A file is not plain YAML, or a basis is unknown, extends itself, or has no key that is to be changed.
    """
    document = _document(source, ())
    if not document.extended:
        return document, source.text
    return document, f"# {printable(source.file)}, with all that it extends\n{as_yaml(document.data)}"


def overridden(document: Document, overrides: Sequence[str]) -> Document:
    """Return the document after every `dotted.key=value` was applied.

    Raises:
        UserError: An override is not of this form, or goes down into a value that has no keys.
    """
    data, places = copy.deepcopy(document.data), dict(document.places)
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set '{override}': write it as key=value, e.g. --set training.epochs=3.")
        place = f"--set {name}"
        if keys[0] == EXTENDS:
            raise UserError(f"{place}: a basis cannot be set; write 'extends' in a file.")
        _assign(data, places, keys, parse_value(text, place), {(): place})
    return Document(data, places)


def _document(source: Source, above: tuple[str, ...]) -> Document:
    """Return a document on its basis. `above` names the files that lead here, each extending the next."""
    own = parse_mapping(source.text, source.file, lines=source.lines)
    if EXTENDS not in own.data:
        return own
    place, name = own.place((EXTENDS,)), own.data[EXTENDS]
    if "name" not in own.data:
        raise UserError(f"{place}: the key 'name' is missing: a sweep that extends another needs a name of its own.")
    basis = _basis(source, name, place)
    files = (*above, source.file)
    if basis.file in files:
        circle = " extends ".join((*files[files.index(basis.file) :], basis.file))
        raise UserError(f"{place}: {circle}, which is a circle: let one of them stand alone.")
    below = _document(basis, files)
    data, places = copy.deepcopy(below.data), below.places | {(): own.place(())}
    for key, value in own.data.items():
        if key != EXTENDS:
            keys = key.split(".")
            if not all(keys):
                raise UserError(f"{own.place((key,))}: '{key}' has a dot without a name beside it: write for example training.epochs.")
            _assign(data, places, keys, value, own.below(key))
    return Document(data, places, extended=True)


def _basis(source: Source, name: Any, place: str) -> Source:
    """Return the file of a name: beside the one that extends it, or else in the package."""
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(_SUFFIXES):
        raise UserError(
            f"{place}: 'extends' must be the name of a file beside this one or in the package, such as glue.yaml, not {describe(name)}."
        )
    beside = {path.name: path for path in source.directory.iterdir() if path.suffix in _SUFFIXES} if source.directory else {}
    if name in beside:
        return Source(str(beside[name]), read_text(beside[name]), source.directory)
    shipped = [f"{sweep}.yaml" for sweep in shipped_sweeps()]
    if name not in shipped:
        known = [*(each for each in beside if each != Path(source.file).name), *shipped]
        raise UserError(f"{place}: {unknown('file', name, known, where='this directory or the package')}")
    return _shipped(name)


def _shipped(name: str) -> Source:
    return Source(f"{name} (shipped)", (importlib.resources.files("sweeps") / name).read_text(encoding="utf-8"))


def _assign(data: dict[str, Any], places: dict[Key, str], keys: Sequence[str], value: Any, below: Mapping[Key, str]) -> None:
    """Set a nested key, and make the blocks above it where they are missing.

    Args:
        data: What is changed.
        places: Places of what is changed, which change too.
        keys: The key, from the top.
        value: Its value.
        below: Places of the value, and of the keys and items in it.
    """
    block = data
    for depth, key in enumerate(keys[:-1], start=1):
        inner = block.get(key)
        if inner is None:
            inner = block[key] = {}
        if not isinstance(inner, dict):
            raise UserError(f"{below[()]}: '{'.'.join(keys[:depth])}' is {describe(inner)}, which has no keys to set.")
        block = inner
    block[keys[-1]] = value
    target: Key = tuple(keys)
    for old in [place for place in places if place[: len(target)] == target] if target in places else []:
        del places[old]
    places.update({(*target, *rest): place for rest, place in below.items()})


class _Dumper(yaml.SafeDumper):
    """Writes YAML that our reader reads as the same data. PyYAML's own reader takes fewer texts for numbers, and so quotes fewer."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out, since our reader refuses aliases."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_text(text) else "'")


_Dumper.add_representer(str, _text)
_Dumper.add_multi_representer(PurePath, lambda dumper, path: _text(dumper, str(path)))


def as_yaml(data: dict[str, Any]) -> str:
    """Return YAML that is read as the same data."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=140)
    return text
