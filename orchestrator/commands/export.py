"""`scalearn export`: a finished target of a sweep as one ordinary adapter."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.artifacts.store import Store
from orchestrator.artifacts.trials import graph_in
from orchestrator.commands.arguments import Commands, add_sweep_command, find_job, open_store
from orchestrator.definition.graph import Job
from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

SPLIT = "validation"
"""The split on which pruning is judged, since test scores must not choose anything."""

EXAMPLE = "scalearn export quickstart --node domains/minilm/transfer/scalearn_pp/apple/lr6e-03-seed0 --to exported"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "fold a trained target into one ordinary adapter, with its head and a model card"
    parser = add_sweep_command(commands, "export", summary, only=False)
    parser.add_argument("--node", required=True, metavar="NODE", help="the job, as `scalearn status` names it")
    parser.add_argument("--to", required=True, type=Path, metavar="DIRECTORY", help="where the adapter goes; must not exist yet")
    parser.add_argument("--prune", type=float, metavar="THRESHOLD", help="leave out sources whose mean absolute omega is below this")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Export one job.

    Raises:
        UserError: There is no such job, it is not done or cannot be folded, or the directory cannot be written.
    """
    if arguments.prune is not None and not 0 <= arguments.prune < float("inf"):
        raise UserError(f"--prune is {arguments.prune:g}: give a threshold of at least 0.")
    sweep = Sweep.load(arguments.sweep, arguments.set)
    store = open_store(sweep, arguments)
    graph = graph_in(store, sweep)
    job = find_job(graph, arguments.node)
    for node in (*graph.parents(job.node), job.node):
        if not store.complete(node):
            raise UserError(f"{node} is not done in {store.url}: run the sweep first.")
    root = Path(sweep.data.root) if sweep.data.root is not None else None
    print(_export(job, store, root, arguments.to, arguments.prune, allow_pickle=sweep.sources.allow_pickle))
    return 0


def _export(job: Job, store: Store, root: Path | None, to: Path, prune: float | None, *, allow_pickle: bool) -> str:
    """Write the adapter. Return what to tell the user."""
    from scalearn.formats.source_adapters import load_source_adapters  # imported here: other commands start without torch
    from scalearn.model.export import export_adapter, fold
    from scalearn.model.model import load_backbone, load_model

    backbone = load_backbone(job.config.backbone)
    found = dict(zip(job.parent_names, (store.fetch(parent.node) for parent in job.parents), strict=True))
    found |= {adapter.name: Path(adapter.place) for adapter in job.config.external}
    sources = {name: found[name] for name in job.config.sources}
    stacked = (
        load_source_adapters(backbone.encoder, sources, allow_pickle=allow_pickle, method=job.config.source_method) if sources else None
    )
    model = load_model(store.fetch(job.node), backbone, stacked)
    folded = fold(model, prune=prune)
    scores = (store.result(job.node) or {}).get("scores", {}).get(job.config.task, {})
    notes, told = (
        [f"Trained as `{job.node}`."],
        f"Wrote {to}: {len(folded.kept)} of {len(folded.omegas)} sources ({', '.join(folded.kept)}).",
    )
    if prune is not None:
        (data,) = job.config.data
        before = fold(model).model.evaluate(data, SPLIT, root=root)
        after = folded.model.evaluate(data, SPLIT, root=root)
        changes = ", ".join(f"{metric} {before[metric]:.4f} -> {after[metric]:.4f}" for metric in before)
        notes.append(
            f"Sources with a mean absolute omega below {prune:g} are left out. On {SPLIT}: {changes}. The scores above are without pruning."
        )
        told += f" Pruned at {prune:g}, on {SPLIT}: {changes}."
    export_adapter(folded, to, scores=scores, notes=notes)
    return told
