"""`scalearn submit` without a cluster: what is uploaded, what is refused, and how a broken connection is survived."""

import asyncio
import subprocess
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from orchestrator import Sweep
from orchestrator.cli import main
from orchestrator.commands import submit
from orchestrator.remote import job_server, submission, upload
from orchestrator.remote.submission import Log, exit_code, follow
from orchestrator.remote.upload import pack_directory
from scalearn.errors import UserError
from tests.orchestrator.helpers.launch import SWEEP

LINES = [f"line {number}\n" for number in range(9)]


@dataclass
class FakeServer:
    """A job server whose connections end as `script` says, one entry per connection: so many pieces, then that error (or the end)."""

    script: list[tuple[int, Exception | None]]
    status: JobStatus = JobStatus.SUCCEEDED
    code: int | None = 0
    connections: int = 0
    slept: list[float] = field(default_factory=list)

    def get_job_info(self, job_id: str) -> Any:
        running = self.connections < len(self.script)
        if running and isinstance(self.script[self.connections][1], ConnectionRefusedError):
            self.connections += 1
            raise ConnectionRefusedError("Connection refused")
        status = JobStatus.RUNNING if running else self.status
        return SimpleNamespace(status=status, driver_exit_code=self.code, message="it fell over")

    def get_job_logs(self, job_id: str) -> str:
        return "".join(LINES)

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        count, error = self.script[self.connections]
        self.connections += 1
        text = "".join(LINES[:count])
        for start in range(0, len(text), 5):  # pieces that keep to no line
            yield text[start : start + 5]
        if error is not None:
            raise error

    def follow(self) -> tuple[int, str, list[str]]:
        written: list[str] = []
        notices: list[str] = []
        code = follow(self, "toy-1", Log(written.append), notices.append, sleep=self.slept.append)
        return code, "".join(written), notices


def test_follow_shows_each_line_once_however_often_the_connection_breaks():
    broken = RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
    server = FakeServer([(2, broken), (0, ConnectionRefusedError()), (0, ConnectionRefusedError()), (5, broken), (3, None), (8, broken)])
    code, text, notices = server.follow()
    assert (code, text) == (0, "".join(LINES))
    assert server.slept == [1.0, 2.0, 4.0, 1.0, 1.0, 1.0]  # longer while nobody answers, short again after news
    assert notices[0] == f"The connection is lost ({broken}); the job goes on. Trying again in 1 s."


def test_follow_makes_a_silent_connection_anew(monkeypatch):
    class Silent(FakeServer):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            self.connections += 1
            yield LINES[0]
            await asyncio.sleep(3600)

    monkeypatch.setattr(submission, "_QUIET_SECONDS", 0.01)
    assert Silent([(1, None), (1, None)]).follow()[:2] == (0, "".join(LINES))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 130),
        (JobStatus.STOPPED, -15, 130),
    ],
)
def test_exit_code_is_the_sweeps(status, code, expected):
    notices: list[str] = []
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=code, message="no node"), notices.append) == expected
    assert notices == (["The job failed before its command ended: no node"] if (status, code) == (JobStatus.FAILED, None) else [])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("Request failed with status code 404: Job toy-1 does not exist."), "The cluster knows no job toy-1"),
        (AuthenticationError("Authentication failed: missing token\nmore"), "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_follow_does_not_try_again_what_cannot_mend(error, sentence):
    with pytest.raises(UserError, match=sentence):
        FakeServer([(1, error)]).follow()


def test_follow_gives_up_on_a_cluster_that_stays_away():
    server = FakeServer([(0, ConnectionRefusedError())] * 10_000)
    times = iter(range(0, 10**6, 40))
    with pytest.raises(UserError, match="has not answered for an hour"):
        follow(server, "toy-1", Log(print), lambda _: None, sleep=lambda _: None, clock=lambda: float(next(times)))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "project"
    for name in (
        "toy.yaml",
        "pkg/module.py",
        "pkg/__pycache__/module.pyc",
        ".venv/bin/python",
        "runs/big.bin",
        ".ruff_cache/x",
        "notes.tmp",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(SWEEP if name == "toy.yaml" else name)
    (directory / "ray-token").write_text("secret")
    (directory / "link").symlink_to("/etc/passwd")
    monkeypatch.chdir(directory)
    return directory


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as packed:
        return set(packed.namelist())


@pytest.mark.parametrize("in_git", [False, True])
def test_archive_holds_what_a_job_needs_and_no_token_link_or_result(project, tmp_path, in_git):
    if in_git:
        subprocess.run(["git", "init", "-q"], check=True)
        (project / ".gitignore").write_text("*.tmp\n")
    pack_directory(project, tmp_path / "a.zip", frozenset({project / "ray-token"}))
    assert names_in(tmp_path / "a.zip") == {"toy.yaml", "pkg/module.py"} | ({".gitignore"} if in_git else {"notes.tmp"})
    pack_directory(project, tmp_path / "b.zip", frozenset({project / "ray-token"}))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_directory_too_large_to_upload_is_one_sentence_that_names_what_is(project, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "MAX_BYTES", 2**20)
    (project / "data").mkdir()
    (project / "data" / "rows.bin").write_bytes(bytes(3 * 2**20))
    with pytest.raises(
        UserError, match=r"has 3 MiB to upload, more than 1 MiB: name data \(3 MiB\), .* in .gitignore, or choose --working-dir"
    ):
        pack_directory(project, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["toy.yaml"], "The store 'runs' is relative"),
        (["toy.yaml", "--set", "benchmrk=glue"], "benchmark"),
        (["toy.yaml", "--store", "/s", "--working-dir", "pkg"], "is not below"),
        (["toy.yaml", "--store", "/s", "--address", "head:6379"], "give the URL of the cluster's dashboard"),
        (["toy.yaml", "--store", "/s", "--runtime-env-json", "[1]"], "must hold a mapping"),
        (["toy.yaml", "--store", "/s", "--runtime-env-json", "{"], "--runtime-env-json is not what it should be"),
        (["toy.yaml", "--store", "/s", "--runtime-env-file", "absent.yaml"], "cannot be read: No such file"),
        (["toy.yaml", "--store", "/s", "--runtime-env-json", '{"working_dir": "."}'], "use --working-dir"),
        (["toy.yaml", "--store", "/s", "--address", "http://127.0.0.1:9"], "No job server of Ray answers at http://127.0.0.1:9"),
    ],
)
def test_submit_refuses_in_one_sentence(project, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")  # set back after the test: the command sets it
    assert main(["submit", *arguments]) == 2
    output = capsys.readouterr()
    assert sentence in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)


