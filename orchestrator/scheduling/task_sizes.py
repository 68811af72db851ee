"""How many rows and tokens each task has: from local files, else from published sizes after the split rule. A plan needs no data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.scheduling.local_rows import LocalRows, local_rows
from scalearn.config import DataConfig


@dataclass(frozen=True)
class Size:
    """How many rows a job of a task sees, and how long they are."""

    train: int
    """Training rows without those taken for validation. ReCoRD has one row per candidate entity; COPA has one per question."""
    validation: int
    test: int
    """Rows of all test splits."""
    length: float
    """Mean tokens of a row, with special tokens, at the task's own maximum length."""
    padded: float
    """Mean length that a batch of 32 random rows is padded to."""
    inputs: int = 1
    """Inputs per row: the choices of a multiple choice question."""
    joint: int | None = None
    """The task's rows by which joint training draws tasks. None: its training rows."""


def _tenth(train: int, test: int, length: float, padded: float, inputs: int = 1) -> Size:
    """Return a task's size, where validation is 10 % of the published train split (docs/protocol.md, Splits)."""
    validation = -(-train // 10)
    return Size(train - validation, validation, test, length, padded, inputs)


_HUMSET = Size(117_435, 16_039, 15_147, 80, 128)
"""The size of every HumSet task. The lengths are estimated."""

SIZES: Mapping[str, Size] = MappingProxyType(
    {
        # Rows are those of the published splits. Lengths were measured with a WordPiece vocabulary of 30,522; others differ by some 10 %.
        "glue/cola": _tenth(8_551, 1_043, 11, 26),
        "glue/sst2": _tenth(67_349, 872, 13, 44),
        "glue/mrpc": _tenth(3_668, 408, 53, 84),
        "glue/stsb": _tenth(5_749, 1_500, 28, 84),
        "glue/qqp": _tenth(363_846, 40_430, 31, 72),
        "glue/mnli": _tenth(392_702, 9_815 + 9_832, 40, 96),
        "glue/qnli": _tenth(104_743, 5_463, 49, 100),
        "glue/rte": _tenth(2_490, 277, 67, 128),
        "super_glue/boolq": _tenth(9_427, 3_270, 110, 128),
        "super_glue/cb": _tenth(250, 56, 77, 128),
        "super_glue/copa": _tenth(400, 100, 19, 30, 2),
        "super_glue/multirc": _tenth(27_243, 4_848, 281, 324),
        # 100,730 and 10,000 queries of 12 candidates; validation and test are the same rows.
        "super_glue/record": Size(1_208_760, 120_000, 120_000, 238, 256, joint=100_730),
        "super_glue/rte": _tenth(2_490, 277, 67, 128),
        "super_glue/wic": _tenth(5_428, 638, 30, 51),
        "super_glue/wsc": _tenth(554, 104, 45, 72),  # length estimated
        **{
            f"humset/{name}": _HUMSET for name in ("sectors", "pillars_1d", "pillars_2d", "subpillars_1d", "subpillars_2d")
        },  # lengths estimated
        "domains/airlines": Size(10_348, 1_150, 2_875, 29, 52),
        "domains/self_driving": Size(3_373, 375, 938, 34, 66),
        "domains/deflategate": Size(6_705, 746, 1_863, 39, 66),
        "domains/apple": Size(2_240, 249, 623, 34, 60),
        "domains/coachella": Size(2_702, 301, 751, 33, 71),
        "domains/bbc": Size(1_529, 170, 425, 320, 340),
    }
)

_PUBLISHED_VALIDATION = frozenset({"super_glue/record", *(task for task in SIZES if task.startswith("humset/"))})
"""Tasks whose validation rows are not taken from train, whatever share of train a job reads."""

UNKNOWN_ROWS = 10_000
"""Training rows of a task that is not in the table and that the sweep does not cap."""

_VALIDATION_SHARE = 0.1
_FEW_SHOT_VALIDATION = 5_000
_FURTHER_TEST_ROWS = MappingProxyType({"glue/mnli": 9_832})
"""Test rows that are not in the split that is reported."""


@lru_cache(maxsize=4096)
def size_of(data: DataConfig, root: Path | None = None) -> Size:
    """Return how much of a task a job reads, as its configuration cuts it: counted on disk, else from the table, else a guess.

    Args:
        data: The task, and the part of it that the job reads.
        root: Directory of local data.
    """
    found = local_rows(data, root)
    known = SIZES.get(data.task) if found is None else _counted(found, data)
    if known is None:
        known = Size(UNKNOWN_ROWS, UNKNOWN_ROWS // 10, UNKNOWN_ROWS // 10, data.max_length / 2, data.max_length)
    share, few = data.train_share or 1.0, _FEW_SHOT_VALIDATION if data.few_shot else None
    if found is None:
        drawn, further, inputs = data.task not in _PUBLISHED_VALIDATION, _FURTHER_TEST_ROWS.get(data.task, 0), 1.0
    else:
        rule, inputs = found.task.splits, found.inputs_per_row
        drawn, further = rule.validation is None, sum(found.rows[split] for _, split in rule.extra)
    rows = (
        _least(max(1, round(known.train * share)), data.train_rows),
        _least(max(1, round(known.validation * (share if drawn else 1.0))), data.evaluation_rows),
        _least(known.test - further, data.evaluation_rows),
        _least(further, data.evaluation_rows),
    )
    train, validation, test, further = (round(count * inputs) for count in rows)  # a row of candidates gives many inputs
    train = max(1, round(train * (data.rows_kept or 1.0)))
    train, validation, test = _least(train, data.few_shot), _least(validation, few), test + _least(further, few)
    length, padded = min(known.length, data.max_length), min(known.padded, _to_multiple_of_8(data.max_length))
    joint = None if known.joint is None else min(train, rows[0], known.joint)
    return Size(train, validation, test, length, padded, known.inputs, joint)


def assumptions(data: Iterable[DataConfig], root: Path | None) -> list[dict[str, Any]]:
    """Return what is assumed of the tasks that are not in the table, each once: rows, tokens, and where these come from."""
    whole = dict.fromkeys(replace(one, train_share=None, few_shot=None) for one in dict.fromkeys(data))
    listed = []
    for one in {one.task: one for one in reversed(whole)}.values():
        found, size = local_rows(one, root), size_of(one, root)
        if found is not None or one.task not in SIZES:
            rows = {"train": size.train, "validation": size.validation, "test": size.test}
            lengths = {"mean_tokens": round(size.length, 1), "padded_tokens": round(size.padded, 1)}
            source = None if found is None else str(found.directory)
            listed.append({"task": one.task, **rows, **lengths, "from": source, "counted": found is not None and found.counted})
    return sorted(listed, key=lambda item: str(item["task"]))


def _counted(found: LocalRows, data: DataConfig) -> Size:
    """Return the size of local data, after the split rule."""
    rule, rows = found.task.splits, found.rows
    train = rows[rule.train]
    test = math.ceil(rule.test_share * train) if rule.test is None else rows[rule.test]
    train -= test if rule.test is None else 0
    validation = math.ceil(_VALIDATION_SHARE * train) if rule.validation is None else rows[rule.validation]
    train -= validation if rule.validation is None else 0
    test += sum(rows[split] for _, split in rule.extra)
    length, padded = _lengths(found.lengths, data.max_length)
    joint = None if found.task.counted_by is None else train
    return Size(max(1, train), validation, test, length, padded, len(found.task.choices) or 1, joint)


def _lengths(tokens: Sequence[int], longest: int) -> tuple[float, float]:
    """Return the mean of lengths cut at the longest, and the mean of the largest of 32 of them drawn at random."""
    if not tokens:
        return longest / 2, float(longest)
    cut = sorted(min(each, longest) for each in tokens)
    count = len(cut)
    largest = sum(each * (((place + 1) / count) ** 32 - (place / count) ** 32) for place, each in enumerate(cut))
    return sum(cut) / count, _to_multiple_of_8(math.ceil(largest))


def _least(first: int, *others: int | None) -> int:
    return min([first, *(other for other in others if other is not None)])


def _to_multiple_of_8(tokens: float) -> float:
    """Whole batches are padded to a multiple of 8. A mean over batches may be another number, but no maximum is below its multiple."""
    return tokens if tokens % 8 == 0 else (tokens // 8 + 1) * 8
