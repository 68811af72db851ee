"""`scalearn export`: a finished target of a sweep as one ordinary adapter, in a directory, on the hub, or in MLflow's registry."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.as_run import Run
from orchestrator.artifacts.best import best_job
from orchestrator.commands.arguments import Commands, add_sweep_command, find_job, open_run
from orchestrator.definition.graph import Job
from orchestrator.tracking.mlflow_server import tracked_experiment
from scalearn.errors import UserError
from scalearn.secrets import without_secrets

if TYPE_CHECKING:
    from scalearn.model.model_card import CardFacts

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
    parser.add_argument("--to", type=Path, metavar="DIRECTORY", help="where the adapter goes; must not exist yet")
    parser.add_argument("--prune", type=float, metavar="THRESHOLD", help="leave out sources whose mean absolute omega is below this")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to the hub, with the sweep's file and table in its card")
    parser.add_argument("--private", action="store_true", help="with --push: only you may read it")
    parser.add_argument("--license", metavar="ID", help="with --push: the licence in its card, such as mit or cc-by-4.0")
    parser.add_argument("--register", metavar="NAME", help="log it to MLflow as a model that predicts texts, registered under this name")
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
    if not (arguments.to or arguments.push or arguments.register):
        raise UserError("Name where the adapter goes: --to DIRECTORY, --push OWNER/NAME or --register NAME.")
    if (arguments.private or arguments.license) and not arguments.push:
        raise UserError("--private and --license go with --push.")
    run = open_run(arguments)
    sweep, store = run.sweep, run.store
    job = find_job(run.graph, arguments.node) if arguments.node else _best(run, arguments)
    for node in (*run.graph.parents(job.node), job.node):
        if not store.complete(node):
            raise UserError(f"{node} is not done in {store.url}: run the sweep first.")
    tracked = tracked_experiment(store, run.name, sweep.tracking.uri) if arguments.register else None
    with tempfile.TemporaryDirectory() as scratch:
        to = arguments.to or Path(scratch) / job.path.rpartition("/")[2]
        print(_export(run, job, to, arguments), flush=True)
        if arguments.push:
            from scalearn.model.push import push

            address = push(to, arguments.push, collection=run.name, private=arguments.private)
            print(f"Uploaded to {address}, in the collection '{run.name}'", flush=True)
        if tracked is not None:
            from orchestrator.tracking.register import register

            print(f"Registered as {register(to, arguments.register, tracked, job.node)}", flush=True)
    return 0


def _best(run: Run, arguments: argparse.Namespace) -> Job:
    job, score = best_job(run, arguments.method, arguments.target)
    print(f"{job.node} has the best validation score, {score:.4f}.", flush=True)
    return job


def _export(run: Run, job: Job, to: Path, arguments: argparse.Namespace) -> str:
    """Write the adapter. Return what to tell the user."""
    from scalearn.formats.source_adapters import load_source_adapters  # imported here: other commands start without torch
    from scalearn.model.export import export_adapter, fold
    from scalearn.model.model import load_backbone, load_model

    store, prune, pickled = run.store, arguments.prune, run.sweep.sources.allow_pickle
    backbone = load_backbone(job.config.backbone)
    found = dict(zip(job.parent_names, (store.fetch(parent.node) for parent in job.parents), strict=True))
    found |= {adapter.name: Path(adapter.place) for adapter in job.config.external}
    chosen = (store.result(job.node) or {}).get("selected", job.config.sources)
    sources = {name: found[name] for name in chosen}
    stacked = load_source_adapters(backbone.encoder, sources, allow_pickle=pickled, method=job.config.source_method) if sources else None
    model = load_model(store.fetch(job.node), backbone, stacked)
    folded = fold(model, prune=prune)
    notes = []
    told = f"Wrote {to}: " if arguments.to else "Folded "
    told += f"{len(folded.kept)} of {len(folded.omegas)} sources ({', '.join(folded.kept)})."
    if prune is not None:
        (data,) = job.config.data
        root = Path(run.sweep.data.root) if run.sweep.data.root is not None else None
        before = fold(model).model.evaluate(data, SPLIT, root=root)
        after = folded.model.evaluate(data, SPLIT, root=root)
        changes = ", ".join(f"{metric} {before[metric]:.4f} -> {after[metric]:.4f}" for metric in before)
        notes.append(
            f"Sources with a mean absolute omega below {prune:g} are left out. On {SPLIT}: {changes}. The scores above are without pruning."
        )
        told += f" Pruned at {prune:g}, on {SPLIT}: {changes}."
    export_adapter(folded, to, facts=_facts(run, job, notes, arguments))
    return told


def _facts(run: Run, job: Job, notes: list[str], arguments: argparse.Namespace) -> "CardFacts":
    """Return what the card says of the job: its scores and data; on the hub, where nobody has the store, its sweep and the table too."""
    from scalearn.model.model_card import HERE, CardFacts

    scores = (run.store.result(job.node) or {}).get("scores", {}).get(job.config.task, {})
    origins = [data.origin for each in (job, *job.parents) for data in each.config.data]
    datasets = [origin.removeprefix("hub:").rpartition("@")[0] for origin in origins if origin.startswith("hub:")]
    told = [f"Trained as `{job.node}`.", *notes]
    if arguments.push:
        told += [f"## The sweep\n\n```yaml\n{without_secrets(run.sweep.text).strip()}\n```", *_table(run)]
    return CardFacts(scores, told, datasets, arguments.license, arguments.push or HERE)


def _table(run: Run) -> list[str]:
    """Return the sweep's table for the card. It is missing where the store has no manifest of the sweep."""
    import analysis  # it loads pandas

    try:
        return [f"## Its table\n\n{analysis.render.to_markdown(analysis.benchmark_table(analysis.load(run.store.url, run.name)))}"]
    except analysis.ResultsError:
        return []
