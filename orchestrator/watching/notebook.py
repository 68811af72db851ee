"""The cell of a notebook: whether this process is one's kernel, and what stands below a cell and redraws itself."""

import sys
from typing import Any


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


class CellDisplay:
    """A place below the cell that runs now."""

    def __init__(self) -> None:
        """Take the place. This works in a notebook only."""
        display: Any = sys.modules["IPython"].display.display
        self._handle = display({"text/html": "", "text/plain": ""}, raw=True, display_id=True)

    def show(self, html: str) -> None:
        """Show HTML in place of what was there."""
        self._handle.update({"text/html": html, "text/plain": ""}, raw=True)
