"""Every method that a sweep can name: its place in the result table and its published defaults.

Planning imports this module, so it imports no torch. The code that builds a method's modules lies beside it.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from scalearn.backbone.registry import takes_adapters
from scalearn.config import Setting, Stage
from scalearn.errors import UserError
from scalearn.methods import counts
from scalearn.methods.counts import Count
from scalearn.unknown_name import unknown

Family = Literal["single", "joint", "two_stage"]


@dataclass(frozen=True)
class SettingRule:
    """The values that a method's own setting may have."""

    default: Setting
    """Value if a sweep does not give one. Its type is the setting's type: a whole number, a number, a word, or a tuple of numbers."""
    low: float | None = None
    """Smallest number allowed. None: no bound."""
    high: float | None = None
    """Numbers must be smaller than this. None: no bound."""
    words: bool = False
    """Whether a tuple holds words instead of numbers."""
    required: bool = False
    """Whether a sweep must give the setting. The default then only shows the type."""
    meaning: str = ""
    """One clause about the setting, for error messages and documentation."""


@dataclass(frozen=True)
class Method:
    """One row of the result table."""

    key: str
    title: str
    """Name of the method in tables, plots and reports. No two methods share it."""
    family: Family
    """Block of the result table: trained on one task, jointly on all tasks, or in two stages."""
    stage: Stage
    """Stage of this method's jobs. `adapter` makes source jobs, whose adapters serve both as sources and as a baseline."""
    order: int
    """Position among the methods of the same family, ascending."""
    builder: str
    """`module:function` that builds the method's branch (`scalearn.methods.build.BranchBuilder`). Only training imports it."""
    needs_sources: bool = False
    """Whether a job has source adapters as parents."""
    needs_similarity: bool = False
    """Whether a job reads how similar the tasks are. Then it also has a similarity job as a parent, and the settings `sentence_encoder` and
    `sentence_rows`."""
    takes_lora: bool = False
    """Whether the sources may be LoRAs. Its branch then has their modules as its sites."""
    owns_backbone: bool = False
    """Whether a job changes the backbone itself, on its own copy, and therefore trains alone."""
    optimisation: Mapping[str, object] = field(default_factory=dict)
    """Published values of `OptimisationConfig` fields, where they differ from its defaults (docs/protocol.md, Training)."""
    rules: Mapping[str, SettingRule] = field(default_factory=dict)
    """The method's own settings by name."""
    tuned: tuple[str, ...] = ()
    """Settings whose values share one row of the table, which shows the one with the best validation score, as it does with learning rates.
    `sources`: each job has one source, and the row shows the best one."""
    revised_settings: tuple[str, ...] = ()
    """Settings that, unless they are 0, make a job compute otherwise than the first version did, so its schema version is higher."""
    count: Count | None = None
    """Formula for the parameters that a job learns besides its heads. None: only the built model can tell."""

    @property
    def folds(self) -> bool:
        """Whether a finished job can be folded into one ordinary adapter: its branch is a weighted sum of its sources' outputs."""
        return self.builder.startswith("scalearn.methods.scaling:")

    @property
    def merges(self) -> bool:
        """Whether the branch is one module made from the weights of the sources, which LoRAs must be alike for."""
        return self.builder in (_SOUP, _MERGED, _LORAHUB)

    @property
    def pools_choices(self) -> bool:
        """Whether multiple choice is scored by one linear layer on the encoder's pooler, instead of the library's head.

        As published, this holds in transfer jobs, in joint jobs except `adapter_m`, and in full fine-tuning (docs/protocol.md, Heads).
        """
        return self.key != "adapter_m" if self.stage in ("transfer", "joint") else self.key == "full_ft"

    @property
    def learns_only_head(self) -> bool:
        """Whether no gradient goes through the backbone, so that a training step costs little more than a forward pass."""
        return self.count in (counts.nothing, counts.per_source)

    @property
    def settings(self) -> dict[str, Setting]:
        """Default value of every setting."""
        return {name: rule.default for name, rule in self.rules.items()}


def _omega_rules(dropout: float) -> Mapping[str, SettingRule]:
    """Return the settings of every method with learned omegas."""
    return MappingProxyType(
        {
            "omega_dropout": SettingRule(dropout, low=0.0, high=1.0, meaning="share of omega's entries that are dropped in training"),
            "omega_init_scale": SettingRule(2.0, meaning="initial omega is drawn around this value divided by the number of sources"),
            "omega_weight_decay": SettingRule(0.0, low=0.0, meaning="weight decay of omega alone"),
        }
    )


