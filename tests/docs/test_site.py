"""The documentation's site: built from all pages, with links that lead nowhere as errors."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LINKED = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy", "examples", "scalearn")


@pytest.mark.slow
def test_site_is_built_from_all_pages_and_refuses_the_one_link_that_leads_nowhere(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs mkdocs-material")
    shutil.copytree(repository / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "mkdocs.yml", tmp_path)
    for name in LINKED:
        (tmp_path / name).symlink_to(repository / name)
    with (tmp_path / "docs" / "laptop.md").open("a") as page:
        page.write("\n[Nowhere](sweeps.md#no-such-heading)\n")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    warnings = [line for line in built.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1, built.stderr
    assert "no-such-heading" in warnings[0]
    assert built.returncode == 1
    site = tmp_path / "site"
    assert "scalearn export" in (site / "commands" / "index.html").read_text()
    assert "load_model" in (site / "docstrings" / "index.html").read_text()
    assert 'href="../sweeps/' in (site / "coming_from" / "index.html").read_text()
    assert re.search(r'(src|href)="https?://[^"]*(fonts|cdn)', (site / "index.html").read_text()) is None
