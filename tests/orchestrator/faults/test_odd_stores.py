"""A store in which lies what does not belong there: another user's files, another file system, loops, pipes, sockets, monstrous JSON.

Each ends as one sentence and exit code 2, or as a job that is damaged, named, set aside and trained again.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import analysis
from analysis.reading.history import load_spans
from orchestrator.artifacts.manifest import write_manifest
from orchestrator.artifacts.store import Store
from orchestrator.cli import main
from orchestrator.definition.graph import Graph
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.claims import CLAIMS
from orchestrator.drivers.events import Journal
from orchestrator.storage.files import Storage
from orchestrator.watching.status import read_status
from scalearn.training.history import append_history
from tests.orchestrator.helpers.doubles import run_jobs
from tests.orchestrator.helpers.drivers import claiming, prepare
from tests.orchestrator.helpers.one_pack import SMALL_SWEEP
from tests.orchestrator.helpers.read_events import all_events

SOMEBODY = 65534


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Graph]:
    """A finished small sweep, `toy.yaml` in the working directory, in the store `runs`."""
    monkeypatch.chdir(tmp_path)
    Path("toy.yaml").write_text(SMALL_SWEEP)
    store, sweep = Store(tmp_path / "runs"), Sweep.load("toy.yaml")
    run_jobs(sweep.expand(), store)
    write_manifest(sweep, sweep.expand(), store, "sqlite://", None)
    return store, sweep.expand()


def close_to_us(path: Path) -> None:
    """Make a file or folder another user's, or at least one that may not be read."""
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, SOMEBODY, SOMEBODY)


