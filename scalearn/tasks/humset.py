"""HumSet, five multi-label tasks on the same multilingual excerpts (docs/protocol.md, Tasks), with splits of its own."""

from scalearn.tasks.hub_table import hub_source
from scalearn.tasks.task import SplitRule, text_task

COLUMNS = {"sectors": 1, "pillars_1d": 2, "pillars_2d": 4, "subpillars_1d": 3, "subpillars_2d": 5}
"""The place of each task in the paper's table, by label column."""

TASKS = tuple(
    text_task(
        f"humset/{column}",
        ("excerpt",),
        None,  # the label set is that of the train split
        kind="multi_label",
        label_column=column,
        metrics=("macro_f1",),
        order=order,
        source=hub_source("humset", "1.0.0"),
        splits=SplitRule(validation="validation", test="test", stratify=False),
    )
    for column, order in COLUMNS.items()
)
