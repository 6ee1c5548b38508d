"""`python -m benchmarks merge`: asv results of several runners in one folder, row by row. asv has no such command."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.stored import (
    BENCHMARKS_FORMAT,
    ENTRY_COLUMNS,
    MACHINE_FORMAT,
    RESULTS_FORMAT,
    Stored,
    alone,
    is_row_column,
    load,
    read_benchmarks,
    unknown_commits,
    write,
)

PREFERENCES = ("newest", "into", "source")
SERIES = ("version", "params", "param_names", "type", "unit")
"""What two rulers must agree on for their numbers to share a series."""
IDENTITY = ("commit_hash", "env_name", "date", "python", "params", "requirements", "env_vars")

Row = dict[str, Any]
"""Column -> value, of one combination of parameters."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to say, one line each, and the files that are new or changed."""

    lines: list[str]
    changed: list[Path]


def add_command(commands: Any) -> None:
    """Add it to argparse's sub-parsers."""
    parser = commands.add_parser("merge", help="merge asv results of several runners, or check a folder of results")
    parser.add_argument("sources", nargs="*", type=Path, help="folders of asv results, each with its benchmarks.json")
    parser.add_argument("--into", type=Path, default=Path("results"), help="folder to merge into; default: results")
    parser.add_argument("--prefer", choices=PREFERENCES, default="newest", help="which of two measurements of a row")
    parser.add_argument("--benchmarks", type=Path, help="benchmarks.json that counts where the ruler has moved on")
    parser.add_argument("--check", action="store_true", help="refuse a folder that asv would publish only in part")


def check(folder: Path, repository: Path) -> int:
    """How many result files a folder holds that can be published as a whole.

    Args:
        folder: asv's folder of results.
        repository: git checkout with the commits that were measured.

    Raises:
        ValueError: asv would leave something out; one line for each file.
    """
    stored = load(folder)
    if unknown := unknown_commits(stored, repository):
        raise ValueError("\n".join(unknown))
    return len(stored.results)


def merge(sources: Sequence[Path], into: Path, *, prefer: str = "newest", benchmarks: Path | None = None) -> Outcome:
    """Merge folders of results into one; nothing is written unless everything can be. Another merge is waited for.

    A number beats n/a, and n/a beats a row that failed or was not measured. Of two numbers of one row the newest
    counts. asv keeps one time for a benchmark, not for a row: a row that was merged before is as new as its neighbours.

    Args:
        sources: folders of asv results; they are not changed.
        into: folder to merge into, made where it is absent.
        prefer: "newest", "into" or "source", for two numbers of one row.
        benchmarks: benchmarks.json that counts where the folders' own do not agree.

    Raises:
        ValueError: a file is truncated or foreign, or two folders do not fit together.
    """
    with alone(into):
        return _merge(sources, into, prefer, benchmarks)


def _merge(sources: Sequence[Path], into: Path, prefer: str, benchmarks: Path | None) -> Outcome:
    is_there = (into / "benchmarks.json").exists() or any(into.glob("*/*.json"))
    merged, arriving = load(into) if is_there else Stored(), {source: load(source) for source in sources}
    known = _join_benchmarks({into: merged, **arriving}, strict=benchmarks is None)
    if benchmarks:
        known = read_benchmarks(benchmarks)
    machines = _join_machines({into: merged, **arriving})
    plan = {
        into / name / "machine.json": _text({**fields, "version": MACHINE_FORMAT}, asv_indents=True)
        for name, fields in machines.items()
        if name not in merged.machines
    }
    lines: list[str] = []
    for stored in arriving.values():
        for name, text in stored.environments.items():
            if name not in merged.environments or _newest(stored, name[0]) > _newest(merged, name[0]):
                merged.environments[name] = plan[into.joinpath(*name)] = text
        for where, text in stored.shards.items():
            known_lines = set(merged.shards.get(where, "").splitlines())
            if new_lines := set(text.splitlines()) - known_lines:
                joined = "".join(line + "\n" for line in sorted(known_lines | new_lines))
                merged.shards[where] = plan[into / where[0] / "shards" / where[1]] = joined
        for key, content in stored.results.items():
            path, before = into.joinpath(*key), merged.results.get(key)
            merged.results[key], notes = _join_results(before, content, path, known, prefer)
            lines += [f"{'/'.join(key)}: {note}" for note in notes]
            if _text(merged.results[key]) != _text(before):
                plan[path] = _text({**merged.results[key], "version": RESULTS_FORMAT})
    if known != merged.benchmarks or not is_there:
        plan[into / "benchmarks.json"] = _text({**known, "version": BENCHMARKS_FORMAT}, asv_indents=True)
    # machine.json first and benchmarks.json last: a merge that is cut off leaves a folder that asv can read
    order = sorted(plan, key=lambda path: (path.name == "benchmarks.json", path.name != "machine.json", path))
    for path in order:
        write(path, plan[path])
    return Outcome(lines, order)


def _text(content: object, *, asv_indents: bool = False) -> str:
    return json.dumps(content, indent=4, sort_keys=True) if asv_indents else json.dumps(content)


def _newest(stored: Stored, machine: str) -> int:
    """When the newest benchmark of a machine was started; 0 where there is none."""
    return max((_started(content) for (owner, _), content in stored.results.items() if owner == machine), default=0)


def _started(content: Mapping[str, Any]) -> int:
    return max((entry.get("started_at") or 0 for entry in _entries(content).values()), default=0)


def _join_benchmarks(folders: Mapping[Path, Stored], *, strict: bool) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for folder, stored in folders.items():
        for name, about in stored.benchmarks.items():
            known = joined.setdefault(name, about)
            for key in SERIES if strict else ():
                if known.get(key) != about.get(key):
                    raise ValueError(
                        f"{folder}/benchmarks.json: {key} of {name} is {about.get(key)}, elsewhere {known.get(key)}:"
                        " numbers of two rulers share no series; --benchmarks FILE names the ruler that counts"
                    )
    return joined


