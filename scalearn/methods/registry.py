"""Every method that a sweep can name: its place in the result table and its published defaults.

Planning imports this module, so it imports no torch. What builds a method's modules lives beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from scalearn.config import Setting, Stage
from scalearn.errors import UserError
from scalearn.methods import counts
from scalearn.methods.counts import Count
from scalearn.names import unknown

Family = Literal["single", "joint", "two_stage"]


@dataclass(frozen=True)
class SettingRule:
    """What a method's own setting may be."""

    default: Setting
    """Value where a sweep says nothing. Its type is the setting's type: a whole number, a number, a word, or a tuple of numbers."""
    low: float | None = None
    """Smallest number allowed. None: no bound."""
    high: float | None = None
    """Numbers must stay below this one. None: no bound."""
    required: bool = False
    """Whether a sweep must give the setting; the default then only shows its type."""
    meaning: str = ""
    """One clause for error messages and documentation."""


@dataclass(frozen=True)
class Method:
    """One row of the result table."""

    key: str
    title: str
    """The row's name in tables."""
    family: Family
    """Block of the result table: trained on one task, on all tasks jointly, or in two stages."""
    stage: Stage
    """Stage of the jobs that this method makes. `adapter` makes source jobs: the same adapter serves as source and as baseline."""
    order: int
    """Position in tables, ascending."""
    builder: str
    """`module:function` that builds the method's branch (`scalearn.methods.build.BranchBuilder`). Imported by training only."""
    needs_sources: bool = False
    """Whether a job has source adapters as parents."""
    optimisation: Mapping[str, object] = field(default_factory=dict)
    """Published values of `OptimisationConfig` fields that differ from its defaults (PROTOCOL, Training)."""
    rules: Mapping[str, SettingRule] = field(default_factory=dict)
    """The method's own settings by name."""
    count: Count | None = None
    """Formula for the parameters that a job learns besides its heads. None: only the built model knows."""

    @property
    def settings(self) -> dict[str, Setting]:
        """Default value of every setting."""
        return {name: rule.default for name, rule in self.rules.items()}


def _omega_rules(dropout: float) -> Mapping[str, SettingRule]:
    """Return the settings that every method with learned omegas has."""
    return MappingProxyType(
        {
            "omega_dropout": SettingRule(dropout, low=0.0, high=1.0, meaning="share of omega's entries that are dropped in training"),
            "omega_init_scale": SettingRule(2.0, meaning="initial omega is drawn around this value divided by the number of sources"),
            "omega_weight_decay": SettingRule(0.0, low=0.0, meaning="weight decay of omega alone"),
        }
    )


_SCALING = "scalearn.methods.scaling:build"
_SCALEARN = MappingProxyType({"learning_rate": 6e-3, "patience": None})


def _scalearn(key: str, title: str, order: int, dropout: float, count: Count) -> Method:
    rules = _omega_rules(dropout)
    return Method(
        key, title, "two_stage", "transfer", order, _SCALING, needs_sources=True, optimisation=_SCALEARN, rules=rules, count=count
    )


