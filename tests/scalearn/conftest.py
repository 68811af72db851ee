"""Rows, tokenizer and a hub that tests of the data share."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from tests.scalearn.helpers.packs import SOURCES
from tests.scalearn.helpers.small import byte_tokenizer, data, job, run, save_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    """A tiny encoder, saved."""
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def parents(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Directories of source adapters that were trained on it."""
    root = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        assert run(job("adapter", (data(f"domains/{name}"),), backbone), root / name).error is None
    return {name: root / name for name in SOURCES}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with rows in the documented schema of stsb, wsc and HumSet, which no excerpt holds."""
    root = tmp_path_factory.mktemp("written")
    pairs = [{"sentence1": f"A man plays {n} songs.", "sentence2": f"A man plays {n % 7} songs.", "idx": n} for n in range(60)]
    _write(
        root / "glue/stsb",
        Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": Value("float32"), "idx": Value("int32")}),
        train=[{**pair, "label": (pair["idx"] % 11) / 2} for pair in pairs],
        validation=[{**pair, "label": (pair["idx"] % 6) * 1.0} for pair in pairs[:20]],
    )
    names = ["Mark", "Pete", "Anna", "Ruth"]
    pronouns = [
        {
            "text": f"{names[n % 4]} told {names[(n + 1) % 4]} many lies, which she put in her book {n}.",
            "span1_index": 0,
            "span2_index": 6,
            "span1_text": names[n % 4],
            "span2_text": "she",
            "idx": n,
            "label": n % 2,
        }
        for n in range(40)
    ]
    _write(
        root / "super_glue/wsc",
        Features(
            {
                **{name: Value("string") for name in ("text", "span1_text", "span2_text")},
                **{name: Value("int32") for name in ("span1_index", "span2_index", "idx")},
                "label": ClassLabel(names=["False", "True"]),
            }
        ),
        train=pronouns,
        validation=pronouns[:10],
    )
    labels = {
        "sectors": ["Agriculture", "Education", "Health", "WASH"],
        "pillars_1d": ["Casualties", "Context", "Displacement"],
        "pillars_2d": ["At Risk", "Impact"],
        "subpillars_1d": ["Context->Politics", "Displacement->Intentions", "Casualties->Dead"],
        "subpillars_2d": ["Impact->Impact On People", "At Risk->Risk And Vulnerabilities"],
    }
    excerpts = [
        {
            "entry_id": str(n),
            "lang": ("en", "fr", "es")[n % 3],
            "excerpt": ("Floods in the north", "Inondations dans le nord", "Inundaciones en el norte")[n % 3] + f", day {n}.",
            **{column: sorted({n % len(values), (n // 2) % len(values)}) if n % 5 else [] for column, values in labels.items()},
        }
        for n in range(50)
    ]
    features = Features(
        {
            **{name: Value("string") for name in ("entry_id", "lang", "excerpt")},
            **{column: List(ClassLabel(names=values)) for column, values in labels.items()},
        }
    )
    for column in labels:
        _write(root / "humset" / column, features, train=excerpts, validation=excerpts[:12], test=excerpts[20:30])
    return root


def _write(directory: Path, features: Features, **splits: list[dict[str, Any]]) -> None:
    directory.mkdir(parents=True)
    for name, rows in splits.items():
        Dataset.from_list(rows, features=features).to_parquet(directory / f"{name}.parquet")


class Hub:
    """Answers as the hub does, from files in memory."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        """(`datasets/owner/name` or `owner/name`, revision) to path to content."""
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, format: str, *args: Any) -> None:
                hub.requests.append(format % args)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, repository: str, revision: str, path: str, content: bytes) -> None:
        self.files.setdefault((repository, revision), {})[path] = content

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.partition("?")[0].strip("/").replace("%2F", "/")
        for (repository, revision), files in self.files.items():
            commit = revision if len(revision) == len(COMMIT) else COMMIT
            kind = repository if repository.startswith("datasets/") else f"models/{repository}"
            if path in (f"api/{kind}/revision/{revision}", *([f"api/{kind}"] if revision == "main" else [])):
                listing = {"id": repository.removeprefix("datasets/"), "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                return self._send(request, 200, json.dumps(listing).encode(), {"Content-Type": "application/json"}, with_body)
            for prefix in (f"{repository}/resolve/{revision}/", f"{repository}/resolve/{commit}/"):
                if path.startswith(prefix) and path.removeprefix(prefix) in files:
                    content = files[path.removeprefix(prefix)]
                    tag = {"ETag": f'"{hash(content) & (2**64 - 1):x}"', "X-Repo-Commit": commit}
                    return self._send(request, 200, content, tag, with_body)
        known = any(repository in path for repository, _ in self.files)
        code = "EntryNotFound" if known and ("/resolve/" in path or "/tree/" in path) else "RevisionNotFound" if known else "RepoNotFound"
        return self._send(request, 404, b"{}", {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": COMMIT}, with_body)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub on the loopback interface, empty."""
    served = Hub()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def hub_environment(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The environment of a process that uses a hub, with a cache of its own; the network is open unless `offline`."""

    def environment(endpoint: str, *, offline: bool = False) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        flags = {"HF_HUB_OFFLINE": "1"} if offline else {}
        return {
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **flags,
        }

    return environment
