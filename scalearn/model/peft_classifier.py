"""A LoRA and its head as one PEFT model of transformers' own classifier, for backbones whose classifier computes as our head does.

RoBERTa's kind reads the first token through dropout, dense, tanh, dropout and linear, as our head with two layers. The others' classifiers
have one layer, another activation, or read elsewhere.
"""

from pathlib import Path

from scalearn.backbone.encoder import Encoder
from scalearn.files.weight_files import save_tensors
from scalearn.formats.lora_files import write_lora_config
from scalearn.formats.peft_layout import PREFIX, WEIGHTS
from scalearn.layers.heads import Head
from scalearn.methods.lora import LoraBranch

FOLDER = "classifier"
_BACKBONE_IN_CLASSIFIER = {"roberta": "roberta", "xlm-roberta": "roberta", "camembert": "roberta"}
"""Name of the backbone inside transformers' classifier, by model type."""
_HEAD = "classifier"
_PARTS = {"dense": "dense", "out": "out_proj"}


def write_classifier(lora: Path, encoder: Encoder, branch: LoraBranch, head: Head, base: str) -> str | None:
    """Write LoRA and head into `classifier/` beside a LoRA, as PEFT writes a model for sequence classification.

    Args:
        lora: The directory of the LoRA, in PEFT's layout for the plain backbone.
        encoder: The backbone.
        branch: The LoRA.
        head: The head.
        base: The backbone: a hub id, a name or a directory.

    Returns:
        The name of the new folder. None: this backbone's classifier cannot hold the head, and nothing is written.

    Raises:
        OSError: The folder cannot be written.
    """
    inside = _BACKBONE_IN_CLASSIFIER.get(encoder.config.model_type)
    if inside is None or encoder.reading != "first" or head.dense is None or head.config.kind == "multiple_choice":
        return None
    tensors = {f"{PREFIX}{inside}.{name.removeprefix(PREFIX)}": tensor for name, tensor in branch.tensors().items()}
    for name, tensor in head.state_dict().items():
        part, _, kind = name.rpartition(".")
        tensors[f"{PREFIX}{_HEAD}.{_PARTS[part]}.{kind}"] = tensor
    place, shape = lora / FOLDER, branch.shape
    place.mkdir()
    save_tensors(tensors, place / WEIGHTS)
    known = {**encoder.linear_modules, **{f"{_HEAD}.{part}": (encoder.hidden_size, encoder.hidden_size) for part in _PARTS.values()}}
    write_lora_config(place, shape.modules, known, shape.rank, shape.alpha, shape.rslora, shape.dropout, base, head=_HEAD)
    return FOLDER
