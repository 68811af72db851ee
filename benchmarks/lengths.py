"""How long the rows of the published tasks are: quantiles of their tokens, in `lengths.json`.

    python benchmarks/lengths.py ROOT      # writes the table anew from real rows in ROOT/glue and ROOT/super_glue

The rows themselves are not part of the repository. Tokens are those of MiniLM's WordPiece vocabulary, special tokens included, at each
task's own maximum length.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scalearn.backbone.encoder import load_tokenizer
from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig
from scalearn.data import token_count, tokenised
from scalearn.tasks import get_task

TABLE = Path(__file__).with_name("lengths.json")
TASKS = ("cola", "sst2", "qqp", "mnli", "qnli", "mrpc", "stsb", "rte", "boolq", "multirc")
QUANTILES = 41
ROWS = 4_000


def rows_of(task: str, count: int, generator: np.random.Generator) -> list[int]:
    """Draw the lengths of so many rows as the task has them."""
    quantiles = json.loads(TABLE.read_text(encoding="utf-8"))[task]
    places = generator.uniform(0, 1, count)
    return [round(float(length)) for length in np.interp(places, np.linspace(0, 1, len(quantiles)), quantiles)]


def drawn_batches(tasks: Sequence[str], rows: int, batches: int) -> dict[str, list[list[int]]]:
    """Draw the lengths of some batches per task, the same at every call."""
    generator = np.random.default_rng(0)
    return {task: [rows_of(task, rows, generator) for _ in range(batches)] for task in tasks}


def measured(task: str, root: Path) -> list[int]:
    """Return the quantiles of a task's training rows."""
    benchmark = "glue" if (root / "glue" / task).exists() else "super_glue"
    key = f"{benchmark}/{task}"
    backbone = get_backbone("minilm")
    data = DataConfig(key, "files", train_rows=ROWS, evaluation_rows=1, max_length=get_task(key).max_length)
    rows = tokenised(data, load_tokenizer(backbone), backbone.origin, root=root, cache=None).splits["train"]["input_ids"]
    return [round(float(value)) for value in np.quantile([token_count(ids) for ids in rows], np.linspace(0, 1, QUANTILES))]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path, help="directory with glue/ and super_glue/")
    root = parser.parse_args().root
    lines = [f"  {json.dumps(task)}: {json.dumps(measured(task, root))}" for task in TASKS]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