METHODS: dict[str, Method] = {
    method.key: method
    for method in (
        Method(
            "adapter",
            "Adapter",
            "single",
            "source",
            20,
            "scalearn.methods.bottleneck:build",
            optimisation=MappingProxyType({"learning_rate": 3e-4}),
            rules=MappingProxyType(
                {"reduction_factor": SettingRule(16, low=1, meaning="hidden size of the backbone divided by the adapter's width")}
            ),
            count=counts.bottleneck,
        ),
        Method(
            "adapterfusion",
            "AdapterFusion",
            "two_stage",
            "transfer",
            200,
            "scalearn.methods.fusion:build",
            needs_sources=True,
            optimisation=MappingProxyType({"learning_rate": 5e-5}),
            count=counts.fusion,
        ),
        _scalearn("scalearn", "ScaLearn", 220, 0.3, counts.omega_per_layer),
        _scalearn("scalearn_uniform", "ScaLearnUniform", 230, 0.3, counts.omega_per_layer_uniform),
        _scalearn("scalearn_pp", "ScaLearn++", 240, 0.3, counts.omega_shared),
        _scalearn("scalearn_uniform_pp", "ScaLearnUniform++", 250, 0.0, counts.omega_shared_uniform),
        _scalearn("scalearn_mean", "ScaLearn (mean)", 260, 0.0, counts.omega_per_layer),
        _scalearn("scalearn_softmax", "ScaLearn (softmax)", 270, 0.0, counts.omega_per_layer),
        Method(
            "scalearn_fixed",
            "Fixed omega",
            "two_stage",
            "transfer",
            280,
            "scalearn.methods.scaling:build_fixed",
            needs_sources=True,
            optimisation=_SCALEARN,
            rules=MappingProxyType({"omega": SettingRule((), required=True, meaning="one number per source, in the order of the sources")}),
            count=counts.nothing,
        ),
    )
}


def get_method(key: str) -> Method:
    """Return the method of this key.

    Raises:
        UserError: No such method; the sentence names the nearest one.
    """
    try:
        return METHODS[key]
    except KeyError:
        raise UserError(unknown("method", key, METHODS)) from None


def resolve_settings(method: Method, given: Mapping[str, Setting], sources: int = 0) -> dict[str, Setting]:
    """Return every setting of a method: those given, checked, and defaults for the rest.

    Whole numbers given for a number become floats, so that `0` and `0.0` are one value.

    Args:
        method: Entry of the registry.
        given: Settings by name.
        sources: Number of source adapters of the job, which a tuple of omegas must match.

    Raises:
        UserError: Unknown, missing, mistyped or out of range; the sentence says what is allowed.
    """
    for name in given:
        if not method.rules:
            raise UserError(f"Method '{method.key}' has no settings: remove '{name}'.")
        if name not in method.rules:
            raise UserError(unknown("setting", name, method.rules, where=f"method '{method.key}'"))
    resolved: dict[str, Setting] = {}
    for name, rule in method.rules.items():
        if name not in given and rule.required:
            raise UserError(f"Method '{method.key}' needs the setting '{name}': {rule.meaning}.")
        resolved[name] = check_setting(method, name, given[name]) if name in given else rule.default
    omega = resolved.get("omega")
    if isinstance(omega, tuple) and len(omega) != sources:
        raise UserError(f"Setting 'omega' of method '{method.key}' has {len(omega)} numbers for {sources} sources: give one per source.")
    return resolved


def check_setting(method: Method, name: str, value: Setting) -> Setting:
    """Return one setting's value in its canonical type.

    Raises:
        UserError: Not of the type or in the range of the setting's rule.
    """
    rule = method.rules[name]
    expected = _expectation(rule)
    wrong = UserError(f"Setting '{name}' of method '{method.key}' must be {expected}, not {value!r}.")
    if isinstance(rule.default, tuple):
        if not isinstance(value, tuple) or not value:
            raise wrong
        return tuple(_number(item, rule, wrong) for item in value)
    if isinstance(rule.default, bool) or isinstance(value, bool) or rule.default is None:
        if type(value) is not type(rule.default):
            raise wrong
        return value
    if isinstance(rule.default, float):
        return _number(value, rule, wrong)
    if type(value) is not type(rule.default):
        raise wrong
    if isinstance(value, int):
        _number(value, rule, wrong)
    return value


def _number(value: Setting, rule: SettingRule, wrong: UserError) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong
    if not float("-inf") < value < float("inf"):
        raise wrong
    if (rule.low is not None and value < rule.low) or (rule.high is not None and value >= rule.high):
        raise wrong
    return float(value)


def _expectation(rule: SettingRule) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: "a list of numbers"}
    text = kinds.get(type(rule.default), "null")
    if rule.low is not None:
        text += f" of at least {rule.low:g}"
    if rule.high is not None:
        text += f"{' and' if rule.low is not None else ''} below {rule.high:g}"
    return text
