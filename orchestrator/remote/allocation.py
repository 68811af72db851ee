"""One Ray over the nodes of a SLURM job, and a command on it: what a batch script runs.

    exec python -m orchestrator.remote.allocation [--requeue] -- scalearn run SWEEP

Each job has a token, ports and directories of its own, so that several share a node. The first node is Ray's head and runs the command; on
the others SLURM starts this module with `--join`. Ray's own `ray symmetric-run` ends every Ray on its nodes, other jobs' too.
"""

import argparse
import contextlib
import logging
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import ray
from ray.util import get_node_ip_address

from scalearn.errors import UserError
from scalearn.secrets import clause

INTERRUPTED, NO_RAY = 130, 1

_STARTS = 3
"""How often to start the head, since another process may take its ports before it does."""
_START_SECONDS = 300.0
_STOP_SECONDS = 30.0
_OBJECT_STORE_BYTES = 200 * 1024**2
"""Small, since orders and outcomes are small, and artifacts travel through the store."""
_NODE_FLAGS = (
    "--dashboard-agent-listen-port=0",  # any free one, as for the workers
    "--min-worker-port=0",
    "--max-worker-port=0",
    f"--object-store-memory={_OBJECT_STORE_BYTES}",
    "--disable-usage-stats",
)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command on a Ray over all nodes of this job. Return its exit code: 130 if a signal stopped it, 1 if Ray did not start."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.remote.allocation", description=main.__doc__)
    parser.add_argument("--requeue", action="store_true", help="queue the job again when SIGUSR1 has stopped the command")
    parser.add_argument("--join", metavar="ADDRESS", help="be a further node of the Ray at this address, until the input ends")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args(words)
    try:
        return _join(arguments.join) if arguments.join else _run(arguments.command, requeue=arguments.requeue)
    except UserError as error:
        _say(str(error))
        return NO_RAY


class _Signals:
    """What SLURM sends: SIGUSR1 when the time limit is near, SIGTERM at its end. Until the command runs, either ends this process."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.starting = True
        self.install()

    def install(self) -> None:
        """Install the handlers again, in case Ray has replaced them."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a program that is started where it is ignored would ignore it, too

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if self.starting:
                raise KeyboardInterrupt


def _run(command: Sequence[str], *, requeue: bool) -> int:
    signals = _Signals()
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # `srun` passes them on
    os.environ.setdefault("SCALEARN_GRACE_SECONDS", "10")  # SLURM warns two minutes ahead, and kills 30 s after SIGTERM
    try:
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        with _head() as (head, address), _others(address, nodes - 1):
            _wait_for_nodes(address, nodes)
            signals.install()
            signals.starting = False
            code = _follow(command, address, head, signals)
    except KeyboardInterrupt:
        _say("The job was ended before the sweep had begun: give it more time.")
        return INTERRUPTED
    if code == INTERRUPTED and requeue and signals.received == signal.SIGUSR1:
        _requeue()
    return code


def _follow(command: Sequence[str], address: str, head: "subprocess.Popen[bytes]", signals: _Signals) -> int:
    """Run a command to its end. When a signal has come, or the head is gone, ask it to stop; then it writes checkpoints."""
    process = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address})
    asked = False
    while (code := process.poll()) is None:
        if not asked and (signals.received is not None or head.poll() is not None):
            if signals.received is None:
                _say("Ray's head has ended, perhaps killed for want of memory: what was done is kept; submit again to go on.")
            # SLURM's SIGTERM comes to all processes of the job. After another signal SIGHUP counts for nothing, so it must come second.
            time.sleep(1)
            process.send_signal(signal.SIGHUP)
            asked = True
        time.sleep(0.2)
    if asked and code == -signal.SIGHUP:
        _say("The job was ended before the sweep had begun: give it more time.")
        return 128 + signal.SIGHUP
    return code if code >= 0 else 128 - code  # a signal, numbered as shells do


def _requeue() -> None:
    """Put this job back into the queue under its number, as SLURM does with jobs of nodes that failed. SLURM then ends this process."""
    job = os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        _say(f"SLURM does not queue job {job} again ({clause(Exception(done.stderr))}): submit the sweep again to go on.")
    else:
        _say(f"The time limit is near: job {job} is queued again, and goes on from the last checkpoints.")


@contextlib.contextmanager
def _head() -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """Hold Ray's head on this node. Yields its process and its address.

    Raises:
        UserError: It does not start.
    """
    host, said = get_node_ip_address(), ""
    for _ in range(_STARTS):
        port, client = _free_ports(2)
        flags = ("--head", f"--node-ip-address={host}", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false")
        with _node(flags) as (process, log):
            if _answers(host, port, process):
                yield process, f"{host}:{port}"
                return
            said = log.read_text(errors="replace")
    raise UserError(f"Ray's head does not start on {socket.gethostname()}: {' '.join(said.split())[-500:]}")


@contextlib.contextmanager
def _others(address: str, count: int) -> Iterator[None]:
    """Hold a node of Ray on each node of the job but the first."""
    if not count:
        yield
        return
    command = ["srun", "--quiet", "--relative=1", f"--nodes={count}", f"--ntasks={count}", sys.executable, "-m", __spec__.name]
    process = subprocess.Popen([*command, f"--join={address}"], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        # The end of their input asks all of them to leave. After a signal, `srun` would kill them while they clean up.
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        _stop(process)


def _join(address: str) -> int:
    """Be a further node of Ray until the input ends, or SIGTERM."""

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # SLURM sends several, and the next would break off the cleaning up
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    with _node((f"--address={address}",)) as (process, log):
        while (code := process.poll()) is None:
            if select.select([sys.stdin], [], [], 1.0)[0] and not os.read(sys.stdin.fileno(), 1):
                return 0
        _say(f"The node of Ray on {socket.gethostname()} has ended: {' '.join(log.read_text(errors='replace').split())[-500:]}")
        return code


@contextlib.contextmanager
def _node(flags: Sequence[str]) -> "Iterator[tuple[subprocess.Popen[bytes], Path]]":
    """Hold a node of Ray with what SLURM gives this job here. Yields its process and the file that it writes to."""
    # Short: Ray puts sockets below it, whose paths may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR") or "/tmp"))
    log = directory / "start.log"
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *_NODE_FLAGS, *flags]
    command += [f"--num-cpus={os.environ.get('SLURM_CPUS_ON_NODE', 1)}", f"--temp-dir={directory}"]
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process, log
        finally:
            _stop(process)
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a directory to which Ray's processes may write for a moment after its end."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.25)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]


def _answers(host: str, port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until a port of a process answers. Return false if the process ends before."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return True
        time.sleep(0.5)
    return False


def _wait_for_nodes(address: str, count: int) -> None:
    """Wait until all nodes are there. After five minutes the sweep begins with those that are: Ray hands the later ones work as they come.

    Raises:
        UserError: The head does not answer.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
            break
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:  # the head may still be starting
            if time.monotonic() > deadline:
                raise UserError(f"Ray's head does not answer ({clause(error)}).") from None
            time.sleep(1)
    try:
        while (there := sum(node["Alive"] for node in ray.nodes())) < count:
            if time.monotonic() > deadline:
                _say(f"Only {there} of {count} nodes have started Ray: the sweep begins with them.")
                return
            time.sleep(0.5)
    finally:
        ray.shutdown()


def _say(sentence: str) -> None:
    print(f"scalearn: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
