"""Waiting for shards, and saying how far they are."""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.console import say
from benchmarks.shards import engine, journal
from benchmarks.shards.engine import Job
from benchmarks.shards.plan import Plan

_POLL_SECONDS = {engine.LOCAL: 0.5, engine.SLURM: 5.0}
_SAY_SECONDS = 15.0


def see_off(wanted: Plan, folder: Path, start: float) -> None:
    """Wait for shards of an earlier start, which need the environments as they are."""
    jobs = engine.earlier(folder)
    if states := engine.states(jobs):
        say(start, f"{len(states)} shards of an earlier start are still there: waiting for them")
        until_done(wanted, folder, jobs, start)


def until_done(wanted: Plan, folder: Path, jobs: Sequence[Job], start: float) -> None:
    """Say how far all shards are until none is left; an interruption ends them."""
    began, first, said, spoke = time.monotonic(), None, "", -_SAY_SECONDS
    try:
        while states := engine.states(jobs):
            if time.monotonic() - spoke > _SAY_SECONDS:  # reading all journals costs more than asking after jobs
                spoke = time.monotonic()
                progress = journal.Progress.of(journal.Table(journal.read(folder)), wanted.cells, wanted.hashes)
                first = progress.left if first is None else first
                seconds = (spoke - began) / max(1, first - progress.left) * progress.left
                text = _progress_line(progress, list(states.values()), seconds if progress.left < first else None)
                if text != said:
                    say(start, text)
                    said = text
            time.sleep(max(_POLL_SECONDS[one.engine] for one in jobs))
    except KeyboardInterrupt:
        engine.cancel(jobs)
        raise
    for one in jobs:
        if not engine.ended_well(one):
            say(start, f"shard {one.shard} (job {one.number}) ended early: {engine.last_words(one)}")


def _progress_line(progress: journal.Progress, states: Sequence[str], seconds: float | None) -> str:
    """How far all shards are, and for how many seconds more they will be at work, where that is known."""
    words = [f"{progress.measured} of {progress.wanted} rows measured"]
    words += [f"{count} {what}" for count, what in ((progress.failed, "failed"), (progress.lost, "lost")) if count]
    words += [f"{states.count(state)} shards {state}" for state in ("at work", "queued") if state in states]
    if seconds is not None:
        words.append(f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left")
    return ", ".join(words)
