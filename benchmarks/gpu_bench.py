"""What the sections of `gpu.py` share: how much is measured, the time that is left, and the file as it grows."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gpu_profile import recorded_peak
from paths import Setting

from orchestrator.profiling.deadline import ESSENTIAL, Deadline, Extent
from scalearn.backbone.encoder import Encoder


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    sizes: tuple[str, ...]
    tasks: tuple[str, ...]
    rows: int
    rounds: int
    equal: tuple[int, ...]
    """Even numbers of jobs that are compared with the same jobs alone."""
    methods: tuple[str, ...]
    """Methods of the packs."""
    packs: tuple[int, ...]
    together: tuple[int, ...]
    """Numbers of processes at a time."""
    steps: int
    """Steps of one trial."""
    extent: Extent
    """Measurements for the profile of each backbone."""
    profile_seconds: float
    """Time for them."""


FULL = Scale(
    sizes=("minilm", "roberta-base"),
    tasks=("sst2", "mnli", "rte"),
    rows=32,
    rounds=9,
    equal=(2, 4, 16, 64),
    methods=("scalearn", "adapter"),
    packs=(1, 2, 4, 8, 16, 32, 64),
    together=(4, 16),
    steps=100,
    extent=Extent(lengths=(64, 128), packs=(1, 4, 16, 32), methods=(*ESSENTIAL, "adapterfusion"), steps=10, rounds=2),
    profile_seconds=40,
)
TINY = Scale(
    sizes=("tiny",),
    tasks=("sst2", "cola"),
    rows=2,
    rounds=2,
    equal=(2, 4),
    methods=("scalearn",),
    packs=(1, 2),
    together=(2,),
    steps=4,
    extent=Extent(lengths=(8, 16), packs=(1, 2), methods=ESSENTIAL, steps=2, rounds=1),
    profile_seconds=10,
)


class LeftOut(Exception):
    """Why something was not measured."""


@dataclass
class Bench:
    """One run of all sections."""

    out: Path
    device: str
    precision: str
    scale: Scale
    deadline: Deadline
    start_seconds: float
    """Seconds that this process took to load its libraries."""
    text: str = ""
    left_out: list[str] = field(default_factory=list)
    encoders: dict[str, Encoder] = field(default_factory=dict)
    one_process: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """Seconds of a trial in a process of its own, and of one of its steps, by size and method."""

    def say(self, *lines: str) -> None:
        """Add lines to the file."""
        print(*lines, sep="\n", flush=True)
        self.text += "\n".join((*lines, ""))
        self.out.write_text(self.text, encoding="utf-8")

    def attempt(self, what: str, seconds: float, work: Callable[..., None], *given: object) -> None:
        """Do a piece of work if there are so many seconds for it, and if the device can. Otherwise note what is left out."""
        try:
            if self.deadline.left() < seconds:
                raise LeftOut("no time")
            work(*given)
        except torch.OutOfMemoryError:
            self.left_out.append(f"{what} (out of memory)")
        except LeftOut as reason:
            self.left_out.append(f"{what} ({reason})")
        for encoder in self.encoders.values():
            encoder.release()
        gc.collect()  # only after the `except` blocks, since an error refers to all that was held
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def setting(self, size: str) -> Setting:
        """Return the setting of a backbone."""
        return Setting(size, self.device, self.precision)

    def encoder(self, size: str) -> Encoder:
        """Return a backbone with padded rows, as training has it on a GPU. It is made once."""
        if size not in self.encoders:
            self.encoders[size] = self.setting(size).encoder(pads=True)
        return self.encoders[size]

    def peak(self, run: Callable[[], object], *, beyond: bool = True) -> str:
        """Return the MiB on the GPU at the peak of a run, by default beyond what is held already."""
        return f"{recorded_peak(run, beyond=beyond) / 2**20:.0f}" if self.device == "cuda" else "not recorded"
