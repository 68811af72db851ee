"""A frozen pretrained model with slots for the branches of a pack: one per layer, and at the linear modules that they name."""

import copy
import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from adapters import AutoAdapterModel
from adapters.configuration import BnConfig, SeqBnConfig
from adapters.methods.bottleneck import BottleneckLayer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from scalearn.backbone.linear_modules import POOLER
from scalearn.backbone.pretrained import load_pretrained
from scalearn.backbone.reading import Reading, pad_behind, read, reading_of
from scalearn.backbone.registry import Backbone, require_readable, shape_of, takes_adapters
from scalearn.backbone.unpadded import leave_out_padding, row_attentions, without_padding
from scalearn.errors import UserError
from scalearn.layers.branch import Branch, BranchPack
from scalearn.layers.random_streams import RowBlock, RowStreams, give_each_job_its_stream
from scalearn.layers.recomputation import PassNumber, tell_passes_apart
from scalearn.layers.slot import LinearSlot, Slot
from scalearn.secrets import clause

SLOT = "slot"
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Encoder(nn.Module):
    """The frozen backbone. All that a job adds is in its branch and head, so a warm worker's encoder stays clean."""

    model: Any
    """The adapters library's model, whose mixins have no type annotations, or transformers' plain one."""

    def __init__(self, model: nn.Module, *, pretrained_pooler: bool = True) -> None:
        """Freeze a model, and put a slot at every site, where `seq_bn` has an adapter.

        Args:
            model: A model of the adapters library, an `AutoAdapterModel`. A plain `AutoModel` has sites at its linear modules alone.
            pretrained_pooler: Whether the weights of the model's pooler, if it has one, come from its checkpoint.

        Raises:
            UserError: A plain model has no linear modules, or cannot be read.
        """
        super().__init__()
        self.model = model
        self.takes_adapters = hasattr(model, "adapters_config")
        """Whether jobs can add after feed-forward blocks, by the adapters library."""
        self.linear_modules = _linear_modules(self.model.base_model)
        """Inputs and outputs of the linear modules at which jobs can add, by their names below the model's heads."""
        self.reading: Reading = "first" if self.takes_adapters else reading_of(model)
        """Where a head reads."""
        self._pretrained_pooler = pretrained_pooler
        self.streams = RowStreams()
        self.pack = BranchPack()
        self.pass_number = PassNumber()
        self._recomputes = False
        model.requires_grad_(False)
        if not self.takes_adapters:
            self.config.use_cache = False  # of keys and values, for texts that are continued
            _turn_off_unseeded_dropouts(self.model)
        give_each_job_its_stream(model, self.streams)
        self.needs_padding = not (self.takes_adapters and leave_out_padding(model, self.streams))
        """Whether the architecture reads padded rows only."""
        self._pads: bool | None = None
        self._accepted = frozenset(inspect.signature(self.model.forward).parameters)
        self._linear_slots: dict[str, Any] = {}
        """Handles of the hooks, by the name of the module."""
        self.site_names = self._place_slots() if self.takes_adapters else []

    @property
    def sites(self) -> int:
        """Number of sites after feed-forward blocks, each with a slot: one per layer. 0: jobs add at linear modules alone."""
        return len(self.site_names)

    @property
    def layers(self) -> int:
        """Number of layers. Those that share all weights count as one."""
        return self.sites or int(self.config.num_hidden_layers)

    @property
    def pads(self) -> bool:
        """Whether rows are padded to the longest of a pass, as several jobs' rows in one pass always are.

        Where it is not set, rows are padded on every device but a CPU. An architecture that needs padded rows has them anyway.
        """
        return self.needs_padding or (self.device.type != "cpu" if self._pads is None else self._pads)

    @pads.setter
    def pads(self, padded: bool) -> None:
        self._pads = padded

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration."""
        config: PretrainedConfig = self.model.config
        return config

    @property
    def hidden_size(self) -> int:
        """Hidden size d."""
        return int(self.config.hidden_size)

    @property
    def positions(self) -> int:
        """Longest input in tokens. DeBERTa with only relative positions reads any length."""
        if not getattr(self.config, "position_biased_input", True):
            return sys.maxsize
        return shape_of(self.config.model_type, self.config.to_dict()).positions

    def require_length(self, max_length: int) -> None:
        """Refuse inputs that are longer than the number of the backbone's positions.

        Args:
            max_length: Length of the inputs in tokens.

        Raises:
            UserError: The inputs are too long.
        """
        if max_length > self.positions:
            raise UserError(f"Inputs may have {max_length} tokens, but the backbone reads at most {self.positions}: lower max_length.")

    @property
    def shares_positions(self) -> bool:
        """Whether queries and keys of relative positions come from the same modules as those of tokens, one table for all rows of a pass.

        Then what jobs add at these modules would differ within the table, so such jobs cannot share a pass (DeBERTa-v3).
        """
        return bool(getattr(self.config, "share_att_key", False))

    @property
    def head_dropout(self) -> float:
        """Dropout rate of a head on this backbone: its configuration's rate for classifiers, else for hidden states, else 0."""
        named = [getattr(self.config, name, None) for name in ("classifier_dropout", "hidden_dropout_prob")]
        return next((float(rate) for rate in named if rate is not None), 0.0)

    @property
    def pooler(self) -> nn.Linear | None:
        """The pretrained dense layer on the first token. None: there is none, as in roberta-base, or heads read elsewhere."""
        dense = getattr(getattr(self.model.base_model, "pooler", None), "dense", None)
        return dense if isinstance(dense, nn.Linear) and self._pretrained_pooler and self.reading == "first" else None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def forward(self, inputs: Mapping[str, Tensor], branches: Sequence[Branch], blocks: Sequence[RowBlock]) -> Tensor:
        """Run one pass of a packed batch.

        Args:
            inputs: `input_ids`, `attention_mask` and, if the model has them, `token_type_ids`: `[rows, length]`.
            branches: One per job, in the order of their rows. Empty: only the backbone runs.
            blocks: The rows of each job.

        Returns:
            What heads read of every row (see `reading`), mostly the last hidden state of its first token: `[rows, hidden]`.
        """
        self.pass_number.value += 1
        layout, accepted = None, {name: inputs[name] for name in _MODEL_INPUTS if name in inputs}
        if not self.takes_adapters:
            return self._forward_plain(
                pad_behind({name: each for name, each in accepted.items() if name in self._accepted}), branches, blocks
            )
        if not (self.pads or len(blocks) > 1):
            layout, accepted = without_padding(self.model, inputs)
        self.pack.load(branches, blocks, layout)
        self.streams.blocks, self.streams.layout = tuple(blocks), layout
        model = next((branch.own_model for branch in branches if branch.own_model is not None), None)
        if model is None:
            model = self.model
            self._place_linear_slots(branches)
        after_blocks = any(branch.sites_by_module is None for branch in branches)
        if model is self.model and after_blocks != bool(model.active_adapters):
            with quiet_library():  # it warns, since it runs forward hooks while the slot is inactive
                model.set_active_adapters(SLOT if after_blocks else None)
        with nullcontext() if after_blocks else quiet_library():  # it warns of the inactive slot in every pass
            states: Tensor = model.base_model(**accepted)[0]
        if not (self._recomputes and states.requires_grad):
            self.pack.end_pass()
        return states[:, 0] if layout is None else layout.first_of(states)[0]

    def _forward_plain(self, inputs: Mapping[str, Tensor], branches: Sequence[Branch], blocks: Sequence[RowBlock]) -> Tensor:
        """Do as `forward` for a model without the adapters library. Padding stands behind the tokens, where no causal mask sees it."""
        self.pack.load(branches, blocks)
        self.streams.blocks, self.streams.layout = tuple(blocks), None
        self._place_linear_slots(branches)
        states: Tensor = self.model(**inputs)[0]
        if not (self._recomputes and states.requires_grad):
            self.pack.end_pass()
        return read(states, inputs["attention_mask"], self.reading)

    def copy_of_model(self) -> Any:
        """Return a copy of the adapters library's model, for a job to change. Its dropouts use the same streams as the backbone's."""
        shared = {id(each): each for each in (self.streams, self.pack, self.pass_number)}
        model = copy.deepcopy(self.model, shared)
        with quiet_library():
            model.delete_adapter(SLOT)
        for attention in row_attentions(model):
            attention.plain = False
        return model

    def release(self) -> None:
        """Drop every reference to the jobs of the last pass, however it ended. The encoder is then as it was loaded."""
        self.eval()
        self.pass_number.value += 1
        self.pack.end_pass()
        self.pack.clear()
        self.streams.forget()
        for handle in self._linear_slots.values():
            handle.remove()
        self._linear_slots.clear()

    def hold_products_in(self, dtype: torch.dtype) -> None:
        """Convert the weights of the layers' products, so that autocast to `dtype` need not convert them at every step.

        Products under autocast give the same bits as before. A copy for a job that changes weights must come from an encoder in float32.
        """
        layers: Sequence[nn.Module] = [layer for _, layer in self.model.iter_layers()] if self.takes_adapters else [self.model]
        for layer in layers:
            for module in layer.modules():
                if isinstance(module, nn.Linear | Conv1D):
                    module.to(dtype)

    def stores_transposed(self, modules: Iterable[str]) -> bool:
        """Tell whether any of these linear modules holds its weight as `[inputs, outputs]`, as those of GPT-2 do."""
        return any(isinstance(self.model.base_model.get_submodule(name), Conv1D) for name in modules)

    def recompute_in_backward(self, enabled: bool) -> None:
        """Turn gradient checkpointing on or off. When on, layers keep only their inputs and run again in the backward pass.

        The pass and the dropout's number determine a mask, so the second run draws the same masks. The backward pass must come before the
        next forward pass, whose jobs it would otherwise use. If it does not, it raises a `UserError`.

        Raises:
            UserError: The architecture has no such layers.
        """
        if not enabled:
            self.model.gradient_checkpointing_disable()
        elif self.model.supports_gradient_checkpointing:
            # The plain library's default keeps no gradient where a layer's inputs, as frozen embeddings, need none.
            self.model.gradient_checkpointing_enable(*(() if self.takes_adapters else ({"use_reentrant": False},)))
            tell_passes_apart(self.model, self.pass_number)
        else:
            raise UserError(f"Architecture {self.config.model_type} has no gradient checkpointing: set gradient_checkpointing to false.")
        self._recomputes = enabled

    def _place_slots(self) -> list[str]:
        """Put a slot at every site, and return the sites' names below the model's heads, such as `encoder.layer.0.output`."""
        self.model.add_adapter(SLOT, config=SeqBnConfig(reduction_factor=self.hidden_size))
        self.model.requires_grad_(False)
        layers: list[BottleneckLayer] = []
        self.for_each_bottleneck_layer(lambda layer: layers.append(layer) if SLOT in layer.adapters else None)
        for site, layer in enumerate(layers):
            layer.adapters[SLOT] = Slot(site, layer.adapters[SLOT], self.pack.add)
        names = {id(module): name for name, module in self.model.base_model.named_modules()}
        return [names[id(layer)] for layer in layers]

    def _place_linear_slots(self, branches: Sequence[Branch]) -> None:
        """Put a slot at every linear module where a branch adds. It stays until `release`, so that layers can be computed again."""
        for name in {name: None for branch in branches for name in branch.sites_by_module or ()}:
            if name not in self._linear_slots:
                module = self.model.base_model.get_submodule(name)
                self._linear_slots[name] = module.register_forward_hook(LinearSlot(name, self.pack))

    def for_each_bottleneck_layer(self, function: Callable[[BottleneckLayer], object]) -> None:
        """Call `function` for every site, first layer first. A site is where the library can put a bottleneck adapter."""
        self.model.apply_to_adapter_layers(lambda _, layer: function(layer) if isinstance(layer, BottleneckLayer) else None)


