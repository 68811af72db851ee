"""Stores behind URLs keep the promises of a directory without renames: on a real S3 server, and in memory where that will do."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

import analysis
import orchestrator.storage.url as store_url
from orchestrator.artifacts.store import Store, Verdict
from orchestrator.cli import main
from orchestrator.definition.sweep import Sweep
from orchestrator.drivers.heartbeat import Heartbeat
from orchestrator.storage.retrying import StoreUnavailable
from orchestrator.watching.status import read_status
from scalearn.errors import UserError
from tests.orchestrator.helpers.drivers import give_sign, read_sign
from tests.orchestrator.helpers.object_server import BUCKET, MANY, many
from tests.orchestrator.helpers.one_pack import SMALL_SWEEP

NODE = "toy/minilm/source/adapter/s0/lr6e-03-seed0-0123456789"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """This host's working copies."""
    monkeypatch.setenv("SCALEARN_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def url():
    return f"memory://{uuid.uuid4().hex}/runs"


def elsewhere(url: str, monkeypatch: pytest.MonkeyPatch, place: Path) -> Store:
    """The same store on another host: nothing local is shared."""
    monkeypatch.setenv("SCALEARN_SCRATCH", str(place))
    return Store(url)


def work(directory: Path, epoch: int = 1) -> None:
    (directory / "checkpoint").mkdir(exist_ok=True)
    (directory / "checkpoint" / "epoch").write_text(str(epoch))
    with (directory / "history.jsonl").open("a") as history:
        history.write(json.dumps({"step": epoch}) + "\n")


def finish(directory: Path, content: bytes = b"\x01" * 4096) -> None:
    (directory / "adapter").mkdir(exist_ok=True)
    (directory / "adapter" / "weights.safetensors").write_bytes(content)
    (directory / "result.json").write_text('{"scores": {}}')


def committed(store: Store, node: str = NODE) -> Store:
    directory = store.begin(node, {"node": node})
    work(directory)
    finish(directory)
    store.commit(node)
    return store


def test_committed_artifact_is_whole_and_the_checkpoint_is_gone(url):
    store = committed(Store(url))
    assert store.verify(NODE) == Verdict("complete")
    assert store.verify_all([NODE], thorough=False) == {NODE: Verdict("complete")}
    assert store.state(NODE) == "succeeded"
    names = set(store.storage.listing(store.directory(NODE)))
    assert names == {"SUCCESS.json", "adapter/weights.safetensors", "history.jsonl", "job.json", "result.json"}


def test_unfinished_job_resumes_on_another_host_from_what_was_published(url, tmp_path, monkeypatch):
    store = Store(url)
    directory = store.begin(NODE, {})
    work(directory, 1)
    store.publish(NODE)
    work(directory, 2)
    store.publish(NODE)
    work(directory, 3)  # lost with the host
    other = elsewhere(url, monkeypatch, tmp_path / "other")
    resumed = other.begin(NODE, {})
    assert (resumed / "checkpoint" / "epoch").read_text() == "2"
    assert [json.loads(line)["step"] for line in (resumed / "history.jsonl").read_text().splitlines()] == [1, 2]
    assert json.loads((resumed / "job.json").read_text())["attempts"] == 2


def test_store_that_is_away_while_a_job_resumes_is_no_reason_to_start_anew(url, tmp_path, monkeypatch):
    store = Store(url)
    work(store.begin(NODE, {}), 1)
    store.publish(NODE)
    other = elsewhere(url, monkeypatch, tmp_path / "other")
    with monkeypatch.context() as patch:
        download = other.storage.download

        def away(path: Path, file: Path) -> None:
            if "/checkpoint/" in str(path):
                raise StoreUnavailable("away")
            download(path, file)

        patch.setattr(other.storage, "download", away)
        with pytest.raises(StoreUnavailable):
            other.begin(NODE, {})
    assert (other.begin(NODE, {}) / "checkpoint" / "epoch").read_text() == "1"


def test_checkpoint_that_is_replaced_while_it_is_fetched_is_fetched_anew(url, tmp_path, monkeypatch):
    store = Store(url)
    directory = store.begin(NODE, {})
    work(directory, 1)
    store.publish(NODE)
    other = elsewhere(url, monkeypatch, tmp_path / "other")
    download = other.storage.download

    def late(path: Path, file: Path) -> None:
        if "/checkpoint/" in str(path) and (directory / "checkpoint" / "epoch").read_text() == "1":
            work(directory, 2)
            store.publish(NODE)  # by a worker that was taken for dead
        download(path, file)

    monkeypatch.setattr(other.storage, "download", late)
    assert (other.begin(NODE, {}) / "checkpoint" / "epoch").read_text() == "2"


def test_host_keeps_the_working_copies_of_living_workers_alone(url, scratch):
    first = Store(url)
    held = first.begin(NODE, {})
    work(held)
    assert first.storage.listing(first.directory(NODE)).keys() == {"job.json"}
    second = Store(url)  # another worker of this host takes the node over, and the first does not know yet
    taken = second.begin(NODE, {})
    assert taken != held
    assert (held / "checkpoint" / "epoch").exists()
    first.publish(NODE, force=True)
    copies = [copy.parent for copy in scratch.rglob("job.json")]
    assert len(copies) == 2
    finish(taken)
    second.commit(NODE)
    first = None  # as a worker that ends without a word
    other = NODE.replace("seed0", "seed1")
    copies = [copy.parent for copy in scratch.rglob("job.json")]
    left = second.begin(other, {})
    assert [copy.parent for copy in scratch.rglob("job.json")] == [left], copies


def test_half_published_checkpoint_is_not_seen(url, tmp_path, monkeypatch):
    store = Store(url)
    directory = store.begin(NODE, {})
    work(directory, 1)
    store.publish(NODE)
    # An upload that ended before the pointer was written.
    store.storage.write(store.directory(NODE) / "checkpoint" / "99999-x" / "epoch", b"7")
    resumed = elsewhere(url, monkeypatch, tmp_path / "other").begin(NODE, {})
    assert (resumed / "checkpoint" / "epoch").read_text() == "1"


def test_damaged_checkpoint_is_not_used(url, tmp_path, monkeypatch):
    store = Store(url)
    directory = store.begin(NODE, {})
    work(directory, 1)
    store.publish(NODE)
    (name,) = [name for name in store.storage.listing(store.directory(NODE)) if name.endswith("/epoch")]
    store.storage.write(store.directory(NODE) / name, b"9")
    resumed = elsewhere(url, monkeypatch, tmp_path / "other").begin(NODE, {})
    assert not (resumed / "checkpoint").exists()


def test_commit_that_ends_before_the_marker_leaves_the_node_undone(url, tmp_path, monkeypatch):
    store = Store(url)
    directory = store.begin(NODE, {})
    finish(directory)
    monkeypatch.setattr(store.storage, "write_json", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.commit(NODE)
    assert Store(url).verify(NODE).state == "unfinished"
    # What that attempt left must not become part of the next one's artifact.
    other = elsewhere(url, monkeypatch, tmp_path / "other")
    again = other.begin(NODE, {})
    (again / "transfer").mkdir()
    (again / "transfer" / "weights.safetensors").write_bytes(b"2")
    (again / "result.json").write_text("{}")
    other.commit(NODE)
    assert "adapter/weights.safetensors" not in other.storage.listing(other.directory(NODE))
    assert other.verify(NODE) == Verdict("complete")


def test_parent_is_fetched_once_per_host_and_again_after_it_was_trained_again(url, tmp_path, monkeypatch):
    committed(Store(url))
    other = elsewhere(url, monkeypatch, tmp_path / "other")
    fetched = other.fetch(NODE) / "adapter" / "weights.safetensors"
    stamp = fetched.stat().st_mtime_ns
    assert Store(url).fetch(NODE) == fetched.parents[1]
    assert fetched.stat().st_mtime_ns == stamp
    monkeypatch.setenv("SCALEARN_SCRATCH", str(tmp_path / "third"))
    third = Store(url)
    finish(third.begin(NODE, {}), b"\x02" * 4096)
    third.commit(NODE)
    assert (other.fetch(NODE) / "adapter" / "weights.safetensors").read_bytes() == b"\x02" * 4096


def test_damaged_parent_is_refused_by_name(url, tmp_path, monkeypatch):
    store = committed(Store(url))
    store.storage.write(store.directory(NODE) / "adapter" / "weights.safetensors", b"\x03" * 4096)
    with pytest.raises(UserError, match=r"adapter/weights.safetensors does not match its sha256. Run the sweep again"):
        elsewhere(url, monkeypatch, tmp_path / "other").fetch(NODE)


def test_set_aside_moves_every_file_and_says_why(url):
    store = committed(Store(url))
    place = store.set_aside(NODE, "a bit was flipped")
    assert store.verify(NODE).state == "absent"
    kept = set(store.storage.listing(place))
    assert kept == {"SET_ASIDE.txt", "SUCCESS.json", "adapter/weights.safetensors", "history.jsonl", "job.json", "result.json"}


def test_create_lets_exactly_one_writer_through(url):
    store = Store(url)
    path = store.root / "leases" / "x.json"
    assert store.storage.create(path, b"mine") is True
    assert store.storage.create(path, b"yours") is False
    assert store.storage.read(path) == b"mine"


def test_failure_is_recorded_with_its_traceback_and_forgotten_by_the_next_attempt(url):
    store = Store(url)
    store.begin(NODE, {})
    store.fail(NODE, "ValueError: no\nmore", "Traceback ...\n")
    assert store.verify(NODE) == Verdict("failed", "ValueError: no")
    assert (store.directory(NODE) / "traceback.txt").read_text() == "Traceback ...\n"
    store.begin(NODE, {})
    assert store.state(NODE) == "pending"


def test_namesakes_are_the_records_at_the_same_path(url):
    store = committed(committed(Store(url)), NODE[:-10] + "abcdefabcd")
    assert [record["node"][-10:] for record in store.namesakes(NODE[:-11])] == ["0123456789", "abcdefabcd"]


def test_glance_tells_states_and_namesakes_and_is_mended_where_a_worker_died_before_its_hint(url):
    store = committed(Store(url))
    failed, absent = NODE[:-10] + "abcdefabcd", NODE[:-10] + "eeeeeeeeee"
    store.begin(failed, {"node": failed})
    store.fail(failed, "no", "no")
    seen = store.glance([NODE, failed, absent])
    assert [seen.state(node) for node in (NODE, failed, absent)] == ["succeeded", "failed", "pending"]
    assert seen.read_json(NODE, "result.json") == {"scores": {}}
    assert [record["node"][-10:] for record in seen.namesakes(NODE[:-11])] == ["0123456789", "abcdefabcd"]
    store.storage.remove(store.root / ".index" / "succeeded" / NODE)
    assert store.glance([NODE]).state(NODE) == "pending"
    store.mend_index(store.verify_all([NODE]))
    assert store.glance([NODE]).state(NODE) == "succeeded"
    store.set_aside(NODE, "no longer wanted")
    assert store.glance([NODE]).state(NODE) == "pending"


def test_an_url_of_s3_claims_reads_and_lists_as_others_do(object_server, monkeypatch):
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    store = committed(Store(f"s3://{BUCKET}/{uuid.uuid4().hex}"))
    assert store.storage.create(store.root / "x.json", b"mine") is True
    assert store.storage.create(store.root / "x.json", b"yours") is False
    assert store.verify_all([NODE], thorough=False) == {NODE: Verdict("complete")}
    # Other bytes of the same length: the object's tag is another one.
    store.storage.write(store.directory(NODE) / "adapter" / "weights.safetensors", b"\x02" * 4096)
    verdict = Verdict("corrupt", "adapter/weights.safetensors does not match its sha256")
    assert store.verify_all([NODE], thorough=False) == {NODE: verdict}


@pytest.mark.parametrize("command", [["plan"], ["status"], ["verify"], ["run"]])
def test_command_on_a_store_that_is_away_says_so_at_once(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "toy.yaml").write_text(SMALL_SWEEP)
    # By its name in the URL and not in the environment: fsspec remembers the address that it first saw.
    monkeypatch.setitem(
        store_url._OPTIONS, "s3", {**store_url._OPTIONS["s3"], "endpoint_url": "http://127.0.0.1:1", "key": "x", "secret": "x"}
    )
    assert main([*command, str(tmp_path / "toy.yaml"), "--store", f"s3://{BUCKET}/away"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"scalearn: The store s3://{BUCKET}/away could not be reached (Could not connect to the endpoint URL")


@pytest.mark.slow
def test_ten_thousand_jobs_are_told_by_few_requests(object_server, monkeypatch):
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    store, nodes = Store(f"s3://{MANY}/runs"), [many(number) for number in range(10_000)]
    before = object_server.requests()
    assert set(store.states(nodes).values()) == {"succeeded"}
    assert object_server.requests() - before <= 15
    running = "toy/none/none/none/none/none"
    with Heartbeat(store, "many", running=lambda: [running]) as heartbeat:
        sign = read_sign(store, heartbeat.name)
    give_sign(store, heartbeat.name, **sign)  # as one that asks the server for nothing meanwhile
    before = object_server.requests()
    status = read_status("many", ManyJobs([*nodes, running]), store)
    # Of 8 methods 8 results each, where there would be 10,000.
    assert object_server.requests() - before <= 15 + 64 + 8
    assert status.to_json()["jobs"]["by_state"] == {"succeeded": 10_000, "running": 1}


class ManyJobs:
    """What the status asks of a graph: planning one of so many jobs would be the longest part of the test."""

    def __init__(self, nodes: list[str]) -> None:
        self.states = dict.fromkeys(nodes, "pending")

    def nodes(self) -> list[str]:
        return list(self.states)

    def mark(self, node: str, state: str) -> None:
        self.states[node] = state

    def parents(self, node: str) -> tuple[str, ...]:
        return ()

    def stage_of(self, node: str) -> str:
        return node.split("/")[2]

    def job(self, node: str) -> SimpleNamespace:
        return SimpleNamespace(config=SimpleNamespace(method=node.split("/")[3]), tasks=(node.split("/")[4],))


def test_start_of_a_run_reads_one_object_per_finished_job(object_server, monkeypatch):
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    store, nodes = Store(f"s3://{BUCKET}/{uuid.uuid4().hex}"), [many(number) for number in range(24)]
    for node in nodes:
        store.storage.write(store.directory(node) / "result.json", b"{}")
    entries = {node: store.storage.listing(store.directory(node))["result.json"] for node in nodes}
    for node, facts in entries.items():
        entry = {"size": 2, "sha256": "never compared", "etag": facts["ETag"]}
        store.write_json(store.directory(node) / "SUCCESS.json", {"files": {"result.json": entry}})
        store.storage.write(store.root / ".index" / "succeeded" / node, b"")
    before = object_server.requests()
    verdicts = store.verify_all(nodes, thorough=False)
    assert store.mend_index(verdicts) == {}
    assert set(verdicts.values()) == {Verdict("complete")}
    folders = 8  # one listing each, and two of the index
    assert object_server.requests() - before <= len(nodes) + 2 * folders + 4


@pytest.fixture(scope="module")
def swept(object_server, tmp_path_factory, repository):
    """A sweep run through Ray into S3; then an object damaged, and run again on another host."""
    place = tmp_path_factory.mktemp("swept")
    (place / "toy.yaml").write_text(SMALL_SWEEP)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "tests.orchestrator.helpers.command", "run", str(place / "toy.yaml"), "--store", url]
    environment = {**os.environ, **object_server.environment, "PYTHONPATH": str(repository)}

    def run(host: str) -> "subprocess.CompletedProcess[str]":
        scratch = {"SCALEARN_SCRATCH": str(place / host)}
        return subprocess.run(command, cwd=place, env=environment | scratch, capture_output=True, text=True, timeout=500)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**object_server.environment, "SCALEARN_SCRATCH": str(place / "here")}.items():
            patch.setenv(name, value)
        first = run("one")
        store, graph = Store(url), Sweep.load(place / "toy.yaml").expand()
        damaged = graph.nodes()[0]
        if first.returncode == 0:
            store.storage.write(store.directory(damaged) / "adapter" / "weights.safetensors", b"\x02" * 4096)
        code = main(["verify", str(place / "toy.yaml"), "--store", url])
        yield place, store, graph, first, code, run("two")


@pytest.mark.slow
def test_sweep_into_s3_ends_with_its_table_and_keeps_nothing_but_artifacts_there(swept):
    place, store, graph, first, _, _ = swept
    assert first.returncode == 0, first.stdout + first.stderr
    assert "ScaLearnUniform" in first.stdout
    assert f"Runs are logged to sqlite:///{place / 'mlflow.db'}, on this machine alone" in first.stdout
    kept = {name.split("/")[0] for name in store.storage.listing(store.root)}
    assert kept <= {".index", ".leases", ".set_aside", ".cache", "domains", "sweeps"}
    assert not [name for name in store.storage.listing(store.root) if "/checkpoint/" in name or name.endswith("/stop")]
    assert len(graph) == 3


@pytest.mark.slow
def test_damaged_object_is_found_by_verify_and_trained_again_alone_by_the_next_run(swept):
    _, store, graph, _, code, second = swept
    damaged, *others = graph.nodes()
    assert code == 1
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"Set aside {damaged}: adapter/weights.safetensors does not match its sha256." in second.stdout
    assert "2 done before, 1 to run" in second.stdout
    assert {node: store.verify(node).state for node in graph.nodes()} == dict.fromkeys(graph.nodes(), "complete")
    assert {store.read_json(node, "job.json")["attempts"] for node in others} == {1}


@pytest.mark.slow
def test_analysis_loads_a_sweep_from_s3(swept):
    _, store, graph, _, _, _ = swept
    frame = analysis.load(store.url, sweep="toy")
    assert set(frame["node"]) == set(graph.nodes())
    assert set(frame["state"]) == {"succeeded"}
    assert set(analysis.load(store.url)["node"]) == set(graph.nodes())
