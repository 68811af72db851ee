"""Draw the pictures of the README from a finished quickstart.

    python docs/images/draw.py STORE MLFLOW_PAGE

STORE is the sweep's store; MLFLOW_PAGE the first link that `scalearn ui` prints. Needs Chromium and its driver.
"""

import io
import shutil
import sys
from pathlib import Path

from rich.console import Console
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

import analysis

HERE = Path(__file__).parent


def draw_table(store: str) -> None:
    """Return the table as the terminal shows it."""
    console = Console(record=True, width=116, file=io.StringIO())
    analysis.render.to_terminal(analysis.benchmark_table(analysis.load(store, sweep="quickstart")), console)
    console.save_svg(str(HERE / "quickstart-table.svg"), title="make quickstart")


def draw_page(address: str, name: str, width: int, height: int, ready: str) -> None:
    """Save a page in a window of a size, once a script finds it drawn. MLflow's assistant, which no server here answers, stays closed."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        closed = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', true);"
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": closed})
        browser.get(address)
        WebDriverWait(browser, 60).until(lambda shown: shown.execute_script(f"return {ready}"))
        browser.save_screenshot(str(HERE / name))
    finally:
        browser.quit()


if __name__ == "__main__":
    draw_table(sys.argv[1])
    report = Path(sys.argv[1]).absolute() / "reports" / "quickstart" / "index.html"
    draw_page(report.as_uri(), "quickstart-report.png", 1280, 1640, "[...document.images].every(image => image.complete)")
    draw_page(sys.argv[2], "quickstart-mlflow.png", 1700, 900, "/[1-9]\\d* matching runs/.test(document.body.innerText)")
