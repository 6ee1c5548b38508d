"""The rounds of a comparison: in each, fresh processes of both commits take turns, cell by cell.

Only one process measures at a time. Samples of one process share what that process drew (where its memory lies, the
clock's state when it began), so they say nothing about the next one: the unit of inference is the process pair.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.compare.cells import Cell
from benchmarks.compare.journal import Entry, Journal
from benchmarks.compare.processes import BENCHMARKS, AnsweredError, Process, WorkerError

BASE, HEAD, AGAIN = "base", "head", "again"
"""The arms; `again` is a second process of the base, against which the first is compared as if it were the head."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a comparison measures."""

    pythons: Mapping[str, str]
    """Arm -> interpreter of its environment."""
    place: str
    rounds: int = 10
    pairs: int = 8
    ruler: Path = BENCHMARKS
    """The folder `benchmarks` that measures: a copy, where the working tree may change meanwhile."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Arm -> commit that its processes must have; what is not named is not checked."""
    hello_seconds: float = 180.0
    prepare_seconds: float = 300.0
    """A first call may compile a library's kernel."""
    sample_seconds: float = 60.0
    spares: int = 1
    """Rounds whose processes are started ahead, so that their imports run beside the measuring. On a CPU that would
    disturb it.
    """


_HOPELESS = ("UnsupportedError", "NotImplementedError", "ImportError", "ModuleNotFoundError")


class StartError(RuntimeError):
    """A process cannot be started, or is not of the commit that it should be: no cell's fault."""


class Session:
    """Measures cells round by round into a journal."""

    def __init__(self, settings: Settings, journal: Journal, say: Callable[[str], None] = lambda _: None) -> None:
        self.settings, self.journal, self.say = settings, journal, say
        self._last = time.monotonic()

    def run(
        self, phase: str, cells: Sequence[Cell], doubled: Sequence[Cell] = (), deadline: float | None = None
    ) -> bool:
        """Measure what the journal does not have. Whether it came to the end.

        Args:
            phase: "first" or "again".
            cells: what to measure.
            doubled: those of them that the second process of the base measures too.
            deadline: time.monotonic() after which no cell is begun.

        Raises:
            StartError: a process cannot be started at all, or has another commit.
        """
        twice = {cell.name for cell in doubled}
        rounds = [n for n in range(self.settings.rounds) if not all(self.journal.has(phase, n, c.name) for c in cells)]
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-"))
            Path(folder, "benchmarks").symlink_to(self.settings.ruler, target_is_directory=True)
            arms = (BASE, HEAD, AGAIN) if twice else (BASE, HEAD)
            crews = [_Crew(self.settings, arms, Path(folder)) for _ in rounds]
            for crew in crews:
                stack.callback(crew.close)
            for index, number in enumerate(rounds):
                for crew in crews[index : index + 1 + self.settings.spares]:
                    crew.start()
                for cell in cells:
                    if deadline is not None and time.monotonic() > deadline:
                        return False
                    if not self.journal.has(phase, number, cell.name):
                        entry = self._measure(crews[index], phase, number, cell, cell.name in twice)
                        now = time.monotonic()
                        self.journal.add(replace(entry, elapsed=now - self._last))
                        self._last = now
                crews[index].close()
                self.say(f"{phase}: round {number + 1} of {self.settings.rounds} done")
        return True

    def _measure(self, crew: "_Crew", phase: str, number: int, cell: Cell, twice: bool) -> Entry:
        """One retry in new processes: a crash or a throttled GPU may be chance, twice it is the cell's own."""
        for attempt in (1, 2):
            try:
                return crew.measure(phase, number, cell, twice)
            except WorkerError as error:
                self.say(f"{cell.name}, round {number + 1}, attempt {attempt}: {error}")
                reason = str(error)
                if isinstance(error.__cause__, AnsweredError) and str(error.__cause__).startswith(_HOPELESS):
                    break  # it is well and says that this cannot be done here
                crew.restart()
        return Entry(phase, number, cell.name, error=reason)


class _Crew:
    """The processes of one round."""

    def __init__(self, settings: Settings, arms: Sequence[str], folder: Path) -> None:
        self.settings, self.arms, self.folder = settings, arms, folder
        self.processes: dict[str, Process] = {}

    def start(self) -> None:
        """Begin to start those that are not there."""
        for arm in self.arms:
            if arm not in self.processes:
                python = self.settings.pythons[BASE if arm == AGAIN else arm]
                try:
                    self.processes[arm] = Process(python, self.settings.place, self.folder)
                except WorkerError as error:
                    raise StartError(f"{arm}: {error}") from error

    def restart(self) -> None:
        """Fresh processes, whatever became of these."""
        self.close()
        self.start()

    def close(self) -> None:
        """End them."""
        for process in self.processes.values():
            process.close()
        self.processes = {}

    def _meet(self) -> None:
        """Wait until all are ready; if one cannot start, all get a second try."""
        try:
            self._wait()
        except WorkerError:
            self.restart()
            try:
                self._wait()
            except WorkerError as error:
                raise StartError(str(error)) from error

    def _wait(self) -> None:
        for arm in self.arms:
            try:
                about = self.processes[arm].wait_until_ready(self.settings.hello_seconds)
            except WorkerError as error:
                raise WorkerError(f"{arm}: {error}") from error
            wanted = self.settings.commits.get(BASE if arm == AGAIN else arm)
            if wanted and about["commit"] != wanted:
                raise StartError(f"{arm}: the environment now holds commit {about['commit']}, wanted {wanted}")

    def measure(self, phase: str, number: int, cell: Cell, twice: bool) -> Entry:
        """Samples of a cell; `twice` with those of the second process of the base."""
        settings = self.settings
        self._meet()
        wanted = self.arms if twice else (BASE, HEAD)
        for arm in wanted:  # one after the other: never two on the GPU
            try:
                self.processes[arm].ask("prepare", settings.prepare_seconds, cell=cell.message())
            except WorkerError as error:
                raise WorkerError(f"{arm}: {error}") from error
        start = time.monotonic()
        base, head = self._turns(BASE, HEAD)
        beside, again = self._turns(BASE, AGAIN) if twice else ([], [])
        measuring = time.monotonic() - start
        for arm in wanted:
            self.processes[arm].ask("release", settings.sample_seconds)
        return Entry(phase, number, cell.name, base, head, beside, again, measuring=measuring)

    def _turns(self, first: str, second: str) -> tuple[list[float], list[float]]:
        """Samples of both, A B then B A: what drifts while they are taken cancels."""
        samples: dict[str, list[float]] = {first: [], second: []}
        for pair in range(self.settings.pairs):
            for arm in (first, second) if pair % 2 == 0 else (second, first):
                try:
                    answer = self.processes[arm].ask("sample", self.settings.sample_seconds)
                except WorkerError as error:
                    raise WorkerError(f"{arm}: {error}") from error
                seconds = float(answer["seconds"])
                if not (math.isfinite(seconds) and seconds > 0):
                    raise WorkerError(f"{arm}: a sample of {seconds} s is no time")
                samples[arm].append(seconds)
        return samples[first], samples[second]
