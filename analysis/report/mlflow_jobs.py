"""What a tracking server shows of jobs: descriptions and links. Pure functions, whose callers talk to the server."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from analysis.reading.names import Names, facts_of
from analysis.reading.records import Record
from analysis.tables.grid import percent

VIEW_TAG = "mlflow.sharedViewState."
"""Prefix of an experiment's tags in which MLflow's own pages keep saved and shared views."""
VIEWS = {"jobs": "jobs, best first", "methods": "by method", "curves": "learning curves"}
"""Saved views of a sweep's experiment: key, and what the view shows."""
CHOSEN = "chosen"
"""Tag of the jobs that the sweep's table shows."""
JOBS, SCORE = "tags.kind = 'job'", "metrics.`test_score`"
IN_TABLE = f"{JOBS} and tags.{CHOSEN} = 'true'"
_CURVES = ("train_loss", "validation/loss", *(f"validation/{name}" for name in ("accuracy", "macro_f1", "f1", "matthews", "pearson")))
"""What the curves' view draws first; MLflow hides charts without values, and adds one for each further metric."""
_COLUMNS = ("tags.`method`", "tags.`target`", "tags.`stage`", "tags.`seed`", "tags.`learning_rate`", "tags.`state`", SCORE)


def experiment_description(sweep: str) -> str:
    """Return Markdown for the experiment: what its runs are, and how to find some."""
    return (
        f"Jobs of sweep **{sweep}**. The run of kind `sweep` holds the benchmark table, plots and averages; every job is its child, "
        "of kind `job`.\n\n"
        "| tag | meaning |\n| :--- | :--- |\n"
        "| `stage` | `source` adapter, `transfer` layer, `joint` or `single` training, `similarity` of tasks, `transferability` of "
        "sources |\n"
        "| `method` | row of the benchmark table |\n"
        "| `target` | task that the job serves |\n"
        "| `seed`, `learning_rate` | what else tells jobs apart |\n"
        "| `parents` | jobs whose adapters it builds on |\n"
        "| `chosen` | `true`: the table shows the job, since validation chose its learning rate; set at the end of a run |\n\n"
        "Filter, for example, with `tags.kind = 'job' and tags.method = 'scalearn' and tags.target = 'glue/rte'`; group by tag `method`. "
        "`test_score` is the score that the table reports, at the epoch that validation chose; it chooses nothing itself.\n"
    )


def run_description(record: Record) -> str:
    """Return Markdown for one job's run."""
    config: dict[str, Any] = dict(record.config)
    names, tasks = Names(facts_of([record])), [str(entry.get("task")) for entry in config.get("data") or ()]
    titles = ", ".join(names.task_title(task, tasks) for task in tasks)
    rate = (config.get("optimisation") or {}).get("learning_rate")
    if record.stage == "similarity":
        return f"**Similarity of the texts of {titles}**\n\nArtifact: `{record.node}`"
    if record.stage == "transferability":
        return f"**How well sources suit {titles}, rated beforehand**\n\nArtifact: `{record.node}`"
    what = {"source": "Source adapter", "transfer": "Transfer layer", "joint": "Joint model"}.get(record.stage or "", "Model")
    title = f"**{what}: {names.method_title(str(config.get('method')))} on {titles}**"
    lines = [f"{title}, backbone {config.get('backbone')}, learning rate {rate:g}, seed {config.get('seed')}." if rate else f"{title}."]
    if config.get("sources"):
        lines.append(f"Built on the source adapters {', '.join(config['sources'])}.")
    for task, splits in (record.result.get("scores") or {}).items():
        metric = (record.result.get("primary_metric") or {}).get(task)
        shown = [f"{split} {percent(scores[metric])}" for split, scores in splits.items() if metric in scores]
        lines.append(f"{names.task_title(task, tasks)}, {metric}: {', '.join(shown)}.")
    if record.error:
        lines.append(f"Failed: {record.error}")
    return "\n\n".join([*lines, f"Artifact: `{record.node}`"])


def saved_views() -> dict[str, str]:
    """Return the tags of the experiment: its kind, and its saved views.

    One view has the jobs of each target with the columns that tell them apart, best first. One has the jobs of the table by method, so
    that its averages are the table's. One draws the learning curves of these.
    """
    common = {"orderByKey": SCORE, "orderByAsc": False, "selectedColumns": _COLUMNS}
    in_table = {**common, "searchFilter": IN_TABLE, "groupBy": _grouped("method", "average")}
    views: dict[str, dict[str, Any]] = {
        "jobs": {**common, "searchFilter": JOBS, "groupBy": _grouped("target", "max")},
        "methods": in_table,
        "curves": {**in_table, **_charts()},
    }
    return {"mlflow.experimentKind": "custom_model_development"} | {f"{VIEW_TAG}{key}": json.dumps(views[key]) for key in VIEWS}


def _grouped(tag: str, function: str) -> dict[str, Any]:
    return {"aggregateFunction": function, "groupByKeys": [{"mode": "tag", "groupByData": tag}]}


def _charts() -> dict[str, Any]:
    """Return the charts of the view of curves, in the form in which MLflow's own pages save theirs."""
    made = {"deleted": False, "isGenerated": False}
    axes = {
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": "epoch",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "scaleType": "linear",
    }
    charts = [
        {"type": "LINE", "uuid": name, "metricSectionId": "curves", "metricKey": name, "selectedMetricKeys": [name], "lineSmoothness": 0}
        | {"useGlobalLineSmoothing": False, "useGlobalXaxisKey": False, "yAxisExpressions": [], "runsCountToCompare": 10, **axes, **made}
        for name in _CURVES
    ]
    section = {"uuid": "curves", "name": "Learning curves", "display": True, "isReordered": False, **made}
    return {"compareRunCharts": charts, "compareRunSections": [section], "isAccordionReordered": True}  # or MLflow sorts it by name


def view_links(base: str, experiment_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the address of each saved view, by what it shows. It is a plain filter if the experiment has no such views.

    Args:
        base: Address of the UI, `http://127.0.0.1:5000`.
        experiment_id: MLflow's id of the experiment.
        tags: The experiment's tags.
    """
    runs = _runs_page(base, experiment_id)
    saved = {what: f"{runs}&viewStateShareKey={key}" for key, what in VIEWS.items() if f"{VIEW_TAG}{key}" in tags}
    if VIEWS["curves"] in saved:
        saved[VIEWS["curves"]] += "&compareRunsMode=CHART"
    return saved or {VIEWS["jobs"]: ui_link(base, experiment_id)}


def ui_link(base: str, experiment_id: str, *, filter_: str = JOBS) -> str:
    """Return the address of an experiment's page in the MLflow UI, with a filter and ordered by score.

    If ordered by time, the page hides child runs under the sweep's run. In any other order it lists them flat.

    Args:
        base: Address of the UI, `http://127.0.0.1:5000`.
        experiment_id: MLflow's id of the experiment.
        filter_: MLflow search expression.
    """
    return f"{_runs_page(base, experiment_id)}&searchFilter={quote(filter_)}&orderByKey={quote(SCORE)}&orderByAsc=false"


def job_link(base: str, experiment_id: str, node: str) -> str:
    """Return the address of the list that holds one job's run. The run's own page goes by an id that no file of the job has."""
    return ui_link(base, experiment_id, filter_=f"tags.node = '{node}'")


def _runs_page(base: str, experiment_id: str) -> str:
    # Without the type, MLflow opens its pages about language models.
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
