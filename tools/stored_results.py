"""asv's result files as the site shows them: cells, and the versions they were measured with."""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from benchmarks.stored import load

# What decides a number beside the commit, as environment.txt and asv's requirements spell it.
VERSIONS: Final = {
    "gpu": "gpu",
    "driver": "driver",
    "cuda": "cuda",
    "torch": "torch",
    "triton": "triton",
    "flashinfer-python": "flashinfer",
    "python": "python",
}

Cell = list[float] | str
"""[value, low, high], [value] where asv stored no interval, "n/a" or "failed"."""

Key = tuple[str, tuple[Any, ...]]
"""A benchmark's name and one choice of its parameters."""


@dataclass(frozen=True, slots=True)
class Result:
    """One result file; `measured` is when its first row was, in ms since 1970, as `date` is of the commit."""

    commit_hash: str
    env_name: str
    date: int
    measured: int | None
    versions: dict[str, str]
    cells: dict[Key, Cell]
    benchmark_versions: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Machine:
    """A folder of results: machine.json, the files, and commit -> versions of each environment*.txt, latest first."""

    name: str
    about: dict[str, Any]
    results: list[Result]
    environments: dict[str, dict[str, str]]


def read_machines(folder: Path) -> list[Machine]:
    """Every machine in asv's folder of results.

    Raises:
        ValueError: a file is truncated, foreign or missing; a line names each of them.
    """
    stored = load(folder)
    machines = []
    for name, about in sorted(stored.machines.items()):
        environments: dict[str, dict[str, str]] = {}
        for path in sorted(
            (folder / name).glob("environment*.txt"), reverse=True
        ):  # environment.txt, the latest, first
            commit, versions = read_environment(path)
            environments.setdefault(commit, versions)
        results = [_result(content) for (machine, _), content in stored.results.items() if machine == name]
        machines.append(Machine(name, about, results, environments))
    return machines


def read_environment(path: Path) -> tuple[str, dict[str, str]]:
    """The commit in the first line of an environment.txt, and the versions of its device and its packages."""
    commit, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    found: dict[str, str] = {}
    section = ""
    for line in lines:
        name, _, value = line.strip().partition(":")
        if not line.startswith(" "):
            section = name
        elif section in {"device", "versions"}:
            found[name] = value.strip()
    return commit.strip(), _versions(found)


def _result(content: Mapping[str, Any]) -> Result:
    # asv leaves out the columns at the end that hold nothing.
    entries = {
        name: dict(zip(content["result_columns"], entry, strict=False)) for name, entry in content["results"].items()
    }
    return Result(
        commit_hash=content["commit_hash"],
        env_name=content["env_name"],
        date=content["date"],
        measured=min((entry["started_at"] for entry in entries.values() if entry.get("started_at")), default=None),
        versions=_versions({**content["params"], **content["requirements"]}),
        cells={(name, key): cell for name, entry in entries.items() for key, cell in _cells(entry).items()},
        benchmark_versions={name: entry.get("version") for name, entry in entries.items()},
    )


def _cells(entry: Mapping[str, Any]) -> dict[tuple[Any, ...], Cell]:
    keys = [tuple(map(_parameter, words)) for words in product(*entry["params"])]
    return {key: _cell(entry, index) for index, key in enumerate(keys)}


def _parameter(word: str) -> Any:
    """A parameter as repr() printed it; of an object that is no literal."""
    return word if word.startswith("<") else ast.literal_eval(word)


def _cell(entry: Mapping[str, Any], index: int) -> Cell:
    value = entry["result"][index] if entry["result"] else None
    if value is None:
        return "failed"
    if math.isnan(value):
        return "n/a"
    for names in (("stats_ci_99_a", "stats_ci_99_b"), ("stats_q_25", "stats_q_75")):
        low, high = (entry[name][index] if entry.get(name) else None for name in names)
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            return [_short(value), _short(low), _short(high)]
    return [_short(value)]


def _short(number: float) -> float:
    """Six digits: more than any clock has, half the bytes."""
    return float(f"{number:.6g}")


def _versions(found: Mapping[str, Any]) -> dict[str, str]:
    plain = {name.removeprefix("pip+"): value for name, value in found.items()}
    return {short: str(plain[name]) for name, short in VERSIONS.items() if plain.get(name) not in {None, "", "absent"}}
