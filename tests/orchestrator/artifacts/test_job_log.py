"""Every job has a log of its own, in a pack too, and `scalearn logs` shows it."""

import logging
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.artifacts.job_log import LOG, follow, logged
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.execution.trial import MemberOrder, PackOrder, run_pack
from scalearn.config import DataConfig
from scalearn.data import tokenised
from scalearn.tasks import definition_of, own_task
from scalearn.tasks.origin import data_origin
from scalearn.training.pack import Outcome, PackMember, Report
from scalearn.training.runtime import Runtime
from tests.orchestrator.helpers.doubles import behave, run_jobs, source, train
from tests.orchestrator.helpers.launch import SWEEP
from tests.scalearn.helpers.small import byte_tokenizer


def talk(pack: Sequence[PackMember], runtime: Runtime, report: Report) -> list[Outcome]:
    """Train as the double does, and say what training and its libraries may say."""
    warnings.warn("The head was initialised anew.", stacklevel=1)
    logging.getLogger("scalearn.training.loop").info("The batch is computed in 2 parts.")
    logging.getLogger("somebody.else").info("chatter")
    return train(pack, runtime, report)


def run_together(graph: Graph, store: Store, function: str = "tests.orchestrator.artifacts.test_job_log:talk") -> None:
    orders = tuple(MemberOrder(job.node, job.config, {"node": job.node}, {}) for job in graph)
    run_pack(PackOrder(orders, str(store.root), function, Runtime(), store.root / "stop"))


def log_of(store: Store, node: str) -> str:
    return (store.directory(node) / LOG).read_text()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_pack_gives_each_member_its_own_lines_and_all_of_them_the_common_ones(store):
    graph = Graph([source("s0"), source("s1")])
    first, second = graph.nodes()
    behave(store, ("s1/", {"error": "The loss became nan."}))
    run_together(graph, store)
    ours, theirs = log_of(store, first), log_of(store, second)
    for text in (ours, theirs):
        assert "INFO    scalearn.training.loop: The batch is computed in 2 parts." in text
        assert "UserWarning: The head was initialised anew." in text
        assert "chatter" not in text
        assert text.count("step 10, epoch 1: train_loss 1, validation loss 1, accuracy 0.5") == 1
    assert "Succeeded." in ours
    assert "nan" not in ours
    assert "ERROR   orchestrator.execution.trial: Failed: The loss became nan." in theirs
    assert "Succeeded." not in theirs
    assert store.verify(first).state == "complete"


def test_log_of_a_job_that_crashed_has_the_traceback_and_goes_on_with_the_next_attempt(store):
    graph = Graph([source("s0")])
    (node,) = graph.nodes()
    behave(store, (".", {"crash": "no such column"}))
    run_together(graph, store)
    assert "RuntimeError: no such column" in log_of(store, node)
    behave(store)
    run_together(graph, store)
    text = log_of(store, node)
    assert text.count("Begun on ") == 2
    assert text.index("RuntimeError") < text.index("Succeeded.")


def test_worker_logs_as_before_once_its_pack_has_ended(store):
    root, level = logging.getLogger(), logging.getLogger("scalearn").level
    before = list(root.handlers)
    run_together(Graph([source("s0")]), store)
    run_together(Graph([source("s1")]), store)
    assert root.handlers == before
    assert logging.getLogger("scalearn").level == level
    # A warning that the process has shown already is shown to the next job too.
    assert all("initialised anew" in log_of(store, source(name).node) for name in ("s0", "s1"))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SWEEP)
    return Sweep.load("toy.yaml").expand()


def test_logs_command_shows_one_jobs_log_and_where_the_traceback_lies(sweep, store, capsys):
    behave(store, ("adapter/bbc/", {"error": "The loss became nan."}))
    run_jobs(sweep, store)
    done, failed = (next(node for node in sweep.nodes() if f"adapter/{task}/" in node) for task in ("apple", "bbc"))
    assert main(["logs", "toy.yaml", done.rpartition("-")[0]]) == 0
    assert capsys.readouterr().out == log_of(store, done)
    assert main(["logs", "toy.yaml", failed, "--follow"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Failed: The loss became nan. ({store.directory(failed) / 'traceback.txt'})"


def test_logs_command_on_what_has_none_is_one_sentence(sweep, store, capsys):
    assert main(["logs", "toy.yaml", sweep.nodes()[0]]) == 2
    assert f"{sweep.nodes()[0]} has no log in {store.root}: it was not begun" in capsys.readouterr().err
    assert main(["logs", "toy.yaml", "domains/minilm/source/adapter/aple/lr1e-04-seed0"]) == 2
    assert "did you mean domains/minilm/source/adapter/apple/" in capsys.readouterr().err


def test_logs_command_follows_a_job_until_it_has_ended(sweep, store, capsys):
    job = sweep.job(sweep.nodes()[0])
    behave(store, (".", {"epochs": 6, "seconds": 0.2}))

    def later() -> None:
        time.sleep(0.5)  # the command must wait for a log, too
        run_together(Graph([job]), store)

    thread = threading.Thread(target=later)
    thread.start()
    assert main(["logs", "toy.yaml", job.node, "--follow"]) == 0
    thread.join()
    assert capsys.readouterr().out == log_of(store, job.node)


def test_log_is_read_in_pieces_and_none_of_it_twice():
    """Pieces smaller than a line, characters of two bytes, a job that begins anew, and half a line at the end."""
    content, asked = "".join(f"Zeile {number}: äöü\n" for number in range(20)).encode(), []
    looks = iter([content[:100], content, content, b"anew\n", b"anew\nhalf \xc3\xa4"])
    now = [next(looks)]

    def read(start: int) -> tuple[bytes, int]:
        asked.append(start)
        return now[0][start : start + 30], len(now[0])

    shown = "".join(follow(read, lambda: now[0].endswith(b"\xa4"), lambda: now.__setitem__(0, next(looks))))
    assert shown == content.decode() + "anew\nhalf ä"
    assert asked.count(0) == 2, "it was read from the start where it began anew, and not otherwise"


def test_log_warns_of_suspicious_labels_where_the_tokens_come_from_the_cache_too(tmp_path):
    (tmp_path / "mine/t").mkdir(parents=True)
    (tmp_path / "mine/t/train.csv").write_text("text,label\n" + "".join(f"text {n},{('pos', 'pos ')[n % 2]}\n" for n in range(40)))
    task = own_task("mine/t", {"columns": "text", "splits": {"validation": None, "test": None}})
    config = DataConfig("mine/t", data_origin(task, tmp_path), own=definition_of(task))
    for job in ("first", "second"):
        (tmp_path / job).mkdir()
        with logged({job: tmp_path / job}):
            tokenised(config, byte_tokenizer(), "bytes", root=tmp_path, cache=tmp_path / "cache")
        assert (tmp_path / job / LOG).read_text().count("the labels 'pos', 'pos ' of train are classes of their own") == 1
