"""The layer through which everything is printed: names, messages and log lines may come from strangers' files, and terminals obey them."""

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.segment import Segment

from scalearn.secrets import without_secrets

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType

_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, C1: backspace, carriage return, the beginnings of ANSI and OSC sequences
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # what reorders or hides text
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def shown(text: str) -> str:
    r"""Return a text as it may be printed: without secrets, and with nothing in it that a terminal obeys.

    Colours are dropped, and so is a carriage return at the end of a line. Every other control character stands there as Python writes it,
    `\x1b`, so that one sees that something was there.
    """
    plain = _COLOUR.sub("", without_secrets(text)).replace("\r\n", "\n")
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], plain)


class SafeConsole(Console):
    """A console of rich that draws, with colours of its own, but passes on nothing that content would have a terminal do."""

    def __init__(self, **settings: Any) -> None:
        """Take text as it is: in names of stores, brackets are no markup and colons no emoji.

        Args:
            settings: As for rich.
        """
        super().__init__(markup=False, emoji=False, **settings)

    def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> Iterable[Segment]:
        """Render as rich does, and make the text of every segment safe."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


class _SafeOutput:
    """A text stream that makes safe what is written to it; in all else it is the stream beneath."""

    def __init__(self, output: TextIO) -> None:
        self.rich_proxied_file = output
        """Where a console of rich writes instead, by this name: what it draws with is for the terminal to obey."""

    def write(self, text: str) -> int:
        """Write, made safe."""
        self.rich_proxied_file.write(shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write many, made safe."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def make_output_safe() -> None:
    """Make safe whatever this process prints from now on to stdout and stderr, the traceback of a fault of ours included."""
    sys.stdout, sys.stderr = _safe(sys.stdout), _safe(sys.stderr)


def _safe(output: TextIO | None) -> Any:
    return output if output is None or isinstance(output, _SafeOutput) else _SafeOutput(output)
