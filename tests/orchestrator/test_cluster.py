"""Resources against a cluster that is described, and `ray job submit` to a cluster that is real."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.dashboard.modules.job.job_supervisor import JobSupervisor

from orchestrator.definition.graph import Graph
from orchestrator.definition.resources import shape_of
from orchestrator.definition.sweep import Sweep
from orchestrator.execution import cluster as cluster_module
from orchestrator.execution.cluster import Cluster, describe_gpus, refuse_unplaceable
from orchestrator.execution.schedule import GRACE_SECONDS
from orchestrator.planning.cost import CostModel
from orchestrator.planning.packing import Policy
from orchestrator.planning.profile import load_profile
from orchestrator.planning.turns import Turns
from scalearn.errors import UserError
from tests.orchestrator.doubles import source, transfer
from tests.ports import free_ports

SMALL = """
name: small
benchmark: domains
backbone: minilm
methods: {scalearn: {}, scalearn_pp: {}}
"""

SWEEP = """
name: submitted
benchmark: domains
backbone: minilm
data: {train_rows: 40, evaluation_rows: 20, max_length: 16}
sources: {tasks: [apple, bbc]}
targets: [apple]
methods:
  scalearn_uniform_pp: {}
training: {epochs: 1}
resources: {transfer: {custom: {fast: 1}}}
"""
"""Two sources, and a job that fits on the second node of the cluster below alone."""


def cluster(*nodes: dict[str, float]) -> Cluster:
    return Cluster(nodes, None, is_local=False)


@pytest.mark.parametrize(
    ("nodes", "shapes", "expected"),
    [
        ([{"CPU": 8}], [{"CPU": 1}], 8),
        ([{"CPU": 8, "GPU": 2}], [{"CPU": 1, "GPU": 0.25}], 8),
        ([{"CPU": 8, "GPU": 1}], [{"CPU": 1, "GPU": 0.3}], 3),
        ([{"CPU": 8}], [{"CPU": 4}, {"CPU": 2}], 4),
        ([{"CPU": 3}, {"CPU": 3}], [{"CPU": 2}], 2),  # the third CPU of each node is of no use
        ([{"CPU": 4, "memory": 6e9}, {"CPU": 4, "fast": 1, "memory": 64e9}], [{"CPU": 1, "memory": 4e9}], 5),
        ([{"CPU": 4}, {"CPU": 4, "fast": 1}], [{"CPU": 1, "fast": 0.5}], 2),
    ],
)
def test_room_is_what_fits_of_the_smallest_job_node_by_node(nodes, shapes, expected):
    assert max(Turns(dict(zip("abc", shapes, strict=False)), lambda: nodes).room.values()) == expected


@pytest.mark.parametrize(
    ("nodes", "shape", "sentence"),
    [
        (
            [{"CPU": 8}],
            {"CPU": 1, "GPU": 1},
            "glue/x needs 1 GPU and the cluster has 0: lower `resources` in the sweep file, or use a larger cluster; `gpu: 0` keeps",
        ),
        ([{"CPU": 4}, {"CPU": 4}], {"CPU": 6}, "needs 6 CPU on one node and the largest has 4:"),
        ([{"CPU": 16}, {"CPU": 2, "GPU": 1}], {"CPU": 4, "GPU": 1}, "needs 4 CPU and 1 GPU on one node, and no node has them together:"),
        ([{"CPU": 4, "memory": 2**32}], {"CPU": 1, "memory": 2**33}, "needs 8 GiB of memory and the cluster has 4 GiB:"),
        ([{"CPU": 4}], {"CPU": 1, "fast": 1}, "needs 1 fast and the cluster has 0:"),
        ([{"CPU": 4, "accelerator_type:T4": 1}], {"CPU": 1, "accelerator_type:A100": 0.001}, "of type A100 and the cluster has T4:"),
        ([], {"CPU": 1}, "needs 1 CPU and the cluster has 0:"),
    ],
)
def test_job_that_no_node_can_hold_is_refused_with_what_is_missing(nodes, shape, sentence):
    with pytest.raises(UserError) as caught:
        refuse_unplaceable(cluster(*nodes), {"glue/fits": {"CPU": 0.5} if nodes else shape, "glue/x": shape})
    assert sentence in str(caught.value)


def test_nodes_that_an_autoscaler_may_start_count_and_dead_ones_do_not(monkeypatch):
    alive = {"Alive": True, "Resources": {"CPU": 4.0, "node:10.0.0.1": 1.0}}
    monkeypatch.setattr(cluster_module.ray, "nodes", lambda: [alive, {"Alive": False, "Resources": {"CPU": 64.0}}])
    groups = [SimpleNamespace(resources={"CPU": 8, "GPU": 2}, max_count=2), SimpleNamespace(resources={"CPU": 96}, max_count=0)]
    config = SimpleNamespace(node_group_configs=groups)
    monkeypatch.setattr(cluster_module.global_state, "get_cluster_config", lambda: config)
    shapes = {"a": {"CPU": 1, "GPU": 1}, "b": {"CPU": 16}}
    assert Turns(shapes, cluster_module.nodes).room == {"a": 4, "b": 0}
    with pytest.raises(UserError, match="b needs 16 CPU on one node and the largest has 8"):
        refuse_unplaceable(cluster(*cluster_module.nodes()), {"b": {"CPU": 16}})
    groups[1].max_count = -1  # no limit
    assert Turns(shapes, cluster_module.nodes).room["b"] >= 1000


def test_methods_resources_win_over_the_stages_and_never_enter_the_identity():
    text = (
        "resources: {transfer: {cpu: 2, gpu: 0.5}, methods: {scalearn: {gpu: 1, memory: 8 GiB, custom: {fast: 1}, accelerator_type: A100}}}"
    )
    plain, sweep = Sweep.from_text(SMALL), Sweep.from_text(SMALL + text)
    assert shape_of(sweep.resources.of("transfer", "scalearn")) == {
        "CPU": 2.0,
        "GPU": 1.0,
        "memory": 8 * 2**30,
        "fast": 1.0,
        "accelerator_type:A100": 0.001,
    }
    assert shape_of(sweep.resources.of("transfer", "scalearn_pp")) == {"CPU": 2.0, "GPU": 0.5}
    assert sweep.expand().nodes() == plain.expand().nodes()


GPU_NODES = ({"CPU": 8.0}, {"CPU": 8.0, "GPU": 8.0})
STATED = "resources: {transfer: {gpu: 0.25}, single: {gpu: 0}, methods: {scalearn: {cpu: 2}}}"
NO_TORCH = "GPUs: 8, not used (the torch that is installed cannot use them); jobs run on CPUs"


@pytest.mark.parametrize(
    ("cluster", "amounts", "line"),
    [
        (Cluster(GPU_NODES, None, False, gpus=8.0), {"source": 1.0, "transfer": 0.25, "single": 0.0}, "GPUs: 8, 0 to 1 per job or pack"),
        (Cluster(GPU_NODES, None, False), {"source": 1.0}, "GPUs: none up yet, some are started when jobs wait, 1 per job or pack"),
        (Cluster(GPU_NODES[:1], None, False), {"source": 0.0, "single": 0.0}, "GPUs: none; jobs run on CPUs"),
        (Cluster(GPU_NODES, None, False, gpus=8.0), {"single": 0.0}, "GPUs: 8, not used (`gpu: 0` in the sweep file); jobs run on CPUs"),
        (Cluster(GPU_NODES, None, True, gpus=8.0, torch_sees_gpus=False), {"source": 0.0, "single": 0.0}, NO_TORCH),
    ],
)
def test_trial_without_a_stated_gpu_gets_one_where_the_cluster_has_any(cluster, amounts, line):
    resources = Sweep.from_text(SMALL + STATED).resources
    shapes = {stage: shape_of(resources.of(stage), cluster.default_gpu) for stage in amounts}
    assert {stage: shape.get("GPU", 0.0) for stage, shape in shapes.items()} == amounts
    assert shape_of(resources.of("transfer", "scalearn"), cluster.default_gpu) == {"CPU": 2.0, "GPU": 0.25}
    assert describe_gpus(cluster, shapes.values()) == line


def test_local_ray_that_a_busy_machine_starts_too_slowly_is_started_once_more(monkeypatch):
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"})
    slow = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
    said = [slow, slow, "no memory"]

    def start(*arguments, **settings):
        raise Exception(said.pop(0))

    monkeypatch.setattr(cluster_module.ray, "init", start)
    for reason, left in (("timed out", 1), ("no memory", 0)):  # a second time is too often, and nothing else is tried again
        with pytest.raises(Exception, match=reason), cluster_module.connected(1, 0):
            pass
        assert len(said) == left


def test_jobs_of_unlike_resources_are_not_packed_together():
    top = source("s0")
    graph = Graph([transfer("t0", [top], seed) for seed in range(4)])
    graph.mark(top.node, "cached")
    cost = CostModel(load_profile("h100_estimate"), pack=4)
    assert len(Policy(graph, cost).take()) == 4
    policy = Policy(graph, cost, apart=lambda job: job.config.seed % 2)
    taken = [{graph.job(node).config.seed for node in policy.take()} for _ in range(2)]
    assert sorted(map(sorted, taken)) == [[0, 2], [1, 3]]


class Head:
    """A cluster of two nodes, as `docs/cluster.md` starts it, with ports and a token of its own; the second has a resource `fast`."""

    def __init__(self) -> None:
        # Short: Ray puts sockets below it, whose paths may have 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
        token = self.directory / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self._own_environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_JOB_STOP_WAIT_TIME_S": "60",  # and not 3: a busy machine takes longer to end in order
        }
        self.log = self.directory / "head.log"
        self.second: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        port, dashboard, client, agent, second = free_ports(5)
        self.environment = {**self._own_environment, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--dashboard-host=127.0.0.1"]
        command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--temp-dir={self.directory / 'ray'}", "--object-store-memory=200000000", "--disable-usage-stats"]
        self.address = f"127.0.0.1:{port}"
        self._join = ["ray", "start", "--block", f"--address={self.address}", "--disable-usage-stats", "--num-cpus=1"]
        # Of two nodes on one machine, the later one to unpack an upload removes the other's copy where they share a directory.
        self._join += [f"--temp-dir={self.directory / 'second'}"]
        self._join += ['--resources={"fast": 1}', f"--dashboard-agent-listen-port={second}", "--object-store-memory=200000000"]
        self.process = self._call_ray(command)

    def _call_ray(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with self.log.open("a") as log:
            return subprocess.Popen(command, env=self._own_environment, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until the job server answers. Ray gives its own start 30 seconds, which a busy machine may need more than once."""
        deadline, starts = time.monotonic() + 400, 1
        while self.call("ray", "job", "list").returncode:
            if self.process.poll() is not None:
                assert starts < 3, self.log.read_text()
                starts += 1
                self._start()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)
        self.second = self._call_ray(self._join)
        while "fast" not in self.call("ray", "status", f"--address={self.address}").stdout:
            assert self.second.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()

    def call(self, *command: str, directory: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, env=self.environment, cwd=directory, capture_output=True, text=True, timeout=400)

    def stop(self) -> None:
        """Stop this cluster alone: with `--block`, a node takes its own processes with it."""
        for process in (self.second, self.process):
            if process is not None:
                process.terminate()
                process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head()
    try:
        started.wait()
        yield started
    finally:
        started.stop()


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    """What a user would upload: the packages and a sweep."""
    directory = tmp_path / "project"
    for package in ("scalearn", "orchestrator", "analysis", "sweeps"):
        shutil.copytree(repository / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    (directory / "small.yaml").write_text(SWEEP)
    return directory


def test_documented_flags_are_those_that_the_tests_start_ray_with(repository):
    page = (repository / "docs" / "cluster.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("ray start --head")]
    documented = {flag.partition("=")[0] for flag in line.split() if flag.startswith("--")}
    source = Path(__file__).read_text()
    assert not [flag for flag in documented if f'"{flag}' not in source]


class Proxy:
    """A tunnel to the dashboard that can break: `cut` ends every connection, and none is let in until `mend`."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._broken = False
        self.refused = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._broken = True
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._broken = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if self._broken:
                self.refused += 1
                inner.close()
                continue
            outer = socket.create_connection(self._target)
            self._open += [inner, outer]
            for one, other in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(head: Head) -> Iterator[Proxy]:
    tunnel = Proxy(head.environment["RAY_ADDRESS"])
    yield tunnel
    tunnel.close()


class Submission:
    """`scalearn submit` as a process, with what it has printed so far."""

    def __init__(self, head: Head, directory: Path, *arguments: str) -> None:
        self._log = directory.parent / f"submit-{secrets.token_hex(4)}.log"
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "orchestrator.cli", "submit", *arguments]
            self.process = subprocess.Popen(command, cwd=directory, env=head.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], object]) -> None:
        """Wait for something that is to happen while the sweep runs."""
        deadline = time.monotonic() + 300
        while True:
            ended = self.process.poll() is not None  # first: what it did last counts too
            if happened():
                return
            assert not ended, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.1)

    def wait_for(self, text: str) -> str:
        """Wait until a text is printed; returns what followed it on its line."""
        self.until(lambda: text in self.printed)
        return self.printed.partition(text)[2].partition("\n")[0]

    def end(self) -> int:
        return self.process.wait(400)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that submissions share: its two sources are trained once."""
    return tmp_path_factory.mktemp("trained") / "runs"


def stop(head: Head, job: str) -> None:
    done = head.call("ray", "job", "stop", job)
    assert done.returncode == 0, done.stdout + done.stderr


def driver_exit_code(head: Head, job: str) -> int:
    program = f"from ray.job_submission import JobSubmissionClient as C; print(C().get_job_info({job!r}).driver_exit_code)"
    return int(head.call(sys.executable, "-c", program).stdout.strip().splitlines()[-1])


@pytest.mark.slow
def test_ray_job_submit_trains_on_both_nodes_and_the_sweeps_exit_code_is_the_jobs(head, project, trained):
    submit = ("ray", "job", "submit", "--working-dir", ".", "--submission-id")
    done = head.call(*submit, "good", "--", "scalearn", "run", "small.yaml", "--store", str(trained), directory=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Sweep submitted: 3 jobs, 0 done before, 3 to run." in done.stdout
    assert "ScaLearnUniform++" in done.stdout
    assert driver_exit_code(head, "good") == 0
    assert len(list(trained.glob("domains/**/SUCCESS.json"))) == 3


@pytest.mark.slow
@pytest.mark.fault
def test_training_that_diverges_fails_once_with_its_reason_below_the_table_and_code_1(head, project, trained, tmp_path):
    tracking = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    environment = ("--runtime-env-json", json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": tracking}}))
    # Each step multiplies the head's weights by about -98, so that they overflow float32 within twenty or so.
    values = {"learning_rate": 9.9, "weight_decay": 10, "max_gradient_norm": "null", "batch_size": 4, "epochs": 20}
    diverging = [word for name, value in values.items() for word in ("--set", f"training.transfer.{name}={value}")]
    submission = Submission(head, project, "small.yaml", "--store", str(trained), *diverging, *environment)
    assert submission.end() == 1, submission.printed
    (failure,) = trained.glob("domains/**/FAILED.json")
    error = json.loads(failure.read_text())["error"]
    assert "lower the learning rate" in error
    assert json.loads(failure.with_name("job.json").read_text())["attempts"] == 1
    printed = " ".join(submission.printed.split())
    assert f"a: 0 of 1 jobs have a score: 1 failed ({error})." in printed
    assert f"failed {failure.parent.relative_to(trained)}: {error}" in printed
    assert f"MLflow: {tracking}" in printed  # the environment that came with the job


@pytest.mark.slow
@pytest.mark.fault
def test_submit_survives_a_broken_connection_and_leaves_with_the_sweeps_exit_code(head, project, proxy, tmp_path):
    store = tmp_path / "runs"
    (project / "runs").mkdir()
    (project / "runs" / "large.bin").write_bytes(bytes(2**20))
    submission = Submission(head, project, "small.yaml", "--store", str(store), "--address", proxy.address)
    submission.wait_for("Sweep submitted: 3 jobs, 0 done before, 3 to run.")
    proxy.cut()
    submission.wait_for("The connection is lost")
    proxy.mend()
    assert submission.end() == 0, submission.printed
    assert len(list(store.glob("domains/**/SUCCESS.json"))) == 3
    # What was shown before the connection broke is not shown again, and nothing is missing after it.
    assert submission.printed.count("Sweep submitted: 3 jobs") == 1
    assert submission.printed.count("3/3 succeeded") == 1
    assert "ScaLearnUniform++" in submission.printed
    assert re.search(r"Ray dashboard: http://127\.0\.0\.1:\d+", submission.printed)


@pytest.mark.slow
def test_submit_passes_on_that_the_cluster_refused_the_sweep(head, project, tmp_path):
    refused = Submission(head, project, "small.yaml", "--store", str(tmp_path / "runs"), "--set", "data.root=/no/such/directory")
    assert refused.end() == 2, refused.printed
    assert driver_exit_code(head, refused.wait_for("Submitted ").split()[0]) == 2  # where `ray job submit` would end with 1
    assert "scalearn: --set data.root: " in refused.printed


@pytest.mark.slow
@pytest.mark.fault
def test_interrupted_submission_leaves_the_sweep_running_and_a_stopped_sweep_is_130_and_resumes(head, project, tmp_path):
    store = tmp_path / "runs"
    endless = ("--set", "training.epochs=100000", "--set", "training.patience=null")
    submission = Submission(head, project, "small.yaml", "--store", str(store), *endless)
    submission.wait_for("Sweep submitted: 3 jobs, 0 done before, 3 to run.")
    submission.process.send_signal(signal.SIGINT)
    job = submission.wait_for("scalearn submit small.yaml --follow ")
    assert submission.end() == 130, submission.printed
    again = Submission(head, project, "small.yaml", "--follow", job)
    again.wait_for("Sweep submitted: 3 jobs, 0 done before, 3 to run.")
    again.until(lambda: list(store.glob("domains/*/*/*/*/*/history.jsonl")))
    stop(head, job)
    assert again.end() == 130, again.printed
    assert "Interrupted." in again.printed
    history = next(store.glob("domains/*/*/*/*/*/history.jsonl"))
    assert list(history.parent.glob("checkpoint/*"))
    before = history.read_text().splitlines()

    resumed = Submission(head, project, "small.yaml", "--store", str(store), *endless)
    resumed.until(lambda: len(history.read_text().splitlines()) > len(before))
    stop(head, resumed.wait_for("Submitted ").split()[0])
    assert resumed.end() == 130, resumed.printed
    after = history.read_text().splitlines()
    assert after[: len(before)] == before
    epochs = [json.loads(line)["epoch"] for line in after]
    assert epochs == list(range(1, len(epochs) + 1))
    assert json.loads((history.parent / "job.json").read_text())["attempts"] == 2


def test_interrupted_jobs_get_less_time_to_checkpoint_than_ray_gives_a_stopped_sweep():
    assert GRACE_SECONDS < JobSupervisor.DEFAULT_RAY_JOB_STOP_WAIT_TIME_S


@pytest.mark.slow
def test_job_without_the_clusters_token_is_refused_in_one_sentence(head, project, tmp_path):
    stranger = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")} | {"RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "orchestrator.cli", "submit", "small.yaml", "--store", str(tmp_path)]
    done = subprocess.run(command, cwd=project, env=stranger, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with the cluster's token" in done.stderr
