"""`python -m tools.ci.regressions open | compare | report`: from a step in the history to an issue, and to its end.

A step between two measured commits is a suspicion: nights differ. Both commits are then compared in turns, as
`python -m benchmarks compare` does it, and only what that confirms becomes an issue, one for each machine and commit.
While it is open, each night compares the last good commit with main; when no cell of the issue is slower, it is closed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from benchmarks.results import read_timed_rows
from tools.ci import reports
from tools.ci.commands import BOT, CiError, api, artifacts, git, guarded, pages, set_outputs, unpack
from tools.ci.reports import INVALID, REGRESSION, Report

LABEL = "performance regression"
MARKER = re.compile(r"<!-- ropekern regression (\{.*\}) -->")
MACHINE = re.compile(r"[a-z0-9][a-z0-9.-]{0,60}")
COMPARED = ("bench_rope.Rope", "bench_mrope.Mrope")
"""What compare measures; times of the host wander too much from night to night to be a suspicion."""
SUSPICIOUS = 1.02
LOOK_BACK = 30
MOST_PAIRS = 6
MOST_CELLS = 40


@dataclass(frozen=True, slots=True)
class Open:
    """An issue: the last good commit and the first bad one on a machine, and the cells that became slower."""

    number: int
    machine: str
    good: str
    bad: str
    cells: tuple[str, ...]
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """Two commits to compare."""

    base: str
    head: str


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.ci.regressions", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("open", help="set the output `open`: the issues that are open, as JSON")
    comparing = commands.add_parser("compare", help="compare what is suspicious on this machine")
    comparing.add_argument("--machine", required=True)
    comparing.add_argument("--results", type=Path, default=Path("results"))
    comparing.add_argument("--comparisons", type=Path, required=True, help="what was compared in earlier nights")
    comparing.add_argument("--output", type=Path, required=True)
    comparing.add_argument("--minutes", type=float, default=80.0, help="begin no comparison, and no cell, after that")
    comparing.add_argument("--python", default=".venv/bin/python")
    reporting = commands.add_parser("report", help="open and close issues")
    reporting.add_argument("--run", required=True, help="number of the run whose artifacts measured-* to take")
    options = parser.parse_args()
    if options.command == "open":
        set_outputs({"open": json.dumps([asdict(issue) for issue in read_issues() if issue.is_open])})
    elif options.command == "compare":
        run_comparisons(options, [_open(item) for item in json.loads(os.environ.get("OPEN") or "[]")])
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = artifacts(options.run, "measured-")
            folders = [unpack(data, Path(folder, name)) / "compare" for name, data in found.items()]
            for line in report(folders, read_issues(), git("rev-parse", "HEAD")):
                print(line)


def read_issues() -> list[Open]:
    """Our issues, closed ones too. Only the workflow's own count: anyone may write an issue that looks like one."""
    found = pages(f"repos/{{owner}}/{{repo}}/issues?state=all&per_page=100&labels={LABEL.replace(' ', '%20')}")
    issues = []
    for item in found:
        marker = MARKER.search(item["body"] or "")
        if marker and item["user"]["login"] == BOT and "pull_request" not in item:
            fields = {**json.loads(marker[1]), "number": item["number"], "is_open": item["state"] == "open"}
            issues.append(_open(fields))
    return issues


def _open(fields: Mapping[str, Any]) -> Open:
    """Checked, because it becomes part of a command line.

    Raises:
        CiError: not what we write.
    """
    machine, good, bad = (str(fields[name]) for name in ("machine", "good", "bad"))
    if not MACHINE.fullmatch(machine) or not all(re.fullmatch("[0-9a-f]{40}", commit) for commit in (good, bad)):
        raise CiError(f"issue {fields['number']} has a marker that is not ours")
    cells = tuple(str(cell) for cell in fields["cells"])
    return Open(int(fields["number"]), machine, good, bad, cells, bool(fields["is_open"]))


