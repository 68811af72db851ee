"""What mkdocs does beside its own work, as mkdocs.yml says.

The pages that lie outside docs/ are part of the site, and links to them fit. Two pages are made from the code each time, and are in no
commit: the help of every command, and the docstrings of what programs call.
"""

import argparse
import inspect
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mkdocs.structure.files import File, Files

import orchestrator
import scalearn
from orchestrator.cli import make_parser

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "deploy/*/README.md", "examples/*.*", "scalearn/config.py")
"""Files of the repository that the documentation links to, as patterns."""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that are made, and the files from outside docs/, each at its place in the repository."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    files.append(File.generated(config, "docstrings.md", content=docstrings_page()))
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where the files are in the site, in which docs/ is the root."""
    here = page.file.src_uri
    if (ROOT / "docs" / here).exists():
        return markdown if "/" in here else markdown.replace("](../", "](")
    return re.sub(r"\]\((\.\./)*docs/", "](" + "../" * here.count("/"), markdown)


def commands_page() -> str:
    """Return the help of every command, as the command line prints it on 100 columns."""
    with patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
        (commands,) = (each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction))
        parts = [f"## {name}\n\n```text\n{parser.format_help().strip()}\n```\n" for name, parser in commands.choices.items()]
    return "\n".join(["# Help texts\n\nWhat `scalearn COMMAND --help` prints; [Command line](cli.md) explains it.\n", *parts])


def docstrings_page() -> str:
    """Return signature and docstring of everything that the two packages export, and of what their classes can do."""
    parts = ["# Docstrings\n\nWhat `scalearn` and `orchestrator` export; [Python](api.md) shows it in use.\n"]
    for package in (scalearn, orchestrator):
        parts.append(f"## {package.__name__}\n")
        for name in sorted(package.__all__):
            parts += described(name, getattr(package, name), 3)
    return "\n".join(parts)


def described(name: str, thing: Any, level: int) -> list[str]:
    """Return the Markdown of a function or class, with a class's own public methods below it."""
    if not callable(thing):
        return []
    text = f"{'#' * level} {name}\n\n```text\n{name}{inspect.signature(thing)}\n\n{inspect.getdoc(thing) or ''}\n```\n"
    own = vars(thing).items() if isinstance(thing, type) else ()
    methods = [(key, value) for key, value in own if not key.startswith("_") and inspect.isfunction(value) and value.__doc__]
    return [text, *(part for key, value in methods for part in described(f"{name}.{key}", value, level + 1))]
