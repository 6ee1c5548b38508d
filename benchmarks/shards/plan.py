"""What a run is: commits, cells, ruler and place. It lies in the run's folder, where every shard reads it."""

import hashlib
import importlib
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import stored
from benchmarks.compare.cells import Cell
from benchmarks.compare.environments import ROOT, Commit

FOLDER = Path(".asv", "shards")
RULER = ("benchmarks", "tools/__init__.py", "tools/machine.py")
_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class Arm:
    """A commit and its environment. Without a python there is none; `why` says why."""

    commit: Commit
    python: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    sources: str = ""
    """What environments.sources_digest makes of the commit: its processes must find the same installed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All commits x all cells, measured by one ruler."""

    ruler: str
    place: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    versions: dict[str, str] = field(default_factory=dict)
    """asv's benchmark -> the version that the ruler gives it."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be gone on with; in which order it is measured need not be."""
        return {
            "ruler": self.ruler,
            "place": self.place,
            "commits": sorted(arm.commit.commit_hash for arm in self.arms),
            "cells": sorted(cell.name for cell in self.cells),
        }

    @property
    def name(self) -> str:
        """Eight letters: the same for the same commits, cells, ruler and place."""
        return hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()[:8]

    @property
    def measurable(self) -> list[Arm]:
        """The commits that could be installed."""
        return [arm for arm in self.arms if arm.python]

    @property
    def hashes(self) -> list[str]:
        """Of those."""
        return [arm.commit.commit_hash for arm in self.measurable]

    def resumed(self, folder: Path) -> "Plan":
        """With the environments that the same run in a folder has: shards of it that are queued will read this plan."""
        if not exists(folder) or (there := load(folder)).identity != self.identity:
            return self
        known = {arm.commit.commit_hash: arm for arm in there.arms}
        arms = (
            replace(arm, python=old.python, about=old.about, sources=old.sources, why=old.why)
            for arm in self.arms
            for old in [known[arm.commit.commit_hash]]
        )
        return replace(self, arms=tuple(arms))

    def save(self, folder: Path) -> None:
        """Write it into a folder.

        Raises:
            ValueError: the folder holds another run.
        """
        if (folder / _FILE).exists():
            there = load(folder).identity
            if different := [name for name, value in self.identity.items() if there[name] != value]:
                raise ValueError(f"{folder} holds another run: its {' and '.join(different)} differ; --folder another")
        content = {
            "ruler": self.ruler,
            "place": self.place,
            "commits": [
                {
                    "name": arm.commit.name,
                    "hash": arm.commit.commit_hash,
                    "python": arm.python,
                    "about": arm.about,
                    "why": arm.why,
                    "sources": arm.sources,
                }
                for arm in self.arms
            ],
            "versions": self.versions,
            "cells": [cell.message() for cell in self.cells],
        }
        stored.write(folder / _FILE, json.dumps(content, indent=1))


def exists(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / _FILE).exists()


def load(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        ValueError: there is none.
    """
    try:
        content = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        arms = tuple(
            Arm(Commit(one["name"], one["hash"]), one["python"], one["about"], one["why"], one["sources"])
            for one in content["commits"]
        )
        cells = tuple(Cell(**{**one, "params": tuple(one["params"])}) for one in content["cells"])
        return Plan(content["ruler"], content["place"], arms, cells, content["versions"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no run that can be read: {error}") from error


def versions_of(cells: Iterable[Cell]) -> dict[str, str]:
    """asv's benchmark -> its version, as the ruler's classes say it."""
    found = {}
    for name in dict.fromkeys(cell.benchmark for cell in cells if cell.benchmark):
        module, owner, _ = name.split(".")
        found[name] = str(getattr(importlib.import_module(f"benchmarks.{module}"), owner).version)
    return found


def keep_ruler(folder: Path) -> Path:
    """A copy of the ruler, which all shards measure with: the working tree may change while they do."""
    copy = folder / "ruler"
    if not copy.exists():
        unfinished = folder / "ruler.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in RULER:
            source, target = ROOT / name, unfinished / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        unfinished.rename(copy)
    return copy


def share(cells: Sequence[str], costs: Sequence[float], shards: int) -> list[list[str]]:
    """Cells for each shard: the longest first, each to the shard that has least to do. The same for the same costs.

    Args:
        cells: names.
        costs: seconds that each takes, all its commits together.
        shards: how many there may be; none stays empty.
    """
    loads = [0.0] * max(1, min(shards, len(cells)))
    owner: dict[str, int] = {}
    for cost, index in sorted(((cost, index) for index, cost in enumerate(costs)), key=lambda one: (-one[0], one[1])):
        shard = loads.index(min(loads))
        loads[shard] += cost
        owner[cells[index]] = shard
    return [[cell for cell in cells if owner[cell] == shard] for shard in range(len(loads))]
