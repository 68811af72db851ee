"""What a newcomer's clone would trip over."""

import subprocess
import tomllib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("needs a git clone, to know which files are tracked")
    return [path for name in listing.stdout.split("\0") if name and (path := repository / name).is_file()]


def test_tracked_files_paths_of_one_machine_are_absent(tracked: list[Path]) -> None:
    places = [b"/" + name + b"/" for name in (b"work", b"root", b"farm")]  # spelled so that this file passes
    found = [f"{path}: {place.decode()}" for path in tracked for place in places if place in path.read_bytes()]
    assert not found


def test_tracked_files_sizes_are_below_500_kilobytes(tracked: list[Path]) -> None:
    assert not [f"{path}: {path.stat().st_size}" for path in tracked if path.stat().st_size > 500_000]


def test_python_files_lengths_are_below_450_lines(tracked: list[Path]) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in tracked if path.suffix == ".py"}
    assert not {path: length for path, length in lengths.items() if length >= 450}


def test_changelog_and_citation_name_the_version_of_the_package(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    headings = [line for line in (repository / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0].startswith(f"## {version}, ")
    assert f"\nversion: {version}\n" in (repository / "CITATION.cff").read_text()
