"""A whole training step on rows of real lengths against what a user of the adapters library writes, and the bare products.

    python benchmarks/step.py                              # MiniLM's size, batches of 32 rows
    python benchmarks/step.py --size roberta-base --tasks sst2 mnli rte --rounds 5
    python benchmarks/step.py --evaluate                   # passes of an evaluation in place of steps

Weights and tokens are random, the lengths of rows are those of `lengths.json`. A path is one forward, backward and optimiser step with
dropout on. The library's loop is a single adapter with dynamic padding, autocast and AdamW. All paths take the same batches in turn; what
is printed are ratios within a round, as median and quartiles, and the milliseconds of the median. Rounds that do not count come first:
a job makes hundreds of steps, and a CPU prepares its products in the first of them.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence

import torch
from interleaved import interleaved, machine, ratio
from lengths import TASKS, drawn_batches
from paths import SHAPES, Inputs, Setting, Step, bare_products, batch_of, branch_of, library_steps, own_steps

from scalearn.backbone.device import resolve_precision
from scalearn.training.allocator import keep_freed_memory

LIBRARY, PRODUCTS = "library's loop", "bare products"


BRANCHES = {"single adapter": "adapter", "ScaLearn": "scalearn", "plain formula": "plain"}
HEADER = (
    f"| task | tokens | padded / real | path | ms | / {LIBRARY} | / {PRODUCTS} | / single adapter |",
    "|---|---|---|---|---|---|---|---|",
)


def paths_of(setting: Setting, sources: int, padded: Sequence[str] = ("single adapter",)) -> dict[str, tuple[Step, Step]]:
    """Return the step and the evaluation of every path, of those in `padded` also with padded rows."""
    encoders = {"": setting.encoder(pads=False), ", padded": setting.encoder(pads=True)}
    paths = {LIBRARY: library_steps(setting)}
    for name, branch in BRANCHES.items():
        for kind, encoder in encoders.items():
            if not kind or name in padded:
                paths[name + kind] = own_steps(setting, encoder, branch_of(branch, encoder, sources))
    return paths | {PRODUCTS: bare_products(setting)}


def rows_of(task: str, steps: Mapping[str, Step], batches: Sequence[Inputs], device: str, warm_up: int = 2) -> dict[str, str]:
    """Time all paths on a task's batches, and return the Markdown row of each."""
    turns = {name: iter(batches) for name in steps}
    runs = {name: (lambda name=name: steps[name](next(turns[name]))) for name in steps}
    times = interleaved(runs, len(batches) - warm_up, device, warm_up)
    tokens = statistics.mean(int(batch["attention_mask"].sum()) for batch in batches)
    padded = statistics.mean(batch["attention_mask"].numel() for batch in batches) / tokens
    rows = {}
    for name, seconds in times.items():
        against = [ratio(seconds, times[other]) for other in (LIBRARY, PRODUCTS, "single adapter")]
        milliseconds = 1000 * statistics.median(seconds)
        rows[name] = f"| {task} | {tokens:.0f} | {padded:.2f} | {name} | {milliseconds:.1f} | {' | '.join(against)} |"
    return rows


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SHAPES, default="minilm")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["cola", "sst2", "qqp", "mnli", "qnli", "mrpc", "rte"])
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=20, help="rounds that do not count")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="default: as training picks it here")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.device == "cpu":
        keep_freed_memory()  # as training does
    setting = Setting(given.size, given.device, resolve_precision(given.precision, torch.device(given.device)))
    steps = {name: both[given.evaluate] for name, both in paths_of(setting, given.sources).items()}
    what = "evaluation pass" if given.evaluate else "training step"
    print(f"{what} of {given.rows} rows, {given.size}, T = {given.sources}, {setting.precision}, {machine(given.device)}")
    print(*HEADER, sep="\n")
    for task, drawn in drawn_batches(given.tasks, given.rows, given.rounds + given.warm_up).items():
        batches = [batch_of(lengths, given.device, seed) for seed, lengths in enumerate(drawn)]
        print(*rows_of(task, steps, batches, given.device, given.warm_up).values(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
