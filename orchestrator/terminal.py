"""All output passes through here, since names, messages and log lines may come from strangers' files, and terminals obey them."""

import io
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.segment import Segment

from scalearn.secrets import without_secrets

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType

_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, C1: backspace, carriage return, the beginnings of ANSI and OSC sequences
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # characters that reorder or hide text
    "\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def shown(text: str) -> str:
    r"""Return a text as it may be printed: without secrets, and without anything that a terminal obeys.

    Colours are dropped, and so is a carriage return at the end of a line. Every other control character is shown as Python writes it,
    `\x1b`, so that a reader sees that there was something.
    """
    plain = _COLOUR.sub("", without_secrets(text)).replace("\r\n", "\n")
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], plain)


class SafeConsole(Console):
    """A rich console that draws with its own colours, but passes on nothing in the content that a terminal would obey."""

    def __init__(self, **settings: Any) -> None:
        """Treat text as plain, since brackets in names of stores are not markup, and colons are not emoji.

        Args:
            settings: Settings of rich's console.
        """
        super().__init__(markup=False, emoji=False, **settings)

    def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> Iterable[Segment]:
        """Render as rich does, and make the text of every segment safe."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def as_html(show: Callable[[Console], None], width: int = 160) -> str:
    """Return as HTML, for a notebook, what a function prints.

    Args:
        show: Prints to the console that it is given.
        width: Most characters in a line of a table.
    """
    console = SafeConsole(record=True, file=io.StringIO(), width=width, force_jupyter=False)
    show(console)
    return console.export_html(inline_styles=True, code_format='<pre style="line-height: 1.25; white-space: pre">{code}</pre>')


class _SafeOutput:
    """A text stream that makes safe all text written to it. Otherwise it acts as the stream below it."""

    def __init__(self, output: TextIO) -> None:
        self.rich_proxied_file = output
        """The stream that a rich console uses instead, by this name, since the terminal must obey what rich draws with."""

    def write(self, text: str) -> int:
        """Make a text safe, and write it."""
        self.rich_proxied_file.write(shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Make several texts safe, and write them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def make_output_safe() -> None:
    """Make safe all that this process prints to stdout and stderr from now on, even the traceback of an error in our code."""
    sys.stdout, sys.stderr = _safe(sys.stdout), _safe(sys.stderr)


def _safe(output: TextIO | None) -> Any:
    return output if output is None or isinstance(output, _SafeOutput) else _SafeOutput(output)
