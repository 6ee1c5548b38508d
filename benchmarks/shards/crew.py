"""The processes that a shard measures with: each row has a fresh one, as in asv."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.compare.cells import Cell
from benchmarks.compare.processes import AnsweredError, Process, WorkerError

_FINAL = {
    *("UnsupportedError", "NotImplementedError", "CheckError", "ImportError", "ModuleNotFoundError"),
    *("AttributeError", "TypeError"),
}
"""What a commit says of itself. Everything else (a full disk, a GPU that is off the bus) may pass."""


class RefusedError(AnsweredError):
    """The process was asked to prepare a cell and says that its commit cannot: another try would fail as well."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a process may take before it is given up, in seconds, and how often it samples."""

    hello_seconds: float = 300.0
    """All commits' processes import torch at once."""
    prepare_seconds: float = 300.0
    """A first call may compile a library's kernel."""
    sample_seconds: float = 60.0
    samples: int = 10
    """As many as asv takes of the suite: asv can never flag a change between two sets of exactly 6."""


class Crew:
    """A process for each commit, which has imported everything and forks one for each row.

    That is what asv's forkserver does. Where importing has touched the GPU, a fork could not use it: then each row pays
    for a process of its own.
    """

    def __init__(
        self, pythons: dict[str, str], sources: dict[str, str], place: str, folder: Path, limits: Limits
    ) -> None:
        """Nothing is started yet.

        Args:
            pythons: commit -> interpreter of its environment.
            sources: commit -> what worker.sources_digest must make of what is installed there.
            place: torch device.
            folder: an empty one outside any checkout.
            limits: of time.
        """
        self.pythons, self.sources = pythons, sources
        self.place, self.folder, self.limits = place, folder, limits
        self._processes: dict[str, Process] = {}
        self._broken: dict[str, WorkerError] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._forks_work = True

    def start(self, commits: Iterable[str]) -> None:
        """Start processes, as many at a time as there are cores. One that cannot be started fails its rows later."""
        waiting = iter(commits)
        while group := list(islice(waiting, os.cpu_count() or 1)):
            for commit in group:
                self._begin(commit)
            for commit in group:
                self._await(commit)

    def device(self, commit: str) -> dict[str, Any]:
        """What a process of a commit measures on; this also finds out whether a fork can.

        Raises:
            WorkerError: there is no such process, or no GPU.
        """
        process = self._fork(commit)
        try:
            found = process.ask("device", self.limits.hello_seconds)
        except WorkerError:
            was_forked = self._can_fork(process)
            self._drop(commit)
            if not was_forked:
                raise
            self._forks_work = False
            return self.device(commit)
        self._end(commit)
        return found

    def measure(self, cell: Cell, commit: str) -> list[float]:
        """Samples in seconds, all of one fresh process.

        Raises:
            RefusedError: the commit cannot.
            WorkerError: the process crashed, hung or met with a fault.
        """
        process, limits = self._fork(commit), self.limits
        try:
            _prepare(process, cell, limits.prepare_seconds)
            samples = [process.ask("sample", limits.sample_seconds)["seconds"] for _ in range(limits.samples)]
        except AnsweredError:
            self._end(commit)
            raise
        except WorkerError:
            self._drop(commit)
            raise
        self._end(commit)
        return samples

    def close(self) -> None:
        """End them all."""
        for commit in list(self._processes):
            self._drop(commit)

    def _fork(self, commit: str) -> Process:
        """A fresh process, ready to be asked."""
        self._begin(commit)
        self._await(commit)
        if commit in self._broken:
            raise self._broken[commit]
        process = self._processes[commit]
        if self._can_fork(process):
            try:
                process.ask("fork", self.limits.sample_seconds)
            except WorkerError:
                self._drop(commit)
                raise
        return process

    def _can_fork(self, process: Process) -> bool:
        return self._forks_work and bool(process.about.get("can_fork"))

    def _end(self, commit: str) -> None:
        """The process of a row is done; so is one that cannot fork."""
        process = self._processes[commit]
        if not self._can_fork(process):
            self._drop(commit)
            return
        try:
            process.ask("end", self.limits.sample_seconds)
        except WorkerError:  # it has answered all that it was asked: its row stands
            self._drop(commit)

    def _begin(self, commit: str) -> None:
        if commit in self._processes or commit in self._broken:
            return
        try:
            self._processes[commit] = Process(self.pythons[commit], self.place, self.folder, forks=True)
        except WorkerError as error:
            self._broken[commit] = error

    def _await(self, commit: str) -> None:
        """Wait for a process's first answer. One that gives none is not started again for every row."""
        if commit in self._broken:
            return
        try:
            about = self._processes[commit].wait_until_ready(self.limits.hello_seconds)
            if about["commit"] not in {"", commit}:
                raise AnsweredError(f"{about['ropekern']} is of commit {about['commit']}, wanted {commit}")
            if about["sources"] != self.sources[commit]:
                where = f"{about['ropekern']} is not the code of {commit}"
                raise AnsweredError(f"{where}: remove the environment of {self.pythons[commit]} and run again")
            self.versions[commit] = about["versions"]
        except WorkerError as error:
            self._drop(commit)
            self._broken[commit] = error

    def _drop(self, commit: str) -> None:
        self._processes.pop(commit).close()


def _prepare(process: Process, cell: Cell, seconds: float) -> None:
    try:
        process.ask("prepare", seconds, cell=cell.message())
    except AnsweredError as error:
        if str(error).partition(":")[0] in _FINAL:
            raise RefusedError(str(error)) from error
        raise