def _join_machines(folders: Mapping[Path, Stored]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for folder, stored in folders.items():
        for name, fields in stored.machines.items():
            known = joined.setdefault(name, fields)
            if different := sorted(key for key in known.keys() | fields.keys() if known.get(key) != fields.get(key)):
                one, other = ({key: about.get(key) for key in different} for about in (fields, known))
                raise ValueError(f"{folder}/{name}/machine.json: {one}, elsewhere {other}: two machines need two names")
    return joined


def _join_results(
    ours: dict[str, Any] | None, theirs: dict[str, Any], path: Path, benchmarks: Mapping[str, Any], prefer: str
) -> tuple[dict[str, Any], list[str]]:
    """One file's content, and what to say of it."""
    if ours is None:
        return theirs, [f"new, {len(theirs['results'])} benchmarks"]
    for key in IDENTITY:
        if ours.get(key) != theirs.get(key):
            raise ValueError(f"{path}: {key} is {ours.get(key)} here and {theirs.get(key)} in a source of that name")
    notes = []
    columns = list(dict.fromkeys([*ours["result_columns"], *theirs["result_columns"]]))
    entries, arriving = _entries(ours), _entries(theirs)
    for name, entry in arriving.items():
        known = entries.get(name)
        if known is None:
            notes.append(f"{name} is new")
            entries[name] = entry
        elif known["version"] != entry["version"]:
            wanted = benchmarks.get(name, {}).get("version")
            pair = sorted((known, entry), key=lambda one: (one["version"] == wanted, one.get("started_at") or 0))
            notes.append(f"{name}: version {pair[1]['version']} is kept, {pair[0]['version']} is dropped")
            entries[name] = pair[1]
        else:
            entries[name], note = _join_entries(known, entry, columns, prefer)
            notes += [f"{name}: {note}"] if note else []
    results = {name: _packed(entry, columns) for name, entry in entries.items()}
    older, newer = sorted((ours, theirs), key=_started)
    durations = {**older.get("durations", {}), **newer.get("durations", {})}
    return {**ours, "result_columns": columns, "results": results, "durations": durations}, notes


def _entries(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Benchmark -> column -> value."""
    columns = content["result_columns"]
    return {name: dict(zip(columns, entry, strict=False)) for name, entry in content["results"].items()}


def _packed(entry: Mapping[str, Any], columns: Iterable[str]) -> list[Any]:
    """As asv writes it: nothing for a list of nothing, and no nothing at the end."""
    values = [entry.get(column) for column in columns]
    while values and values[-1] is None:
        values.pop()
    return values


def _join_entries(
    ours: dict[str, Any], theirs: dict[str, Any], columns: Sequence[str], prefer: str
) -> tuple[dict[str, Any], str]:
    """Two measurements of one benchmark, of one version; what to say where both have a number."""
    if len(ours["params"]) != len(theirs["params"]):
        raise ValueError(f"{len(ours['params'])} parameter axes here, {len(theirs['params'])} in a source")
    pairs = zip(ours["params"], theirs["params"], strict=True)
    axes = [list(dict.fromkeys([*mine, *other])) for mine, other in pairs]
    names = [column for column in columns if is_row_column(column)]
    mine, other = _rows(ours, names), _rows(theirs, names)
    times = ours.get("started_at") or 0, theirs.get("started_at") or 0
    chosen, disagreements = [], []
    for key in product(*axes):
        a, b = mine.get(key, {}), other.get(key, {})
        if _rank(a) == _rank(b) == 2 and a["result"] != b["result"]:
            disagreements.append(b["result"] / a["result"] - 1 if a["result"] else math.inf)
        chosen.append(_choose(a, b, times, prefer))
    newest, older = (theirs, ours) if times[1] > times[0] else (ours, theirs)
    joined = {column: newest.get(column) or older.get(column) for column in ENTRY_COLUMNS if column in columns}
    joined |= {"params": axes, "version": ours["version"]}
    for name in names:
        values = [row.get(name) for row in chosen]
        joined[name] = values if any(value is not None for value in values) else None
    if not disagreements:
        return joined, ""
    kept = {"into": "the folder's", "source": "the source's"}.get(prefer, "the newest")
    widest = max(disagreements, key=abs)
    return joined, f"{len(disagreements)} rows measured twice, up to {widest:+.1%} apart: {kept} are kept"


def _rows(entry: Mapping[str, Any], names: Sequence[str]) -> dict[tuple[str, ...], Row]:
    keys = list(product(*entry["params"]))
    filled = {name: entry.get(name) or [None] * len(keys) for name in names}
    return {key: {name: filled[name][i] for name in names} for i, key in enumerate(keys)}


def _rank(row: Row) -> int:
    """2 for a number, 1 for n/a, 0 for a row that failed or was not measured."""
    value = row.get("result")
    return 0 if value is None else 1 if math.isnan(value) else 2


def _choose(ours: Row, theirs: Row, times: tuple[int, int], prefer: str) -> Row:
    """The same whichever comes first, so that the order of the sources does not matter."""
    if _rank(ours) != _rank(theirs):
        return max(ours, theirs, key=_rank)
    if ours.get("result") != theirs.get("result") and prefer != "newest":
        return ours if prefer == "into" else theirs
    same = ours.get("result") == theirs.get("result")

    def key(item: tuple[int, Row]) -> tuple[int, int, str]:
        time, row = item
        return 0 if same else time, len(row.get("samples") or []), _text(row)

    return max(zip(times, (ours, theirs), strict=True), key=key)[1]
