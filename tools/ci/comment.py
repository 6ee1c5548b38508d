"""`python -m tools.ci.comment RUN`: one comment on a pull request with what its benchmark run found, kept up to date.

Runs with a token that may write, so it runs no code of the pull request, and what that code could have written, the
artifacts, is data: known fields of known shape, names in code spans. Which pull request and which commit is meant is
taken from the name of the run, which a maintainer gave when starting it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tools.ci import reports
from tools.ci.commands import BOT, CiError, api, artifacts, guarded, pages
from tools.ci.reports import CLEAN, INVALID, REGRESSION, Report

WORKFLOW = ".github/workflows/benchmark.yml"
MARKER = "<!-- ropekern benchmark, run {run} -->"
FOUND_MARKER = re.compile(r"<!-- ropekern benchmark, run (\d+) -->")
TITLE = re.compile(r"Benchmark #([1-9][0-9]{0,9}) at ([0-9a-f]{40})")
LABEL = re.compile(r"compare-([a-z0-9][a-z0-9.-]{0,40})")
JOB = re.compile(r"compare \(([a-z0-9][a-z0-9.-]{0,40})\)")
MOST_ROWS = 30
LONGEST_COMMENT = 60_000
"""GitHub's limit is 65,536 characters."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run that a maintainer started: of which pull request, of which commit."""

    number: int
    pull_request: int
    head: str
    address: str


def read_run(run: Mapping[str, Any]) -> Run:
    """A run as GitHub describes it.

    Raises:
        CiError: a maintainer did not start it on main. A fork can name a workflow as ours is named; it cannot
            dispatch one on main.
    """
    title = TITLE.fullmatch(run["display_title"])
    ours = run["repository"]["full_name"]
    is_ours = run["head_repository"]["full_name"] == ours and run["head_branch"] == "main"
    if run["event"] != "workflow_dispatch" or not is_ours or run["path"].partition("@")[0] != WORKFLOW or not title:
        raise CiError(f"run {run['id']} is not a benchmark that a maintainer started on main")
    return Run(run["id"], int(title[1]), title[2], run["html_url"])


def read_reports(
    found: Mapping[str, bytes | CiError], head: str, jobs: Sequence[Mapping[str, Any]]
) -> dict[str, Report | str]:
    """GPU label -> its report, or why there is none; of the jobs that ran, whatever else the run has uploaded."""
    labels = ((JOB.fullmatch(job["name"]), str(job["conclusion"])) for job in jobs)
    ends = {label[1]: reports.plain(end) for label, end in labels if label and end != "skipped"}
    results: dict[str, Report | str] = {label: f"its job: {end}" for label, end in ends.items()}
    for name, data in sorted(found.items()):
        label = LABEL.fullmatch(name)
        if label and label[1] in ends:
            results[label[1]] = _read(data, head, ends[label[1]])
    return results


def _read(data: bytes | CiError, head: str, end: str) -> Report | str:
    if isinstance(data, CiError):
        return reports.plain(data)
    try:
        report = reports.from_zip(data)
    except ValueError as error:
        return reports.plain(error)
    except Exception as error:  # made to be unreadable: the other GPUs' reports are shown all the same
        return f"unreadable: {type(error).__name__}"
    if report.head != head:
        return f"the report is of another commit, {report.head[:8]}"
    return report if (report.exit_code == CLEAN) == (end == "success") else replace(report, job=end)


def render(run: Run, found: Mapping[str, Report | str], head_now: str) -> str:
    """The comment's text."""
    lines = [MARKER.format(run=run.number), f"### Benchmark of {run.head[:8]}", ""]
    if head_now != run.head:
        lines += [f"The pull request has moved on to {head_now[:8]} since: these numbers are of an older commit.", ""]
    for label, report in found.items():
        lines += _section(label, report)
    lines += [
        f"[The run]({run.address}) has report.md, report.json and ratios.png. The pull request's own code ran where "
        "these numbers were taken: they are evidence for a reviewer, not proof.",
    ]
    text = "\n".join(lines)
    return text if len(text) <= LONGEST_COMMENT else text[:LONGEST_COMMENT] + "\n\n(cut off)"


def _section(label: str, report: Report | str) -> list[str]:
    if isinstance(report, str):
        return [f"**{label}: no usable report** (`{report}`)", ""]
    counts = {verdict: len(report.of(verdict)) for verdict in reports.VERDICTS}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no rows"
    if report.exit_code == INVALID:
        head = [f"**{label}: the run is invalid, nothing below may be believed** (`{report.why}`)"]
    else:
        head = [f"**{label}: {'regression' if report.exit_code == REGRESSION else 'no regression found'}**: {words}"]
    if report.job:
        head += ["", f"**Its job ended with `{report.job}`: job and report contradict each other, look at the log.**"]
    lines = [*head, "", f"`{report.machine}`, against {report.base[:8]}", ""]
    changed = [row for verdict in ("SLOWER", "FASTER") for row in report.of(verdict)]
    if changed:
        lines += [*reports.table(changed[:MOST_ROWS]), ""]
        if len(changed) > MOST_ROWS:
            lines += [f"... and {len(changed) - MOST_ROWS} more.", ""]
    rest = [row for verdict in ("INCONCLUSIVE", "INVALID", "SAME") for row in report.of(verdict)]
    if rest:
        lines += [f"<details><summary>{len(rest)} other rows</summary>", "", *reports.table(rest[: 4 * MOST_ROWS])]
        lines += ["", "</details>", ""]
    return lines


def post(run: Run, text: str) -> str:
    """Write the comment, or bring it up to date; one of a newer run stays. What was done, in one line."""
    place = "repos/{owner}/{repo}/issues"
    for comment in pages(f"{place}/{run.pull_request}/comments"):
        marker = FOUND_MARKER.match(comment["body"] or "")
        if comment["user"]["login"] != BOT or not marker:
            continue
        if int(marker[1]) > run.number:
            return f"the comment is of the newer run {marker[1]}"
        api(f"{place}/comments/{comment['id']}", "PATCH", body=text)
        return f"updated comment {comment['id']}"
    made = api(f"{place}/{run.pull_request}/comments", "POST", body=text)
    return f"wrote comment {made['id']}"


def main(number: str) -> None:
    """Find out what the run is about, read its artifacts, write the comment."""
    if not number.isdecimal():
        raise CiError("the run is not a number")
    run = read_run(api(f"repos/{{owner}}/{{repo}}/actions/runs/{number}"))
    jobs = pages(f"repos/{{owner}}/{{repo}}/actions/runs/{number}/jobs", ".jobs[]")
    found = read_reports(artifacts(number, "compare-"), run.head, jobs)
    if not found:  # such as a commit that is not the newest any more: what an earlier run has found stays
        print("no GPU has compared anything: no comment")
        return
    pull = api(f"repos/{{owner}}/{{repo}}/pulls/{run.pull_request}")
    print(post(run, render(run, found, str(pull["head"]["sha"]))))


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: main(sys.argv[1])))
