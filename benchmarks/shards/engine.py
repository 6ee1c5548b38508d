"""submitit: shards as processes of this machine or as jobs of Slurm; whether they still run, and their end."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import stored
from benchmarks.shards import job

LOCAL, SLURM = "local", "slurm"
_JOBS = "jobs.json"
_OVER = {
    *("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("DEADLINE", "REVOKED", "SPECIAL_EXIT"),
}
_LOCAL_MINUTES = 60 * 24 * 30
"""submitit ends a local job after two minutes unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Job:
    """A shard that was submitted. A run that was left alone finds its jobs by this."""

    shard: int
    number: str
    """Slurm's job id, or a process id."""
    engine: str
    log: str
    """What it said on stderr."""
    born: str = ""
    """When the process began: its id may be another's by now."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a cluster wants to know."""

    partition: str | None = None
    account: str | None = None
    gres: str | None = None
    constraint: str | None = None
    minutes: int = 240
    more: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch."""


def submit(
    engine: str, folder: Path, ruler: Path, start: int, shards: int, options: Options, gpus: Sequence[str]
) -> list[Job]:
    """Start shards, whose orders lie in the folder.

    Args:
        engine: LOCAL or SLURM.
        folder: the run's.
        ruler: what the shards import `benchmarks` from.
        start: its how manieth start this is.
        shards: how many.
        options: for Slurm.
        gpus: LOCAL: what CUDA_VISIBLE_DEVICES calls each GPU; shards share them where there are more. Empty on a CPU.

    Raises:
        ImportError: there is no submitit.
        ValueError: the engine is not there, or refuses.
    """
    import submitit

    logs = (folder / "submitit").resolve()
    place = str(folder.resolve())
    executor: Any
    try:
        if engine == SLURM:
            executor = submitit.SlurmExecutor(logs)
            wanted: dict[str, Any] = {"partition": options.partition, "account": options.account}
            wanted |= {"gres": options.gres, "constraint": options.constraint}
            wanted |= {"time": options.minutes, "array_parallelism": shards}
            # a shard that Slurm starts again would work by an order that others may have completed since
            more = {"no-requeue": True, **options.more}
            given = {name: value for name, value in wanted.items() if value is not None}
            executor.update_parameters(job_name=f"ropekern-{folder.name}", additional_parameters=more, **given)
        else:
            executor = submitit.LocalExecutor(logs)
            executor.update_parameters(timeout_min=_LOCAL_MINUTES)
        # the folder that a job starts in is where it imports from
        with contextlib.chdir(ruler), _deaf_children(), executor.batch():
            handles = [
                executor.submit(job.run, place, start, shard, gpus[shard % len(gpus)] if gpus else None)
                for shard in range(shards)
            ]
    except (RuntimeError, submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise ValueError(f"{engine}: {' '.join(str(error).split())[:400]}") from error
    _CHILDREN.extend(handles)
    jobs = [
        Job(shard, handle.job_id, engine, str(handle.paths.stderr), "" if engine == SLURM else _born(handle.job_id))
        for shard, handle in enumerate(handles)
    ]
    stored.write(folder / _JOBS, json.dumps([asdict(one) for one in jobs], indent=1))
    return jobs


_CHILDREN: list[Any] = []
"""submitit's own objects: they hold the processes, which are waited for through them."""


def earlier(folder: Path) -> list[Job]:
    """The jobs of the last start."""
    try:
        return [Job(**one) for one in json.loads((folder / _JOBS).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def states(jobs: Sequence[Job]) -> dict[Job, str]:
    """Job -> "at work" or "queued", of those that are not over.

    Slurm's queue is asked, not its accounts, which many clusters do not keep.

    Raises:
        ValueError: Slurm is not there.
    """
    for child in _CHILDREN:
        if hasattr(child, "_process"):
            child.done()  # an end that nobody waited for leaves the process where it was
    found = {one: "at work" for one in jobs if one.engine == LOCAL and one.born and _born(one.number) == one.born}
    if queued := [one for one in jobs if one.engine == SLURM]:
        alive = _queue({one.number.partition("_")[0] for one in queued})
        for one in queued:
            state = alive.get(one.number, "COMPLETED")
            if state not in _OVER:
                found[one] = "queued" if state in {"PENDING", "CONFIGURING"} else "at work"
    return found


def cancel(jobs: Sequence[Job]) -> None:
    """End jobs; what they have measured is on disk."""
    deadline = time.monotonic() + 30
    while (left := states(jobs)) and time.monotonic() < deadline:
        for one in left:
            with contextlib.suppress(OSError):
                if one.engine == SLURM:
                    subprocess.run(["scancel", one.number], check=False, capture_output=True)
                else:
                    os.kill(int(one.number), signal.SIGTERM)  # passed on, and ignored by submitit while a job begins
        time.sleep(0.5)


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that are started meanwhile do not hear a Ctrl-C: it is ours to end them, without a traceback each."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ended_well(one: Job) -> bool:
    """Whether the function of a job returned; submitit then left its result."""
    results = list(Path(one.log).parent.glob(f"{one.number}_*_result.pkl"))
    if not results:
        return False
    outcome, _ = pickle.loads(results[0].read_bytes())  # noqa: S301 (our own job wrote it)
    return bool(outcome == "success")


def last_words(one: Job) -> str:
    """Why a job ended: what Slurm says, and the last line that it said itself."""
    try:
        lines = Path(one.log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    state = _queue({one.number.partition("_")[0]}).get(one.number) if one.engine == SLURM else None
    return (f"{state}, " if state else "") + (lines[-1].strip() if lines else f"no word in {one.log}")


def _born(number: str) -> str:
    """When a process began, in the kernel's ticks; empty where there is none, or only its remains."""
    try:
        words = Path("/proc", number, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] == "Z" else words[19]


def _queue(numbers: set[str]) -> dict[str, str]:
    """Job -> state, of jobs and members of job arrays that Slurm remembers."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--jobs", ",".join(sorted(numbers))]
    for attempt in range(10):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ValueError(f"Slurm is not there: {error}") from error
        if done.returncode == 0:
            lines = (line.strip().partition(" ") for line in done.stdout.splitlines() if line.strip())
            return {number: state for number, _, state in lines}
        if "Invalid job id" in done.stderr:
            return {}  # it has forgotten them: they were over long ago
        time.sleep(attempt)  # its controller is away for a moment
    raise ValueError(f"squeue does not answer: {done.stderr.strip()}")