_GATE_RULES = MappingProxyType({name: rule for name, rule in _omega_rules(0.3).items() if name != "omega_init_scale"})
_SCALING, _GATING = "scalearn.methods.scaling:build", "scalearn.methods.gating:build"
_SCALEARN = MappingProxyType({"learning_rate": 6e-3, "patience": None})


def _scalearn(key: str, title: str, order: int, dropout: float, count: Count, **rest: Any) -> Method:
    given: dict[str, Any] = {"builder": _SCALING, "optimisation": _SCALEARN, "rules": _omega_rules(dropout), "count": count, **rest}
    return Method(key, title, "two_stage", "transfer", order, needs_sources=True, takes_lora=True, **given)


_LORA_RULES = MappingProxyType(
    {
        "rank": SettingRule(8, low=1, high=4097, meaning="rank r of A and B"),
        "alpha": SettingRule(16.0, low=0.0, meaning="B A is scaled by alpha / rank"),
        "dropout": SettingRule(0.1, low=0.0, high=1.0, meaning="share of the inputs of A that is dropped in training"),
        "target_modules": SettingRule((), words=True, meaning="names of the linear modules; without any, those of queries and values"),
        "rslora": SettingRule(False, meaning="whether B A is scaled by alpha / sqrt(rank)"),
    }
)
_REDUCTION = MappingProxyType(
    {"reduction_factor": SettingRule(16, low=1, meaning="hidden size of the backbone divided by the adapter's width")}
)


def _propetl_rules(share: float, rate: str, rule: SettingRule) -> Mapping[str, SettingRule]:
    sparsity = SettingRule(share, low=0.0, high=1.0, meaning="share of entries that a mask keeps")
    return MappingProxyType({**_REDUCTION, "sparsity": sparsity, rate: rule})


_PROPETL_RULES = _propetl_rules(
    0.5, "mask_learning_rate", SettingRule(5e-3, low=0.0, high=10.0, meaning="learning rate of the masks' scores")
)
_PROPETL_JOINT_RULES = _propetl_rules(
    0.3, "mask_learning_rate_factor", SettingRule(10.0, low=0.0, meaning="learning rate of the masks' scores, in learning rates")
)
_HYPER_RULES = MappingProxyType(
    {
        **_REDUCTION,
        "embedding": SettingRule(512, low=1, meaning="size of a task's embedding"),
        "hidden": SettingRule(128, low=1, meaning="hidden size of the network that projects embeddings"),
        "projected": SettingRule(64, low=1, meaning="size of a projected embedding"),
    }
)
_SOUP_RULES = MappingProxyType(
    {
        "top": SettingRule(5, low=1, meaning="how many of the most similar sources are averaged"),
        "sentence_encoder": SettingRule(
            "sentence-transformers/all-mpnet-base-v2", meaning="encoder of sentences: minilm, a hub id or a directory"
        ),
        "sentence_rows": SettingRule(10_000, low=1, meaning="training rows of each task that its similarity is measured on"),
    }
)
_FIXED_RULES = MappingProxyType({"omega": SettingRule((), required=True, meaning="one number per source, in the order of the sources")})
_WEIGHT = "weight of every source: one source alone would become weight times itself"
_ARITHMETIC_RULES = MappingProxyType({"weight": SettingRule(0.4, low=0.0, meaning=_WEIGHT)})
_TIES_RULES = MappingProxyType(
    {
        "density": SettingRule(0.2, low=0.01, high=1.0, meaning="share of each source's entries that are kept"),
        "weight": SettingRule(1.0, low=0.0, meaning=_WEIGHT),
    }
)
_LORAHUB_RULES = MappingProxyType(
    {
        "search_rows": SettingRule(64, low=1, meaning="training rows on which weights are compared"),
        "search_evaluations": SettingRule(40, low=1, meaning="how many weights are compared"),
        "search_l1": SettingRule(0.05, low=0.0, meaning="factor of the weights' absolute values, added to the loss"),
    }
)
_FULL, _LIBRARY = "scalearn.methods.backbone_copy:build_full", "scalearn.methods.backbone_copy:build_library"
_BOTTLENECK = "scalearn.methods.bottleneck:build"
_LORA = "scalearn.methods.lora:build"
_PROPETL = "scalearn.methods.propetl:build"
_HYPERFORMER = "scalearn.methods.hyperformer:build"
_FUSION = "scalearn.methods.fusion:build"
_SOUP = "scalearn.methods.soup:build"
_FIXED, _AVERAGE, _SINGLE = (f"scalearn.methods.scaling:{name}" for name in ("build_fixed", "build_average", "build_single"))
_MERGED = "scalearn.methods.merging:build"
_LORAHUB = "scalearn.methods.lorahub:build"
_FOLDED = "scalearn.methods.folding:build"


