"""What all shards measured, as ordinary asv results and as one table, with where each row comes from."""

import csv
import io
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import merge, stored
from benchmarks.compare import store
from benchmarks.compare.cells import Cell
from benchmarks.shards import device
from benchmarks.shards.journal import Journal, Row, Table
from benchmarks.shards.plan import Plan

COLUMNS = (
    *("machine", "commit", "provider", "model_name", "tp_size", "num_tokens"),
    *("us", "us_min", "us_max", "status", "seconds", "started", "device"),
)


def machine_of(folder: Path, name: str, place: str) -> dict[str, str]:
    """asv's machine of a run: named after its device.

    Args:
        folder: the run's.
        name: another name for it; empty for none.
        place: "cuda" or "cpu".

    Raises:
        ValueError: no shard has begun.
    """
    from tools import machine

    kind = device.claimed(folder)
    if not kind:
        raise ValueError(f"{folder}: no shard has begun, so there is nothing to store")
    gpus = [] if place == "cpu" else [kind]
    return machine.machine_fields(name or machine.machine_name(gpus, kind), gpus)


def assert_storable(plan: Plan, results: Path) -> None:
    """asv's results know the run's benchmarks, in the versions that its ruler has.

    Args:
        plan: the run's.
        results: asv's folder of results.

    Raises:
        ValueError: they do not: the numbers would be filed under another ruler's version, or nowhere.
    """
    path = results / "benchmarks.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: `make bench` or `asv run` writes it")
    known = stored.read_benchmarks(path)
    for name, version in plan.versions.items():
        if name not in known:
            raise ValueError(f"{path} does not know {name}: `asv run` renews it")
        if (there := known[name]["version"]) != version:
            raise ValueError(
                f"{path} has {name} in version {there}, this run's ruler has {version}: `asv run` renews it"
            )


def gather(
    folder: Path, plan: Plan, journals: Sequence[Journal], table: Table, machine: Mapping[str, str], results: Path
) -> list[str]:
    """Add a run's rows to asv's results, and say where they come from in a file beside them.

    Args:
        folder: the run's; it gets `results/` with this run's alone, and `rows.csv` with the rows that asv has no name
            for as well.
        plan: the run's.
        journals: the run's.
        table: their rows.
        machine: see machine_of.
        results: asv's folder of results.

    Returns:
        What to say, one line each.

    Raises:
        ValueError: the results do not fit together, or shards measured on two kinds of device.
    """
    if kinds := {one.about["device"]["name"] for one in journals} - {device.claimed(folder)}:
        raise ValueError(f"{folder}: journals of {', '.join(sorted(kinds))} lie among those of another device")
    assert_storable(plan, results)  # once more: measuring may have taken hours
    best = {cell: table.best(cell.name) for cell in plan.cells}
    stored.write(folder / "rows.csv", _as_csv(plan, best, machine["machine"]))
    own = folder / "results"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    shutil.copy(results / "benchmarks.json", own)
    for arm in plan.measurable:
        rows = {cell: found[arm.commit.commit_hash] for cell, (_, found) in best.items() if _has(arm, found)}
        store.store(
            arm.commit,
            {cell: row.samples for cell, row in rows.items() if row.samples},
            arm.about,
            machine,
            own,
            failed=[cell for cell, row in rows.items() if not row.samples],
            spent={cell: (row.started, row.seconds) for cell, row in rows.items()},
        )
    outcome = merge.merge([own], results)
    provenance = results / machine["machine"] / "shards" / f"{plan.name}.jsonl"
    stored.write(provenance, "".join(json.dumps(line) + "\n" for line in _provenance(plan, journals, best)))
    return [*outcome.lines, f"where each row was measured: {provenance}"]


def _has(arm: Any, found: Mapping[str, Row]) -> bool:
    return arm.commit.commit_hash in found


def _provenance(
    plan: Plan, journals: Sequence[Journal], best: Mapping[Cell, tuple[str, Mapping[str, Row]]]
) -> list[dict[str, Any]]:
    """For each shard that measured something that counts: host, device, versions, and its rows with their times."""
    counting = {
        (cell.name, commit, row.started): cell for cell, (_, rows) in best.items() for commit, row in rows.items()
    }
    found = []
    for one in journals:
        rows = [
            [row.cell, row.commit[:8], row.started]
            for row in one.rows
            if (row.cell, row.commit, row.started) in counting
        ]
        if rows:
            found.append({"run": plan.name, **one.about, "versions": one.versions, "rows": rows})
    return found


def _as_csv(plan: Plan, best: Mapping[Cell, tuple[str, Mapping[str, Row]]], machine: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for arm in plan.arms:
        for cell, (where, rows) in best.items():
            row = rows.get(arm.commit.commit_hash)
            us = [1e6 * seconds for seconds in row.samples] if row else []
            status = arm.why or (row.error or "ok" if row else "not measured")
            numbers = [statistics.median(us), min(us), max(us)] if us else [""] * 3
            spent = [row.seconds, row.started, where] if row else [""] * 3
            shape = [cell.provider, cell.model_name, cell.tp_size, cell.num_tokens]
            writer.writerow([machine, arm.commit.commit_hash, *shape, *numbers, status, *spent])
    return text.getvalue()
