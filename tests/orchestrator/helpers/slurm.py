"""A SLURM on this machine: munged, slurmctld and two slurmd, all children of the test, with a directory and ports of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_ports

_DAEMONS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")

_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=30
OverTimeLimit=1
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 State=UNKNOWN
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 State=UNKNOWN
PartitionName=p Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP
"""
"""Two nodes of two CPUs each. The host is both, so what needs a port or a directory per node needs two here."""


def missing() -> str | None:
    """Return why no SLURM can be started here. None: one can."""
    if absent := [name for name in _DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]:
        return f"no {', '.join(absent)} here: on Debian, apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "slurmd starts jobs only as root"


@dataclass
class Slurm:
    """A running SLURM."""

    directory: Path
    environment: dict[str, str]
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def call(self, *command: str) -> str:
        """Run one of SLURM's commands, and return what it printed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return what SLURM says of a job: `JobState`, `ExitCode`, `Restarts` and so on."""
        words = self.call("scontrol", "show", "job", "--oneliner", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, happened: Callable[[], object], seconds: float, said: Callable[[], object]) -> None:
        """Wait until something has happened; fails with what is known after so many seconds."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, said()
            time.sleep(0.2)

    def logs(self) -> str:
        """Return the last lines of all daemons."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self.directory.glob("*.log")))

    def start(self, *command: str) -> None:
        """Start a daemon in the foreground, as a child of this process."""
        with (self.directory / "output.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True))


@contextlib.contextmanager
def running() -> Iterator[Slurm]:
    """Run a SLURM while the block runs. At its end the jobs are ended by SLURM itself, then each daemon by this process."""
    directory = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    directory.chmod(0o755)  # munged insists
    host, (controller, first, second) = socket.gethostname().partition(".")[0], free_ports(3)
    conf = directory / "slurm.conf"
    conf.write_text(_CONF.format(host=host, directory=directory, controller=controller, first=first, second=second))
    (directory / "state").mkdir()
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    slurm = Slurm(directory, {**os.environ, "SLURM_CONF": str(conf), "PATH": path})
    try:
        slurm.call("mungekey", "--create", f"--keyfile={directory}/munge.key")
        files = [f"--{name}-file={directory}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        slurm.start("munged", "--foreground", "--force", f"--socket={directory}/munge.socket", *files)
        slurm.wait((directory / "munge.socket").exists, 60, slurm.logs)
        slurm.start("slurmctld", "-D")
        for node in ("n0", "n1"):
            slurm.start("slurmd", "-D", "-N", node)
        slurm.wait(lambda: _idle(slurm), 120, slurm.logs)
        yield slurm
        subprocess.run(["scancel", "--user=root"], env=slurm.environment, timeout=60)
        slurm.wait(lambda: _idle(slurm), 120, slurm.logs)
    finally:
        for process in reversed(slurm.processes):
            process.terminate()
            process.wait(60)
        shutil.rmtree(directory, ignore_errors=True)


def _idle(slurm: Slurm) -> bool:
    done = subprocess.run(["sinfo", "--noheader", "--format=%T %D"], env=slurm.environment, capture_output=True, text=True, timeout=60)
    return done.stdout.split() == ["idle", "2"]
