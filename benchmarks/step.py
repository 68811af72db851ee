"""A whole training step of ScaLearn against a single adapter, the bare backbone and the plain formula.

    python benchmarks/step.py --rows 8 --length 64
    python benchmarks/step.py --rows 32 --length 128 --device cuda

The backbone has the size of roberta-base and random weights. Each path is one forward, backward and optimiser step with
dropout on. The library's path is a step of the adapters library without this package, as its users train an adapter. What is printed
are ratios within a round, as median and quartiles.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from adapters import AutoAdapterModel
from interleaved import Run, interleaved, machine, ratio
from torch import Tensor, nn
from transformers import RobertaConfig

from scalearn.backbone.device import resolve_precision
from scalearn.backbone.encoder import Encoder, bottleneck_config
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head, HeadConfig
from scalearn.layers.omega import OmegaConfig
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import SourceStack
from scalearn.methods.bottleneck import BottleneckBranch
from scalearn.methods.scaling import PlainScalingBranch, ScalingBranch
from scalearn.training.allocator import keep_freed_memory

VOCABULARY, LABELS = 50265, 2


class BareBranch(Branch):
    """Adds a learned vector of zeros: the least that makes gradients flow through every layer of the frozen backbone."""

    def __init__(self, sites: int, hidden: int) -> None:
        """One vector per site."""
        super().__init__()
        self.shifts = nn.Parameter(torch.zeros(sites, hidden))

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """Return the vector of every token."""
        return self.shifts[site].expand_as(hidden_states)


@dataclass(frozen=True)
class Batch:
    """One random batch of full length."""

    inputs: dict[str, Tensor]
    labels: Tensor


def build_model(device: str, attention: str, layers: int, hidden: int) -> Any:
    """Return a model of the adapters library, by default of roberta-base's size."""
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": hidden // 64, "intermediate_size": 4 * hidden}
    config = RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=514, type_vocab_size=1, **shape)
    return AutoAdapterModel.from_config(config, attn_implementation=attention).to(device)


def build_batch(rows: int, length: int, device: str) -> Batch:
    """Random token ids and labels."""
    ids = torch.randint(10, VOCABULARY, (rows, length), device=device)
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.randint(0, LABELS, (rows,), device=device))


def build_branches(encoder: Encoder, sources: int, device: str) -> dict[str, Branch]:
    """Return the four paths, on the same random source adapters."""

    def adapter() -> BottleneckBranch:
        return BottleneckBranch(bottleneck_config({}), encoder.sites, encoder.hidden_size)

    weights = [adapter().weights() for _ in range(sources)]
    stacks = [SourceStack([source[site] for source in weights]).to(device) for site in range(encoder.sites)]
    branches: dict[str, Branch] = {
        "ScaLearn": ScalingBranch(stacks, OmegaConfig()),
        "single adapter": adapter(),
        "bare backbone": BareBranch(encoder.sites, encoder.hidden_size),
        "plain formula": PlainScalingBranch(stacks, OmegaConfig()),
    }
    return {name: branch.to(device).train() for name, branch in branches.items()}


def training_step(encoder: Encoder, branch: Branch, batch: Batch, precision: str, device: str) -> Run:
    """Forward, backward and AdamW on one batch, with the job's own random stream."""
    head = Head(HeadConfig("classification", LABELS), encoder.hidden_size).to(device).train()
    optimizer = torch.optim.AdamW([*branch.learned().values(), *head.parameters()], lr=1e-4)
    rows, length = batch.inputs["input_ids"].shape
    seeds = iter(range(10**9))

    def run() -> None:
        seed = next(seeds)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = head(encoder(batch.inputs, [branch], [block := RowBlock(rows, length, seed)]), block)
        head.loss(logits, batch.labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def library_step(model: Any, batch: Batch, precision: str, device: str) -> Run:
    """Return the model with one adapter and a head of the library."""
    model.add_adapter("single", config=bottleneck_config({}))
    model.add_classification_head("single", num_labels=LABELS)
    model.train_adapter("single")
    model.to(device).train()
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-4)

    def run() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch.inputs, labels=batch.labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def peak_bytes(run: Run) -> int:
    """Peak memory of one step on a GPU."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="default: as training picks it here")
    parser.add_argument("--attention", default="eager", choices=["eager", "sdpa"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.device == "cpu":
        keep_freed_memory()  # as training does
    backbone, alone = (build_model(given.device, given.attention, given.layers, given.hidden) for _ in range(2))
    encoder = Encoder(backbone).to(given.device).train()
    batch = build_batch(given.rows, given.length, given.device)
    branches = build_branches(encoder, given.sources, given.device)
    device = given.device
    precision = resolve_precision(given.precision, torch.device(device))
    runs = {name: training_step(encoder, branch, batch, precision, device) for name, branch in branches.items()}
    runs["single adapter, library's step"] = library_step(alone, batch, precision, device)
    times = interleaved(runs, given.rounds, given.device)
    size = f"T = {given.sources}, {given.rows} x {given.length} tokens"
    print(f"{size}, {precision}, {given.attention} attention, {machine(device)}")
    print("| path | time / ScaLearn's | ScaLearn's / its time |" + (" peak memory, MiB |" if given.device == "cuda" else ""))
    print("|---|---|---|" + ("---|" if given.device == "cuda" else ""))
    for name in runs:
        memory = f" {peak_bytes(runs[name]) / 2**20:.0f} |" if given.device == "cuda" else ""
        print(f"| {name} | {ratio(times[name], times['ScaLearn'])} | {ratio(times['ScaLearn'], times[name])} |{memory}")


if __name__ == "__main__":
    main()
