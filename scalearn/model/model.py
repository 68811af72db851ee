"""A trained job as a model: load it, give it text, evaluate it, save it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from adapters.configuration import BnConfig
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from scalearn.backbone.encoder import Encoder, load_encoder, load_tokenizer
from scalearn.backbone.origin import hub_id
from scalearn.backbone.registry import Backbone, get_backbone
from scalearn.config import DataConfig, OptimisationConfig
from scalearn.data import TokenisedTask, pad_rows, tokenised
from scalearn.errors import UserError
from scalearn.formats.adapterhub_layout import library_kind
from scalearn.formats.hub_directory import download
from scalearn.formats.library_files import read_backbone_name, read_head_inputs, read_library_head
from scalearn.formats.peft_layout import is_peft
from scalearn.formats.source_adapters import SourceAdapters, load_source_adapters
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head
from scalearn.layers.random_streams import RowBlock
from scalearn.layers.source_stack import BottleneckWeights
from scalearn.methods.bottleneck import BottleneckBranch, fill_bottleneck
from scalearn.methods.parameter_groups import parameter_groups
from scalearn.model.transfer_files import CONFIG, HeadSpec, TransferSpec, job_config, load_transfer, read_spec, save_transfer
from scalearn.passes.evaluation import evaluate_runs

Text = str | tuple[str, str] | tuple[str, Sequence[str]]
"""One segment, a pair of segments or, for multiple choice, a segment and the choices that continue it."""


@dataclass(frozen=True)
class LoadedBackbone:
    """A frozen encoder with its tokenizer."""

    backbone: Backbone
    encoder: Encoder
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prediction:
    """A model's answer for one text."""

    labels: tuple[str, ...]
    """The best label or choice; if a text may have several labels, all above one half; for regression none."""
    scores: Mapping[str, float]
    """Probability of every label. For regression, the value under `value`."""


def load_backbone(
    name: str, *, device: torch.device | str = "cpu", attention: str = "eager", gradient_checkpointing: bool = False
) -> LoadedBackbone:
    """Load a backbone.

    Args:
        name: A registered name, a local directory, or a hub id.
        device: Device for the weights.
        attention: `eager` or `sdpa`, see `load_encoder`.
        gradient_checkpointing: Whether layers keep only their inputs and run again in the backward pass, which must then come before
            the next use of the backbone. Default: no, since it takes longer.

    Returns:
        The encoder in evaluation mode with frozen parameters, and its tokenizer.

    Raises:
        UserError: It is unknown, its weights cannot be read, or its architecture has no such attention or no gradient checkpointing.
    """
    backbone = get_backbone(name)
    encoder = load_encoder(backbone, device=device, attention=attention)
    encoder.recompute_in_backward(gradient_checkpointing)
    return LoadedBackbone(backbone, encoder, load_tokenizer(backbone, encoder.config.vocab_size))