class Recorder:
    """Stands for Ray's client: remembers what was submitted, and then is interrupted."""

    def __init__(self) -> None:
        self.submitted: dict[str, Any] = {}
        self.packed: set[str] = set()

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, **given: Any) -> str:
        self.submitted, self.packed = given, names_in(Path(given["runtime_env"]["working_dir"]))
        return str(given["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        raise KeyboardInterrupt


def test_submit_passes_the_run_on_and_an_interruption_leaves_the_sweep_alone(project, capsys, monkeypatch):
    client = Recorder()
    monkeypatch.setattr(submit, "connect", lambda address: client)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "ray-token")
    given = ["toy.yaml", "--store", "s3://bucket/my runs", "--set", "targets=[apple, bbc]", "--only", "a|b", "--max-hours", "12"]
    assert main(["submit", *given, "--runtime-env-json", '{"env_vars": {"A": "1"}}']) == 130
    command = "scalearn run toy.yaml --store 's3://bucket/my runs' --set 'targets=[apple, bbc]' --only 'a|b' --max-hours 12"
    assert client.submitted["entrypoint"] == command
    assert client.submitted["runtime_env"]["env_vars"] == {"A": "1"}
    assert client.packed >= {"toy.yaml", "pkg/module.py"}
    assert "ray-token" not in client.packed
    job = client.submitted["submission_id"]
    out = capsys.readouterr().out
    assert f"To follow it: scalearn submit toy.yaml --follow {job}\nTo stop it:   ray job stop {job}" in out


def test_sweep_of_a_program_is_submitted_with_a_file_of_its_own(project, tmp_path, monkeypatch):
    client = Recorder()
    monkeypatch.setattr(job_server, "connect", lambda address: client)
    keys = {"name": "mine", "benchmark": "domains", "backbone": "minilm", "methods": {"scalearn": {"learning_rate": 1e-5}}}
    job = Sweep(**keys, store="/shared/runs").submit(working_dir=project, runtime_env={"env_vars": {"A": "1"}})
    assert job == client.submitted["submission_id"]
    assert client.submitted["entrypoint"] == "scalearn run submitted_sweeps/mine.yaml --store /shared/runs"
    assert client.submitted["runtime_env"]["env_vars"] == {"A": "1"}
    assert client.packed >= {"submitted_sweeps/mine.yaml", "pkg/module.py"}
    pack_directory(project, tmp_path / "a.zip", more={"mine.yaml": "text"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("mine.yaml") == b"text"
    with pytest.raises(UserError, match="'runs' is relative"):
        Sweep(**keys).submit(working_dir=project)


class Interrupted(Recorder):
    """A client whose user presses Ctrl-C while the job runs; the job then ends as it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.interruptions, self.stopped = 2, []

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        return True

    def get_job_info(self, job_id: str) -> Any:
        if self.interruptions:
            self.interruptions -= 1
            raise KeyboardInterrupt
        status = JobStatus.STOPPED if self.stopped else JobStatus.SUCCEEDED
        return SimpleNamespace(status=status, driver_exit_code=None, message="")

    def get_job_logs(self, job_id: str) -> str:
        return "the log\n"


@pytest.mark.parametrize(("answers", "code", "stopped"), [(["c", "s"], 130, 1), (["c", "c"], 0, 0), (["c", ""], 130, 0), (["d"], 130, 0)])
def test_interruption_on_a_terminal_asks_whether_to_detach_stop_or_continue(project, capsys, monkeypatch, answers, code, stopped):
    client, given = Interrupted(), iter(answers)
    monkeypatch.setattr(submit, "connect", lambda address: client)
    monkeypatch.setattr("builtins.input", lambda prompt: next(given))
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    assert main(["submit", "toy.yaml", "--store", "/s"]) == code
    assert len(client.stopped) == stopped
    out = capsys.readouterr().out
    assert ("To follow it: scalearn submit" in out) == (answers[-1] in ("", "d"))
    assert out.count("the log") == (0 if answers[-1] in ("", "d") else 1)
