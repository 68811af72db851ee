"""Runs every command and every Python example of the documentation, and follows its links.

A block of README.md, CONTRIBUTING.md or docs/ marked `sh`, `console` or `python` is executed in a copy of the repository. A comment
on the line above it says what it needs:

    <!-- test: slow -->               takes more than 10 seconds
    <!-- test: after quickstart -->   runs in the directory in which `make quickstart` has run; slow

Every Python block is a program of its own; those of docs/api.md run in empty directories, where nothing of another one lies.
In a `console` block the lines after `$ ` are run, and each other line must be found in their output, `...` standing for anything.
A `yaml` block with a `benchmark` key is a sweep, and must load. What cannot run here is listed in `NOT_RUN`, with the reason.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
RUN = {"sh", "console", "python"}
READ = {"text", "yaml", "json", "diff", "toml", "latex", "dockerfile", "markdown", "mermaid"}
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- test: (?P<what>[^>]*?) -->\s*\Z")

_HEAD = "ray start --head --block --num-cpus=2 --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265 --disable-usage-stats"
NOT_RUN: dict[tuple[str, str], str] = {
    # (page, first line of the block): why it cannot be executed here
    ("README.md", "make quickstart"): "the fixture `quickstart` runs it once for all tests",
    ("docs/backbones.md", "make mpnet"): "it downloads 440 MB; .ci/run does it before the tests",
    ("docs/quickstart.md", "make quickstart"): "the fixture `quickstart` runs it once for all tests",
    ("docs/quickstart.md", "python -m pip install torch==2.13.0"): "the Makefile has run these lines before any test can start",
    (
        "docs/cli.md",
        "scalearn export quickstart --best --target apple --push OWNER/NAME --private --license mit",
    ): "tests/scalearn/model/test_push.py does it, to a hub on loopback",
    ("docs/reports.md", "scalearn ui sweeps/quickstart.yaml"): "serves until Ctrl-C: tests/analysis/reading/test_mlflow.py does it",
    ("README.md", "make test"): "it is what runs this test",
    ("CONTRIBUTING.md", "make test"): "it is what runs this test",
    ("README.md", "scalearn run sweeps/glue_smoke.yaml --set data.root=/data/benchmarks"): "names a directory of the reader's",
    ("README.md", "ray job submit --working-dir . -- scalearn run sweeps/quickstart.yaml"): "tests of the cluster page submit a job",
    (
        "docs/cluster.md",
        "python -c \"import secrets; print(secrets.token_hex(32), end='')\" > ray-token",
    ): "tests/orchestrator/remote/test_ray_jobs.py does it",
    ("docs/cluster.md", _HEAD): "test_ray_jobs.py does it, on free ports",
    ("docs/cluster.md", "ray start --block --address=HEAD:6379 --disable-usage-stats"): "names a machine of the reader's",
    (
        "docs/cluster.md",
        "RAY_ADDRESS=HEAD:6379 scalearn run sweeps/quickstart.yaml --store /shared/runs",
    ): "names a machine of the reader's",
    (
        "docs/cluster.md",
        "scalearn run sweeps/quickstart.yaml --store s3://bucket/runs",
    ): "tests/orchestrator/storage/test_object_store.py does it with a small sweep",
    (
        "docs/cluster.md",
        "ray job submit --working-dir . -- scalearn run sweeps/quickstart.yaml --store /shared/runs",
    ): "test_ray_jobs.py does it with a small sweep",
    ("docs/cluster.md", "export RAY_ADDRESS=http://127.0.0.1:8265"): "test_ray_jobs.py does it with a small sweep",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it holds and what it needs."""

    page: str
    line: int
    language: str
    body: str
    marker: str | None

    @property
    def first_line(self) -> str:
        return self.body.strip().partition("\n")[0]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        marker = MARKER.search(text, 0, fence.start())
        body = re.sub(f"^{fence['indent']}", "", fence["body"], flags=re.MULTILINE)
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(str(page.relative_to(REPOSITORY)), line, fence["language"], body, marker["what"] if marker else None))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def as_parameters(blocks: list[Block]) -> list[object]:
    slow = [block.marker in {"slow", "after quickstart"} for block in blocks]
    return [
        pytest.param(block, id=f"{block.page}:{block.line}", marks=pytest.mark.slow if is_slow else ())
        for block, is_slow in zip(blocks, slow, strict=True)
    ]


