"""`scalearn export`: a finished target of a sweep as one ordinary adapter."""

import argparse
from pathlib import Path
from typing import Any

from orchestrator.artifacts.as_run import Run
from orchestrator.artifacts.best import best_job
from orchestrator.artifacts.store import Store
from orchestrator.commands.arguments import Commands, add_sweep_command, find_job, open_run
from orchestrator.definition.graph import Job
from scalearn.errors import UserError

SPLIT = "validation"
"""The split on which pruning is judged, since test scores must not choose anything."""

EXAMPLE = "scalearn export quickstart --node domains/minilm/transfer/scalearn_pp/apple/lr6e-03-seed0 --to exported"


def add(commands: "Commands[Any]") -> None:
    """Add the subcommand to a parser."""
    summary = "fold a trained target into one ordinary adapter, with its head and a model card"
    parser = add_sweep_command(commands, "export", summary, only=False)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--node", metavar="NODE", help="the job, as `scalearn status` names it")
    which.add_argument("--best", action="store_true", help="the job with the best validation score of those that can be folded")
    parser.add_argument("--method", metavar="METHOD", help="with --best: of this method alone")
    parser.add_argument("--target", metavar="TASK", help="with --best: on this target; needed where the sweep has several")
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
    if arguments.node and (arguments.method or arguments.target):
        raise UserError("--method and --target go with --best; --node names the job alone.")
    run = open_run(arguments)
    sweep, store = run.sweep, run.store
    job = find_job(run.graph, arguments.node) if arguments.node else _best(run, arguments)
    for node in (*run.graph.parents(job.node), job.node):
        if not store.complete(node):
            raise UserError(f"{node} is not done in {store.url}: run the sweep first.")
    root = Path(sweep.data.root) if sweep.data.root is not None else None
    print(_export(job, store, root, arguments.to, arguments.prune, allow_pickle=sweep.sources.allow_pickle))
    return 0


def _best(run: Run, arguments: argparse.Namespace) -> Job:
    job, score = best_job(run, arguments.method, arguments.target)
    print(f"{job.node} has the best validation score, {score:.4f}.", flush=True)
    return job


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
