"""`ray job submit` and `scalearn submit` to a cluster that is real."""

import contextlib
import importlib.metadata
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

import pytest
from ray.dashboard.modules.job.job_supervisor import JobSupervisor

from orchestrator.execution.schedule import GRACE_SECONDS
from tests.orchestrator.helpers.launching import wait_while_running
from tests.ports import free_ports

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


class Head:
    """A cluster of two nodes, as `docs/cluster.md` starts it, with ports and a token of its own; the second has a resource `fast`."""

    def __init__(self, agent: int = 0) -> None:
        self._agent = agent
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
        port, dashboard, client, second = free_ports(4)
        self.environment = {**self._own_environment, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--dashboard-host=127.0.0.1"]
        command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={self._agent}"]
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

    def wait(self, *, second: bool = True) -> None:
        """Wait until the job server answers. Ray gives its own start 30 seconds, which a busy machine may need more than once."""
        deadline, starts = time.monotonic() + 400, 1
        while self.call("ray", "job", "list").returncode:
            if self.process.poll() is not None:
                assert starts < 3, self.log.read_text()
                starts += 1
                self._start()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)
        if not second:
            return
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
        wait_while_running(self.process, happened, lambda: self.printed, 300)

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
def test_ray_shows_the_sweep_of_a_job_and_the_pack_of_a_worker(head, project, tmp_path):
    store = tmp_path / "runs"
    submission = Submission(head, project, "small.yaml", "--store", str(store), "--only", "source/adapter/apple/")
    assert submission.end() == 0, submission.printed
    facts = {"sweep": "submitted", "store": str(store), "version": importlib.metadata.version("scalearn-orchestrator")}
    direct = f"import orchestrator.execution.cluster as c\nwith c.connected(None, None, metadata={facts | {'sweep': 'direct'}}): pass"
    done = head.call("env", f"RAY_ADDRESS={head.address}", sys.executable, "-c", direct, directory=project)  # as `scalearn run` does
    assert done.returncode == 0, done.stderr
    jobs = json.loads(head.call("ray", "list", "jobs", "--detail", "--format=json").stdout)
    of = {job["job_id"]: {key: job["metadata"].get(key) for key in facts} for job in jobs}
    types = {job["job_id"]: job["type"] for job in jobs}
    (submitted,) = [job for job in of if types[job] == "SUBMISSION" and of[job] == facts]
    assert [types[job] for job in of if of[job] == facts | {"sweep": "direct"}] == ["DRIVER"]
    (node,) = [path.parent.relative_to(store) for path in store.glob("domains/**/SUCCESS.json")]
    actors = json.loads(head.call("ray", "list", "actors", "--detail", "--format=json").stdout)
    # The cluster keeps what earlier jobs ran; only this job's worker counts.
    of_this_job = [actor for actor in actors if actor["job_id"] == submitted and actor["class_name"].startswith("submitted by ")]
    assert [actor["repr_name"] for actor in of_this_job] == [f"submitted: {node}"]


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


@pytest.mark.slow
def test_job_agent_whose_port_is_taken_is_named_with_the_flag(project, tmp_path):
    with contextlib.ExitStack() as ends:
        taken = socket.socket()
        ends.callback(taken.close)
        with contextlib.suppress(OSError):  # another Ray of this machine has it
            taken.bind(("0.0.0.0", 52365))
            taken.listen()
        alone = Head(agent=52365)
        ends.callback(alone.stop)
        alone.wait(second=False)
        done = alone.call(sys.executable, "-m", "orchestrator.cli", "submit", "small.yaml", "--store", str(tmp_path), directory=project)
        assert done.returncode == 2, done.stderr
        sentence = done.stderr.splitlines()[-1]  # after Ray's own line on the upload
        assert sentence.startswith("scalearn: No agent of the cluster takes jobs. ")
        assert "start the head with --dashboard-agent-listen-port=0" in sentence
