"""The proof that a run over a Slurm cluster loses nothing: `python -m tools.loopback_slurm`.

A clone of the repository measures the CPU suite over both nodes of a cluster on this machine (slurm_cluster.py); one
node dies in the middle of a cell; the same command is given again, then once more; results are merged and published.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.slurm_cluster import Cluster, ClusterError, reason_absent, wait_for

ROOT = Path(__file__).resolve().parent.parent
START = time.monotonic()


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
    if reason := reason_absent(say):
        say(f"loopback Slurm is skipped: {reason}")
        return 0
    try:
        with contextlib.ExitStack() as stack:
            folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopback-")))
            folder.mkdir(parents=True, exist_ok=True)
            prove(folder.resolve())
    except (ClusterError, ProofError) as error:
        say(f"FAILED: {error}")
        return 1
    return 0


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