def _transfer(key: str, title: str, order: int, builder: str, rate: float, count: Count, **rest: Any) -> Method:
    optimisation = MappingProxyType({"learning_rate": rate})
    return Method(key, title, "two_stage", "transfer", order, builder, needs_sources=True, optimisation=optimisation, count=count, **rest)


def _frozen(key: str, title: str, order: int, builder: str, **rest: Any) -> Method:
    """Return a method that learns nothing but the head on what it makes of the sources."""
    return _transfer(key, title, order, builder, 3e-4, counts.nothing, takes_lora=True, **rest)


def _joint(key: str, title: str, order: int, builder: str, rate: float, count: Count, **rest: Any) -> Method:
    """Return a method that trains all tasks in one job. Steps bound its training, so epochs must not."""
    schedule = {"epochs": 100_000, "max_steps": 375_000, "evaluate_every": 7_500, "patience": 10, "warmup": 0.1}
    optimisation = MappingProxyType({"learning_rate": rate, **schedule})
    return Method(key, title, "joint", "joint", order, builder, optimisation=optimisation, count=count, **rest)


def _single(
    key: str,
    title: str,
    order: int,
    builder: str,
    rate: float,
    count: Count,
    stage: Stage = "single",
    weight_decay: float = 0.0,
    **rest: Any,
) -> Method:
    optimisation = MappingProxyType({"learning_rate": rate} | ({"weight_decay": weight_decay} if weight_decay else {}))
    return Method(key, title, "single", stage, order, builder, optimisation=optimisation, count=count, **rest)


METHODS: dict[str, Method] = {
    method.key: method
    for method in (
        _single("full_ft", "Full fine-tuning", 10, _FULL, 2e-5, counts.everything, owns_backbone=True),
        _single("adapter", "Adapter", 20, _BOTTLENECK, 3e-4, counts.bottleneck, stage="source", rules=_REDUCTION),
        _single("lora", "LoRA", 25, _LORA, 5e-4, counts.lora, stage="source", rules=_LORA_RULES),
        _single("propetl", "ProPETL", 30, _PROPETL, 1e-3, counts.propetl, weight_decay=0.1, rules=_PROPETL_RULES),
        _single("compacter_pp", "Compacter++", 40, _LIBRARY, 3e-3, counts.compacter, rules=_REDUCTION, owns_backbone=True),
        _single("ia3", "(IA)³", 50, _LIBRARY, 5e-3, counts.ia3, owns_backbone=True),
        _joint("full_ft_m", "Full fine-tuning (joint)", 110, _FULL, 2e-5, counts.everything, owns_backbone=True),
        _joint("adapter_m", "Adapter (joint)", 120, _BOTTLENECK, 3e-4, counts.bottleneck, rules=_REDUCTION),
        _joint("propetl_m", "ProPETL (joint)", 130, _PROPETL, 3e-4, counts.propetl_joint, rules=_PROPETL_JOINT_RULES),
        _joint("hyperformer", "HyperFormer", 140, _HYPERFORMER, 3e-4, counts.hyperformer, rules=_HYPER_RULES),
        _joint("hyperformer_pp", "HyperFormer++", 150, _HYPERFORMER, 3e-4, counts.hyperformer_shared, rules=_HYPER_RULES),
        _transfer("adapterfusion", "AdapterFusion", 200, _FUSION, 5e-5, counts.fusion),
        _transfer(
            "adaptersoup", "AdapterSoup", 210, _SOUP, 3e-4, counts.bottleneck, rules=_SOUP_RULES, needs_similarity=True, takes_lora=True
        ),
        _frozen("source_average", "Source average", 211, _AVERAGE),
        _frozen("best_source", "Best source", 212, _SINGLE, tuned=("sources",)),
        _frozen("task_arithmetic", "Task arithmetic", 213, _MERGED, rules=_ARITHMETIC_RULES, tuned=("weight",)),
        _frozen("ties", "TIES", 214, _MERGED, rules=_TIES_RULES, tuned=("density", "weight")),
        _frozen("dare_ties", "DARE-TIES", 215, _MERGED, rules=_TIES_RULES, tuned=("density", "weight")),
        _transfer("lorahub", "LoraHub", 216, _LORAHUB, 3e-4, counts.per_source, rules=_LORAHUB_RULES, takes_lora=True),
        _scalearn("scalearn", "ScaLearn", 220, 0.3, counts.omega_per_layer),
        _scalearn("scalearn_uniform", "ScaLearnUniform", 230, 0.3, counts.omega_per_layer_uniform),
        _scalearn("scalearn_pp", "ScaLearn++", 240, 0.3, counts.omega_shared),
        _scalearn("scalearn_uniform_pp", "ScaLearnUniform++", 250, 0.0, counts.omega_shared_uniform),
        _scalearn("scalearn_mean", "ScaLearn (mean)", 260, 0.0, counts.omega_per_layer, revised_settings=("omega_dropout",)),
        _scalearn("scalearn_softmax", "ScaLearn (softmax)", 270, 0.0, counts.omega_per_layer, revised_settings=("omega_dropout",)),
        _frozen("scalearn_fixed", "ScaLearn (fixed)", 280, _FIXED, rules=_FIXED_RULES),
        _scalearn("scalearn_gated", "ScaLearn (gated)", 290, 0.3, counts.gates, builder=_GATING, rules=_GATE_RULES),
        _transfer("sources_unfrozen", "Sources unfrozen", 300, _FOLDED, 3e-4, counts.side_by_side, takes_lora=True),
    )
}