def suspicions(results: Path, machine: str, commits: Sequence[str], known: Iterable[str]) -> list[Pair]:
    """Neighbours in the history of a machine of which the newer one looks slower, the newest first.

    Args:
        results: asv's folder of results.
        machine: asv's name of it.
        commits: of main, the newest first.
        known: names of comparisons that were made already, "base-head" with eight digits each.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted((results / machine).glob("*-*.json")):
        files.setdefault(path.name[:8], []).append(path)
    measured = [commit for commit in commits if commit[:8] in files][: LOOK_BACK + 1]
    done = set(known)
    return [
        Pair(older, newer)
        for newer, older in pairwise(measured)
        if f"{older[:8]}-{newer[:8]}" not in done and _slowdown(files[older[:8]], files[newer[:8]]) >= SUSPICIOUS
    ]


def _slowdown(older: Sequence[Path], newer: Sequence[Path]) -> float:
    """The largest ratio of a row; 1 where the two share none."""
    before, after = ({row: s for path in paths for row, s in read_timed_rows(path).items()} for paths in (older, newer))
    shared = [row for row in before.keys() & after.keys() if row.benchmark in COMPARED and before[row] > 0]
    return max((after[row] / before[row] for row in shared), default=1.0)


def run_comparisons(options: argparse.Namespace, issues: Sequence[Open]) -> None:
    """Compare main with the last good commit of open issues, and suspicions; reports lie under `output`.

    Raises:
        CiError: there is no environment, or none of the comparisons could be made.
    """
    commits = git("rev-list", "--first-parent", "main").split()
    known = [path.stem for path in (options.comparisons / options.machine).glob("*.json") if _is_settled(path)]
    again = {Pair(issue.good, commits[0]) for issue in issues if issue.machine == options.machine}
    unsettled = [pair for pair in again if f"{pair.base[:8]}-{pair.head[:8]}" not in known]
    pairs = tonight(unsettled, suspicions(options.results, options.machine, commits, known))
    print(f"{len(pairs)} pairs to compare tonight")
    if pairs and not Path(options.python).exists():
        raise CiError(f"{options.python} is absent: `make env` makes it")
    end = time.monotonic() + 60 * options.minutes
    codes = []
    for pair in pairs:
        left = (end - time.monotonic()) / 60
        if left <= 0:
            print("time is up: the rest another night")
            break
        folder = options.output / options.machine
        command = [options.python, "-m", "benchmarks", "compare", pair.base, pair.head, "--no-store"]
        command += ["--minutes", f"{left:.1f}"]
        codes.append(subprocess.run([*command, "--output", str(folder)], check=False).returncode)
        print(f"{pair.base[:8]} -> {pair.head[:8]}: exit code {codes[-1]}", flush=True)
    if codes and not set(codes) & {0, REGRESSION, INVALID}:
        raise CiError("no comparison could be made: its own lines are above")


def tonight(again: Iterable[Pair], suspected: Iterable[Pair]) -> list[Pair]:
    """At most MOST_PAIRS by turns from open issues and suspicions, so that neither keeps the other waiting.

    The issues' own order is another one whenever main has moved, so that none of them is always the last.
    """
    issues = sorted(again, key=lambda pair: hashlib.sha256(f"{pair.base}{pair.head}".encode()).digest())
    turns = zip_longest(issues, suspected)
    return list(dict.fromkeys(pair for turn in turns for pair in turn if pair))[:MOST_PAIRS]


def _is_settled(path: Path) -> bool:
    """Whether a recorded comparison need not be made again: an invalid one says nothing."""
    return bool(json.loads(path.read_text(encoding="utf-8")).get("exit_code") != INVALID)


def report(folders: Iterable[Path], issues: Sequence[Open], main_commit: str) -> list[str]:
    """Open an issue for each confirmed regression that has none, close those that are gone. What was done.

    Args:
        folders: each with the reports of one run, a folder for each machine.
        issues: all of ours, closed ones too: what a maintainer has closed is not opened again.
        main_commit: with which the last good commits were compared.
    """
    done = []
    for path in sorted(path for folder in folders for path in folder.glob("*/*/report.json")):
        machine, found = path.parents[1].name, reports.parse(path.read_text(encoding="utf-8"))
        if found.exit_code == INVALID:
            done.append(f"{machine}, {found.base[:8]} -> {found.head[:8]}: invalid, {found.why}")
            continue
        ours = [issue for issue in issues if issue.machine == machine]
        rechecked = [issue for issue in ours if (issue.good, main_commit) == (found.base, found.head)]
        done += [_close(issue, found) for issue in rechecked if issue.is_open and is_gone(issue, found)]
        is_known = bool(rechecked) or any(issue.bad == found.head for issue in ours)
        if found.exit_code == REGRESSION and found.of("SLOWER") and not is_known:
            done.append(_create(machine, found))
    return done


def is_gone(issue: Open, found: Report) -> bool:
    """Whether no cell of the issue is slower any more: all were measured, and each one is the same or faster."""
    verdicts = {row.name: row.verdict for row in found.rows}
    return all(verdicts.get(cell) in {"SAME", "FASTER"} for cell in issue.cells)


def text_of(machine: str, found: Report, between: int) -> tuple[str, str]:
    """Title and body of an issue; `between`: commits after base, up to and with head."""
    rows = found.of("SLOWER")
    slowest = rows[0].ratio or 1.0
    count = "1 cell" if len(rows) == 1 else f"{len(rows)} cells"
    title = f"{machine}: {count} slower since {found.head[:8]}, up to {slowest - 1:.1%}"
    fields = {"machine": machine, "good": found.base, "bad": found.head}
    cells = [row.name for row in rows[:MOST_CELLS]]
    where = found.head if between == 1 else f"one of the {between} commits up to {found.head}, none measured between,"
    lines = [
        f"<!-- ropekern regression {json.dumps({**fields, 'cells': cells})} -->",
        f"On {machine}, {where} made {count} slower than {found.base}:",
        "",
        *reports.table(rows[:MOST_CELLS]),
        "",
        f"`{found.machine}`",
        "",
        "Both commits were measured in turns on one machine, and the cells that differed once more in new processes.",
        f"To see it again: `python -m benchmarks compare {found.base[:8]} {found.head[:8]}`. This issue closes itself",
        "when main is no longer slower in these cells; closed by hand, it stays closed.",
    ]
    if len(rows) > MOST_CELLS:
        lines.insert(-5, f"... and {len(rows) - MOST_CELLS} more.")
    return title, "\n".join(lines)


def _create(machine: str, found: Report) -> str:
    between = int(git("rev-list", "--count", f"{found.base}..{found.head}"))
    title, body = text_of(machine, found, between)
    made = api("repos/{owner}/{repo}/issues", "POST", title=title, body=body, labels=[LABEL])
    return f"opened issue {made['number']}: {title}"


def _close(issue: Open, found: Report) -> str:
    place = f"repos/{{owner}}/{{repo}}/issues/{issue.number}"
    rows = [row for row in found.rows if row.name in issue.cells]
    lines = [f"Gone: {found.head} is not slower than {found.base} on {issue.machine}.", "", *reports.table(rows)]
    api(f"{place}/comments", "POST", body="\n".join(lines))
    api(place, "PATCH", state="closed", state_reason="completed")
    return f"closed issue {issue.number}: gone with {found.head[:8]}"


if __name__ == "__main__":
    raise SystemExit(guarded(main))