class TransferModel(nn.Module):
    """A backbone with the modules of one job on one task.

    The modules are ordinary ones: `learned()` returns the parameters to train, and calling the model gives logits. Several models may share
    one `LoadedBackbone`, which is frozen.
    """

    def __init__(
        self, backbone: LoadedBackbone, spec: TransferSpec, branch: Branch, head: Head, sources: SourceAdapters | None = None
    ) -> None:
        """Join the parts. `attach` and `load_model` build them."""
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        self.encoder = backbone.encoder
        self.branch = branch
        self.head = head
        self.sources = sources

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute logits.

        Args:
            inputs: `input_ids`, `attention_mask` and, if the tokenizer has them, `token_type_ids`: `[rows, length]`, one row per choice.

        Returns:
            `[rows, labels]`; for multiple choice `[rows / choices, choices]`.
        """
        if self.encoder.training != self.training:
            self.encoder.train(self.training)  # shared, so another model may have set another mode
        rows, length = inputs["input_ids"].shape
        seed = int(torch.randint(2**62, ())) if self.training else 0
        block = RowBlock(rows, length, seed)
        logits: Tensor = self.head(self.encoder(inputs, [self.branch], [block]), block)
        return logits

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name."""
        parameters = {f"branch.{name}": parameter for name, parameter in self.branch.learned().items()}
        return parameters | {f"head.{name}": parameter for name, parameter in self.head.named_parameters()}

    def loss(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Compute the loss that training minimises: the head's loss, plus the penalty of some methods (AdapterFusion).

        Args:
            inputs: As for `forward`.
            labels: Class or choice per text, `[texts]`; regression: values, `[texts]`; multi-label: 0 or 1, `[texts, labels]`.

        Returns:
            A scalar: the mean over texts, plus the penalty.
        """
        value, penalty = self.head.loss(self(inputs), labels), self.branch.penalty()
        return value if penalty is None else value + penalty

    def parameter_groups(self, learning_rate: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return the trainable parameters in groups for an optimiser of torch, as a job trains them.

        Some methods have their own learning rates, such as ProPETL for its masks, or their own weight decay, such as for omega.

        Args:
            learning_rate: For all parameters without a rate of their own.
            weight_decay: For all parameters that have weight decay. Biases and layer norms have none.

        Returns:
            Groups with `params`, `lr` and `weight_decay`.
        """
        optimisation = OptimisationConfig(learning_rate, weight_decay=weight_decay)
        return parameter_groups(self.branch, [self.head], replace(job_config(self.spec), optimisation=optimisation))

    def tokenise(self, texts: Sequence[Text]) -> dict[str, Tensor]:
        """Return the token ids of texts for `forward`, cut to the job's length, on the model's device."""
        rows: list[str | tuple[str, str]] = []
        for text in texts:
            if isinstance(text, str):
                rows.append(text)
                continue
            first, second = text
            rows += [(first, each) for each in ([second] if isinstance(second, str) else second)]
        tokenizer = self.backbone.tokenizer
        encoded = tokenizer(rows, truncation=True, max_length=self._head.max_length)
        by_row = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
        return {name: tensor.to(self.encoder.device) for name, tensor in pad_rows(by_row, int(tokenizer.pad_token_id or 0)).items()}

    @torch.inference_mode()
    def predict(self, texts: Sequence[Text], *, rows_per_pass: int = 64) -> list[Prediction]:
        """Predict raw texts in float32, rendered as by the job's template. A model in training mode returns to it afterwards.

        Args:
            texts: Any number of texts.
            rows_per_pass: Texts in one pass through the backbone.

        Returns:
            One prediction per text, in order.

        Raises:
            ValueError: In multiple choice, a text has another number of choices than the head.
        """
        predictions: list[Prediction] = []
        with self._evaluating(), self._in_float32():
            for start in range(0, len(texts), rows_per_pass):
                logits = self(self.tokenise(texts[start : start + rows_per_pass]))
                predictions += [self._prediction(row) for row in logits.float().cpu()]
        return predictions

    def evaluate(self, data: DataConfig, split: str = "test", *, root: Path | None = None, cache: Path | None = None) -> dict[str, float]:
        """Score the model on a split of a task, in float32.

        Args:
            data: The task, and the rows of it to read.
            split: `validation`, `test`, or a further split of the task.
            root: Directory of local data. None: the hub, or an installed package.
            cache: Directory for token ids. None: in memory.

        Returns:
            `loss` and the task's metrics.

        Raises:
            UserError: The data cannot be read, or has no such split.
        """
        backbone = self.backbone
        task = tokenised(data, backbone.tokenizer, backbone.backbone.origin, root=root, cache=cache)
        if split not in task.splits:
            raise UserError(f"Task {data.task} has no split '{split}': it has {', '.join(task.splits)}.")
        with self._evaluating():
            (scores,) = evaluate_runs(
                self.encoder, [_Judged(self, task)], split, self._in_float32(), int(backbone.tokenizer.pad_token_id or 0)
            )
        return scores[data.task]

    def save(self, directory: str | Path) -> None:
        """Write the model to `directory/transfer`. `load_model` reads it, given backbone and sources, which are not copied.

        Args:
            directory: Created. An earlier saved model is replaced.

        Raises:
            OSError: The directory cannot be written.
        """
        save_transfer(Path(directory) / "transfer", self.spec, self.branch, [self.head], self.encoder)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Put the model into evaluation mode while the block runs."""
        before = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(before)

    def _in_float32(self) -> AbstractContextManager[None]:
        """Turn off an autocast of the caller."""
        return torch.autocast(self.encoder.device.type, enabled=False)

    @property
    def _head(self) -> HeadSpec:
        return self.spec.heads[0]

    def _prediction(self, logits: Tensor) -> Prediction:
        if self._head.kind == "regression":
            return Prediction((), {"value": float(logits[0])})
        names = self._head.label_names or tuple(str(number) for number in range(len(logits)))
        probabilities = logits.sigmoid() if self._head.kind == "multi_label" else logits.softmax(0)
        scores = dict(zip(names, probabilities.tolist(), strict=True))
        if self._head.kind == "multi_label":
            return Prediction(tuple(name for name, score in scores.items() if score > 0.5), scores)
        return Prediction((names[int(logits.argmax())],), scores)


class _Judged:
    """The model in the form that the evaluation needs: see `scalearn.passes.evaluation.JudgedJob`."""

    def __init__(self, model: TransferModel, task: TokenisedTask) -> None:
        self.branch, self.heads, self.tasks = model.branch, [model.head], [task]
        self.warnings: set[str] = set()

    def rows_by_length(self, task: int, split: str) -> list[int]:
        return list(range(len(self.tasks[task].splits[split])))

    def train_mode(self, training: bool) -> None:
        self.branch.train(training)
        self.heads[0].train(training)


def load_model(
    directory: str | Path,
    backbone: LoadedBackbone | None = None,
    sources: SourceAdapters | Mapping[str, str | Path] | None = None,
    *,
    allow_pickle: bool = False,
) -> TransferModel:
    """Load the result of a job on one task, or of `TransferModel.save`.

    Args:
        directory: The job's directory, with `transfer/` or `adapter/` in it, or one of these; or a hub id, `owner/name`.
        backbone: The backbone that the job was trained on. None: load it by the name that the job gave it, on the CPU.
        sources: The job's source adapters in the job's order, loaded or as directories. None: the method has none.
        allow_pickle: Whether pickled weights are accepted, for sources or for the adapter and its head.

    Returns:
        The model, in evaluation mode.

    Raises:
        UserError: Something is missing or damaged, or belongs to another backbone or other sources.
    """
    place = _place(directory, allow_pickle=allow_pickle)
    backbone = backbone or load_backbone(_backbone_name(place))
    if sources is not None and not isinstance(sources, SourceAdapters):
        sources = load_source_adapters(backbone.encoder, sources, allow_pickle=allow_pickle)
    for folder in (place / "transfer", place / "adapter", place):  # a LoRA's description is beside PEFT's files
        if (folder / CONFIG).is_file():
            return _load_transfer(folder, backbone, None if is_peft(folder) else sources)
    for folder in (place / "adapter", place):
        if (folder / "adapter_config.json").is_file():
            if is_peft(folder):
                raise UserError(f"{folder} holds a LoRA without a head of this package: stack it as a source, or load it with PEFT.")
            return _load_adapter(folder, backbone, allow_pickle)
    raise UserError(f"{place} holds neither transfer/{CONFIG} nor adapter/adapter_config.json: give the directory of a finished job.")


def _place(directory: str | Path, *, allow_pickle: bool) -> Path:
    place = Path(directory)
    if place.exists() or not isinstance(directory, str) or hub_id(directory) is None:
        return place
    return download(directory, "Model", ("*.json", "*.safetensors", *(("*.bin",) if allow_pickle else ())))


def _backbone_name(place: Path) -> str:
    for folder in (place / "transfer", place / "adapter", place):
        if (folder / CONFIG).is_file():
            return read_spec(folder).backbone
        if name := read_backbone_name(folder):
            return name
    raise UserError(f"{place} holds no job that names its backbone: give it, `load_model(directory, load_backbone(NAME))`.")


def _load_transfer(folder: Path, backbone: LoadedBackbone, sources: SourceAdapters | None) -> TransferModel:
    spec, branch, heads = load_transfer(folder, backbone.encoder, sources, backbone.backbone.origin)
    if len(heads) != 1:
        raise UserError(f"{folder} is a job on {len(heads)} tasks: only a job on one task can be loaded as a model.")
    return TransferModel(backbone, spec, branch, heads[0], sources).eval()


def _load_adapter(folder: Path, backbone: LoadedBackbone, allow_pickle: bool) -> TransferModel:
    encoder = backbone.encoder
    name = folder.parent.name if folder.name == "adapter" else folder.name
    if kind := library_kind(folder):
        raise UserError(
            f"{folder} holds {kind} of the adapters library, which this package does not load: use load_adapter of that library."
        )
    adapter = load_source_adapters(encoder, {name: folder}, allow_pickle=allow_pickle)
    branch = BottleneckBranch(BnConfig.from_dict(dict(adapter.config)), encoder.sites, encoder.hidden_size)
    fill_bottleneck(branch, [BottleneckWeights(s.down_weight, s.down_bias, s.up_weight.flatten(1), s.up_bias[0]) for s in adapter.stacks])
    head, label_names = read_library_head(folder, encoder.hidden_size, dropout=encoder.head_dropout, allow_pickle=allow_pickle)
    config = head.config
    task, max_length = read_head_inputs(folder) or (name, min(HeadSpec.max_length, encoder.positions))
    encoder.require_length(max_length)
    heads = (HeadSpec(task, config.kind, config.labels, label_names, max_length, config.layers),)
    settings = {field: adapter.config[field] for field in ("reduction_factor", "non_linearity")}
    spec = TransferSpec("adapter", settings, (), backbone.backbone.name, backbone.backbone.origin, encoder.hidden_size, heads)
    return TransferModel(backbone, spec, branch.to(encoder.device), head.to(encoder.device)).eval()