def plainly(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command without the rights of root, to which no file is closed."""
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown"] if os.geteuid() == 0 else []
    if plain and shutil.which(plain[0]) is None:
        pytest.skip("root's rights cannot be laid down here")
    command = [*plain, sys.executable, "-m", "orchestrator.cli", *arguments, "--store", "runs"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command said that ended in one sentence."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("scalearn: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.fault
def test_file_of_a_job_that_is_another_users_is_damage(finished):
    store, graph = finished
    first, second, third = graph.nodes()
    for node, name in ((first, "SUCCESS.json"), (second, "adapter/weights.safetensors"), (third, "job.json")):
        close_to_us(store.directory(node) / name)
    done = plainly("verify", "toy.yaml")
    assert done.returncode == 1, done.stderr
    assert f"damaged  {first}: SUCCESS.json is not readable" in done.stdout
    assert f"damaged  {second}: adapter/weights.safetensors cannot be read (permission denied)" in done.stdout
    assert f"damaged  {third}: job.json cannot be read (permission denied)" in done.stdout
    assert plainly("status", "toy.yaml").returncode == 0
    (store.directory(first) / "SUCCESS.json").unlink()
    close_to_us(store.directory(first) / "history.jsonl")
    assert f"damaged  {first}: history.jsonl cannot be written to" in plainly("verify", "toy.yaml").stdout


@pytest.mark.fault
@pytest.mark.parametrize(
    ("closed", "command"),
    [
        ("sweeps/toy.json", ("run", "toy.yaml")),
        ("sweeps/toy.json", ("report", "toy")),
        ("sweeps", ("run", "toy.yaml")),
        (".leases", ("run", "toy.yaml", "--force")),
        ("NODE", ("run", "toy.yaml")),
    ],
)
def test_what_another_user_has_closed_ends_a_command_with_one_sentence_that_names_it(finished, closed, command):
    store, graph = finished
    (store.root / CLAIMS).mkdir(parents=True)
    place = store.root / closed.replace("NODE", graph.nodes()[0])
    close_to_us(place)
    said = sentence(plainly(*command))
    assert "ermission denied" in said
    assert str(place if closed != "sweeps/toy.json" else Path("sweeps", "toy.json")) in said


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """An empty directory that is another file system."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=60)


@pytest.mark.fault
def test_damage_is_set_aside_from_a_folder_that_lies_on_another_file_system(finished, elsewhere):
    store, graph = finished
    shutil.copytree(store.root / "domains", elsewhere / "domains", symlinks=True)
    shutil.rmtree(store.root / "domains")
    (store.root / "domains").symlink_to(elsewhere / "domains")
    broken, linked, _ = graph.nodes()
    (store.directory(broken) / "result.json").write_text("{")
    (store.directory(linked) / "loop").symlink_to("loop")
    moved = {item.node: item for item in prepare(graph, store)}
    assert set(moved) == {broken, linked}
    assert Path(moved[broken].place, "result.json").read_text() == "{"
    assert Path(moved[broken].place, "adapter", "weights.safetensors").stat().st_size == 4096
    assert Path(moved[linked].place, "loop").is_symlink()
    assert store.verify(broken).state == "absent"
    assert graph.counts()["pending"] == 2


def make_socket(path: Path) -> None:
    """Leave a socket; its path may be longer than the system takes."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


ODD = {"pipe": os.mkfifo, "socket": make_socket, "loop": lambda path: path.symlink_to(path.name), "directory": os.mkdir}


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop"])
@pytest.mark.parametrize("name", ["history.jsonl", "log.txt", "result.json", "job.json", "SUCCESS.json", "adapter/weights.safetensors"])
def test_job_with_something_else_in_the_place_of_a_file_is_set_aside(finished, name, kind):
    store, graph = finished
    node = graph.nodes()[0]
    place = store.directory(node) / name
    place.unlink()
    ODD[kind](place)
    read_status("toy", Sweep.load("toy.yaml").expand(), store).to_json()
    analysis.load(store.url, "toy")
    assert store.verify(node).state == "corrupt"
    (moved,) = prepare(graph, store)
    assert moved.node == node
    assert graph.states[node] == "pending"


@pytest.mark.parametrize("kind", ["pipe", "loop"])
def test_unfinished_job_with_something_else_in_the_place_of_its_history_is_set_aside(finished, kind):
    store, graph = finished
    node = graph.nodes()[0]
    (store.directory(node) / "SUCCESS.json").unlink()
    (store.directory(node) / "history.jsonl").unlink()
    ODD[kind](store.directory(node) / "history.jsonl")
    store.write_json(store.sidecar("toy", "drivers/x.json"), {"time": 9e12, "pid": 1, "host": "x", "running": [node]})
    read_status("toy", Sweep.load("toy.yaml").expand(), store).to_json()
    assert node in {item.node for item in prepare(graph, store)}


DEEP = "[" * 100_000 + "]" * 100_000


def nested(graph: Graph) -> str:
    inner: object = []
    text = json.dumps({"name": "toy", "nodes": [{"node": graph.nodes()[0], "parents": inner}]})
    return text.replace('"parents": []', f'"parents": {"[" * 5000}{"]" * 5000}')


@pytest.mark.parametrize("content", ["deep", "deep parents", "huge", "pipe", "socket", "loop", "directory"])
@pytest.mark.parametrize("command", [("report", "toy"), ("prune",), ("ui", "toy"), ("compare", "toy", "toy")])
def test_manifest_that_no_run_wrote_ends_in_one_sentence(finished, capsys, command, content):
    store, graph = finished
    place = store.manifest_path("toy")
    if content in ODD:
        place.unlink()
        ODD[content](place)
    elif content == "huge":
        os.truncate(place, 100 << 30)
    else:
        place.write_text(DEEP if content == "deep" else nested(graph))
    arguments = [command[0], "runs"] if command[0] == "prune" else [*command, "--store", "runs"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("scalearn: ")
    assert said.count("\n") == 1


def test_thousands_of_jobs_below_each_other_are_read(tmp_path):
    store, count = Store(tmp_path / "runs"), 5000
    names = [f"toy/m/source/adapter/t/s{number}-{number:010x}" for number in range(count)]
    nodes = [{"node": name, "parents": names[number + 1 : number + 2]} for number, name in enumerate(names)]
    store.write_json(store.manifest_path("toy"), {"name": "toy", "benchmark": "toy", "nodes": nodes})
    store.write_json(store.directory(names[-1]) / "FAILED.json", {"error": "no"})
    frame = analysis.load(store.url, "toy")
    states = dict(zip(frame.node, frame.state, strict=True))
    assert states[names[-1]] == "failed"
    assert {states[name] for name in names[:-1]} == {"blocked"}


def test_circle_of_parents_ends(tmp_path):
    store = Store(tmp_path / "runs")
    names = [f"toy/m/source/adapter/t/s{number}-{number:010x}" for number in range(3)]
    nodes = [{"node": name, "parents": [names[(number + 1) % 3]]} for number, name in enumerate(names)]
    store.write_json(store.manifest_path("toy"), {"name": "toy", "nodes": nodes})
    assert set(analysis.load(store.url, "toy").state) == {"pending"}


@pytest.mark.parametrize("name", ["history.jsonl", "sweeps/toy/events.jsonl", "sweeps/toy/tracked.json", "sweeps/toy/drivers/x.json"])
def test_deep_json_in_any_file_is_passed_over(finished, name):
    store, graph = finished
    node = graph.nodes()[0]
    place = store.root / name if "/" in name else store.directory(node) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{DEEP}\n")
    read_status("toy", Sweep.load("toy.yaml").expand(), store).to_json()
    load_spans(store.url, "toy")
    assert all_events(store, "toy") == []
    (store.directory(node) / "checkpoint").mkdir()
    prepare(graph, store)


def test_file_in_the_place_of_a_claims_folder_is_no_claim_of_somebody(tmp_path):
    """Which would be waited for without end."""
    store = Store(tmp_path / "runs")
    with claiming(store) as claims:
        (store.root / CLAIMS).write_text("")
        assert not claims.claim("a/b-0123456789")
    with pytest.raises(OSError, match=r"nodes/a/1.json cannot be read or written \(not a directory\): remove what lies in its place"):
        Storage(store.root).create(store.root / CLAIMS / "a" / "1.json", b"")


@pytest.mark.parametrize("mask", [0o002, 0o027])
def test_everything_in_a_store_follows_the_umask_and_keeps_the_group(tmp_path, mask):
    (tmp_path / "runs").mkdir()
    group = SOMEBODY if os.geteuid() == 0 else os.getegid()
    os.chown(tmp_path / "runs", -1, group)
    (tmp_path / "runs").chmod(0o2777 & ~mask)
    before = os.umask(mask)
    try:
        store, sweep = Store(tmp_path / "runs"), Sweep.from_text(SMALL_SWEEP)
        with claiming(store) as claims, Journal(store, "toy", sweep.expand()) as journal:
            run_jobs(sweep.expand(), store)
            write_manifest(sweep, sweep.expand(), store, "sqlite://", None)
            claims.claim(sweep.expand().nodes()[0])
            store.fail(sweep.expand().nodes()[1], "no", "no")
            store.set_aside(sweep.expand().nodes()[2], "to see")
            (store.directory(sweep.expand().nodes()[1]) / "history.jsonl").unlink()
            append_history(store.directory(sweep.expand().nodes()[1]), {"step": 1})
            journal.note("set_aside")
            found = {path: path.lstat() for path in [store.root, *store.root.rglob("*")]}
    finally:
        os.umask(before)
    assert len(found) > 40
    assert {facts.st_gid for facts in found.values()} == {group}
    assert {stat.S_IMODE(facts.st_mode) for facts in found.values() if stat.S_ISDIR(facts.st_mode)} == {0o2777 & ~mask}
    modes = {path: stat.S_IMODE(facts.st_mode) for path, facts in found.items() if stat.S_ISREG(facts.st_mode)}
    assert {path: oct(mode) for path, mode in modes.items() if mode != 0o666 & ~mask} == {}
