"""asv's folder of results, read strictly and written whole.

asv leaves out what it cannot read and publishes the rest, and writes a file in place.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCHMARKS_FORMAT, MACHINE_FORMAT, RESULTS_FORMAT = 2, 1, 2
ENTRY_COLUMNS = ("params", "version", "started_at", "duration", "profile")
"""One value for a benchmark; every other column has one for each combination of its parameters."""
ROW_COLUMNS = ("result", "samples")
STATISTICS = "stats_"
LONGEST_ENVIRONMENT_NAME = 127
"""asv hashes a longer one in file names."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a folder holds. Keys of `results`, `environments` and `shards` are a machine's name and a file's.

    `make bench` writes the environments, `run` what its shards measured where; asv knows nothing of them.
    """

    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    environments: dict[tuple[str, str], str] = field(default_factory=dict)
    shards: dict[tuple[str, str], str] = field(default_factory=dict)


def load(folder: Path) -> Stored:
    """Read a folder of results.

    Raises:
        ValueError: a file is truncated, foreign or missing; one line for each of them.
    """
    stored, problems = Stored(), []
    try:
        stored.benchmarks.update(read_benchmarks(folder / "benchmarks.json"))
    except ValueError as error:
        problems.append(str(error))
    for path in sorted(folder.rglob("*.json")):
        machine, _, rest = path.relative_to(folder).as_posix().partition("/")
        try:
            if not rest and machine != "benchmarks.json":
                raise ValueError(f"{path} is foreign: result files lie in the folder of a machine")
            if "/" in rest:
                raise ValueError(f"{path} is foreign: asv's results lie one folder deep")
            if rest == "machine.json":
                stored.machines[machine] = _read_machine(path)
            elif rest:
                stored.results[machine, rest] = _read_results(path)
        except ValueError as error:
            problems.append(str(error))
    for (machine, name), content in stored.results.items():
        problems += _mismatches(folder / machine / name, content, stored.machines.get(machine))
    for path in sorted(folder.glob("*/environment*.txt")):
        stored.environments[path.parent.name, path.name] = path.read_text(encoding="utf-8")
    for path in sorted(folder.glob("*/shards/*.jsonl")):
        stored.shards[path.parents[1].name, path.name] = path.read_text(encoding="utf-8")
    if problems:
        raise ValueError("\n".join(problems))
    return stored


def unknown_commits(stored: Stored, repository: Path) -> list[str]:
    """One line for each file of a commit that this repository does not have: asv would leave it out of the site.

    Raises:
        ValueError: git does not answer.
    """
    hashes = {content["commit_hash"] for content in stored.results.values()}
    done = subprocess.run(
        ["git", "cat-file", "--batch-check"],
        cwd=repository,
        input="".join(f"{name}^{{commit}}\n" for name in sorted(hashes)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"git cat-file failed in {repository}: {done.stderr.strip()}")
    missing = {line.partition("^")[0] for line in done.stdout.splitlines() if line.endswith(" missing")}
    return [
        f"{machine}/{name} is foreign: commit {content['commit_hash'][:8]} is not in this repository"
        " (a shallow clone? `git fetch --unshallow`)"
        for (machine, name), content in stored.results.items()
        if content["commit_hash"] in missing
    ]


def read_benchmarks(path: Path) -> dict[str, dict[str, Any]]:
    """asv's benchmarks.json: name -> what asv knows of the benchmark.

    Raises:
        ValueError: it is not one.
    """
    content = _read(path, BENCHMARKS_FORMAT)
    for name, about in content.items():
        _want(isinstance(about, dict) and about.get("name") == name, path, f"{name} is not a benchmark")
        _want(_are_axes(about.get("params")), path, f"{name} has no parameter axes")
        _want(isinstance(about.get("version"), str), path, f"{name} has no version")
    return content


def combinations(axes: list[list[str]]) -> int:
    """How many rows a benchmark with these parameters has."""
    return math.prod(len(axis) for axis in axes)


def is_row_column(column: str) -> bool:
    """Whether a column of a result file has a value for each combination of parameters."""
    return column in ROW_COLUMNS or column.startswith(STATISTICS)


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp's is private
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else changes a folder of results, and keep others waiting meanwhile. It is made if absent.

    The lock is a file in it, which is removed again, for the folder is committed; so is a new folder that stays empty.
    """
    path, is_new = folder / ".lock", not folder.exists()
    descriptor = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """A descriptor that holds the lock; whoever held it before may have removed its file, then another one counts."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _read(path: Path, version: int) -> dict[str, Any]:
    """A JSON object of this format version, without that version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
    _want(isinstance(content, dict), path, "not a JSON object")
    found = content.pop("version", None)
    _want(found == version, path, f"format version {found}, wanted {version}")
    assert isinstance(content, dict)
    return content


