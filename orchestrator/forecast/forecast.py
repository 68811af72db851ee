"""What a sweep will cost on a number of devices, before it runs: a simulation of the policy with a device's profile."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.definition.graph import Graph, Job
from orchestrator.definition.resources import Shape, shape_of
from orchestrator.definition.schema import StageResources
from orchestrator.forecast.simulate import Barrier, FirstCome, Forecast, simulate, slices
from orchestrator.profiling.profile import Profile
from orchestrator.scheduling.cost import CostModel
from orchestrator.scheduling.task_sizes import assumptions
from orchestrator.terminal import as_html
from orchestrator.watching.progress import show_seconds

_LONGEST = 5


@dataclass(frozen=True)
class Expected:
    """A forecast that shows itself in a notebook."""

    values: Mapping[str, Any]
    """As `forecast` returns them."""

    @property
    def seconds(self) -> float:
        """How long the sweep will take."""
        return float(self.values["seconds"])

    @property
    def device_hours(self) -> float:
        """How long devices will be at work, in sum."""
        return float(self.values["device_seconds"]) / 3600

    def _repr_html_(self) -> str:
        return as_html(lambda console: print_forecast(self.values, console))


def forecast(
    graph: Graph, done: Iterable[str], cost: CostModel, devices: int, resources: StageResources, *, price: float | None = None
) -> dict[str, Any]:
    """Return a forecast as JSON values, with all times in seconds.

    Args:
        graph: The sweep's jobs. They are marked as in a run.
        done: Nodes that are finished already, and cost nothing.
        cost: Gives the expected durations.
        devices: Number of devices.
        resources: The resources of trials. A job that states no GPU is planned on a whole device.
        price: What an hour of one device costs. None: not known.

    Raises:
        UserError: A job needs more devices than there are.
    """
    finished = set(done)

    def shape(job: Job) -> Shape:
        return shape_of(resources.of(job.config.stage, job.config.method), gpu=1.0)

    for node in finished:
        graph.mark(node, "cached")
    played = simulate(graph, cost, devices, shape=shape)
    others = {"first_come": FirstCome, "barrier": Barrier}
    comparison = {name: simulate(_copy(graph, finished), cost, devices, policy, shape=shape).makespan for name, policy in others.items()}
    return {
        "devices": devices,
        "profile": {"device": cost.profile.device, "measured": cost.profile.measured, "note": cost.profile.note},
        "jobs": sum(len(pack.nodes) for pack in played.packs),
        "jobs_done_before": len(finished),
        "packs": len(played.packs),
        "seconds": played.makespan,
        "device_seconds": played.device_seconds,
        "utilisation": played.utilisation,
        "critical_path_seconds": played.bounds.critical_path,
        "least_device_seconds": played.bounds.work,
        "over_bound": played.over_bound,
        "by_method": [asdict(item) for item in slices(graph, played)],
        "by_task": _by_task(graph, played),
        "stand_ins": _stand_ins([graph.job(node) for pack in played.packs for node in pack.nodes], cost.profile),
        "compared": comparison,
        "price_per_hour": price,
        "assumed": assumptions((data for job in graph for data in job.config.data), cost.root),
    }


def print_forecast(values: Mapping[str, Any], console: Console) -> None:
    """Print a forecast: first totals, then what takes most."""
    profile = values["profile"]
    known = "measured, but not for all of these jobs" if values["stand_ins"] else "measured"
    if not profile["measured"]:
        known = "estimated from data sheets, not measured: `scalearn profile` measures"
    bound = max(values["critical_path_seconds"], values["least_device_seconds"] / values["devices"])
    lines = [
        f"On {values['devices']} x {profile['device']} ({known}):",
        *map(_stand_in_sentence, values["stand_ins"]),
        *map(_assumption_sentence, values["assumed"]),
        f"{show_seconds(values['seconds'])} for {values['jobs']} jobs in {values['packs']} packs; {values['jobs_done_before']} are done",
        f"{_hours(values['device_seconds'])} device hours, {values['utilisation']:.0%} of the devices' time in use",
        f"lower bound {show_seconds(bound)}: critical path {show_seconds(values['critical_path_seconds'])}, "
        f"work {_hours(values['least_device_seconds'])} device hours; the plan takes {values['over_bound']:.2f} of it",
        f"first come, first served would take {show_seconds(values['compared']['first_come'])}, "
        f"a barrier between the stages {show_seconds(values['compared']['barrier'])}",
        *_price(values),
        "Jobs with a patience are counted with all their epochs.",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    total = values["device_seconds"] or 1.0
    table = Table(title="What dominates", title_justify="left")
    for column in ("stage", "method", "jobs", "packs", "device hours", "share", "from", "to"):
        table.add_column(column, justify="left" if column in ("stage", "method") else "right")
    for row in values["by_method"]:
        hours, share = f"{row['device_seconds'] / 3600:.2f}", f"{row['device_seconds'] / total:.0%}"
        span = (show_seconds(row["begin"]), show_seconds(row["end"]))
        table.add_row(row["stage"], row["method"], str(row["jobs"]), str(row["packs"]), hours, share, *span)
    console.print(table)
    tasks = [f"{row['task']} {row['device_seconds'] / total:.0%}" for row in values["by_task"][:_LONGEST]]
    console.print(f"By task: {', '.join(tasks)}", highlight=False, soft_wrap=True, markup=False)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def _price(values: Mapping[str, Any]) -> list[str]:
    """Return the line on money. Devices that wait for work are mostly paid too."""
    if (price := values["price_per_hour"]) is None:
        return []
    used, held = (price * seconds / 3600 for seconds in (values["device_seconds"], values["devices"] * values["seconds"]))
    return [f"Price: {used:,.2f} at {price:g} per device hour; {held:,.2f} if all devices are paid for from beginning to end"]


def _stand_ins(jobs: Iterable[Job], profile: Profile) -> list[dict[str, Any]]:
    """Return which of these jobs' backbones and precisions the profile lacks, and what their costs were reckoned from."""
    found = []
    for backbone, precision in dict.fromkeys((job.config.backbone, profile.resolved(job.config.optimisation.precision)) for job in jobs):
        rates, factor = profile.of(backbone, precision)
        if (rates.backbone, rates.precision) != (backbone, precision):
            known = {"backbone": rates.backbone, "precision": rates.precision}
            found.append({"backbone": backbone, "precision": precision, "known": known, "factor": factor})
    return found


