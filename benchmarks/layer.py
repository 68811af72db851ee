"""Time and memory of one transfer layer: folded, plain, the adapters library's Fuse path, and the bare matrix products.

    python benchmarks/layer.py --sources 4 8 15

Every round times each path once, forward and backward, so that a slow moment of the machine falls on all of them; what is
printed are ratios of the same round, as median and quartiles.
"""

import argparse
import statistics
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from adapters.configuration import SeqBnConfig
from adapters.methods.modeling import Adapter
from interleaved import interleaved, machine, ratio
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scalearn.backbone.device import resolve_precision
from scalearn.layers.source_stack import SourceStack, bottleneck_weights, plain_weighted_sum

Path = Callable[[], None]


@dataclass(frozen=True)
class Layer:
    """One layer's modules and inputs, shared by all paths."""

    adapters: Sequence[Adapter]
    stack: SourceStack
    omega: Tensor
    """`[T, d]`, learned."""
    hidden_states: Tensor
    """`[rows, length, d]`, with gradient, as in every layer above the first slot."""
    residual: Tensor
    upstream: Tensor
    """The gradient that comes from above: `[rows, length, d]`."""


def build_layer(sources: int, hidden: int, width: int, rows: int, length: int, device: str, dtype: torch.dtype) -> Layer:
    """Build random source adapters and inputs."""
    torch.manual_seed(0)
    config = SeqBnConfig(reduction_factor=hidden / width)
    adapters = [Adapter("source", hidden, width, config).requires_grad_(False).to(device, dtype) for _ in range(sources)]
    stack = SourceStack([bottleneck_weights(adapter) for adapter in adapters]).to(device, dtype)
    omega = torch.full((sources, hidden), 2 / sources, device=device, dtype=dtype).normal_(2 / sources, 0.001).requires_grad_()

    def states(gradient: bool = False) -> Tensor:
        return torch.randn(rows, length, hidden, device=device, dtype=dtype).requires_grad_(gradient)

    return Layer(adapters, stack, omega, states(gradient=True), states(gradient=True), states())


def folded(layer: Layer) -> Tensor:
    """Return what the package computes."""
    return layer.stack.weighted_sum(layer.stack.bottleneck(layer.hidden_states), layer.omega) + layer.residual


def plain(layer: Layer) -> Tensor:
    """Compute the definition, source by source."""
    return plain_weighted_sum(layer.stack, layer.hidden_states, layer.omega) + layer.residual


def library(layer: Layer) -> Tensor:
    """Run the adapters library's Fuse path with the same arithmetic in place of its attention: up-projections stacked, then weighted."""
    ups = torch.stack([adapter(layer.hidden_states, layer.residual)[2] for adapter in layer.adapters]).permute(1, 2, 0, 3)
    return (layer.omega * ups).sum(2) + layer.residual


def bare_products(layer: Layer) -> Path:
    """Compute the five matrix products that forward and backward cannot do without: nothing else is computed."""
    stack = layer.stack
    states, upstream = layer.hidden_states.detach().flatten(0, 1), layer.upstream.flatten(0, 1)
    down = stack.down_weight
    up = stack.fold(layer.omega.detach())[0].contiguous()
    activated = states @ down.T

    def run() -> None:
        torch.mm(states, down.T)
        torch.mm(activated, up.T)
        gradient = torch.mm(upstream, up)
        torch.mm(upstream.T, activated)
        torch.mm(gradient, down)

    return run


def forward_and_backward(compute: Callable[[Layer], Tensor], layer: Layer) -> Path:
    """One training pass through the layer."""

    def run() -> None:
        torch.autograd.grad(compute(layer), (layer.omega, layer.hidden_states, layer.residual), layer.upstream)

    return run


def saved_bytes(compute: Callable[[Layer], Tensor], layer: Layer) -> int:
    """Bytes of activations that the forward pass keeps for the backward pass; weights and inputs are not counted."""
    kept: dict[int, int] = {}
    known = {layer.hidden_states.untyped_storage().data_ptr(), layer.omega.untyped_storage().data_ptr()}
    known |= {buffer.untyped_storage().data_ptr() for buffer in layer.stack.buffers()}
    known |= {parameter.untyped_storage().data_ptr() for adapter in layer.adapters for parameter in adapter.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = compute(layer)
    del output
    return sum(kept.values())


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while they live."""

    def __init__(self) -> None:
        """Nothing is alive yet."""
        super().__init__()
        self.alive = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        made = function(*arguments, **(named or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((arguments, named)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given | self._known:
                    self._known.add(storage._cdata)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self._died, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.alive)
        return made

    def _died(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.alive -= size


def peak_bytes(run: Path) -> int:
    """Most bytes of tensors that one pass holds at a time beyond its inputs and weights."""
    with Peak() as peak:
        run()
    return peak.most


HEADER = (
    "| T | plain / folded | library / folded | folded / five products | saved bytes, peak bytes: plain / folded |"
    " folded, ms | largest difference: plain, library |",
    "|---|---|---|---|---|---|---|",
)


def row_of(layer: Layer, rounds: int, device: str) -> str:
    """Return the Markdown row of one layer."""
    differences = [f"{float((folded(layer) - other(layer)).abs().max().detach()):.1e}" for other in (plain, library)]
    computed = {"folded": folded, "plain": plain, "library": library}
    paths = {name: forward_and_backward(compute, layer) for name, compute in computed.items()}
    times = interleaved({**paths, "products": bare_products(layer)}, rounds, device)
    saved, peak = saved_bytes(plain, layer) / saved_bytes(folded, layer), peak_bytes(paths["plain"]) / peak_bytes(paths["folded"])
    milliseconds = statistics.median(times["folded"]) * 1e3
    pairs = [("plain", "folded"), ("library", "folded"), ("folded", "products")]
    ratios = " | ".join(ratio(times[above], times[below]) for above, below in pairs)
    return f"| {len(layer.adapters)} | {ratios} | {saved:.1f}, {peak:.1f} | {milliseconds:.2f} | {', '.join(differences)} |"


def main() -> None:
    """Print one Markdown row per number of sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int, nargs="+", default=[4, 8, 15])
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="default: as training picks it here")
    given = parser.parse_args()
    size = f"d = {given.hidden}, r = {given.width}, {given.rows} x {given.length} tokens"
    precision = resolve_precision(given.precision, torch.device(given.device))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    print(f"{size}, {precision}, {machine(given.device)}")
    print(*HEADER, sep="\n")
    for sources in given.sources:
        layer = build_layer(sources, given.hidden, given.width, given.rows, given.length, given.device, dtype)
        print(row_of(layer, given.rounds, given.device), flush=True)


if __name__ == "__main__":
    main()
