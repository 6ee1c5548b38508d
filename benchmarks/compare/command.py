"""`python -m benchmarks compare BASE HEAD`: what the flags mean, and the order in which things happen."""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.console import say

CPU_MARGIN = 0.05
"""Of one thread on a machine that does other things as well."""


def add_command(commands: Any) -> None:
    """Add it to argparse's sub-parsers."""
    parser = commands.add_parser("compare", help="whether HEAD is slower than BASE, in taking-turns processes")
    parser.add_argument("base", help="name or hash; where it has moved on since, the merge base is taken")
    parser.add_argument("head", nargs="?", default="HEAD", help='name or hash; "." is the working tree; default: HEAD')
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--smoke", action="store_true", help="few cells, about a minute on a GPU")
    which.add_argument("--full", action="store_true", help="the suite's cells and vLLM's mRoPE grid")
    parser.add_argument("--provider", nargs="+", action="extend", help="default: all of the suite")
    parser.add_argument("--device", help="default: the GPU, else the CPU")
    parser.add_argument("--rounds", type=int, default=10, help="process pairs; asv's results want 10")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of samples a process pair, even")
    parser.add_argument("--margin", type=float, help="a difference that is none, percent; default: 1, on a CPU 5")
    parser.add_argument("--minutes", type=float, help="stop after that long; --resume goes on")
    parser.add_argument("--resume", action="store_true", help="go on with the run that was interrupted")
    parser.add_argument("--base-python", help="interpreter that has the base installed, instead of building it")
    parser.add_argument("--head-python", help="the same of the head")
    parser.add_argument("--machine", help="asv's name of this machine; default: the GPU's or the CPU's")
    parser.add_argument("--results", type=Path, help="asv results to add to; default: results/")
    parser.add_argument("--no-store", action="store_true", help="leave asv's results alone")
    parser.add_argument("--output", type=Path, default=Path(".asv/compare"), help="folder for report, JSON and plot")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def run(options: argparse.Namespace) -> int:
    """0 clean, 1 confirmed regression, 2 error, 3 invalid run, 130 interrupted. What is wrong with flags or names is
    raised as ValueError.
    """
    from benchmarks.compare import environments

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)  # what lies in temporary folders is cleared away, too
    try:
        with environments.locked(), tempfile.TemporaryDirectory(prefix="ruler-") as folder:
            return _run(options, Path(folder, "benchmarks"))
    except KeyboardInterrupt:
        print("interrupted; --resume goes on with what was measured", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError):
        raise
    except Exception:
        traceback.print_exc()  # and not Python's own exit code: 1 means a regression
        return 2


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _run(options: argparse.Namespace, ruler: Path) -> int:
    from benchmarks.compare import environments, outcome
    from benchmarks.compare.journal import Journal
    from benchmarks.compare.session import Session, Settings, StartError

    start = time.monotonic()
    plan = _Plan.of(options)
    base, head, notes = environments.resolve(options.base, options.head)
    say(start, f"base {base}, head {head}: {len(plan.cells)} cells on {plan.place}")
    arms = _install(options, base, head)
    say(start, "both are installed")
    version = environments.ruler_version()
    shutil.copytree(environments.ROOT / "benchmarks", ruler, ignore=shutil.ignore_patterns("__pycache__"))
    settings = Settings(
        {arm.name: arm.python for arm in arms},
        plan.place,
        options.rounds,
        options.pairs,
        ruler,
        {arm.name: arm.commit.commit_hash for arm in arms if arm.about},
        spares=int(plan.on_gpu),
    )
    met = {arm.name: _meet(arm, settings, notes) for arm in arms}
    notes += _differences({name: about["versions"] for name, about in met.items()})
    header = _header(base, head, plan, met, options) | {"ruler": version}
    folder = options.output / f"{base.commit_hash[:8]}-{head.commit_hash[:8]}-{plan.grid}-{plan.place.replace(':', '')}"
    journal = Journal(folder / "journal.jsonl", header, resume=options.resume)
    deadline = None if options.minutes is None else start + 60 * options.minutes
    try:
        done = _measure(Session(settings, journal, lambda text: say(start, text)), plan, deadline)
    except StartError as error:
        raise ValueError(f"{error}; --resume goes on") from error
    if not done:
        notes.append("time was up before all was measured: --resume goes on")
    found = outcome.conclude(journal, plan.everything, plan.doubled, plan.rules, options.rounds)
    if not options.no_store:
        notes += _store(found, journal, arms, options)
    measuring, elapsed = (sum(getattr(e, name) for e in journal.entries) for name in ("measuring", "elapsed"))
    clock = f"{elapsed:.0f} s in processes, {measuring / max(elapsed, 1e-9):.0%} of it measuring"
    _write(found, folder, header, notes, [header["machine"], clock], as_json=options.json)
    say(start, f"report.md, report.json and ratios.png are in {folder}; exit code {found.exit_code}")
    return found.exit_code


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is measured where, and by which rules it is judged."""

    place: str
    cells: list[Any]
    doubled: list[Any]
    everything: list[Any]
    rules: Any
    grid: str

    @property
    def on_gpu(self) -> bool:
        return not self.place.startswith("cpu")

    @classmethod
    def of(cls, options: argparse.Namespace) -> "_Plan":
        import scipy.stats  # noqa: F401 (better missed now than after all was measured)

        from benchmarks import sweep
        from benchmarks.compare import cells as lists
        from benchmarks.compare.verdicts import Rules

        if options.rounds < 3 or options.pairs < 2 or options.pairs % 2:
            raise ValueError(f"--rounds must be 3 or more and --pairs even, got {options.rounds} and {options.pairs}")
        if options.margin is not None and not 0 < options.margin < 100:
            raise ValueError(f"--margin must be above 0 and below 100 percent, got {options.margin:g}")
        place = sweep.place_of(options.device)
        kind = place.partition(":")[0]
        if kind not in {"cpu", "cuda"}:
            raise ValueError(f"--device must be cpu or cuda, got {place!r}")
        place = "cpu" if kind == "cpu" else place
        cells = lists.chosen(kind, options.provider, is_smoke=options.smoke, is_full=options.full)
        margin = Rules().margin if kind == "cuda" else CPU_MARGIN
        rules = Rules(margin=margin if options.margin is None else options.margin / 100)
        grid = "smoke" if options.smoke else "full" if options.full else "suite"
        return cls(place, cells, lists.doubled(cells), [*lists.controls(kind), *cells], rules, grid)


@dataclass(frozen=True, slots=True)
class _Arm:
    """A commit that is installed. `about` is what asv says of its environment; empty where it was not asv's."""

    name: str
    commit: Any
    python: str
    about: dict[str, Any]


