"""A sweep over stacks of sources with made-up scores and omegas, as records, so that each question has a known answer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading.frame import build_frame
from analysis.reading.names import Names
from analysis.reading.records import Record, SweepInfo
from analysis.reading.selection import mark_chosen
from analysis.tables.omega import Omega

TASKS = ("cola", "sst2", "mrpc", "rte")
Score = Callable[[str, str, tuple[str, ...], int], float]


@dataclass
class Stacks:
    """Records of source jobs and of transfer jobs on them."""

    score: Score
    """Of method, target, sources and seed. A source of poor quality is called `cola rows_kept=0.05`."""
    omega: Callable[[str, str, str, int], float] = lambda method, target, source, seed: 0.25
    """Of method, target, source and seed."""
    backbone: str = "minilm"
    records: list[Record] = field(default_factory=list)
    omegas: list[Omega] = field(default_factory=list)

    def add(
        self,
        method: str,
        stacks: Iterable[Iterable[str]],
        *,
        targets: Iterable[str] = TASKS,
        seeds: Iterable[int] = (0, 1, 2),
        settings: Mapping[str, Any] | None = None,
        layers: int = 1,
    ) -> "Stacks":
        """Add the jobs of a method on each of the stacks, for all targets and seeds."""
        for stack in map(tuple, stacks):
            parents = tuple(self._source(source) for source in stack)
            names = tuple(source.partition(" ")[0] for source in stack)
            for target in targets:
                for seed in seeds:
                    config = _config("transfer", method, target, seed, self.backbone) | {
                        "sources": list(names),
                        "settings": dict(settings or {}),
                    }
                    node = f"glue/{self.backbone}/transfer/{method}/{target}/lr6e-03-seed{seed}-{len(self.records):010x}"
                    value = self.score(method, target, stack, seed)
                    self.records.append(_record(node, "transfer", config, parents, {"validation": value, "test": value}))
                    values = np.array([[[self.omega(method, target, source, seed)] for source in stack]] * layers)
                    self.omegas.append(Omega(node, method, f"glue/{target}", seed, 6e-3, names, values))
        return self

    def frame(self) -> pd.DataFrame:
        """The frame, as `analysis.load` would return it."""
        methods = tuple(dict.fromkeys(str(record.config["method"]) for record in self.records if record.stage == "transfer"))
        targets = tuple(dict.fromkeys(str(record.config["data"][0]["task"]) for record in self.records if record.stage == "transfer"))
        return mark_chosen(build_frame(self.records, SweepInfo("made_up", "glue", targets, methods)))

    def names(self) -> Names:
        return Names.of(self.frame())

    def _source(self, source: str) -> str:
        name, _, quality = source.partition(" ")
        node = f"glue/{self.backbone}/source/adapter/{name}/lr3e-04-seed0-{quality.replace('=', '')}-{hash_of(source)}"
        if all(record.node != node for record in self.records):
            config = _config("source", "adapter", name, 0, self.backbone)
            if quality:
                key, _, share = quality.partition("=")
                config["data"][0][key] = float(share)
            self.records.append(_record(node, "source", config, (), {"validation": 0.5, "test": 0.5}))
        return node


def hash_of(text: str) -> str:
    return f"{sum(place * ord(letter) for place, letter in enumerate(text, start=1)):010x}"


def _config(stage: str, method: str, task: str, seed: int, backbone: str) -> dict[str, Any]:
    return {
        "benchmark": "glue",
        "stage": stage,
        "method": method,
        "data": [{"task": f"glue/{task}", "origin": "made-up"}],
        "backbone": backbone,
        "backbone_origin": "made-up",
        "optimisation": {"learning_rate": 6e-3},
        "seed": seed,
    }


def _record(node: str, stage: str, config: dict[str, Any], parents: tuple[str, ...], scores: Mapping[str, float]) -> Record:
    task = config["data"][0]["task"]
    result = {
        "scores": {task: {split: {"accuracy": value} for split, value in scores.items()}},
        "primary_metric": {task: "accuracy"},
    }
    return Record(node, "succeeded", stage=stage, config=config, parents=parents, result=result)