def _want(condition: bool, path: Path, problem: str) -> None:
    if not condition:
        raise ValueError(f"{path} is foreign: {problem}")


def _are_axes(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(axis, list) and all(isinstance(word, str) for word in axis) for axis in value
    )


def _read_machine(path: Path) -> dict[str, Any]:
    content = _read(path, MACHINE_FORMAT)
    _want(content.get("machine") == path.parent.name, path, f"it is of machine {content.get('machine')}")
    return content


def _read_results(path: Path) -> dict[str, Any]:
    content = _read(path, RESULTS_FORMAT)
    for key, kind in {
        "commit_hash": str,
        "env_name": str,
        "params": dict,
        "results": dict,
        "requirements": dict,
    }.items():
        _want(isinstance(content.get(key), kind), path, f"it has no {key}")
    _want(isinstance(content.get("date"), int) and isinstance(content.get("python"), str), path, "no date or python")
    _want(re.fullmatch(r"[0-9a-f]{40}", content["commit_hash"]) is not None, path, "commit_hash is not a hash")
    columns = content.get("result_columns")
    columns = columns if isinstance(columns, list) and all(isinstance(name, str) for name in columns) else []
    _want({"result", "params", "version"} <= set(columns), path, "it has no result_columns")
    unknown = [name for name in columns if not is_row_column(name) and name not in ENTRY_COLUMNS]
    _want(not unknown, path, f"unknown columns {unknown}")
    for name, entry in content["results"].items():
        problem = _entry_problem(columns, entry)
        _want(not problem, path, f"{name}: {problem}")
    return content


def _entry_problem(columns: list[str], entry: object) -> str:
    """Why this is not the entry of a benchmark; empty where it is one."""
    if not isinstance(entry, list) or len(entry) > len(columns):
        return "not a list of its columns"
    values: Mapping[str, Any] = dict(zip(columns, entry, strict=False))
    axes, version = values.get("params"), values.get("version")
    if not isinstance(axes, list) or not _are_axes(axes) or not isinstance(version, str):
        return "no parameter axes" if isinstance(version, str) else "no version"
    for column, value in values.items():
        if not is_row_column(column) or value is None:
            continue
        if not isinstance(value, list) or len(value) != combinations(axes):
            return f"{column} does not have the {combinations(axes)} rows of its parameters"
        if column == "result" and not all(v is None or isinstance(v, int | float) for v in value):
            return "a result is not a number"
        if column == "samples" and not all(v is None or isinstance(v, list) for v in value):
            return "the samples of a row are not a list"
    return ""


def _mismatches(path: Path, content: Mapping[str, Any], machine: Mapping[str, Any] | None) -> Iterator[str]:
    """What does not fit the file's name and its machine."""
    name = content["env_name"]
    if len(name) > LONGEST_ENVIRONMENT_NAME:
        name = "env-" + hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    wanted = f"{content['commit_hash'][:8]}-{name}.json"
    if path.name != wanted:
        yield f"{path} is foreign: its content is that of {wanted}"
    if machine is None:
        yield f"{path} is left out by asv: machine.json beside it is missing or unreadable"
        return
    for key, value in machine.items():
        if content["params"].get(key) != value:
            yield f"{path} is foreign: {key} is {content['params'].get(key)!r}, machine.json says {value!r}"
