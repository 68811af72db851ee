"""What each node of a store or sweep left, as plain records: the step between files and the data frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from analysis.errors import ResultsError
from analysis.reading import shapes
from analysis.reading.files import Folder
from scalearn.files.json_files import decode

_RECORD_FILES = ("job.json", "SUCCESS.json", "result.json", "FAILED.json", "history.jsonl")

State = Literal["succeeded", "failed", "blocked", "running", "pending"]


@dataclass(frozen=True)
class Record:
    """One node: its configuration, its state, and its results."""

    node: str
    state: State
    """`running` means begun but neither finished nor failed. A killed sweep leaves such nodes too."""
    stage: str | None = None
    """Stage in the sweep, if there is one: an adapter that feeds a transfer job is a `source`, otherwise `single`."""
    error: str | None = None
    """First line of the error; for a blocked node, the parent that failed."""
    attempts: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The job's configuration. Of a node that has not begun, only method, task, seed and learning rate are known."""
    parents: tuple[str, ...] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, Any] = field(default_factory=dict)
    """Names of its method, tasks and metrics, from the sweep's manifest or else the job. `analysis.reading.names` reads them."""
    started: float | None = None
    """When the node was first begun, in seconds since 1970."""
    finished: float | None = None
    """When the node succeeded or failed, in seconds since 1970."""


@dataclass(frozen=True)
class SweepInfo:
    """What the driver wrote about a sweep before it began the sweep."""

    name: str
    benchmark: str | None = None
    targets: tuple[str, ...] = ()
    """Task keys in the order of the table's columns."""
    methods: tuple[str, ...] = ()
    searched: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Settings that a search chose values for, by method."""
    objectives: tuple[str, ...] = ("score",)
    yaml: str = ""
    overrides: tuple[str, ...] = ()
    """Values that the command line set in place of those in the file, as `key=value`."""
    file: str | None = None
    created: str | None = None
    tracking_uri: str | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    """MLflow's id of the experiment, once a run has reached the tracking server."""
    nodes: tuple[Mapping[str, Any], ...] = ()


def read_json(folder: Folder, path: str) -> dict[str, Any] | None:
    """Return a JSON object. None: the file is absent.

    Raises:
        ResultsError: The file exists but holds no JSON object.
    """
    raw = folder.read(path)
    if raw is None:
        return None
    try:
        return decode(raw)
    except ValueError as error:
        raise ResultsError(f"{folder.name}/{path} is not valid JSON ({error}); it may be half written: run the sweep again.") from error


def read_manifest(folder: Folder, sweep: str) -> SweepInfo:
    """Return the manifest of a sweep that was run into this store.

    Raises:
        ResultsError: The store has no sweep of that name, or its manifest was not written by a run.
    """
    raw = read_json(folder, f"sweeps/{sweep}.json")
    if raw is None:
        known = ", ".join(folder.manifests()) or "none"
        raise ResultsError(f"{folder.name} holds no sweep named {sweep!r} (it has: {known}); run the sweep first or name one of these.")
    # A manifest that was copied under another name still holds its first name.
    info = replace(parse_manifest(raw, f"{folder.name}/sweeps/{sweep}.json"), name=sweep)
    return replace(info, experiment_id=_experiment_id(folder, sweep, info.tracking_uri))


def _experiment_id(folder: Folder, sweep: str, uri: str | None) -> str | None:
    """Return MLflow's id of the experiment, which the tracker notes beside the manifest. It only serves links, so damage is no error."""
    try:
        noted = decode(folder.read(f"sweeps/{sweep}/tracked.json") or b"{}")
    except ValueError:
        return None
    known = noted.get("experiment_id")
    return known if isinstance(known, str) and noted.get("uri") == uri else None


