"""What shards have measured, on disk line by line. Each shard of each start writes a file of its own, so a shard that
was given up for lost and is not cannot spoil another's.
"""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compare.cells import Cell

_FOLDER = "journals"


@dataclass(frozen=True, slots=True)
class Row:
    """One cell at one commit, measured by one process: samples in seconds, or why there are none."""

    cell: str
    commit: str
    started: float
    """Seconds since 1970."""
    seconds: float
    """What measuring it took, all in all."""
    samples: list[float] = field(default_factory=list)
    error: str = ""
    is_final: bool = False
    """Another try would fail as well: the process was well and said so."""


@dataclass(slots=True)
class Journal:
    """A shard's journal as it lies on disk: `about` is where its rows come from."""

    path: Path
    about: dict[str, Any]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Commit -> name -> version, of those it started processes of."""
    rows: list[Row] = field(default_factory=list)

    @property
    def device(self) -> str:
        """Which GPU, or on a CPU which host: rows of one cell are compared only where it is the same."""
        return str(self.about["device"]["id"])


class Writer:
    """Appends to a journal. Every line is on disk before the next row is measured."""

    def __init__(self, folder: Path, start: int, shard: int, about: dict[str, Any]) -> None:
        """Begin one.

        Raises:
            OSError: it is there already, or cannot be written.
        """
        path = folder / _FOLDER / f"{start:04}-{shard:03}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("x", encoding="utf-8")
        self._write("shard", about)

    def add(self, row: Row) -> None:
        """Keep a row.

        Raises:
            OSError: the disk is full, for example; what was written before is kept.
        """
        self._write("row", asdict(row))

    def versions(self, commit: str, versions: dict[str, str]) -> None:
        """Keep what is installed beside a commit."""
        self._write("versions", {"commit": commit, "versions": versions})

    def close(self) -> None:
        """No more."""
        self._file.close()

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, **content}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read(folder: Path) -> list[Journal]:
    """All journals of a run, in the order in which they were begun.

    Raises:
        ValueError: one is damaged, other than in its last line.
    """
    found = (_read_one(path) for path in sorted((folder / _FOLDER).glob("*.jsonl")))
    return [journal for journal in found if journal is not None]


def _read_one(path: Path) -> Journal | None:
    """None where not even its first line was written: the disk was full."""
    journal = None
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # after the last line break there is nothing, or half a line
        try:
            content = json.loads(line)
            kind = content.pop("kind")
            if kind == "shard":
                journal = Journal(path, content)
            elif kind == "versions":
                assert journal is not None
                journal.versions[content["commit"]] = content["versions"]
            else:
                assert journal is not None
                journal.rows.append(Row(**content))
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged in line {number}") from error
    return journal


class Table:
    """Rows by cell, device and commit; of several of one place a number counts before a failure."""

    def __init__(self, journals: Iterable[Journal] = (), *, forgive: bool = False) -> None:
        """Read journals.

        Args:
            journals: in the order in which they were begun.
            forgive: rows that failed for good are not taken over, so that they are measured again.
        """
        self._rows: dict[str, dict[str, dict[str, Row]]] = {}
        for journal in journals:
            for row in journal.rows:
                if not (forgive and row.is_final):
                    self.add(journal.device, row)

    def add(self, device: str, row: Row) -> None:
        """Take a row in."""
        commits = self._rows.setdefault(row.cell, {}).setdefault(device, {})
        known = commits.get(row.commit)
        if known is None or not known.samples:
            commits[row.commit] = row

    def of(self, cell: str, device: str) -> dict[str, Row]:
        """Commit -> row, of one device."""
        return self._rows.get(cell, {}).get(device, {})

    def best(self, cell: str) -> tuple[str, dict[str, Row]]:
        """The device that has most commits of a cell, and its rows; they are what counts. Samples count before failures
        for good, and of several devices the first.

        Base and head of a cell must come from one GPU, so what other devices have of it is left out.
        """
        devices = self._rows.get(cell, {})
        if not devices:
            return "", {}
        device = max(devices, key=lambda name: _worth(devices[name].values()))
        return device, devices[device]

    def missing(self, cell: str, commits: Collection[str]) -> list[str]:
        """The commits of which a cell has no row that counts and is settled."""
        _, rows = self.best(cell)
        return [commit for commit in commits if commit not in rows or not is_settled(rows[commit])]

    def left(self, cells: Iterable[Cell], commits: Collection[str]) -> dict[Cell, list[str]]:
        """Cell -> its missing commits; of the cells that miss any."""
        return {cell: missing for cell in cells if (missing := self.missing(cell.name, commits))}


def _worth(rows: Iterable[Row]) -> tuple[int, int]:
    found = list(rows)
    return sum(bool(row.samples) for row in found), sum(is_settled(row) for row in found)


def is_settled(row: Row) -> bool:
    """Whether a row need not be measured again."""
    return bool(row.samples) or row.is_final


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows of a run by what became of them."""

    wanted: int
    measured: int
    failed: int
    lost: int
    """No process lived to measure them, or the GPU was throttled: a rerun tries again."""

    @classmethod
    def of(cls, table: Table, cells: Sequence[Cell], commits: Collection[str]) -> "Progress":
        """Count."""
        rows = [row for cell in cells for commit, row in table.best(cell.name)[1].items() if commit in commits]
        measured, failed = sum(bool(row.samples) for row in rows), sum(row.is_final for row in rows)
        return cls(len(cells) * len(commits), measured, failed, len(rows) - measured - failed)

    @property
    def left(self) -> int:
        """What a rerun would measure."""
        return self.wanted - self.measured - self.failed
