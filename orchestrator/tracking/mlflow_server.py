"""MLflow's own server for a sweep's tracking store, on loopback, for as long as a user looks at it."""

import base64
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from orchestrator.artifacts.store import Store
from orchestrator.tracking.sqlite_address import sqlite_file, sqlite_uri
from scalearn.errors import UserError
from scalearn.secrets import MASK, without_secrets

HOST, PORT = "127.0.0.1", 5000
_END_SECONDS = 10.0


@dataclass(frozen=True)
class TrackedExperiment:
    """Where a sweep is logged."""

    uri: str
    experiment: str


def tracked_experiment(store: Store, sweep: str, named: str | None = None) -> TrackedExperiment:
    """Return where a sweep is logged, as its manifest says. The manifest keeps no password.

    Args:
        store: The store.
        sweep: Name of the sweep.
        named: A tracking URI with its password, which may be the manifest's URI. `MLFLOW_TRACKING_URI` is tried as well.

    Raises:
        UserError: The store holds no such sweep, the place of its runs is gone, or the password is not known.
    """
    manifest = store.load_json(store.manifest_path(sweep))
    if manifest is None:
        raise UserError(f"{store.url} holds no sweep named '{sweep}': run it first, or name its store with --store.")
    told = str(manifest.get("tracking_uri"))
    whole = [given for given in (named, os.environ.get("MLFLOW_TRACKING_URI")) if given and without_secrets(given) == told]
    uri = whole[0] if whole else told
    if MASK in uri:
        raise UserError(
            f"The runs of sweep '{sweep}' are at {uri}, and no file of the store holds the password: set MLFLOW_TRACKING_URI to the whole "
            "address, or name the sweep file whose tracking.uri is it."
        )
    file = sqlite_file(uri)
    if file is not None:
        # A store that was moved or copied brings its own database along, but the manifest still gives the old place.
        own = store.root / file.name
        if store.is_local and (_holds(own, str(manifest.get("run_id"))) or (own.exists() and not file.exists())):
            uri = sqlite_uri(own)
        elif not file.exists():
            raise UserError(f"The runs of sweep '{sweep}' are not at {uri}: `scalearn run` logs them again from the store.")
    return TrackedExperiment(uri, str(manifest.get("experiment") or sweep))


def _holds(database: Path, run_id: str) -> bool:
    """Tell whether an SQLite file is a database of MLflow's that holds a run."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as found,
    ):
        return found.execute("SELECT 1 FROM runs WHERE run_uuid = ?", [run_id]).fetchone() is not None
    return False


def is_server(uri: str) -> bool:
    """Tell whether a tracking URI is the address of a server, which has pages of its own."""
    return uri.startswith(("http://", "https://"))


def find_experiment(address: str, name: str) -> tuple[str, dict[str, str]]:
    """Return an experiment's id and tags.

    Raises:
        UserError: The server does not answer, or has no such experiment.
    """
    query = urllib.parse.urlencode({"experiment_name": name})
    server = without_login(address)
    request = urllib.request.Request(f"{server.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}", headers=_login(address))
    address = server
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.load(answer)["experiment"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise UserError(f"MLflow at {address} refuses to tell about experiment '{name}' ({error}): open it in a browser.") from error
        raise UserError(f"MLflow at {address} has no experiment '{name}' yet: `scalearn run` logs the sweep.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"MLflow at {address} does not answer ({error}): see that it runs.") from error
    return str(found["experiment_id"]), {tag["key"]: tag["value"] for tag in found.get("tags", [])}


def without_login(address: str) -> str:
    """Return a server's address without user and password. A browser is given this, and asks for them itself."""
    parts = urllib.parse.urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _login(address: str) -> dict[str, str]:
    """Return the header with which MLflow's client would log in, from the address or from MLflow's own variables."""
    parts, environment = urllib.parse.urlsplit(address), os.environ
    user = urllib.parse.unquote(parts.username or "") or environment.get("MLFLOW_TRACKING_USERNAME")
    password = urllib.parse.unquote(parts.password or "") or environment.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = environment.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


class Server:
    """The process group of an MLflow server. Use as a context manager; leaving the context ends all its processes."""

    def __init__(self, uri: str, port: int | None) -> None:
        """Prepare. Entering the context starts the server.

        Args:
            uri: Tracking URI whose runs the server shows.
            port: Port to listen on. None: 5000, or a free port if that is taken.

        Raises:
            UserError: The port is taken.
        """
        self._uri, self._port = uri, port
        self.address = f"http://{HOST}:{_choose(port)}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Server":
        """Start the server, and wait until it answers.

        Raises:
            UserError: The server ended instead.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, _interrupt)
        try:
            if not self._start():
                before, self.address = self.address, f"http://{HOST}:{_choose(self._port)}"
                # Try another port, since another process took this one meanwhile.
                if self.address == before or not self._start():
                    raise UserError(f"MLflow did not start ({without_secrets(self._last_line())}).")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> bool:
        """Start the server, and return whether it answers. False: it has ended, or another process answers in its place."""
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", port]
        # Not as an argument, since every user of the machine may read arguments.
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_BACKEND_STORE_URI": self._uri}
        # In a session of its own, so that the server's workers end with it and Ctrl-C reaches this process first.
        self._process = subprocess.Popen(
            [*command, "--workers", "1"], stdout=self._log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        return self._await_answer(self._process, int(port))

    def __exit__(self, *exception: object) -> None:
        """End the server and its workers."""
        process = self._process
        if process is not None:
            for deadly in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, deadly)
                    process.wait(_END_SECONDS)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._log.close()

    def wait(self) -> None:
        """Wait for Ctrl-C or SIGTERM.

        Raises:
            UserError: The server ended by itself.
        """
        assert self._process is not None
        try:
            self._process.wait()
        except KeyboardInterrupt:
            return
        raise UserError(f"MLflow ended by itself ({without_secrets(self._last_line())}).")

    def _await_answer(self, process: "subprocess.Popen[bytes]", port: int) -> bool:
        # No deadline, since seconds on an idle machine are minutes on a busy one. Ctrl-C ends the wait here too.
        while process.poll() is None:
            with contextlib.suppress(OSError):
                # Another server on this port would answer with other runs.
                if _listens(process.pid, port):
                    urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                    return True
            time.sleep(0.2)
        return False

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def _listens(pid: int, port: int) -> bool:
    """Tell whether a process, or one that it started, listens on a port of this machine."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        found = (socket for process in family for socket in process.net_connections("inet"))
        return any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == port for socket in found)
    return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _choose(port: int | None) -> int:
    for candidate in (PORT, 0) if port is None else (port,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"Port {port} on {HOST} is taken or cannot be used: choose another with --port.")