PLUGINS = "scalearn.methods"
"""Entry point group for methods of other packages. Each entry names a `Method`."""

_broken: list[str] = []
"""Plugins that could not be loaded, each with the reason."""


def register_method(method: Method) -> Method:
    """Add a method to the registry, so that sweeps may name it.

    The call affects only this process. The workers of a sweep are other processes, so a package announces its methods to all of them by
    entry points of the group `scalearn.methods`.

    Raises:
        UserError: Another method has the same key.
    """
    if METHODS.setdefault(method.key, method) != method:
        raise UserError(f"There is a method '{method.key}' already: give yours another key.")
    return method


def get_method(key: str) -> Method:
    """Return the method of this key.

    Raises:
        UserError: There is no such method. The sentence names the nearest one.
    """
    try:
        return METHODS[key]
    except KeyError:
        raise UserError(" ".join([unknown("method", key, METHODS), *_broken])) from None


def require_sources_kind(method: Method, source_method: str) -> None:
    """Refuse LoRAs as the sources of a method that cannot combine them.

    Args:
        method: A method with sources.
        source_method: What the sources are, `adapter` or `lora`.

    Raises:
        UserError: The method does not take them.
    """
    if source_method == "lora" and not method.takes_lora:
        able = [key for key, each in METHODS.items() if each.takes_lora]
        raise UserError(f"Method '{method.key}' combines bottleneck adapters, not LoRAs: take one of {', '.join(able)}.")


def runs_on(method: Method, source_method: str, architecture: str) -> bool:
    """Tell whether a method can add to backbones of an architecture: at linear modules to all, otherwise to those of the adapters library.

    Args:
        method: The method.
        source_method: What its sources are, if it has some: `adapter` or `lora`.
        architecture: `model_type` of the backbone's configuration.
    """
    return takes_adapters(architecture) or method.key == "lora" or (method.needs_sources and source_method == "lora")


def require_backbone(method: Method, source_method: str, architecture: str) -> None:
    """Refuse a method on an architecture to which it cannot add. See `runs_on`.

    Raises:
        UserError: It needs the adapters library, which does not serve the architecture here.
    """
    if not runs_on(method, source_method, architecture):
        what = f"Method '{method.key}'{' on bottleneck adapters' if method.takes_lora else ''}"
        instead = "write sources: {method: lora}" if method.takes_lora else "take lora, or a transfer method on LoRAs"
        raise UserError(
            f"{what} needs an encoder of the adapters library, but the backbone is of architecture '{architecture[:80]}': {instead}."
        )


def load_plugins() -> None:
    """Register the methods that installed packages announce. One that cannot be loaded is reported when its key is looked up."""
    for entry in importlib.metadata.entry_points(group=PLUGINS):
        try:
            register_method(entry.load())
        except Exception as error:  # a plugin may raise any error, which must not affect the others
            _broken.append(f"The plugin {entry.name} = {entry.value} could not be loaded ({type(error).__name__}: {error}).")


load_plugins()
