"""A comparison's process medians as ordinary asv results of both commits: stock `asv compare` shows the same data."""

import contextlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.compare.cells import Cell
from benchmarks.compare.environments import ROOT, Commit
from benchmarks.stored import MACHINE_FORMAT, write

LEAST_SAMPLES = 10
"""asv can never flag a change between two sets of exactly 6 samples; a set this large it can."""


def store(
    commit: Commit,
    medians: Mapping[Cell, Sequence[float]],
    about: Mapping[str, Any],
    machine: Mapping[str, str],
    results: Path,
    failed: Collection[Cell] = (),
    spent: Mapping[Cell, tuple[float, float]] | None = None,
) -> Path | None:
    """Add rows to the result file of a commit, whose other rows stay.

    Args:
        commit: what was measured.
        medians: cell -> seconds, one for each process; cells that asv does not know are left out.
        about: what asv says of the environment, see environments.build.
        machine: the fields of asv's machine.
        results: asv's folder of results; it must hold benchmarks.json.
        failed: cells that were measured and have no number.
        spent: cell -> when measuring it began, in seconds since 1970, and how many seconds it took; default: now, 0.

    Returns:
        The file; None where there is nothing to store.

    Raises:
        ValueError: benchmarks.json is not there or does not know a benchmark.
    """
    from asv.benchmarks import Benchmarks
    from asv.config import Config
    from asv.results import Results, get_filename
    from asv.runner import BenchmarkResult

    known: dict[str, dict[Cell, Sequence[float]]] = {}
    for cell, seconds in medians.items():
        if cell.benchmark and len(seconds) >= LEAST_SAMPLES:
            known.setdefault(cell.benchmark, {})[cell] = seconds
    for cell in failed:
        if cell.benchmark:
            known.setdefault(cell.benchmark, {})[cell] = ()
    if not known or not commit.is_stored:
        return None
    with contextlib.chdir(ROOT):
        conf = Config.load("asv.conf.json")
    conf.results_dir = str(results)
    if not Path(Benchmarks.get_benchmark_file_path(conf.results_dir)).exists():
        raise ValueError(f"{results}/benchmarks.json is missing: `make bench` or `asv run` writes it")
    benchmarks = Benchmarks.load(conf)
    folder = results / machine["machine"]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "machine.json").exists():
        write(folder / "machine.json", json.dumps({**machine, "version": MACHINE_FORMAT}, indent=4))
    relative = Path(get_filename(machine["machine"], commit.commit_hash, about["env_name"]))
    path = results / relative
    if path.exists():
        stored = Results.load(str(path), machine_name=machine["machine"])
    else:
        params = {**machine, "python": about["python"], **about["requirements"]}
        stored = Results(
            params,
            about["requirements"],
            commit.commit_hash,
            about["date"],
            about["python"],
            about["env_name"],
            about["env_vars"],
        )
    for name, cells in known.items():
        benchmark = benchmarks[name]
        places = {words: i for i, words in enumerate(product(*benchmark["params"]))}
        samples: list[Sequence[float] | None] = [None] * len(places)
        for cell, seconds in cells.items():
            samples[places[tuple(repr(value) for value in cell.params)]] = list(seconds)
        result = BenchmarkResult(
            result=[0.0 if s else None for s in samples],  # asv makes the result of the samples
            samples=[s or None for s in samples],
            number=[1 if s else None for s in samples],
            errcode=0,
            stderr="",
            profile=None,
        )
        measured = {i for i, s in enumerate(samples) if s is not None}
        times = [spent[cell] for cell in cells if spent and cell in spent]
        stored.add_result(
            benchmark,
            result,
            started_at=datetime.fromtimestamp(max(start for start, _ in times), UTC) if times else None,
            duration=sum(seconds for _, seconds in times) if times else None,
            record_samples=True,
            selected_idx=measured,
        )
    _save(stored, relative, results)
    return path


def _save(stored: Any, relative: Path, results: Path) -> None:
    """Whole or not at all: asv drops a commit with a truncated file from its site without a word."""
    with tempfile.TemporaryDirectory(dir=results) as folder:
        stored.save(folder)
        os.replace(Path(folder, relative), results / relative)