def parse_manifest(raw: Mapping[str, Any], where: str) -> SweepInfo:
    """Return a manifest's content. Fields that an older or newer writer left out are empty.

    Raises:
        ResultsError: It was not written by a run, or names a place outside the store. The sentence names `where`.
    """
    if not shapes.has_form(raw, shapes.MANIFEST):
        raise ResultsError(f"{where} has not the form that runs write; run the sweep again.")
    for entry in raw.get("nodes") or ():
        _require_node(entry, where)
    return SweepInfo(
        name=str(raw.get("name", "")),
        benchmark=raw.get("benchmark"),
        targets=tuple(raw.get("targets") or ()),
        methods=tuple(raw.get("methods") or ()),
        searched=raw.get("searched") or {},
        objectives=tuple(raw.get("objectives") or ("score",)),
        yaml=str(raw.get("yaml") or ""),
        overrides=tuple(map(str, raw.get("overrides") or ())),
        file=raw.get("file"),
        created=raw.get("created"),
        tracking_uri=raw.get("tracking_uri"),
        run_id=raw.get("run_id"),
        nodes=tuple(_in_full(entry, raw.get("config_values") or {}, raw.get("names")) for entry in raw.get("nodes") or ()),
    )


def _in_full(entry: Mapping[str, Any], values: Any, names: Any) -> Mapping[str, Any]:
    """Return a node's entry with its configuration and names. The manifest lists each field's values once; entries hold their numbers."""
    entry = {**entry, "names": names} if names else entry
    numbers = entry.get("config")
    if not isinstance(numbers, list) or not isinstance(values, Mapping):
        return entry
    # Earlier entries lack fields that only later jobs have.
    chosen = zip(values.items(), numbers, strict=False)
    config = {
        name: known[number]
        for (name, known), number in chosen
        if isinstance(known, list) and isinstance(number, int) and 0 <= number < len(known)
    }
    return {**entry, "config": config}


def read_record(folder: Folder, node: str, entry: Mapping[str, Any] | None = None, benchmark: str | None = None) -> Record:
    """Return what one node left. `entry` is its entry in a sweep's manifest."""
    entry = entry or {}
    try:
        job, success = read_json(folder, f"{node}/job.json"), read_json(folder, f"{node}/SUCCESS.json")
        result = read_json(folder, f"{node}/result.json") if success else None
        failure = None if success else read_json(folder, f"{node}/FAILED.json")
        if success and result is None:
            raise ResultsError(f"{node}/result.json is missing though the node counts as done.")
        for name, value in (("job.json", job), ("SUCCESS.json", success), ("FAILED.json", failure)):
            if (value or {}).get("node", node) != node or not node.endswith(str((value or {}).get("fingerprint", ""))):
                raise ResultsError(f"{node}/{name} is another job's: run the sweep again, which sets it aside and trains this one.")
        for name, value, form in (("job.json", job, shapes.JOB), ("result.json", result, shapes.RESULT)):
            if not shapes.has_form(value, form):
                raise ResultsError(f"{node}/{name} has not the form that jobs write; run the sweep again.")
        begun = job is not None or folder.read(f"{node}/history.jsonl") is not None
    except ResultsError as error:
        # Damage in one node must not hide the other nodes. It counts as a failure of that node.
        config, names = config_from(entry, node, benchmark), entry.get("names") or {}
        return Record(node, "failed", stage=entry.get("stage"), error=str(error), config=config, names=names)
    state: State = "succeeded" if success else "failed" if failure else "running" if begun else "pending"
    return record_of(node, state, job, success or failure, result, entry, benchmark)


def record_of(
    node: str,
    state: State,
    job: Mapping[str, Any] | None = None,
    ending: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
    benchmark: str | None = None,
) -> Record:
    """Join what is known of a node into a record.

    Args:
        node: The node.
        state: Its state.
        job: Content of its `job.json`.
        ending: Content of its `SUCCESS.json` or `FAILED.json`.
        result: Content of its `result.json`.
        entry: Its entry in a sweep's manifest.
        benchmark: The sweep's benchmark.
    """
    job, ending, entry = job or {}, ending or {}, entry or {}
    return Record(
        node,
        state,
        stage=entry.get("stage") or job.get("stage"),
        error=str(ending.get("error")) if state == "failed" else None,
        attempts=_count(ending.get("attempts")) or _count(job.get("attempts")),
        config=_shared(job.get("config"), entry.get("config")) or config_from(entry, node, benchmark),
        parents=tuple(entry.get("parents") or job.get("parents") or ()),
        result=result or {},
        provenance=job.get("provenance") or {},
        names=entry.get("names") or job.get("names") or {},
        started=_seconds(job.get("started")),
        finished=_seconds(ending.get("time")),
    )


