"""HumSet, five multi-label tasks over the same multilingual excerpts (docs/protocol.md, Tasks); its splits are its own."""

from scalearn.tasks.hub_table import hub_source
from scalearn.tasks.task import SplitRule, text_task

COLUMNS = ("sectors", "pillars_1d", "pillars_2d", "subpillars_1d", "subpillars_2d")

TASKS = tuple(
    text_task(
        f"humset/{column}",
        ("excerpt",),
        None,  # the label set is that of the train split
        kind="multi_label",
        label_column=column,
        metrics=("macro_f1",),
        source=hub_source("humset", "1.0.0"),
        splits=SplitRule(validation="validation", test="test", stratify=False),
    )
    for column in COLUMNS
)