def _install(options: argparse.Namespace, base: Any, head: Any) -> list[_Arm]:
    from benchmarks.compare import environments
    from benchmarks.compare.session import BASE, HEAD

    arms = []
    for name, commit, given in ((BASE, base, options.base_python), (HEAD, head, options.head_python)):
        python, about = (given, {}) if given else environments.build(commit, name)
        arms.append(_Arm(name, commit, python, about))
    return arms


def _measure(session: Any, plan: _Plan, deadline: float | None) -> bool:
    """Everything once, then what is flagged again in new processes, with the controls. Whether it came to the end."""
    from benchmarks.compare import outcome
    from benchmarks.compare.cells import CONTROL

    if not session.run("first", plan.everything, plan.doubled, deadline):
        return False
    doubtful = outcome.flagged(outcome.first_look(session.journal, plan.everything, plan.rules))
    if not doubtful:
        return True
    session.say(f"{len(doubtful)} cells are flagged: measured again in new processes")
    controls = [cell for cell in plan.everything if cell.provider == CONTROL]
    finished: bool = session.run("again", [*controls, *doubtful], deadline=deadline)
    return finished


def _write(
    found: Any, folder: Path, header: dict[str, Any], notes: list[str], facts: list[str], *, as_json: bool
) -> None:
    from benchmarks.compare import report

    title = f"{header['base'][:8]} -> {header['head'][:8]}"
    text = report.markdown(found, title, notes, facts)
    data = json.dumps(report.as_json(found, header, notes), allow_nan=False)
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    (folder / "report.json").write_text(data + "\n", encoding="utf-8")
    try:
        report.plot(found, title, folder / "ratios.png")
    except (ImportError, ValueError) as error:
        print(f"ratios.png is not drawn: {error}", file=sys.stderr)
    print(data if as_json else text)