def _linear_modules(model: Any) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of a model's linear modules by name, without those of a pooler, which no head reads.

    Raises:
        UserError: It has none.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name.partition(".")[0] != POOLER:
            found[name] = (module.in_features, module.out_features) if isinstance(module, nn.Linear) else tuple(module.weight.shape)
    if not found:
        leaves = (module for module in model.modules() if not list(module.children()) and not isinstance(module, nn.ModuleList))
        kinds = dict.fromkeys(type(module).__name__ for module in leaves)
        raise UserError(f"Architecture {model.config.model_type} has no linear modules to add at, only {', '.join(kinds)}: take another.")
    return found


def _turn_off_unseeded_dropouts(model: nn.Module) -> None:
    """Set rates to 0 that a model applies by a function, as some attentions do: such a mask would come from one stream for all jobs."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)


def load_encoder(
    backbone: Backbone, *, device: torch.device | str = "cpu", attention: str = "eager", products_in: torch.dtype = torch.float32
) -> Encoder:
    """Load a pretrained model and freeze it.

    Args:
        backbone: A backbone of `scalearn.backbone.registry.get_backbone`.
        device: Device for the weights.
        attention: `eager` draws attention dropout from the jobs' own random streams. `sdpa` is faster on long inputs, and draws it from
            the global stream.
        products_in: Type of the weights of the layers' products. See `Encoder.hold_products_in`.

    Raises:
        UserError: The weights cannot be found or read or do not belong to the configuration, the model cannot be read, or the
            architecture does not have this attention.
    """
    model, missing = load_pretrained(_model_class, backbone, attn_implementation=attention)
    pooled = not any("pooler" in name for name in missing)
    encoder = Encoder(model.to(device), pretrained_pooler=pooled).to(device).eval()
    if products_in is not torch.float32:
        encoder.hold_products_in(products_in)
    return encoder


def _model_class(name: str, entries: Mapping[str, Any]) -> Any:
    """Return what loads a model: the adapters library where it serves the architecture.

    Raises:
        UserError: The model cannot be read.
    """
    require_readable(name, entries)
    return AutoAdapterModel if takes_adapters(str(entries.get("model_type"))) else AutoModel


def load_tokenizer(backbone: Backbone, embeddings: int | None = None) -> PreTrainedTokenizerBase:
    """Load the backbone's tokenizer. Where it has no padding token, as those of most decoders, the end-of-sequence token pads.

    Args:
        backbone: The backbone.
        embeddings: Number of tokens that the model knows. None: it is not compared.

    Raises:
        UserError: It cannot be found or read, has no token to pad with, or has tokens that the model does not know.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            backbone.locate(), revision=backbone.revision, trust_remote_code=False
        )
    except MemoryError:
        raise
    except Exception as error:  # the files decide which error transformers raises
        raise UserError(f"The tokenizer of '{backbone.name}' cannot be loaded from {backbone.locate()}: {clause(error)}.") from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of '{backbone.name}' has no padding token and no end-of-sequence token: name a pad_token in its "
            "tokenizer_config.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    largest = max(tokenizer.get_vocab().values(), default=0)
    if embeddings is not None and largest >= embeddings:
        raise UserError(
            f"The tokenizer of '{backbone.name}' has tokens up to {largest}, but the model has {embeddings} embeddings: "
            "give the tokenizer that belongs to it."
        )
    return tokenizer


@contextmanager
def quiet_library() -> Iterator[None]:
    """Silence the adapters library's messages about what is intended, or is checked here anyway."""
    library = logging.getLogger("adapters")
    before = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(before)


def bottleneck_config(settings: Mapping[str, Any]) -> BnConfig:
    """Return the library's `seq_bn` with a job's settings (docs/protocol.md, Two stages: reduction 16, ReLU)."""
    return SeqBnConfig(reduction_factor=settings.get("reduction_factor", 16), non_linearity=settings.get("non_linearity", "relu"))
