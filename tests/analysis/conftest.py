"""Synthetic stores for the analysis tests, built once where nothing writes to them."""

import base64
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Selenium would report its use to its makers.
os.environ["SE_AVOID_STATS"] = "true"

from tests.analysis.helpers.build_store import StoreSpec, build_store


@pytest.fixture(scope="session")
def complete_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("complete")
    build_store(root)
    return root


@pytest.fixture(scope="session")
def broken_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One failed seed, one target without any score, one job still running, one not begun."""
    root = tmp_path_factory.mktemp("broken")
    states = {"scalearn_pp/apple/lr6e-03-seed1": "failed", "scalearn_uniform_pp/coachella": "failed"}
    states |= {"scalearn_uniform/apple/lr6e-03-seed0": "running", "adapterfusion/apple/lr5e-05-seed1": "pending"}
    build_store(root, StoreSpec(states=states))
    return root


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Browser"]:
    """Headless Chromium from the system's packages."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    off = ("gpu", "quic", "background-networking", "component-update", "sync")
    profile = f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"
    for argument in ("--headless", "--no-sandbox", "--no-first-run", profile, *(f"--disable-{name}" for name in off)):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(programs[1])))
    yield Browser(driver)
    driver.quit()


class Browser:
    """The few things that the tests do with a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Load a page at a width, in a light or dark colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.driver.get_log("browser")
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        """Wait until a script returns true."""
        deadline = time.monotonic() + 60
        while not self.run(script):
            assert time.monotonic() < deadline, f"still false: {script}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key, as the code that WebDriver has for it, where the focus is."""
        self.driver.switch_to.active_element.send_keys(key)

    def violations(self, axe: Path) -> list[str]:
        """The rules of accessibility that axe-core finds broken."""
        self.run(axe.read_text())
        check = "axe.run(document, {resultTypes: ['violations']}).then(found => arguments[0](found.violations.map(each => each.id)))"
        found: list[str] = self.driver.execute_async_script(check)
        return found

    def errors(self) -> list[str]:
        """Console messages since the page was opened, debug ones left out."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))
