"""A Slurm cluster of two nodes on this machine, and the proof that a run over it loses nothing: `python -m
tools.loopback_slurm`.

slurmctld, two slurmd (told apart by -N) and munge come from Debian's packages and run as ordinary processes: no
systemd, no accounts, nothing outside a temporary folder. A clone of the repository measures the CPU suite over both
nodes; one node dies in the middle of a cell; the same command is given again, then once more; results are merged and
published.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("one", "two")
START = time.monotonic()

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


class ProofError(Exception):
    """Something is not as it must be."""


def say(text: str) -> None:
    """One line for each step."""
    print(f"[{time.monotonic() - START:5.1f} s] {text}", flush=True)


def main() -> int:
    """0 also where Slurm cannot be had, and then the reason; 1 where the proof fails."""
    parser = argparse.ArgumentParser(prog="python -m tools.loopback_slurm", description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder for everything, kept; default: a temporary one")
    options = parser.parse_args()
    if reason := reason_absent():
        say(f"loopback Slurm is skipped: {reason}")
        return 0
    try:
        with contextlib.ExitStack() as stack:
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopback-")))
            folder.mkdir(parents=True, exist_ok=True)
            prove(folder.resolve())
    except ProofError as error:
        say(f"FAILED: {error}")
        return 1
    return 0


def reason_absent() -> str:
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
            if isinstance(error, ProofError):
                raise ProofError(f"{error}\n{self._last_words()}") from error
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
        ProofError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProofError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)


def clone(target: Path) -> None:
    """The repository as it lies here, uncommitted changes included, with results and environments of its own."""
    git("clone", "--quiet", str(ROOT), str(target), at=ROOT)
    git("checkout", "--quiet", "-B", "main", at=target)
    for name in git("ls-files", "--cached", "--others", "--exclude-standard", "-z", at=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def git(*words: str, at: Path) -> str:
    """What git prints."""
    done = subprocess.run(["git", *words], cwd=at, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProofError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def journals(folder: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Of each shard what it said of itself, and its rows; half a last line is left out."""
    for path in sorted(folder.glob("journals/*.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        if lines:
            yield lines[0], [line for line in lines if line["kind"] == "row"]


def prove(folder: Path) -> None:
    """Start the cluster, measure, kill, measure again, check, publish."""
    checkout, run = folder / "checkout", folder / "run"
    clone(checkout)
    commits = git("rev-parse", "HEAD~1", "HEAD", at=checkout).split()
    with Cluster(folder / "slurm") as cluster:
        say(f"Slurm is up: nodes {cluster.states()}")
        command = [sys.executable, "-m", "benchmarks", "run", *commits, "--device", "cpu", "--shards", "2"]
        command += ["--executor", "slurm", "--time", "10", "--folder", str(run)]

        def measure() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, cwd=checkout, env=cluster.environment)

        first = measure()
        wait_for(lambda: first.poll() is not None or bool(rows_of("two", run)), "the first row of node two", 300, 0.02)
        cluster.kill("two")
        if not (before := rows_of("two", run)):
            raise ProofError(f"the run ended with {first.wait()} before node two measured anything")
        say(f"node two was killed after {len(before)} of its rows")
        if first.wait(300) != 1:
            raise ProofError(f"the run that lost a node ended with {first.returncode}, wanted 1")
        wait_for(lambda: cluster.states()["two"].startswith("down"), "Slurm to see that node two is down", 60)
        killed = {path.name: path.read_bytes() for path in run.glob("journals/*")}
        say(f"nodes {cluster.states()}; the same command again")
        if code := measure().wait(300):
            raise ProofError(f"the rerun ended with {code}")
        changed = [name for name, content in killed.items() if (run / "journals" / name).read_bytes() != content]
        if changed:
            raise ProofError(f"the rerun wrote into {', '.join(changed)}")
        measured = sum(len(rows) for _, rows in journals(run))
        if code := measure().wait(300):
            raise ProofError(f"the third run ended with {code}")
        if sum(len(rows) for _, rows in journals(run)) != measured:
            raise ProofError("the third run measured something again")
    check(run, checkout, commits)
    publish(checkout, commits)


def rows_of(node: str, run: Path) -> list[tuple[str, str]]:
    """Cell and commit of what a node has measured."""
    return [(row["cell"], row["commit"]) for about, rows in journals(run) if about["host"] == node for row in rows]


def check(run: Path, checkout: Path, commits: list[str]) -> None:
    """Nothing lost, nothing twice, and each cell of one node."""
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    measured = Counter(
        (row["cell"], row["commit"], about["host"]) for about, rows in journals(run) for row in rows if row["samples"]
    )
    if twice := [key for key, count in measured.items() if count > 1]:
        raise ProofError(f"measured twice: {twice}")
    provenance = [
        json.loads(line)
        for path in checkout.glob("results/cpu-*/shards/*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    hosts: dict[str, dict[str, str]] = {}
    for shard in provenance:
        for cell, commit, _ in shard["rows"]:
            hosts.setdefault(cell, {})[commit] = shard["host"]
    for cell in plan["cells"]:
        name = f"{cell['provider']}, {cell['model_name']} tp {cell['tp_size']}, {cell['num_tokens']} tokens"
        found = hosts.get(name, {})
        if set(found) != {commit[:8] for commit in commits}:
            raise ProofError(f"{name} has rows of {sorted(found)} only")
        if len(set(found.values())) != 1:
            raise ProofError(f"{name} was measured on {found}: base and head must share one")
    counting = len(plan["cells"]) * len(commits)
    say(
        f"{counting} rows wanted, {counting} there; {sum(measured.values())} measured, nothing twice on one node, "
        f"{sum(measured.values()) - counting} on both: in the cell that the killed node had begun"
    )


def publish(checkout: Path, commits: list[str]) -> None:
    """asv takes the merged results, and the site shows both commits."""
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    for words in (["-m", "benchmarks", "merge", "--check"], ["-m", "asv", "publish", "--no-pull"]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=checkout,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ProofError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    graphs = list(checkout.glob(".asv/html/graphs/**/machine-cpu-*/**/bench_cpu.Cpu.time_native.json"))
    points = [len(json.loads(graph.read_text(encoding="utf-8"))) for graph in graphs]
    if points != [len(commits)]:
        raise ProofError(f"the site's graphs of the CPU suite have {points} points, wanted one of {len(commits)}")
    say(f"published: a graph with {points[0]} commits")


if __name__ == "__main__":
    raise SystemExit(main())
