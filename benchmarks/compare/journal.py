"""What a comparison has measured, on disk line by line: an interrupted run goes on where it was."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import stored


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell in one round: samples in seconds, in the order taken, or why there are none."""

    phase: str
    """"first", or "again" for the confirmation."""
    round: int
    cell: str
    base: list[float] = field(default_factory=list)
    head: list[float] = field(default_factory=list)
    base_beside_again: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    """Of a second process of the base, and of the first in turns with it: empty for most cells."""
    error: str = ""
    measuring: float = 0.0
    """Seconds that samples took."""
    elapsed: float = 0.0
    """Seconds since the entry before, or since the run began: with processes' starts and preparation."""


class Journal:
    """Entries of one run. The header says what was compared how: another run's journal is never gone on with."""

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool) -> None:
        """Begin anew, an older journal put aside, or go on: then what has failed gets another chance.

        Raises:
            ValueError: the journal that is there belongs to another comparison, or cannot be written.
        """
        self.path = path
        self.entries: list[Entry] = []
        self._done: set[tuple[str, int, str]] = set()
        self._failed: set[tuple[str, str]] = set()
        header = json.loads(json.dumps(header))
        if resume and path.exists():
            found, entries = _read(path)
            self.entries = [entry for entry in entries if not entry.error]
            if different := [name for name in header if found.get(name) != header[name]]:
                raise ValueError(
                    f"--resume: {path} is of another run: {', '.join(different)} differ, "
                    f"first {found.get(different[0])!r} there and {header[different[0]]!r} here"
                )
        if path.exists() and not resume:
            path.replace(path.with_name(f"{path.stem}-before{path.suffix}"))
        lines = [json.dumps(header), *(json.dumps(asdict(entry)) for entry in self.entries)]
        stored.write(path, "\n".join(lines) + "\n")
        for entry in self.entries:
            self._index(entry)

    def add(self, entry: Entry) -> None:
        """Keep an entry; it is on disk before the next one is measured."""
        self.entries.append(entry)
        self._index(entry)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error}; what it holds is kept") from error

    def has(self, phase: str, number: int, cell: str) -> bool:
        """Whether a cell of a round is done, or has failed for good."""
        return (phase, number, cell) in self._done or (phase, cell) in self._failed

    def _index(self, entry: Entry) -> None:
        self._done.add((entry.phase, entry.round, entry.cell))
        if entry.error:
            self._failed.add((entry.phase, entry.cell))

    def of(self, phase: str, cell: str) -> Iterator[Entry]:
        """The entries of a cell that hold samples, by round."""
        return (e for e in self.entries if e.phase == phase and e.cell == cell and not e.error)


def _read(path: Path) -> tuple[dict[str, Any], list[Entry]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        header = json.loads(lines[0])
        if not isinstance(header, dict):
            raise ValueError("its first line is no header")
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} is not a journal of compare") from error
    entries = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            entries.append(Entry(**json.loads(line)))
        except (TypeError, ValueError) as error:
            if number == len(lines):
                break  # the run was killed while it wrote this one: it is measured again
            raise ValueError(f"{path} is damaged in line {number}") from error
    return header, entries
