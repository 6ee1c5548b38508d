"""What measuring a cell at one commit takes, from what it took before; and how long a run takes on several GPUs."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.compare.cells import Cell
from benchmarks.shards import journal, plan

UNKNOWN_SECONDS = 1.5
BUILD_SECONDS = 8.0
"""An environment: a virtual environment, a wheel and its installation, measured on two cores."""
START_SECONDS = 20.0
"""A shard: its job, Python, and a process for each commit that imports torch. Assumed, for 20 commits on 16 cores."""
FORECAST_SHARDS = (1, 2, 4, 8, 16, 32, 64, 128)
_SUITE = {"cuda": ("bench_rope.", "bench_mrope."), "cpu": ("bench_cpu.",)}
"""asv's benchmarks that are cells."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a row: by cell, else by asv's benchmark, else by provider, else of what is known on the whole."""

    cells: Mapping[str, float] = field(default_factory=dict)
    benchmarks: Mapping[str, float] = field(default_factory=dict)

    def of(self, cell: Cell) -> float:
        """Seconds of a cell at one commit."""
        if cell.name in self.cells:
            return self.cells[cell.name]
        if cell.benchmark in self.benchmarks:
            return self.benchmarks[cell.benchmark]
        like = [cost for name, cost in self.benchmarks.items() if name.endswith(f".time_{cell.provider}")]
        known = like or list(self.benchmarks.values()) or list(self.cells.values())
        return statistics.fmean(known) if known else UNKNOWN_SECONDS


def known(runs: Path, results: Path, place: str) -> Costs:
    """From the journals of earlier runs, and from the durations that asv stored.

    Args:
        runs: folder of runs.
        results: asv's folder of results.
        place: "cuda" or "cpu".
    """
    rows: dict[str, list[float]] = {}
    for path in sorted(runs.glob("*/plan.json")):
        try:
            journals = journal.read(path.parent)
        except ValueError:
            continue  # damaged: whoever goes on with that run is told
        for one in journals:
            if one.about["place"] == place:
                for row in one.rows:
                    rows.setdefault(row.cell, []).extend([row.seconds] if row.samples else [])
    cells = {name: statistics.median(seconds) for name, seconds in rows.items() if seconds}
    return Costs(cells, of_asv(results.glob("*/*-*.json"), place))


def of_asv(paths: Iterable[Path], place: str) -> dict[str, float]:
    """asv's benchmark -> seconds of a row, the median over commits.

    Args:
        paths: result files.
        place: "cuda" or "cpu".
    """
    found: dict[str, list[float]] = {}
    for path in sorted(paths):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            columns = {name: index for index, name in enumerate(content["result_columns"])}
            for name, entry in content["results"].items():
                if name.startswith(_SUITE[place]) and len(entry) > columns["duration"]:
                    values = entry[columns["result"]] or []
                    rows = sum(isinstance(value, float) and not math.isnan(value) for value in values)
                    if rows and (seconds := entry[columns["duration"]]):
                        found.setdefault(name, []).append(seconds / rows)
        except (KeyError, TypeError, ValueError):
            continue  # foreign or truncated: merging refuses it, planning can do without
    return {name: statistics.median(seconds) for name, seconds in found.items()}


@dataclass(frozen=True, slots=True)
class Forecast:
    """How long a run takes on a number of GPUs, in seconds."""

    shards: int
    measuring: float
    """The longest shard."""
    total: float
    """With what is done once, by one machine, before and after."""


def forecast(cells: Sequence[str], costs: Sequence[float], commits: int, shards: Iterable[int]) -> list[Forecast]:
    """Share the cells out as a run would, and add up.

    Args:
        cells: names.
        costs: seconds of each, all commits together.
        commits: how many environments must be built.
        shards: numbers of GPUs.
    """
    cost = dict(zip(cells, costs, strict=True))
    found = []
    for count in shards:
        longest = max(sum(cost[cell] for cell in part) for part in plan.share(cells, costs, count))
        found.append(Forecast(count, longest, BUILD_SECONDS * commits + START_SECONDS + longest))
    return found


def table(wanted: plan.Plan, folder: Path, results: Path) -> str:
    """How long a run takes on how many GPUs, by what its cells have taken before."""
    costs = known(folder.parent, results, wanted.place)
    hashes = [arm.commit.commit_hash for arm in wanted.arms]
    left = journal.Table(journal.read(folder) if plan.exists(folder) else ()).left(wanted.cells, hashes)
    rows = sum(map(len, left.values()))
    lines = [f"{len(hashes)} commits x {len(wanted.cells)} cells on {wanted.place}, {rows} rows to measure"]
    if not left:
        return lines[0]
    seconds = {cell.name: costs.of(cell) * len(missing) for cell, missing in left.items()}
    lines += [
        f"{sum(seconds.values()) / 3600:.2f} GPU hours, {sum(seconds.values()) / rows:.2f} s a row; "
        f"the longest cell {max(seconds.values()):.0f} s",
        f"done once: {len(hashes)} environments {BUILD_SECONDS * len(hashes):.0f} s, "
        f"a shard's start {START_SECONDS:.0f} s",
        "",
        "| shards | measuring, min | all, min | speedup |",
        "| --- | --- | --- | --- |",
    ]
    found = forecast(list(seconds), list(seconds.values()), len(hashes), FORECAST_SHARDS)
    for one in found:
        lines.append(
            f"| {one.shards} | {one.measuring / 60:.1f} | {one.total / 60:.1f} | {found[0].total / one.total:.1f} |"
        )
    return "\n".join(lines)
