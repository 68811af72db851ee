"""Which sweep a user means, by a file, a manifest or a name in a store; and what was run of it, where its file says other jobs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.artifacts.manifest import content_of, named_by
from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import graph_in
from orchestrator.definition.basis import shipped_sweeps
from orchestrator.definition.graph import Graph
from orchestrator.definition.schema import SweepSchema
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError
from scalearn.secrets import without_secrets


@dataclass(frozen=True)
class Run:
    """A sweep as it was last run into a store or, if it was not run, as its file says."""

    sweep: Sweep
    store: Store
    graph: Graph
    """Its jobs, all pending."""
    name: str
    """Name of its manifest: the sweep's name, or `NAME-CONTENT` where another sweep of that name was run later."""
    remark: str | None = None
    """One sentence for the user, where the file says other jobs than were run."""

    def restricted(self, only: str | None) -> "Run":
        """Return the run with the jobs that a pattern matches, and what they need. None: with all."""
        return self if only is None else replace(self, graph=self.graph.restrict(only))


def manifest_named(text: str, store: str | None = None) -> tuple[Store, str] | None:
    """Return the store and the name of a manifest. None: the text names a file, or a sweep that the package ships.

    Args:
        text: A manifest `STORE/sweeps/NAME.json`, or the name of a sweep in the store.
        store: The store. None: the default one, where a sweep that the package ships comes first.

    Raises:
        UserError: The text ends as a manifest does, and is none.
    """
    if text.endswith(".json"):
        root, _, name = ("./" + text).rpartition("/sweeps/") if "://" not in text else text.rpartition("/sweeps/")
        if not root or "/" in name:
            raise UserError(f"{text} is not a sweep's manifest: name a file STORE/sweeps/NAME.json.")
        return Store(root.removeprefix("./") or "."), name.removesuffix(".json")
    if "/" in text or text.endswith((".yaml", ".yml")) or (store is None and text in shipped_sweeps()):
        return None
    named = Store(store or SweepSchema.model_fields["store"].default)
    return None if named.load_json(named.manifest_path(text)) is None else (named, text)


def load_sweep(text: str, overrides: Sequence[str] = (), store: str | None = None, *, to_look: bool = False) -> tuple[Sweep, Store]:
    """Return the sweep that a text names, as its file or manifest says, and its store.

    Args:
        text: A file, a manifest, the name of a sweep in the store, or of one that the package ships.
        overrides: Values of `--set`.
        store: The store. None: the sweep's own.
        to_look: Whether nothing will be run, so that a sweep of another machine needs none of the places that it names.

    Raises:
        UserError: There is no such sweep, or its file is wrong.
    """
    named = manifest_named(text, store)
    sweep = Sweep.load(text, overrides) if named is None else _in_manifest(*named, overrides, elsewhere=to_look)
    place = Store(store or sweep.store)
    place.check_reachable()
    return sweep, place


def find_run(text: str, overrides: Sequence[str] = (), store: str | None = None) -> Run:
    """Return the sweep that a text names, as it was run.

    Args:
        text: As for `load_sweep`.
        overrides: Values of `--set`, for a sweep that was run with them or not at all.
        store: As for `load_sweep`.

    Raises:
        UserError: As for `load_sweep`.
    """
    return as_run(*load_sweep(text, overrides, store, to_look=True), text)


def as_run(sweep: Sweep, store: Store, text: str) -> Run:
    """Return a sweep as it was run. `text` is what a remark calls its file.

    Raises:
        UserError: What was run cannot be expanded, since its data is missing.
    """
    graph = graph_in(store, sweep)
    nodes = set(graph.nodes())
    for name in (sweep.name, f"{sweep.name}-{content_of(nodes)}"):
        if named_by(store, name) == nodes:
            return Run(sweep, store, graph, name)
    run = named_by(store, sweep.name)
    if not run or (sweep.search is not None and run <= nodes):  # trials that were proposed since the manifest was written
        return Run(sweep, store, graph, sweep.name)
    before = _in_manifest(store, sweep.name, elsewhere=True)
    if without_secrets(str(sweep.tracking.uri)) == before.tracking.uri:
        before = before.model_copy(update={"tracking": sweep.tracking})  # with the password, which no manifest keeps
    expanded = graph_in(store, before)
    if not run <= set(expanded.nodes()):
        remark = f"What was run as {sweep.name} into {store.url} is of another version of this program, which gave its jobs other names."
        return Run(sweep, store, graph, sweep.name, remark)
    given = "".join(f" --set {override}" for override in before.overrides if not override.startswith("store="))
    remark = (
        f"{text} says {len(nodes)} jobs, {len(nodes - run)} of which are not among the {len(run)} that were last run into {store.url} as"
        f" {sweep.name}{given}: the latter are meant here, and `scalearn plan` shows the former."
    )
    return Run(before, store, expanded, sweep.name, remark)


def _in_manifest(store: Store, name: str, overrides: Sequence[str] = (), *, elsewhere: bool) -> Sweep:
    path = store.manifest_path(name)
    content = store.load_json(path)
    if content is None:
        raise UserError(f"{store.url} holds no sweep named '{name}': run it first, or name its store with --store.")
    return Sweep.in_manifest(content, str(path), store.url, overrides, elsewhere=elsewhere)
