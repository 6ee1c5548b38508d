"""`python -m benchmarks run COMMIT ...`: what the flags mean, and the order in which things happen."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import locks
from benchmarks.console import say


def add_command(commands: Any) -> None:
    """Add it to argparse's sub-parsers."""
    parser = commands.add_parser(
        "run", help="measure cells at commits, on several GPUs or a cluster; a rerun completes"
    )
    parser.add_argument(
        "commits", nargs="*", help="names, hashes, A..B, A^! or NEW; default: HEAD, or the folder's run"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--smoke", action="store_true", help="few cells of the suite")
    which.add_argument("--full", action="store_true", help="the suite's cells and vLLM's mRoPE grid")
    parser.add_argument("--provider", nargs="+", action="extend", help="default: all of the suite")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU or --gres")
    parser.add_argument("--shards", type=int, help="default: one for each GPU here")
    parser.add_argument("--executor", choices=("local", "slurm"), default="local", help="submitit's; default: local")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--account", help="of Slurm")
    parser.add_argument("--gres", help="of Slurm, for each shard: gpu:h100:1")
    parser.add_argument("--constraint", help="of Slurm")
    parser.add_argument("--time", type=int, default=240, metavar="MINUTES", help="Slurm's limit for a shard")
    parser.add_argument("--slurm", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="more for sbatch")
    parser.add_argument("--folder", type=Path, help="journals and logs, seen by all nodes; default: under .asv/shards")
    parser.add_argument("--retry-failed", action="store_true", help="measure again what failed for good")
    parser.add_argument("--dry-run", action="store_true", help="say how long it would take on how many GPUs")
    parser.add_argument("--machine", default="", help="asv's name of the machine; default: the GPU's or the CPU's")
    parser.add_argument("--results", type=Path, help="asv results to add to; default: results/")
    parser.add_argument("--no-store", action="store_true", help="leave asv's results alone")


def run(options: argparse.Namespace) -> int:
    """0 all measured, 1 something failed or is left for a rerun, 130 interrupted; errors raise ValueError."""
    from benchmarks.compare import environments
    from benchmarks.shards import costs, gather, plan, watch

    if options.shards is not None and options.shards < 1:
        raise ValueError(f"--shards must be 1 or more, got {options.shards}")
    options.results = options.results or environments.ROOT / "results"
    start = time.monotonic()
    wanted, folder = _wanted(options)
    if options.dry_run:
        print(costs.table(wanted, folder, options.results))
        return 0
    if not options.no_store:
        gather.assert_storable(wanted, options.results)
    with locks.held(folder / "lock", f"another run is at work in {folder}"):  # two would measure everything twice
        wanted = wanted.resumed(folder)
        wanted.save(folder)  # before anything is built: another run's folder is refused
        ruler = plan.keep_ruler(folder)
        try:
            watch.see_off(wanted, folder, start)
            wanted = _install(wanted, start)
            wanted.save(folder)
            say(start, f"{len(wanted.arms)} commits x {len(wanted.cells)} cells on {wanted.place}, in {folder}")
            _measure(wanted, folder, ruler, options, start)
        except KeyboardInterrupt:
            print(f"interrupted; `run --folder {folder}` goes on", file=sys.stderr)
            return 130
        return _conclude(wanted, folder, options, start)


def _wanted(options: argparse.Namespace) -> tuple[Any, Path]:
    """The run that is asked for, or the one that lies in the folder; and the folder."""
    from benchmarks.compare import environments
    from benchmarks.shards import commits, plan

    if options.folder is not None and not options.commits and plan.exists(options.folder):
        return plan.load(options.folder), options.folder
    place = _place(options)
    cells = _cells(place, options)
    words = options.commits or ["HEAD"]
    machine = _machine(options, place) if commits.NEW in words else ""
    arms = tuple(plan.Arm(one) for one in commits.resolve(words, options.results, machine))
    wanted = plan.Plan(environments.ruler_version(), place, arms, tuple(cells), plan.versions_of(cells))
    return wanted, options.folder or environments.ROOT / plan.FOLDER / wanted.name


def _place(options: argparse.Namespace) -> str:
    """Where a cluster measures, this machine may have no GPU itself."""
    from benchmarks import gpu

    if options.device is not None:
        return str(options.device)
    if options.executor == "slurm":
        return "cuda" if options.gres or any(map(_asks_for_gpus, options.slurm)) else "cpu"
    return "cpu" if gpu.reason_absent() else "cuda"


def _asks_for_gpus(word: str) -> bool:
    """Whether one of --slurm's words does: gpus=1, gpus-per-task=1, gres=gpu:h100:1."""
    return word.startswith("gpus") or (word.startswith("gres=") and "gpu" in word)


def _machine(options: argparse.Namespace, place: str) -> str:
    """Whose results say what is NEW: another kind of machine may have measured it, this one has not."""
    from tools import machine

    if options.machine or options.executor == "local":
        gpus = [] if place == "cpu" else machine.gpu_names()
        return str(options.machine or machine.machine_name(gpus, machine.cpu_name()))
    raise ValueError("NEW with --executor slurm needs --machine: what is new depends on where it is measured")


def _cells(place: str, options: argparse.Namespace) -> list[Any]:
    from benchmarks.compare import cells

    return cells.chosen(place, options.provider, is_smoke=options.smoke, is_full=options.full)


def _install(wanted: Any, start: float) -> Any:
    """An environment for each commit, one after the other; a commit that has none costs itself only."""
    from dataclasses import replace

    from benchmarks.compare import environments

    arms = []
    for number, arm in enumerate(wanted.arms, start=1):
        try:
            python, about = environments.build(arm.commit, arm.commit.commit_hash[:12])
            sources = environments.sources_digest(arm.commit)
            arms.append(replace(arm, python=python, about=about, why="", sources=sources))
            say(start, f"{arm.commit} is installed ({number} of {len(wanted.arms)})")
        except ValueError as error:
            arms.append(replace(arm, python="", why=str(error)))
            say(start, str(error))
    if not any(arm.python for arm in arms):
        raise ValueError("no commit can be installed; the lines above say why")
    return replace(wanted, arms=tuple(arms))


def _measure(wanted: Any, folder: Path, ruler: Path, options: argparse.Namespace, start: float) -> None:
    """Share out what is left, and see that off."""
    from benchmarks.shards import costs, engine, job, journal, plan, watch

    left = journal.Table(journal.read(folder), forgive=options.retry_failed).left(wanted.cells, wanted.hashes)
    if not left:
        say(start, "nothing is left to measure")
        return
    known = costs.known(folder.parent, options.results, wanted.place)
    gpus = _gpus() if wanted.place == "cuda" and options.executor == engine.LOCAL else []
    if wanted.place == "cuda" and options.executor == engine.LOCAL and not gpus:
        raise ValueError("there is no GPU here; --device cpu measures the CPU's cells, --executor slurm goes elsewhere")
    shards = plan.share(
        [cell.name for cell in left],
        [known.of(cell) * len(missing) for cell, missing in left.items()],
        options.shards or max(1, len(gpus)),
    )
    number = 1 + max((int(path.name.partition("-")[0]) for path in (folder / "orders").glob("*.json")), default=0)
    job.assign(folder, number, shards, forgive=options.retry_failed)
    jobs = engine.submit(options.executor, folder, ruler, number, len(shards), _slurm(options), gpus)
    say(start, f"{sum(map(len, left.values()))} rows of {len(left)} cells are shared out to {len(shards)} shards")
    watch.until_done(wanted, folder, jobs, start)


def _conclude(wanted: Any, folder: Path, options: argparse.Namespace, start: float) -> int:
    """Store what there is, say what there is not."""
    from benchmarks.shards import gather, journal

    journals = journal.read(folder)
    table = journal.Table(journals)
    progress = journal.Progress.of(table, wanted.cells, wanted.hashes)
    for cell in wanted.cells:
        for row in table.best(cell.name)[1].values():
            if row.error and row.commit in wanted.hashes:
                print(f"{row.commit[:8]}, {row.cell}: {row.error}")
    for arm in wanted.arms:
        if not arm.python:
            print(arm.why)
    for line in _differences(journals):
        print(line)
    if journals and not options.no_store:
        machine = gather.machine_of(folder, options.machine, wanted.place)
        for line in gather.gather(folder, wanted, journals, table, machine, options.results):
            print(line)
    say(
        start, f"{progress.measured} of {progress.wanted} rows measured, {progress.failed} failed, {progress.left} left"
    )
    if progress.left:
        print(f"`run --folder {folder}` measures what is left")
    return int(bool(progress.left or progress.failed or len(wanted.hashes) < len(wanted.arms)))


def _differences(journals: Sequence[Any]) -> list[str]:
    """What besides the commit is not the same in all shards."""
    found: dict[str, set[str]] = {}
    for one in journals:
        found.setdefault("driver", set()).add(one.about["device"].get("driver", "absent"))
        for versions in one.versions.values():
            for name, version in versions.items():
                found.setdefault(name, set()).add(version)
    return [
        f"not only the commit differs: {name} is {' and '.join(sorted(values))}"
        for name, values in found.items()
        if len(values) > 1 and name != "ropekern"
    ]


def _slurm(options: argparse.Namespace) -> Any:
    from benchmarks.shards.engine import Options

    more: dict[str, Any] = {}
    for word in options.slurm:
        name, mark, value = word.partition("=")
        more[name] = value if mark else True
    return Options(options.partition, options.account, options.gres, options.constraint, options.time, more)


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use."""
    from tools import machine

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [word.strip() for word in given.split(",") if word.strip()]
    return [str(index) for index in range(len(machine.gpu_names()))]
