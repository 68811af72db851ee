"""How methods and tasks are called and ordered in the paper's tables.

Unknown keys are shown as they are, so a new method or task needs no entry here to appear in a table.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

Family = Literal["single", "joint", "two_stage"]

FAMILY_TITLES: dict[Family, str] = {"single": "Single task", "joint": "Joint multi-task", "two_stage": "Two-stage"}

METHODS: dict[str, tuple[str, Family]] = {
    "full_ft": ("Full fine-tuning", "single"),
    "adapter": ("Adapter", "single"),
    "propetl": ("ProPETL", "single"),
    "compacter_pp": ("Compacter++", "single"),
    "ia3": ("(IA)³", "single"),
    "full_ft_m": ("Full fine-tuning (joint)", "joint"),
    "adapter_m": ("Adapter (joint)", "joint"),
    "propetl_m": ("ProPETL (joint)", "joint"),
    "hyperformer": ("HyperFormer", "joint"),
    "hyperformer_pp": ("HyperFormer++", "joint"),
    "adapterfusion": ("AdapterFusion", "two_stage"),
    "adaptersoup": ("AdapterSoup", "two_stage"),
    "scalearn": ("ScaLearn", "two_stage"),
    "scalearn_uniform": ("ScaLearnUniform", "two_stage"),
    "scalearn_pp": ("ScaLearn++", "two_stage"),
    "scalearn_uniform_pp": ("ScaLearnUniform++", "two_stage"),
    "scalearn_mean": ("ScaLearn (mean)", "two_stage"),
    "scalearn_softmax": ("ScaLearn (softmax)", "two_stage"),
    "scalearn_fixed": ("ScaLearn (fixed)", "two_stage"),
}
"""Method key -> (title, family), in the order of the paper's tables."""

TASKS: dict[str, str] = {
    "mnli": "MNLI",
    "qqp": "QQP",
    "qnli": "QNLI",
    "sst2": "SST-2",
    "stsb": "STS-B",
    "mrpc": "MRPC",
    "rte": "RTE",
    "cola": "CoLA",
    "record": "ReCoRD",
    "multirc": "MultiRC",
    "boolq": "BoolQ",
    "wic": "WiC",
    "wsc": "WSC",
    "copa": "COPA",
    "cb": "CB",
    "bbc": "BBC",
    "sectors": "Sectors",
    "pillars_1d": "Pillars 1D",
    "subpillars_1d": "Subpillars 1D",
    "pillars_2d": "Pillars 2D",
    "subpillars_2d": "Subpillars 2D",
}
"""Short task name -> title."""

TASK_ORDER: dict[str, tuple[str, ...]] = {
    "glue": ("mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola"),
    "super_glue": ("record", "multirc", "boolq", "wic", "wsc", "copa", "cb", "rte"),
    "humset": ("sectors", "pillars_1d", "subpillars_1d", "pillars_2d", "subpillars_2d"),
}
"""Columns of the paper's tables."""

_STAGE_FAMILY: dict[str, Family] = {"transfer": "two_stage", "joint": "joint"}


def method_title(method: str) -> str:
    """Title of a method; an unknown key is its own title."""
    return METHODS[method][0] if method in METHODS else method


def method_family(method: str, stage: str | None = None) -> Family:
    """Group of the table that a method's row stands in; for an unknown key the stage of its jobs decides."""
    return METHODS[method][1] if method in METHODS else _STAGE_FAMILY.get(stage or "", "single")


def short_name(task: str) -> str:
    """`glue/rte` -> `rte`."""
    return task.rsplit("/", 1)[-1]


def task_title(task: str, among: Sequence[str] = ()) -> str:
    """Title of a task; with its benchmark where another task of `among` has the same short name."""
    name = short_name(task)
    title = TASKS.get(name, name.replace("_", " ").title() if name.islower() else name)
    twins = {other for other in among if short_name(other) == name}
    return f"{title} ({task.split('/')[0]})" if len(twins) > 1 else title


def metric_title(metric: str) -> str:
    """`macro_f1` -> `macro F1`."""
    return metric.replace("_", " ").replace("f1", "F1")


def order_methods(methods: Iterable[str], stages: dict[str, str] | None = None) -> list[str]:
    """Single task, then joint, then two-stage; within a group as in the paper, unknown keys last by name."""
    known = list(METHODS)
    families = list(FAMILY_TITLES)

    def key(method: str) -> tuple[int, int, str]:
        family = method_family(method, (stages or {}).get(method))
        return families.index(family), known.index(method) if method in METHODS else len(known), method

    return sorted(set(methods), key=key)


def order_tasks(tasks: Iterable[str]) -> list[str]:
    """Benchmark by benchmark, each in the paper's order; unknown tasks last by name."""

    def key(task: str) -> tuple[str, int, str]:
        benchmark = task.split("/")[0]
        order = TASK_ORDER.get(benchmark, ())
        name = short_name(task)
        return benchmark, order.index(name) if name in order else len(order), name

    return sorted(set(tasks), key=key)
