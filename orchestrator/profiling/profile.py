"""Measured speeds of devices, from which the cost model computes durations. JSON files in `orchestrator/profiling/profiles`."""

import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scalearn.backbone.linear_modules import linear_modules
from scalearn.backbone.registry import Shape, get_backbone
from scalearn.errors import UserError
from scalearn.unknown_name import unknown

SCHEMA = 1
DEFAULT_PROFILE, DEFAULT_CPU_PROFILE = "h100_estimate", "epyc_2_cores"
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Pace:
    """Seconds of one step, or of one evaluation pass, as a line: a fixed part, a part per job, and a part per token."""

    fixed: float
    """Seconds once per step, however many jobs share it."""
    per_job: float
    """Seconds per job, for its masks, head, loss, clipping and optimiser."""
    per_token: float
    """Seconds per token that goes through the backbone, of all jobs."""
    largest_pack: int = 1
    """The largest pack that was measured to save time."""
    measured: tuple[tuple[int, int, int, float], ...] = ()
    """The points of the fit: jobs, rows per job, tokens per row, seconds."""

    def seconds(self, jobs: int, tokens: float) -> float:
        """Return the duration of one step.

        Args:
            jobs: How many jobs share it.
            tokens: Tokens of all jobs together that go through the backbone.
        """
        return self.fixed + self.per_job * jobs + self.per_token * tokens


@dataclass(frozen=True)
class Rates:
    """The speeds of one backbone in one precision on one device."""

    backbone: str
    """Registered name."""
    precision: str
    job_seconds: float
    """Seconds around every job, in any pack: data, modules, artifact."""
    load_seconds: float
    """Seconds to load the backbone into a worker that has another one, or none."""
    bytes_per_token: float
    """Bytes that a token holds between forward and backward pass."""
    fixed_bytes: float
    """Bytes of weights and libraries."""
    train: Mapping[str, Pace]
    """Paces by method: `adapter` (stage 1), `scalearn`, `adapterfusion`. Another method is taken to cost the same as the nearest."""
    evaluate: Mapping[str, Pace]
    sources: int = 8
    """Source adapters per transfer job in the measurement."""


@dataclass(frozen=True)
class Profile:
    """The measured speeds of one device."""

    device: str
    """Kind of device: `2-core AMD EPYC CPU`, `NVIDIA H100 80GB HBM3`. The name of a processor ends with CPU."""
    measured: bool
    """False: worked out from data sheets, which a plan mentions."""
    note: str
    """How and when it was measured."""
    memory_bytes: float
    """Bytes of the device, or of the machine's memory that one worker may use."""
    auto_precision: str
    """The meaning of `precision: auto` on the device."""
    worker_seconds: float
    """Seconds to start a worker process and load its libraries."""
    rates: tuple[Rates, ...] = field(default=())

    @property
    def takes_turns(self) -> bool:
        """Whether the jobs of a pack go through the backbone one after the other, without padding, as on a CPU."""
        return self.device.endswith("CPU")

    def resolved(self, precision: str) -> str:
        """Return what a precision, which may be `auto`, means on the device."""
        return self.auto_precision if precision == "auto" else precision

    def of(self, backbone: str, precision: str) -> tuple[Rates, float]:
        """Return the rates of a backbone, and the factor by which to multiply them if another backbone was measured.

        If the precision was not measured, the rates of another precision are used unchanged. The rates say which.

        Args:
            backbone: Name or hub id.
            precision: Precision, but not `auto`.
        """
        exact = [rates for rates in self.rates if rates.precision == precision] or list(self.rates)
        wanted = _work(get_backbone(backbone).shape)
        for rates in exact:
            if rates.backbone == backbone or wanted is None:
                return rates, 1.0
        ratio, nearest = min(((_ratio(wanted, rates), rates) for rates in exact), key=lambda pair: max(pair[0], 1 / pair[0]))
        return nearest, ratio


def _work(shape: Shape | None) -> float | None:
    """Return multiplications per token: those of the linear modules or, where they are not known, of four attention maps and two more."""
    if shape is None:
        return None
    known = linear_modules(shape)
    if known is not None:
        return float(sum(inputs * outputs for inputs, outputs in known.values()))
    return float(shape.layers * (4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size))


def _ratio(wanted: float | None, rates: Rates) -> float:
    have = _work(get_backbone(rates.backbone).shape)
    return 1.0 if wanted is None or have is None else wanted / have


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that the package ships."""
    found = (entry.name for entry in importlib.resources.files("orchestrator.profiling.profiles").iterdir())
    return tuple(sorted(name.removesuffix(".json") for name in found if name.endswith(".json")))


def load_profile(source: str) -> Profile:
    """Return the profile in a file, or one that the package ships, by its name.

    Raises:
        UserError: There is no such profile, or the file is not one.
    """
    if source in profile_names():
        text = (importlib.resources.files("orchestrator.profiling.profiles") / f"{source}.json").read_text(encoding="utf-8")
    else:
        path = Path(source)
        if path.suffix != ".json":
            raise UserError(f"{unknown('profile', source, profile_names())} A file of your own is named by its path: {source}.json.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"Profile {source} cannot be read ({error}): write one with `scalearn profile --out {source}`.") from None
    try:
        return from_json(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"Profile {source} is damaged ({error!r}): write it anew with `scalearn profile --out {source}`.") from None


def from_json(values: Mapping[str, Any]) -> Profile:
    """Return a profile from its JSON values.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: They are not a profile.
    """
    if values["schema"] != SCHEMA:
        raise ValueError(f"schema {values['schema']!r} is not {SCHEMA}")
    rates = tuple(Rates(**{**entry, "train": _paces(entry["train"]), "evaluate": _paces(entry["evaluate"])}) for entry in values["rates"])
    profile = Profile(**{name: value for name, value in values.items() if name not in ("schema", "rates")}, rates=rates)
    numbers = [pace for entry in rates for pace in (*entry.train.values(), *entry.evaluate.values())]
    if not rates or any(min(pace.fixed, pace.per_job) < 0 or pace.per_token <= 0 for pace in numbers):
        raise ValueError("it holds no speeds, or negative ones")
    if any("adapter" not in entry.train or "scalearn" not in entry.train for entry in rates):
        raise ValueError("it lacks the speed of adapter or scalearn")
    return profile


def to_json(profile: Profile) -> dict[str, Any]:
    """Return a profile as JSON values."""
    return {"schema": SCHEMA, **asdict(profile)}


def _paces(values: Mapping[str, Any]) -> dict[str, Pace]:
    return {
        method: Pace(**{**pace, "measured": tuple((jobs, rows, length, seconds) for jobs, rows, length, seconds in pace["measured"])})
        for method, pace in values.items()
    }
