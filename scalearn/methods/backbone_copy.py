"""Methods that change the backbone itself, each on its own copy: full fine-tuning, Compacter++ and (IA)3."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scalearn.backbone.encoder import Encoder, quiet_library
from scalearn.config import JobConfig
from scalearn.errors import UserError
from scalearn.formats.library_files import add_library_head, save_library_adapter
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.layers.branch import Branch
from scalearn.layers.heads import Head

LIBRARY_NAME = "own"
"""Name of the library's adapter during training."""

PHM_FACTORS = 4
"""Factors of the library's parameterised hypercomplex products."""


class OwnModelBranch(Branch):
    """A copy of the backbone that this job trains, as a whole or in part. A job with its own copy trains alone."""

    def __init__(self, model: nn.Module) -> None:
        """Take over `model`, a model of the adapters library. Its parameters that require a gradient are learned."""
        super().__init__()
        self.model = model
        # Frozen weights are the backbone's, which anyone who loads the job has.
        self.register_state_dict_post_hook(_keep_learned)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_only_learned)  # type: ignore[no-untyped-call]

    @property
    def own_model(self) -> Any:
        """See `Branch.own_model`."""
        return self.model

    def added(self, site: int, hidden_states: Tensor) -> Tensor:
        """Raise an error, since nothing is added to the shared backbone."""
        raise TypeError(f"{type(self).__name__} runs on its own model and adds nothing to the shared one")


def _keep_learned(branch: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    learned = {prefix + name for name, parameter in branch.named_parameters() if parameter.requires_grad}
    for name in [name for name in state if name not in learned]:
        del state[name]


def _miss_only_learned(branch: nn.Module, keys: Any) -> None:
    learned = {name for name, parameter in branch.named_parameters() if parameter.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name in learned]


class LibraryBranch(OwnModelBranch):
    """A method of the adapters library itself, on the copy."""

    def save(self, directory: Path, head: Head) -> None:
        """Write adapter and head so that `load_adapter` of the adapters library reads them."""
        model: Any = self.model
        with quiet_library():
            add_library_head(model, LIBRARY_NAME, head)
            directory.mkdir(parents=True, exist_ok=True)
            save_library_adapter(model, directory, LIBRARY_NAME, with_head=True)
            model.delete_head(LIBRARY_NAME)


def build_full(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> OwnModelBranch:
    """Build full fine-tuning: embeddings and all layers learn. A pooler, which no head reads, does not learn."""
    model = encoder.copy_of_model()
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_(name.partition(".")[0] != "pooler")
    return OwnModelBranch(model)


def build_library(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> LibraryBranch:
    """Build the library's `compacter++` or `ia3`, initialised from the global random stream.

    Raises:
        UserError: Compacter++'s width cannot be factorised.
    """
    model = encoder.copy_of_model()
    with quiet_library():
        model.add_adapter(LIBRARY_NAME, config=library_config(config, encoder.hidden_size))
        model.train_adapter(LIBRARY_NAME)
    return LibraryBranch(model)


def library_config(config: JobConfig, hidden: int) -> str:
    """Return the library's configuration string of a job for a hidden size, for example `compacter++[reduction_factor=16]`.

    Raises:
        UserError: The adapter's width cannot be factorised.
    """
    if config.method == "ia3":
        return "ia3"
    reduction = config.settings["reduction_factor"]
    assert isinstance(reduction, int)
    if hidden // reduction % PHM_FACTORS or hidden % PHM_FACTORS:
        raise UserError(
            f"Compacter++ splits widths into {PHM_FACTORS} parts, but {hidden} / {reduction} = {hidden // reduction} does not divide so: "
            "choose another reduction_factor."
        )
    return f"compacter++[reduction_factor={reduction}]"
