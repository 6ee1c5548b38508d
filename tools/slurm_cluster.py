"""A Slurm cluster of two nodes on this machine: slurmctld, two slurmd (told apart by -N) and munge from Debian's
packages, run as ordinary processes: no systemd, no accounts, nothing outside one folder.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("one", "two")

CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=0
SlurmdTimeout=5
KillWait=2
SlurmdParameters=config_overrides
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


class ClusterError(Exception):
    """Slurm does not do what it should."""


def reason_absent(say: Callable[[str], None]) -> str:
    """Why there can be no Slurm here; empty where it is there, or was installed just now."""
    if not missing():
        return ""
    if os.geteuid() or not shutil.which("apt-get"):
        return f"{', '.join(missing())} not found, and only root can install {' '.join(PACKAGES)} with apt-get"
    say(f"installing {' '.join(PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update", "--quiet"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"apt-get could not install it: {words}" if missing() else ""


def missing() -> list[str]:
    """Slurm's programs that are not there."""
    path = os.pathsep.join([*os.get_exec_path(), "/usr/sbin"])
    return [name for name in PROGRAMS if not shutil.which(name, path=path)]


class Cluster:
    """munge, slurmctld and the nodes; all of it ends with the context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        path = os.pathsep.join([*os.get_exec_path(), "/usr/sbin"])
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        folder = self.folder
        for name in ("state", "spool-one", "spool-two"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)  # munge wants to be reached by everyone
        host = platform.node().partition(".")[0]
        text = CONFIGURATION.format(folder=folder, host=host, user=getpass.getuser(), ports=free_ports(3))
        (folder / "slurm.conf").write_text(text, encoding="utf-8")
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
        munge |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
        try:
            self._start("munged", "--foreground", "--force", *(f"--{name}={value}" for name, value in munge.items()))
            wait_for((folder / "munge.socket").exists, "munge's socket", 20)
            self._start("slurmctld", "-D")
            for node in NODES:
                self._start("slurmd", "-D", "-N", node, name=node)
            wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), "two idle nodes", 60)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, ClusterError):
                raise ClusterError(f"{error}\n{self._last_words()}") from error
            raise
        return self

    def _last_words(self) -> str:
        logs = [(name, self.folder / f"{name}.out") for name in self.processes]
        return "\n".join(f"{name}: {path.read_text(errors='replace')[-1000:]}" for name, path in logs)

    def __exit__(self, *_: object) -> None:
        for node in NODES:
            self.kill(node)
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()

    def _start(self, *command: str, name: str = "") -> None:
        name = name or command[0]
        with (self.folder / f"{name}.out").open("wb") as log:
            self.processes[name] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def states(self) -> dict[str, str]:
        """Node -> what Slurm thinks of it."""
        command = ["sinfo", "--noheader", "--Node", "--format=%N %T"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return dict(line.split() for line in done.stdout.splitlines())

    def kill(self, node: str) -> None:
        """As if its power failed: slurmd, the steps and all that they started end at once, without a word."""
        self.processes[node].kill()
        self.processes[node].wait()
        while victims := processes_of(node, self.environment["SLURM_CONF"]):
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            time.sleep(0.05)


def processes_of(node: str, configuration: str) -> list[int]:
    """What runs for a node of this cluster: tasks know it by their environment, and slurmstepd by its tasks."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            words = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2] if words else ("Z", "0")
            if {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={configuration}".encode()} <= set(words):
                found += [int(entry.name)] if state != "Z" else []
                if Path("/proc", parent, "comm").read_text().strip() == "slurmstepd":
                    found.append(int(parent))
    return sorted(set(found))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def wait_for(condition: Callable[[], bool], what: str, seconds: float, pause: float = 0.1) -> None:
    """Wait until a condition holds.

    Raises:
        ClusterError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)
