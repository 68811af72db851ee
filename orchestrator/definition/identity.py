"""What makes two jobs the same: canonical JSON of a configuration, its fingerprint, and its readable path.

Only fields that change a result enter (DESIGN, Identity). Where the weights or the rows lie does not: their origins stand for them.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.methods.registry import METHODS
from scalearn.tasks import Task, benchmark_names, benchmark_tasks, task_of

SCHEMA_VERSION = 1
"""Part of every fingerprint. Bump it by hand when training changes so that old results no longer hold; where that is so for some jobs
only, let `schema_version` tell which."""

PLACES = frozenset({"JobConfig.backbone", "ExternalAdapter.place"})
"""Fields that only say where something is or how it is called; `backbone_origin` and `ExternalAdapter.origin` identify the weights."""

ADDED_LATER: frozenset[str] = frozenset(
    {"OptimisationConfig.early_stopping", "OptimisationConfig.group_by_length", "JobConfig.external", "JobConfig.compared"},
)
"""Fields (`Class.field`) that came after schema version 1: left out while they hold their default, so that older results stay valid."""

MAX_SEGMENT = 100
"""Longest path segment in characters: leaves room for suffixes within the 255 bytes of common file systems."""

_CONSTRAINED = frozenset({"scalearn_mean", "scalearn_softmax"})
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*", re.ASCII)
_RESERVED = frozenset({"con", "prn", "aux", "nul"})


def safe_segment(name: str, what: str) -> str:
    """Return a name unchanged if it may become one segment of a path in any store.

    Args:
        name: A task, a method, a sweep, ...
        what: How an error message calls it, e.g. `sweep name`.

    Raises:
        UserError: Empty, too long, `.` or `..`, a separator, a control or non-ASCII character, or a leading dash or dot.
    """
    if len(name) > MAX_SEGMENT:
        raise UserError(f"The {what} {printable(name[:40])}... is {len(name)} characters long: use at most {MAX_SEGMENT}.")
    if not _SEGMENT.fullmatch(name) or ".." in name or name.endswith(".") or name.lower() in _RESERVED:
        raise UserError(f"The {what} {printable(name)} cannot be part of a path: use ASCII letters, digits, '_', '-' and single '.'.")
    return name


def printable(text: str) -> str:
    """Return text in quotes with control and look-alike characters escaped, fit for one line of a terminal."""
    plain = "".join(c if c.isascii() and c.isprintable() else f"\\u{ord(c):04x}" for c in unicodedata.normalize("NFC", text))
    return f"'{plain}'"


def to_plain(value: Any) -> Any:
    """Return a configuration as JSON values (dict, list, str, int, float, bool, None), every field included.

    Raises:
        TypeError: A value that JSON does not hold exactly: NaN, infinity, a path, a set, bytes, a callable, an arbitrary object.
    """
    return _plain(value, "value", everything=True)


def canonical_json(value: Any) -> str:
    """Return the JSON text that identifies a value: keys sorted, no spaces, places and defaulted later fields left out.

    Raises:
        TypeError: As `to_plain`.
    """
    return json.dumps(_plain(value, "value", everything=False), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def schema_version(config: JobConfig) -> int:
    """Return the schema version of one job.

    It is one more for each of these that was done otherwise at first (docs/protocol.md): weight decay, which biases and layer norms
    took too; an ablation with omega dropout, which came after the constraint; joint training, in its draw of tasks and rows; rows,
    texts, classes or scores of a task; and multiple choice, but for the library's head on one task.
    """
    if config.stage == "similarity":
        return SCHEMA_VERSION
    method, joint = METHODS.get(config.method), config.stage == "joint"
    dropped_late = config.method in _CONSTRAINED and config.settings.get("omega_dropout") not in (None, 0)
    other_head = (joint or (method is not None and method.pools_choices)) and any(map(_has_choices, config.data))
    drawn_anew = joint and len(config.data) > 1
    read_anew = any(map(_read_anew, config.data))
    return SCHEMA_VERSION + (config.optimisation.weight_decay > 0) + dropped_late + other_head + drawn_anew + read_anew


def _known_task(data: DataConfig) -> Task | None:
    """Return the task; None if nobody registered it in this process, which may read what others planned."""
    benchmark = data.task.partition("/")[0]
    registered = benchmark in benchmark_names() and data.task in benchmark_tasks(benchmark)
    return task_of(data) if registered or data.own is not None else None


def _has_choices(data: DataConfig) -> bool:
    task = _known_task(data)
    return task is not None and task.head == "multiple_choice"


@lru_cache(maxsize=4096)
def _read_anew(data: DataConfig) -> bool:
    """Tell whether rows, texts, classes or scores of a task are others than at first.

    Those are few-shot samples, shares of train that validation is drawn from, WiC and WSC with their default template, HumSet's
    classes, and ReCoRD's scores.
    """
    task = _known_task(data)
    shared = data.train_share not in (None, 1.0) and task is not None and task.splits.validation is None
    templated = data.task in ("super_glue/wic", "super_glue/wsc") and data.template == "default"
    judged_anew = data.task == "super_glue/record" or data.task.startswith("humset/")
    return data.few_shot is not None or shared or templated or judged_anew


def fingerprint(config: JobConfig, parents: Sequence[str]) -> str:
    """Return 10 hexadecimal digits that stand for a configuration, the fingerprints of its parents in order, and the schema version.

    Raises:
        TypeError: A value of the configuration cannot be encoded exactly.
    """
    parts = [
        f'"benchmark":{canonical_json(config.benchmark)}',
        f'"data":[{",".join(_shared_json(data) for data in config.data)}]',
        f'"optimisation":{_shared_json(config.optimisation)}',
        f'"parents":{canonical_json(tuple(parents))}',
        f'"rest":{canonical_json(_rest(config))}',
        f'"schema":{schema_version(config)}',
    ]
    return hashlib.sha256("{{{}}}".format(",".join(parts)).encode("ascii")).hexdigest()[:10]


def node_path(config: JobConfig) -> str:
    """Return the readable part of a node, e.g. `glue/roberta-base/transfer/scalearn_pp/rte/lr6e-03-seed3`.

    Raises:
        UserError: A name that cannot be part of a path.
    """
    task = config.data[0].task.rpartition("/")[2] if len(config.data) == 1 else "all"
    segments = (config.benchmark, backbone_segment(config), config.stage, config.method, task)
    kinds = ("benchmark", "backbone", "stage", "method", "task")
    return "/".join([*map(safe_segment, segments, kinds), safe_segment(_variant(config), "variant")])


def backbone_segment(config: JobConfig) -> str:
    """Return the backbone's path segment: its name, `owner--model` of a hub id, or `local-HASH` of a directory, wherever that lies."""
    if config.backbone_origin.startswith("files:"):
        return "local-" + config.backbone_origin.removeprefix("files:sha256-")[:8]
    return config.backbone.partition("@")[0].replace("/", "--")


