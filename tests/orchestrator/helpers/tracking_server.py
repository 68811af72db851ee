"""Tracking servers of a test's own: `mlflow server`, and PostgreSQL."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_ports


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, f"not within 240 s: {what}"
        time.sleep(0.1)


class Server:
    """`mlflow server` on loopback, which can be killed, stopped and started again on the same port and database."""

    def __init__(self, database: str, directory: Path) -> None:
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = directory / "server.log"
        self._command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--host", "127.0.0.1"]
        self._command += ["--port", str(self.port), "--workers", "1", "--artifacts-destination", str(directory / "artifacts")]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("ab") as log:  # a session of its own, so that a signal reaches its workers too, and nobody else
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, f"the server is up\n{self._log.read_text()}")

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def is_up(self) -> bool:
        return self._process is not None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            # Its health says nothing of the database, which the first question opens.
            with urllib.request.urlopen(f"{self.uri}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def unprivileged() -> tuple[list[str], int, int]:
    """How to run a program as another user where we are root, which PostgreSQL refuses to be; that user and group."""
    if os.geteuid() != 0:
        return [], os.geteuid(), os.getegid()
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known.get("nobody")
    if entry is None or shutil.which("setpriv") is None:
        pytest.skip("root cannot run PostgreSQL, and there is no other user or no setpriv")
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"], entry.pw_uid, entry.pw_gid


@contextlib.contextmanager
def private_postgres() -> Iterator[str]:
    """A PostgreSQL on loopback, by the URI with which MLflow logs to it; any password will do."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("needs Debian's package postgresql")
    prefix, user, group = unprivileged()
    root = Path(tempfile.mkdtemp(prefix="scalearn-postgres-"))  # not below pytest's directories, which are for their owner alone
    os.chown(root, user, group)
    data, (port,) = root / "data", free_ports(1)
    made = [*prefix, str(programs[-1] / "initdb"), "-D", str(data), "-U", "mlflow", "--auth=trust", "--no-sync"]
    subprocess.run(made, cwd=root, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={root}", "fsync=off"]
    command = [*prefix, str(programs[-1] / "postgres"), "-D", str(data), *(word for setting in settings for word in ("-c", setting))]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        ready = [str(programs[-1] / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: process.poll() is not None or subprocess.run(ready).returncode == 0, "PostgreSQL accepts connections")
        assert process.poll() is None, (root / "log").read_text()
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # its fast shutdown
        process.wait(60)
        shutil.rmtree(root, ignore_errors=True)
