"""`python -m benchmarks run COMMIT ...`: what the flags mean, and the order in which things happen."""

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FORECAST_SHARDS = (1, 2, 4, 8, 16, 32, 64, 128)
_POLL_SECONDS = {"local": 0.5, "slurm": 5.0}
_SAY_SECONDS = 15.0


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
    from benchmarks.shards import gather, plan

    if options.shards is not None and options.shards < 1:
        raise ValueError(f"--shards must be 1 or more, got {options.shards}")
    options.results = options.results or environments.ROOT / "results"
    start = time.monotonic()
    wanted, folder = _wanted(options)
    if options.dry_run:
        print(_forecast(wanted, folder, options.results))
        return 0
    if not options.no_store:
        gather.assert_storable(wanted, options.results)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        wanted = wanted.resumed(folder)
        wanted.save(folder)  # before anything is built: another run's folder is refused
        ruler = plan.keep_ruler(folder)
        try:
            _see_off(wanted, folder, start)
            wanted = _install(wanted, start)
            wanted.save(folder)
            _say(start, f"{len(wanted.arms)} commits x {len(wanted.cells)} cells on {wanted.place}, in {folder}")
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
    from benchmarks.compare import cells as lists

    cells = lists.of_suite(place, options.provider)
    cells = lists.smoke(cells) if options.smoke else lists.full(cells) if options.full else cells
    if not cells:
        raise ValueError("--provider: --smoke measures triton, on a CPU native")
    return cells if place == "cuda" else [cell for cell in cells if cell.benchmark]


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
            _say(start, f"{arm.commit} is installed ({number} of {len(wanted.arms)})")
        except ValueError as error:
            arms.append(replace(arm, python="", why=str(error)))
            _say(start, str(error))
    if not any(arm.python for arm in arms):
        raise ValueError("no commit can be installed; the lines above say why")
    return replace(wanted, arms=tuple(arms))


def _see_off(wanted: Any, folder: Path, start: float) -> None:
    """Wait for shards of an earlier start, which need the environments as they are."""
    from benchmarks.shards import engine

    jobs = engine.earlier(folder)
    if states := engine.states(jobs):
        _say(start, f"{len(states)} shards of an earlier start are still there: waiting for them")
        _watch(wanted, folder, jobs, start)


def _measure(wanted: Any, folder: Path, ruler: Path, options: argparse.Namespace, start: float) -> None:
    """Share out what is left, and see that off."""
    from benchmarks.shards import costs, engine, job, journal, plan

    hashes = [arm.commit.commit_hash for arm in wanted.measurable]
    table = journal.Table(journal.read(folder), forgive=options.retry_failed)
    left = {cell: missing for cell in wanted.cells if (missing := table.missing(cell.name, hashes))}
    if not left:
        _say(start, "nothing is left to measure")
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
    _say(start, f"{sum(map(len, left.values()))} rows of {len(left)} cells are shared out to {len(shards)} shards")
    _watch(wanted, folder, jobs, start)


def _watch(wanted: Any, folder: Path, jobs: Sequence[Any], start: float) -> None:
    """Say how far all shards are until none is left; an interruption ends them."""
    from benchmarks.shards import engine, journal

    names = [cell.name for cell in wanted.cells]
    hashes = {arm.commit.commit_hash for arm in wanted.measurable}
    began, first, said, spoke = time.monotonic(), None, "", -_SAY_SECONDS
    try:
        while states := engine.states(jobs):
            if time.monotonic() - spoke > _SAY_SECONDS:  # reading all journals costs more than asking after jobs
                spoke = time.monotonic()
                progress = journal.Progress.of(journal.Table(journal.read(folder)), names, hashes)
                first = progress.left if first is None else first
                seconds = (spoke - began) / max(1, first - progress.left) * progress.left
                text = _progress_line(progress, list(states.values()), seconds if progress.left < first else None)
                if text != said:
                    _say(start, text)
                    said = text
            time.sleep(max(_POLL_SECONDS[one.engine] for one in jobs))
    except KeyboardInterrupt:
        engine.cancel(jobs)
        raise
    for one in jobs:
        if not engine.ended_well(one):
            _say(start, f"shard {one.shard} (job {one.number}) ended early: {engine.last_words(one)}")


def _progress_line(progress: Any, states: Sequence[str], seconds: float | None) -> str:
    """How far all shards are, and for how many seconds more they will be at work, where that is known."""
    words = [f"{progress.measured} of {progress.wanted} rows measured"]
    words += [f"{count} {what}" for count, what in ((progress.failed, "failed"), (progress.lost, "lost")) if count]
    words += [f"{states.count(state)} shards {state}" for state in ("at work", "queued") if state in states]
    if seconds is not None:
        words.append(f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left")
    return ", ".join(words)


def _conclude(wanted: Any, folder: Path, options: argparse.Namespace, start: float) -> int:
    """Store what there is, say what there is not."""
    from benchmarks.shards import gather, journal

    journals = journal.read(folder)
    table = journal.Table(journals)
    hashes = [arm.commit.commit_hash for arm in wanted.measurable]
    progress = journal.Progress.of(table, [cell.name for cell in wanted.cells], set(hashes))
    for cell in wanted.cells:
        for row in table.best(cell.name)[1].values():
            if row.error and row.commit in hashes:
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
    _say(
        start, f"{progress.measured} of {progress.wanted} rows measured, {progress.failed} failed, {progress.left} left"
    )
    if progress.left:
        print(f"`run --folder {folder}` measures what is left")
    return int(bool(progress.left or progress.failed or len(hashes) < len(wanted.arms)))


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


def _forecast(wanted: Any, folder: Path, results: Path) -> str:
    """How long a run takes on how many GPUs, by what its cells have taken before."""
    from benchmarks.shards import costs, journal, plan

    known = costs.known(folder.parent, results, wanted.place)
    hashes = [arm.commit.commit_hash for arm in wanted.arms]
    table = journal.Table(journal.read(folder) if plan.exists(folder) else ())
    left = {cell: missing for cell in wanted.cells if (missing := table.missing(cell.name, hashes))}
    rows = sum(map(len, left.values()))
    lines = [f"{len(hashes)} commits x {len(wanted.cells)} cells on {wanted.place}, {rows} rows to measure"]
    if not left:
        return lines[0]
    seconds = {cell.name: known.of(cell) * len(missing) for cell, missing in left.items()}
    lines += [
        f"{sum(seconds.values()) / 3600:.2f} GPU hours, {sum(seconds.values()) / rows:.2f} s a row; "
        f"the longest cell {max(seconds.values()):.0f} s",
        f"done once: {len(hashes)} environments {costs.BUILD_SECONDS * len(hashes):.0f} s, "
        f"a shard's start {costs.START_SECONDS:.0f} s",
        "",
        "| shards | measuring, min | all, min | speedup |",
        "| --- | --- | --- | --- |",
    ]
    found = costs.forecast(list(seconds), list(seconds.values()), len(hashes), FORECAST_SHARDS)
    for one in found:
        lines.append(
            f"| {one.shards} | {one.measuring / 60:.1f} | {one.total / 60:.1f} | {found[0].total / one.total:.1f} |"
        )
    return "\n".join(lines)


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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs of one folder at once would measure everything twice."""
    with (folder / "lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is at work in {folder}") from error
        yield


def _say(start: float, text: str) -> None:
    print(f"[{time.monotonic() - start:6.1f} s] {text}", file=sys.stderr, flush=True)