def _variant(config: JobConfig) -> str:
    """Return learning rate and seed, and what else of data and settings departs from the defaults, as far as there is room."""
    parts = [f"lr{_exponent(config.optimisation.learning_rate)}"] if config.stage != "similarity" else []
    parts.append(f"seed{config.seed}")
    data = config.data[0]
    if data.few_shot is not None:
        parts.append(f"shot{data.few_shot}")
    if data.train_share is not None:
        parts.append(f"share{data.train_share:g}")
    defaults = METHODS[config.method].settings if config.method in METHODS else {}
    for name, value in sorted(config.settings.items()):
        if value != defaults.get(name):
            shown = "_".join(map(_short, value)) if isinstance(value, tuple) else _short(value)
            parts.append(f"{name}{shown}")
    text = "-".join(parts)
    return text if len(text) <= MAX_SEGMENT and _SEGMENT.fullmatch(text) else "-".join(parts[:2])


def _exponent(rate: float) -> str:
    """Return the shortest exponent form that is exact: 6e-03, 1.5e-04."""
    return next(text for digits in range(18) if float(text := f"{rate:.{digits}e}") == rate)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rest(config: JobConfig) -> dict[str, Any]:
    shared = ("benchmark", "data", "optimisation")
    return {item.name: getattr(config, item.name) for item in _identity_fields(config) if item.name not in shared}


def _identity_fields(value: Any) -> list[Any]:
    """Return the fields of a dataclass instance that enter its identity."""
    kind = type(value).__name__
    kept = []
    for item in fields(value):
        name = f"{kind}.{item.name}"
        if name in PLACES or (name in ADDED_LATER and getattr(value, item.name) == item.default):
            continue
        kept.append(item)
    return kept


@lru_cache(maxsize=4096)
def _shared_json(value: DataConfig | OptimisationConfig) -> str:
    """Memoise the parts that thousands of jobs of a sweep share."""
    return canonical_json(value)


def _plain(value: Any, where: str, *, everything: bool) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, where, everything=everything)
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise TypeError(f"{where} is {value}, which JSON cannot hold")
        # Values that compare equal (1 and 1.0, 0.0 and -0.0) must be one identity.
        return int(value) if not everything and value.is_integer() and abs(value) < 2**53 else value
    if is_dataclass(value) and not isinstance(value, type):
        kept = fields(value) if everything else _identity_fields(value)
        return {item.name: _plain(getattr(value, item.name), f"{where}.{item.name}", everything=everything) for item in kept}
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise TypeError(f"{where} has a key that is not a string")
        return {key: _plain(item, f"{where}.{key}", everything=everything) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, f"{where}[{index}]", everything=everything) for index, item in enumerate(value)]
    raise TypeError(f"{where} is a {type(value).__name__}, which has no canonical form")
