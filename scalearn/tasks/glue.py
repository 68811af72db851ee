"""GLUE, eight tasks (docs/protocol.md, Tasks): inputs, metrics and splits of the paper."""

from typing import Any

from scalearn.tasks.hub_table import hub_source
from scalearn.tasks.task import Metric, SplitRule, Task, as_published, text_task


def _glue(name: str, columns: tuple[str, ...], labels: tuple[str, ...] | None, *metrics: Metric, **rest: Any) -> Task:
    return text_task(f"glue/{name}", columns, labels, metrics=metrics or ("accuracy",), source=hub_source("glue", name), **rest)


TASKS = as_published(
    {"mnli": "MNLI", "qqp": "QQP", "qnli": "QNLI", "sst2": "SST-2", "stsb": "STS-B", "mrpc": "MRPC", "rte": "RTE", "cola": "CoLA"},
    _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews", "accuracy"),
    _glue("sst2", ("sentence",), ("negative", "positive")),
    _glue("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), "accuracy", "f1"),
    _glue("stsb", ("sentence1", "sentence2"), None, "pearson", "spearman", kind="regression", splits=SplitRule(stratify=False)),
    _glue(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        "accuracy",
        "f1",
        may_be_empty=("question1", "question2"),  # a few published pairs lack a question
    ),
    _glue(
        "mnli",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        splits=SplitRule(test="validation_matched", extra=(("test_mismatched", "validation_mismatched"),)),
    ),
    _glue("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
    _glue("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment")),
)
