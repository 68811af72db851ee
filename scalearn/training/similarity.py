"""How similar the tasks of a benchmark are, by their texts. This is a job of its own, whose result AdapterSoup jobs read.

The similarity of two tasks is the mean cosine similarity over all pairs of their sentence embeddings. With embeddings u_i and v_j of length
1 this is `mean_ij u_i . v_j = (mean_i u_i) . (mean_j v_j)`, so one mean vector per task is enough.
"""

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedTokenizerBase

from scalearn.backbone.accelerator import open_accelerator
from scalearn.backbone.encoder import load_tokenizer
from scalearn.backbone.pretrained import load_pretrained
from scalearn.backbone.registry import get_backbone
from scalearn.config import DataConfig, JobConfig
from scalearn.data import load_task
from scalearn.errors import UserError
from scalearn.tasks import task_of
from scalearn.training.pack import Outcome, PackMember, Report
from scalearn.training.results import RESULT, untrained_result, write_json
from scalearn.training.runtime import Runtime

TABLE = "similarity.json"
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "super_glue/copa": ("premise", "choice1"),
    "super_glue/wic": ("sentence1", "sentence2"),
}
"""Text columns that stand for a task, if they are not its first two, as in the published scripts."""

SEED = 42
_BATCH_ROWS = 64


def run_similarity(member: PackMember, runtime: Runtime, report: Report) -> Outcome:
    """Run a similarity job: write `similarity.json`, the same table as `similarity.csv`, and `result.json`.

    Raises:
        UserError: The sentence encoder or the data of a task cannot be read.
    """
    started = time.monotonic()
    config = member.config
    accelerator = open_accelerator("fp32", runtime.device)
    backbone = get_backbone(config.backbone)
    model, _ = load_pretrained(lambda name, entries: AutoModel, backbone, title="Sentence encoder")
    model = model.to(accelerator.device).eval()
    tokenizer = load_tokenizer(backbone, model.config.vocab_size)
    loaded = time.monotonic()
    means, rows = [], {}
    for data in config.data:
        texts = task_texts(data, rows=_limit(config), root=runtime.data_root)
        rows[data.task] = len(texts)
        means.append(sentence_embeddings(texts, model, tokenizer, data.max_length).double().mean(dim=0))
    write_table(member.directory, config, mean_similarity(torch.stack(means)), rows)
    times = {"started": started, "loaded": loaded, "ended": time.monotonic()}
    write_json(member.directory / RESULT, untrained_result(device=accelerator.device.type, sources=0, rows=rows, **times))
    return Outcome(member)


def task_texts(data: DataConfig, *, rows: int, root: Path | None) -> list[str]:
    """Return up to `rows` training rows of a task in random order, each as one text: its text columns joined by a space."""
    task = task_of(data)
    names = COLUMNS.get(task.key, task.columns[:2])
    train = load_task(data, root=root).train
    drawn = train.shuffle(seed=SEED).select(range(min(rows, len(train))))
    return [" ".join(str(text) for text in texts) for texts in zip(*(drawn[name] for name in names), strict=True)]


def sentence_embeddings(texts: Sequence[str], model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tensor:
    """Embed texts as the all-* sentence encoders do: the mean of the token states, scaled to length 1.

    Returns:
        `[texts, hidden]`, float32 on CPU, in the order of the texts.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    embeddings = torch.empty(len(texts), model.config.hidden_size)
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH_ROWS):
            chosen = order[start : start + _BATCH_ROWS]
            batch = tokenizer(
                [texts[index] for index in chosen], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            ).to(model.device)
            states: Tensor = model(**batch)[0]
            mask = batch["attention_mask"].unsqueeze(-1).to(states)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
            embeddings[chosen] = torch.nn.functional.normalize(pooled, dim=1).cpu()
    return embeddings


def mean_similarity(means: Tensor) -> Tensor:
    """Return the mean cosine similarity over all pairs of texts, from the means of embeddings of length 1.

    Args:
        means: `[tasks, hidden]`.

    Returns:
        `[tasks, tasks]`, symmetric.
    """
    return means @ means.T


def write_table(directory: Path, config: JobConfig, similarity: Tensor, rows: Mapping[str, int]) -> None:
    """Write the table twice: as JSON for jobs, and as CSV for people and spreadsheets."""
    tasks = [data.task for data in config.data]
    values = {target: dict(zip(tasks, line, strict=True)) for target, line in zip(tasks, similarity.tolist(), strict=True)}
    table = {"schema": 1, "encoder": config.backbone, "encoder_origin": config.backbone_origin, "rows": dict(rows), "similarity": values}
    write_json(directory / TABLE, table)
    with (directory / TABLE).with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["target", *tasks])
        writer.writerows([target, *(f"{value:.6f}" for value in line.values())] for target, line in values.items())


def read_similarity(directory: Path, target: str) -> dict[str, float]:
    """Read how similar each task is to a target.

    Args:
        directory: Artifact of the similarity job.
        target: Full key of the target.

    Returns:
        Similarity by short task name, which is also the name of the source adapter.

    Raises:
        UserError: There is no such table, or it lacks the target.
    """
    path = directory / TABLE
    try:
        line = json.loads(path.read_text(encoding="utf-8"))["similarity"][target]
        return {task.rpartition("/")[2]: float(value) for task, value in line.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not say how similar the tasks are to {target} ({error!r}): run its similarity job again.") from error


def mean_cosines(directory: Path, target: str) -> dict[str, float]:
    """Return the cosine of each task's mean embedding with a target's, from the same table, by short name.

    The table holds the products of the means, those with themselves included.

    Raises:
        UserError: There is no such table, or it lacks the target.
    """
    path, line = directory / TABLE, read_similarity(directory, target)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["similarity"]
        own = {task.rpartition("/")[2]: float(values[task]) for task, values in table.items()}
        return {name: value / (own[name] * own[target.rpartition("/")[2]]) ** 0.5 for name, value in line.items()}
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{path} does not hold a table of all tasks ({error!r}): run its similarity job again.") from error


def seconds_of(directory: Path) -> float:
    """Return how long a similarity job took to embed and compare, without loading its encoder. 0: it does not say."""
    try:
        return float(json.loads((directory / "result.json").read_text(encoding="utf-8"))["timing"]["evaluate_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _limit(config: JobConfig) -> int:
    rows = config.settings["rows"]
    assert isinstance(rows, int)
    return rows
