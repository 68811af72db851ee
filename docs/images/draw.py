"""Draw the pictures of the README from a finished quickstart.

    python docs/images/draw.py STORE MLFLOW_PAGE

STORE is the sweep's store; MLFLOW_PAGE the first link that `scalearn ui` prints. Needs Chromium.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

import analysis

HERE = Path(__file__).parent


def draw_table(store: str) -> None:
    """Return the table as the terminal shows it."""
    console = Console(record=True, width=116, file=io.StringIO())
    analysis.render.to_terminal(analysis.benchmark_table(analysis.load(store, sweep="quickstart")), console)
    console.save_svg(str(HERE / "quickstart-table.svg"), title="make quickstart")


def draw_page(address: str, name: str, size: str) -> None:
    """Return a page in a window of a size, once its script has drawn it."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ]
        command += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += [f"--window-size={size}", "--virtual-time-budget=30000", f"--screenshot={HERE / name}", address]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    draw_table(sys.argv[1])
    draw_page((Path(sys.argv[1]).absolute() / "reports" / "quickstart" / "index.html").as_uri(), "quickstart-report.png", "1280,1640")
    draw_page(sys.argv[2], "quickstart-mlflow.png", "1700,900")