def _shared(config: Mapping[str, Any] | None, listed: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a job's configuration. If the manifest lists an equal one, return that, whose values all jobs share: ten thousand are many."""
    return listed if listed and (not config or config == listed) else config


def read_records(folder: Folder, manifest: SweepInfo | None) -> list[Record]:
    """Return all nodes of a sweep in the manifest's order or, without a manifest, all nodes of the store."""
    nodes = list(folder.nodes()) if manifest is None else [str(entry["node"]) for entry in manifest.nodes]
    folder.prefetch(f"{node}/{name}" for node in nodes for name in _RECORD_FILES)
    if manifest is None:
        records = [read_record(folder, node) for node in nodes]
    else:
        records = [read_record(folder, str(entry["node"]), entry, manifest.benchmark) for entry in manifest.nodes]
    return mark_blocked(records)


def _require_node(entry: Any, where: str) -> None:
    """Refuse a manifest's entry that names no node, or a place outside the store."""
    node = entry.get("node") if isinstance(entry, Mapping) else None
    sound = isinstance(node, str) and node and ".." not in node.split("/") and not node.startswith("/")
    if not sound or not shapes.has_form(entry, shapes.MANIFEST_LINE):
        raise ResultsError(f"{where} names {node!r}, which is no job of this store: run the sweep again.")


def mark_blocked(records: Sequence[Record]) -> list[Record]:
    """Turn `pending` and `running` nodes below a failed node into `blocked` ones that name it."""
    by_node = {record.node: record for record in records}
    culprits: dict[str, str | None] = {}
    waiting = [record.node for record in reversed(records)]
    while waiting:  # not by recursion, since chains of parents may be thousands long
        node = waiting[-1]
        record = by_node.get(node)
        if record is None or record.state in ("failed", "succeeded"):
            culprits[node] = node if record is not None and record.state == "failed" else None
        elif node not in culprits and (unknown := [parent for parent in record.parents if parent not in culprits]):
            culprits[node] = None  # so that a cycle ends
            waiting.extend(unknown)
            continue
        else:
            culprits[node] = next((found for parent in record.parents if (found := culprits.get(parent))), None)
        waiting.pop()

    marked = []
    for record in records:
        failed = culprits[record.node]
        if failed is not None and record.state != "failed":
            record = replace(record, state="blocked", error=f"blocked by {failed}")
        marked.append(record)
    return marked


def config_from(entry: Mapping[str, Any], node: str, benchmark: str | None) -> dict[str, Any]:
    """Return what a manifest's entry, or else the node's path, says about a node without `job.json`."""
    parts = PurePosixPath(node).parts
    # <benchmark>/<backbone>/<stage>/<method>/<task>/<variant>-<fingerprint>
    from_path = dict(zip(("benchmark", "backbone", "stage", "method", "task"), parts[:5], strict=True)) if len(parts) == 6 else {}
    name = benchmark or from_path.get("benchmark")
    # A joint job's tasks are joined by plus signs.
    tasks = [part for part in str(entry.get("task") or from_path.get("task") or "").split("+") if part]
    tasks = [task if "/" in task or not name else f"{name}/{task}" for task in tasks]
    config: dict[str, Any] = {
        "benchmark": name,
        "stage": entry.get("stage") or from_path.get("stage"),
        "method": entry.get("method") or from_path.get("method"),
        "data": [{"task": task} for task in tasks],
    }
    if entry.get("seed") is not None:
        config["seed"] = entry["seed"]
    if entry.get("learning_rate") is not None:
        config["optimisation"] = {"learning_rate": entry["learning_rate"]}
    return config


def _count(value: Any) -> int | None:
    """Return a small whole number. None: the value is anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _seconds(time: Any) -> float | None:
    """Return a time as seconds since 1970, from a number or an ISO string."""
    if time is None or isinstance(time, bool):
        return None
    if isinstance(time, (int, float)):
        return float(time) if abs(time) < shapes.LARGEST else None
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None
