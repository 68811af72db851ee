"""How many rows and tokens each task has, so that a plan needs no data: published sizes after the split rule, lengths as measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scalearn.config import DataConfig


@dataclass(frozen=True)
class Size:
    """Rows that a job of a task sees, and how long they are."""

    train: int
    """Training rows after the validation split is taken off. ReCoRD: one per candidate entity; COPA: one per question."""
    validation: int
    test: int
    """Rows of all test splits together."""
    length: float
    """Mean tokens of a row, special tokens included, at the task's own maximum length."""
    padded: float
    """Mean length that a batch of 32 random rows is padded to."""
    inputs: int = 1
    """Inputs per row: choices of a multiple choice question."""
    joint: int | None = None
    """Rows that the task counts as when joint training draws tasks. None: its training rows."""


def _tenth(train: int, test: int, length: float, padded: float, inputs: int = 1) -> Size:
    """Validation is 10 % of the published train split (docs/protocol.md, Splits)."""
    validation = -(-train // 10)
    return Size(train - validation, validation, test, length, padded, inputs)


_HUMSET = Size(117_435, 16_039, 15_147, 80, 128)
"""Lengths estimated."""

SIZES: Mapping[str, Size] = MappingProxyType(
    {
        # Rows: the published splits. Lengths: measured with a WordPiece vocabulary of 30,522; other vocabularies differ by some 10 %.
        "glue/cola": _tenth(8_551, 1_043, 11, 26),
        "glue/sst2": _tenth(67_349, 872, 13, 44),
        "glue/mrpc": _tenth(3_668, 408, 53, 84),
        "glue/stsb": _tenth(5_749, 1_500, 31, 66),  # length estimated
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
"""Tasks whose validation rows do not come from train, whatever share of it a job reads."""

UNKNOWN_ROWS = 10_000
"""Training rows of a task that the table does not have and the sweep does not cap."""

_FEW_SHOT_VALIDATION = 5_000
_FURTHER_TEST_ROWS = MappingProxyType({"glue/mnli": 9_832})
"""Test rows beside those of the split that is reported."""


def size_of(data: DataConfig) -> Size:
    """Return what a job reads of a task: the table's sizes, cut as its configuration says."""
    known = SIZES.get(data.task)
    if known is None:
        known = Size(UNKNOWN_ROWS, UNKNOWN_ROWS // 10, UNKNOWN_ROWS // 10, data.max_length / 2, data.max_length)
    share, few = data.train_share or 1.0, _FEW_SHOT_VALIDATION if data.few_shot else None
    train = _least(max(1, round(known.train * share)), data.train_rows, data.few_shot)
    drawn = 1.0 if data.task in _PUBLISHED_VALIDATION else share
    validation = _least(max(1, round(known.validation * drawn)), data.evaluation_rows, few)
    further = _FURTHER_TEST_ROWS.get(data.task, 0)
    test = _least(known.test - further, data.evaluation_rows) + _least(further, data.evaluation_rows, few)
    length, padded = min(known.length, data.max_length), min(known.padded, _to_multiple_of_8(data.max_length))
    return Size(train, validation, test, length, padded, known.inputs, None if known.joint is None else min(train, known.joint))


def _least(first: int, *others: int | None) -> int:
    return min([first, *(other for other in others if other is not None)])


def _to_multiple_of_8(tokens: float) -> float:
    """Whole batches are padded to a multiple of 8; a mean over batches need not be one, but no maximum length is below its multiple."""
    return tokens if tokens % 8 == 0 else (tokens // 8 + 1) * 8