def _stand_in_sentence(stand_in: Mapping[str, Any]) -> str:
    known, factor = stand_in["known"], stand_in["factor"]
    times = "" if factor == 1 else f"{factor:.3g} times "
    wanted = f"{stand_in['backbone']} in {stand_in['precision']}"
    return f"{wanted} is not in the profile, and is reckoned as {times}{known['backbone']} in {known['precision']}"


def _assumption_sentence(assumed: Mapping[str, Any]) -> str:
    rows = f"{assumed['train']:,} training, {assumed['validation']:,} validation and {assumed['test']:,} test rows"
    text = f"{assumed['task']}: {rows} of about {assumed['mean_tokens']:g} tokens"
    if assumed["from"] is None:
        return f"{text}, which is a guess: its rows cannot be counted here"
    return f"{text}, {'counted' if assumed['counted'] else 'reckoned from the beginning of the files'} in {assumed['from']}"


def _by_task(graph: Graph, played: Forecast) -> list[dict[str, Any]]:
    seconds: dict[str, float] = {}
    for pack in played.packs:
        for node in pack.nodes:
            task = "+".join(graph.job(node).tasks)
            seconds[task] = seconds.get(task, 0.0) + pack.device_seconds / len(pack.nodes)
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return [{"task": task, "device_seconds": value} for task, value in ordered]


def _copy(graph: Graph, finished: Iterable[str]) -> Graph:
    fresh = Graph(graph)
    for node in finished:
        fresh.mark(node, "cached")
    return fresh
