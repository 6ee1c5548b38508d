"""What one shard does, in a process that submitit starts: its cells, one after the other, each at all commits."""

import json
import os
import signal
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from benchmarks import stored
from benchmarks.compare.cells import Cell
from benchmarks.compare.processes import WorkerError
from benchmarks.compare.worker import die_with_parent
from benchmarks.shards import device, journal, plan
from benchmarks.shards.crew import Crew, Limits, RefusedError


def assign(folder: Path, start: int, shards: list[list[str]], *, forgive: bool) -> None:
    """Write down what each shard of a start is to do.

    Args:
        folder: the run's.
        start: its how manieth start this is.
        shards: names of each one's cells.
        forgive: measure again what failed for good.
    """
    for shard, cells in enumerate(shards):
        stored.write(_order(folder, start, shard), json.dumps({"cells": cells, "forgive": forgive}))


def run(folder: str, start: int, shard: int, gpu: str | None) -> int:
    """The function that submitit calls; how many rows have been measured.

    Args:
        folder: the run's.
        start: its how manieth start this is.
        shard: which of that start's shards.
        gpu: as CUDA_VISIBLE_DEVICES wants it; None leaves the choice to whoever started this process.

    Raises:
        ValueError: this is the wrong kind of device.
        OSError: the journal cannot be written.
        WorkerError: no process of any commit can be started.
    """
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):  # submitit's handlers ignore them or start anew
        signal.signal(number, signal.SIG_DFL)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return measure(Path(folder), start, shard, Limits())


def measure(folder: Path, start: int, shard: int, limits: Limits) -> int:
    """Measure what a shard was assigned and nobody has; see run."""
    order = json.loads(_order(folder, start, shard).read_text(encoding="utf-8"))
    run_plan = plan.load(folder)
    pythons = {arm.commit.commit_hash: arm.python for arm in run_plan.measurable}
    sources = {arm.commit.commit_hash: arm.sources for arm in run_plan.measurable}
    mine = set(order["cells"])
    with (
        tempfile.TemporaryDirectory(prefix="shard-") as temporary,
        closing(Crew(pythons, sources, run_plan.place, Path(temporary), limits)) as crew,
    ):
        with device.turn("cpu") if run_plan.place == "cpu" else nullcontext():  # importing would disturb who measures
            crew.start(pythons)
        found = _meet(crew, run_plan.place, list(pythons))
        device.claim(folder, found)
        table = journal.Table(journal.read(folder), forgive=order["forgive"])
        about = _about(run_plan, start, shard, found)
        with closing(journal.Writer(folder, start, shard, about)) as writer:
            for commit, versions in crew.versions.items():
                writer.versions(commit, versions)
            work = _Work(crew, writer, table, found["id"], found["turn"], list(pythons))
            for _ in range(2):  # a crash may be chance, and a GPU that is throttled cools down
                for cell in run_plan.cells:
                    if cell.name in mine:
                        work.complete(cell)
    return work.measured


class _Work:
    """Cells of one shard, on one device."""

    def __init__(
        self, crew: Crew, writer: journal.Writer, table: journal.Table, device_id: str, turn: str, commits: list[str]
    ) -> None:
        self.crew, self.writer, self.table, self.commits = crew, writer, table, commits
        self.device, self.turn = device_id, turn
        self.measured = 0

    def complete(self, cell: Cell) -> None:
        """Measure a cell at the commits that are missing.

        Where most of it was measured on another device, it is measured here as a whole, since base and head must share
        one; what is missing comes first, for where that fails again the rest would be measured for nothing. What counts
        is what this device holds by now: a shard that was interrupted between the two has left the first part done.
        """
        owner, _ = self.table.best(cell.name)
        absent = self.table.missing(cell.name, self.commits)
        for commit in self._lacking(cell, absent):
            self._measure(cell, commit)
        here = self.table.of(cell.name, self.device)
        if owner not in {"", self.device} and any(commit in here and here[commit].samples for commit in absent):
            for commit in self._lacking(cell, [commit for commit in self.commits if commit not in absent]):
                self._measure(cell, commit)

    def _lacking(self, cell: Cell, commits: list[str]) -> list[str]:
        """Those that this device has not settled."""
        here = self.table.of(cell.name, self.device)
        return [commit for commit in commits if commit not in here or not journal.is_settled(here[commit])]

    def _measure(self, cell: Cell, commit: str) -> None:
        with device.turn(self.turn):
            began, clock = time.time(), time.monotonic()
            samples: list[float] = []
            error, is_final = "", False
            try:
                samples = self.crew.measure(cell, commit)
            except WorkerError as why:
                error, is_final = str(why), isinstance(why, RefusedError)
            seconds = time.monotonic() - clock
        row = journal.Row(cell.name, commit, round(began, 3), round(seconds, 3), samples, error, is_final)
        self.writer.add(row)
        self.table.add(self.device, row)
        self.measured += bool(samples)


def _meet(crew: Crew, place: str, commits: list[str]) -> dict[str, Any]:
    """The device, by the first process that can say. `turn` is what all shards of this machine call it."""
    if place == "cpu":
        from tools.machine import cpu_name

        return {"name": cpu_name(), "id": device.node(), "turn": "cpu"}
    reason: WorkerError = WorkerError("no commit could be installed")
    for commit in commits:
        try:
            found = crew.device(commit)
        except WorkerError as error:
            reason = error
            continue
        return {"name": found["gpu"], "turn": found["id"], **found}
    raise reason


def _about(run_plan: plan.Plan, start: int, shard: int, found: dict[str, Any]) -> dict[str, Any]:
    """Where the rows of this shard come from."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID") or ""
    return {
        "start": start,
        "shard": shard,
        "host": device.node(),
        "device": found,
        "job": job,
        "process": os.getpid(),
        "started": round(time.time(), 3),
        "ruler": run_plan.ruler,
        "place": run_plan.place,
        "python": sys.version.split()[0],
    }


def _order(folder: Path, start: int, shard: int) -> Path:
    return folder / "orders" / f"{start:04}-{shard:03}.json"