def _meet(arm: _Arm, settings: Any, notes: list[str]) -> dict[str, Any]:
    """What a process of an arm says of itself and of the device. It must have the commit that it should have."""
    from benchmarks.compare import environments
    from benchmarks.compare.processes import Process, WorkerError

    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        Path(folder, "benchmarks").symlink_to(settings.ruler, target_is_directory=True)
        try:
            process = Process(arm.python, settings.place, Path(folder))
            with contextlib.closing(process):
                about = process.wait_until_ready(settings.hello_seconds)
                about["device"] = process.ask("device", settings.prepare_seconds).get("id", "")
        except WorkerError as error:
            raise ValueError(f"{arm.name}: {arm.python} cannot measure: {error}") from error
    if about["sources"] != environments.sources_digest(arm.commit):
        where = f"{arm.name}: {about['ropekern']} is not the code of {arm.commit}"
        if arm.about:
            raise ValueError(f"{where}; remove {environments.FOLDER / arm.name} and try again")
        notes.append(where)
    if not about["sees_throttling"]:
        notes.append(f"{arm.name}: whether the GPU is throttled cannot be seen: nvidia-ml-py is not installed")
    return about


def _differences(versions: dict[str, dict[str, str]]) -> list[str]:
    """What besides the commit is not the same in both arms."""
    base, head = versions.values()
    return [
        f"not only the commit differs: {name} {base.get(name)} -> {head.get(name)}; the ratio is of both together"
        for name in sorted(base.keys() | head.keys())
        if name != "ropekern" and base.get(name) != head.get(name)
    ]


def _header(
    base: Any, head: Any, plan: _Plan, met: dict[str, dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    from benchmarks import environment

    return {
        "base": base.commit_hash,
        "head": head.commit_hash,
        "machine": environment.line(),
        "place": plan.place,
        "device": sorted({about["device"] for about in met.values()}),
        "versions": {name: about["versions"] for name, about in met.items()},
        "rules": asdict(plan.rules),
        "rounds": options.rounds,
        "pairs": options.pairs,
        "cells": [cell.name for cell in plan.everything],
    }


def _store(found: Any, journal: Any, arms: list[_Arm], options: argparse.Namespace) -> list[str]:
    """Add to asv's results; what could not be added is a note, never the end of a run that has measured."""
    from benchmarks.compare import environments, outcome, store
    from tools import machine

    if found.invalid or found.missing:
        return ["asv results were not stored: the run is invalid or not complete"]
    if arms[0].commit.commit_hash == arms[1].commit.commit_hash:
        return ["asv results were not stored: both arms are one commit"]
    if options.rounds < store.LEAST_SAMPLES:
        return [f"asv results were not stored: {options.rounds} rounds, {store.LEAST_SAMPLES} are wanted"]
    gpus = machine.gpu_names()
    fields = machine.machine_fields(options.machine or machine.machine_name(gpus, machine.cpu_name()), gpus)
    both = {row.cell: outcome.process_medians(journal, row.cell) for row in found.rows}
    notes = []
    for index, arm in enumerate(arms):
        if not arm.about:
            continue
        medians = {cell: pair[index] for cell, pair in both.items()}
        try:
            folder = options.results or environments.ROOT / "results"
            path = store.store(arm.commit, medians, arm.about, fields, folder)
        except (ImportError, OSError, ValueError, KeyError) as error:
            notes.append(f"asv results of {arm.commit} were not stored: {error}")
            continue
        if path is not None:
            notes.append(f"asv results of {arm.commit}: {path.parent.name}/{path.name}")
    return notes