def runnable() -> list[Block]:
    """What is executed: every runnable block, less the listed ones."""
    return [block for block in BLOCKS if block.language in RUN and (block.page, block.first_line) not in NOT_RUN]


def execute(block: Block, directory: Path) -> str:
    if block.language == "python":
        argv = [sys.executable, "-c", block.body]
    else:
        lines = block.body.splitlines()
        if block.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        argv = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    path = f"{directory / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(argv, cwd=directory, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, f"{block.page}:{block.line} ended with {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def squeezed(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


@pytest.mark.parametrize("block", as_parameters(runnable()))
def test_documentation_block_executed_succeeds(block: Block, request: pytest.FixtureRequest) -> None:
    alone = "tmp_path" if block.page == "docs/api.md" else "workspace"
    directory: Path = request.getfixturevalue("quickstart" if block.marker == "after quickstart" else alone)
    printed = execute(block, directory)
    if block.language == "console":
        lines = [squeezed(line) for line in printed.splitlines()]
        for expected in filter(None, map(squeezed, block.body.splitlines())):
            if not expected.startswith("$ "):
                pattern = ".*".join(map(re.escape, expected.split("...")))
                assert any(re.fullmatch(pattern, line) for line in lines), f"not printed: {expected}\n{printed}"


@pytest.mark.parametrize("block", as_parameters([block for block in BLOCKS if block.language == "yaml"]))
def test_documentation_yaml_block_is_a_valid_sweep(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from orchestrator.definition.sweep import Sweep

    document = yaml.safe_load(block.body)
    assert isinstance(document, dict), f"{block.page}:{block.line} is not a mapping"
    if "benchmark" in document:
        (tmp_path / "sweep.yaml").write_text(block.body)
        (tmp_path / "my_data").mkdir()  # what examples call the reader's data
        monkeypatch.chdir(tmp_path)
        Sweep.load("sweep.yaml")


def test_documentation_sweep_page_names_every_key_method_and_setting() -> None:
    import scalearn.tasks.user_task
    from orchestrator.definition import schema
    from scalearn.methods.registry import METHODS

    blocks = [item for item in vars(schema).values() if isinstance(item, type) and issubclass(item, schema.Block)]
    names = {name for block in blocks for name in block.model_fields} | set(scalearn.tasks.user_task.KEYS)
    names |= set(METHODS) | {name for method in METHODS.values() for name in method.settings}
    page = (REPOSITORY / "docs" / "sweeps.md").read_text()
    assert not sorted(name for name in names if not re.search(rf"`{name}`|`{{.*\b{name}: ", page))


def test_documentation_blocks_have_known_language_and_marker() -> None:
    for block in BLOCKS:
        where = f"{block.page}:{block.line}"
        assert block.language in RUN | READ, f"{where}: block marked {block.language!r}; use one of {sorted(RUN | READ)}"
        assert block.marker in {None, "slow", "after quickstart"}, f"{where}: unknown marker {block.marker!r}"


def test_documentation_not_run_list_names_only_blocks_that_exist() -> None:
    present = {(block.page, block.first_line) for block in BLOCKS}
    assert set(NOT_RUN) <= present, f"no longer in the documentation: {sorted(set(NOT_RUN) - present)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_documentation_relative_links_resolve(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", prose):
        link = target[0] or target[1]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {link}, which does not exist"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{page.name} links to {link}, and {file.name} has no such heading"


def anchors_of(page: Path) -> set[str]:
    """Anchors as code hosts make them: lower case, spaces to dashes, other signs dropped."""
    headings = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
