"""What makes two jobs the same, and what they are called: the fingerprint, the names of nodes, and the parts of these names.

A node is called `<benchmark>/<backbone>/<stage>/<method>/<task>/<variant>-<fingerprint>`. All before the fingerprint is the path, for
people. `scalearn.identity` decides which fields of a configuration enter the fingerprint.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from scalearn.config import DataConfig, JobConfig, OptimisationConfig
from scalearn.errors import UserError
from scalearn.identity import canonical_json, identifying_parts
from scalearn.methods.registry import METHODS
from scalearn.tasks import Task, benchmark_names, benchmark_tasks, task_of

SCHEMA_VERSION = 1
"""Part of every fingerprint. Raise it by hand when training changes so that old results no longer hold. If only some jobs change, let
`schema_version` tell which."""

MAX_SEGMENT = 100
"""Most characters of a path segment. This leaves room for suffixes within the 255 bytes of common file systems."""

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*", re.ASCII)
_RESERVED = frozenset({"con", "prn", "aux", "nul"})
_NODE = re.compile(r"[^./][^/]*(/[^./][^/]*)*-[0-9a-f]{10}")


def safe_segment(name: str, what: str) -> str:
    """Return a name unchanged if it may be one segment of a path in any store.

    Args:
        name: A task, a method, a sweep, ...
        what: What an error message calls it, for example `sweep name`.

    Raises:
        UserError: It is empty, too long, `.` or `..`, or has a separator, a control or non-ASCII character, or a dash or dot in front.
    """
    if len(name) > MAX_SEGMENT:
        raise UserError(f"The {what} {printable(name[:40])}... is {len(name)} characters long: use at most {MAX_SEGMENT}.")
    if not _SEGMENT.fullmatch(name) or ".." in name or name.endswith(".") or name.lower() in _RESERVED:
        raise UserError(f"The {what} {printable(name)} cannot be part of a path: use ASCII letters, digits, '_', '-' and single '.'.")
    return name


def printable(text: str) -> str:
    """Return text in quotes for one line of a terminal, with control and look-alike characters escaped."""
    plain = "".join(c if c.isascii() and c.isprintable() else f"\\u{ord(c):04x}" for c in unicodedata.normalize("NFC", text))
    return f"'{plain}'"


def schema_version(config: JobConfig) -> int:
    """Return the schema version of one job.

    The version is one higher for each of these that the job does, since the first version did it otherwise (docs/protocol.md): weight
    decay, which also shrank biases and layer norms; an ablation with omega dropout, which came after the constraint; joint training, in its
    draw of tasks and rows; rows, texts, classes or scores of a task; and multiple choice, except with the library's head on one task.
    """
    if config.stage in ("similarity", "transferability"):
        return SCHEMA_VERSION
    method, joint = METHODS.get(config.method), config.stage == "joint"
    set_anew = method is not None and any(config.settings.get(name) not in (None, 0) for name in method.revised_settings)
    with_choices = any(task is not None and task.head == "multiple_choice" for task in map(_known_task, config.data))
    other_head = with_choices and (joint or (method is not None and method.pools_choices))
    drawn_anew = joint and len(config.data) > 1
    read_anew = any(map(_read_anew, config.data))
    return SCHEMA_VERSION + (config.optimisation.weight_decay > 0) + set_anew + other_head + drawn_anew + read_anew


def _known_task(data: DataConfig) -> Task | None:
    """Return the task. None: it is not registered in this process, which may read what another process planned."""
    benchmark = data.task.partition("/")[0]
    registered = benchmark in benchmark_names() and data.task in benchmark_tasks(benchmark)
    return task_of(data) if registered or data.own is not None else None


@lru_cache(maxsize=4096)
def _read_anew(data: DataConfig) -> bool:
    """Tell whether the rows, texts, classes or scores of a task differ from those of the first version.

    This holds for few-shot samples, shares of train that validation is drawn from, WiC and WSC with their default template, HumSet's
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
    rest = {name: value for name, value in identifying_parts(config).items() if name not in ("benchmark", "data", "optimisation")}
    parts = [
        f'"benchmark":{canonical_json(config.benchmark)}',
        f'"data":[{",".join(_shared_json(data) for data in config.data)}]',
        f'"optimisation":{_shared_json(config.optimisation)}',
        f'"parents":{canonical_json(tuple(parents))}',
        f'"rest":{canonical_json(rest)}',
        f'"schema":{schema_version(config)}',
    ]
    return hashlib.sha256("{{{}}}".format(",".join(parts)).encode("ascii")).hexdigest()[:10]


def node_path(config: JobConfig) -> str:
    """Return the readable part of a node, for example `glue/roberta-base/transfer/scalearn_pp/rte/lr6e-03-seed3`.

    Raises:
        UserError: A name cannot be part of a path.
    """
    task = config.data[0].task.rpartition("/")[2] if len(config.data) == 1 else "all"
    segments = (config.benchmark, backbone_segment(config), config.stage, config.method, task)
    segment_names = ("benchmark", "backbone", "stage", "method", "task")
    return "/".join([*map(safe_segment, segments, segment_names), safe_segment(_variant(config), "variant")])


def node_name(path: str, fingerprint: str) -> str:
    """Return a job's node: its name everywhere."""
    return f"{path}-{fingerprint}"


def is_node(name: str) -> bool:
    """Tell whether a name has the form of a node. Nothing else in a store has it."""
    return _NODE.fullmatch(name) is not None


def path_of(node: str) -> str:
    """Return a node's path, which is the node without the fingerprint."""
    return node.rpartition("-")[0]


def fingerprint_of(node: str) -> str:
    """Return a node's fingerprint."""
    return node.rpartition("-")[2]


def is_called(node: str, name: str) -> bool:
    """Tell whether a name means a node. The name may leave the fingerprint out."""
    return name in (node, path_of(node))


def short_path(path: str) -> str:
    """Return a path without benchmark, backbone and stage: `scalearn_pp/rte/lr6e-03-seed3`."""
    return "/".join(path.split("/")[3:])


def method_folder(node: str) -> str:
    """Return the folder that a node shares with all nodes of its benchmark, backbone, stage and method."""
    segments = node.split("/")
    return "/".join(segments[: min(4, len(segments) - 1)])


def backbone_segment(config: JobConfig) -> str:
    """Return the backbone's path segment: its name, `owner--model` for a hub id, or `local-HASH` for a directory, wherever it lies."""
    if config.backbone_origin.startswith("files:"):
        return "local-" + config.backbone_origin.removeprefix("files:sha256-")[:8]
    return config.backbone.partition("@")[0].replace("/", "--")


def _variant(config: JobConfig) -> str:
    """Return learning rate and seed, and the other data and settings that differ from the defaults, as far as there is room."""
    parts = [f"lr{_exponent(config.optimisation.learning_rate)}"] if config.stage not in ("similarity", "transferability") else []
    parts.append(f"seed{config.seed}")
    data = config.data[0]
    if data.few_shot is not None:
        parts.append(f"shot{data.few_shot}")
    if data.train_share is not None:
        parts.append(f"share{data.train_share:g}")
    if data.rows_kept is not None:
        parts.append(f"kept{data.rows_kept:g}")
    if data.labels_shuffled is not None:
        parts.append(f"shuffled{data.labels_shuffled:g}")
    if config.select is not None:
        parts.append(f"{config.select.by}{config.select.top}")
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


@lru_cache(maxsize=4096)
def _shared_json(value: DataConfig | OptimisationConfig) -> str:
    """Encode the parts that thousands of jobs of a sweep share, each only once."""
    return canonical_json(value)
