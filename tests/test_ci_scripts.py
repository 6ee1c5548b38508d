"""The scripts of the workflows, against scratch git repositories and a `gh` that answers from a folder."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_merge import about, git, medians, store
from tools import bootstrap
from tools.ci import (
    commands,
    comment,
    measure,
    pages_branch,
    pull_request,
    regressions,
    release,
    reports,
    results_branch,
)
from tools.ci.commands import CiError

ROOT = Path(__file__).resolve().parent.parent
BASE, HEAD, OTHER = "a" * 40, "b" * 40, "c" * 40
CELL = "triton, Qwen2.5-VL-72B tp 8, 1024 tokens"
BOT = {"login": "github-actions[bot]"}
ROPE = {**about(name="bench_rope.Rope.time_triton"), "params": [["'m'"], ["1", "128"]]}


class Gh:
    """What the fake gh answers, and what was written to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.save({"static": {}, "comments": {}, "issues": [], "writes": [], "next": 900})

    def save(self, state: dict) -> None:
        (self.folder / "state.json").write_text(json.dumps(state))

    @property
    def state(self) -> dict:
        return json.loads((self.folder / "state.json").read_text())

    def add(self, key: str, value: object) -> None:
        state = self.state
        state[key] = value
        self.save(state)

    def answer(self, path: str, value: object) -> None:
        self.add("static", {**self.state["static"], path: value})

    def put(self, run: int, found: dict[str, dict[str, str]], **changes: object) -> None:
        """Artifacts of a run: name -> file -> text."""
        items = []
        for number, (name, members) in enumerate(found.items(), 1):
            data = zipped(members)
            (self.folder / f"{number}.zip").write_bytes(data)
            items.append({"id": number, "name": name, "expired": False, "size_in_bytes": len(data), **changes})
        self.answer(f"actions/runs/{run}/artifacts", {"artifacts": items})


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gh:
    folder = tmp_path / "github"
    folder.mkdir()
    program = folder / "gh"
    program.write_text(f"#!{sys.executable}\n" + (ROOT / "tests" / "fake_gh.py").read_text())
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GH", str(folder))
    monkeypatch.setenv("GH_TOKEN", "a token")
    monkeypatch.delenv("GITHUB_OUTPUT", raising=False)
    return Gh(folder)


def zipped(members: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return data.getvalue()


def row(verdict: str = "SAME", name: str = CELL, ratio: float = 1.0) -> dict:
    times = {"base_seconds": 12.34e-6, "head_seconds": 12.34e-6 * ratio}
    return {
        "name": name,
        "verdict": verdict,
        "ratio": ratio,
        "ratio_low": ratio - 0.001,
        "ratio_high": ratio + 0.001,
    } | times


def report(*rows: dict, base: str = BASE, head: str = HEAD, **changes: object) -> str:
    header = {"base": base, "head": head, "machine": "NVIDIA H100 80GB HBM3, driver 580.1, torch 2.13.0"}
    code = int(any(r["verdict"] == "SLOWER" for r in rows))
    return json.dumps({"header": header, "exit_code": code, "rows": list(rows), "invalid": [], "missing": {}} | changes)


# What GitHub says


def test_report_of_compare_is_understood() -> None:
    from benchmarks.compare import outcome
    from benchmarks.compare import report as writer
    from benchmarks.compare.cells import Cell
    from benchmarks.compare.verdicts import Finding, Verdict

    fields = dict.fromkeys(Finding.__dataclass_fields__, 0.0) | {
        "verdict": Verdict.SLOWER,
        "margin": 0.01,
        "pairs": 10,
    }
    rows = [outcome.Row(Cell("triton", "Qwen2.5-VL-72B", 8, 1024), Finding(**fields), 1e-5, 2e-5)]
    header = {"base": BASE, "head": HEAD, "machine": "NVIDIA H100"}
    found = reports.parse(json.dumps(writer.as_json(outcome.Outcome(rows), header, [])))
    assert (found.base, found.head, found.exit_code) == (BASE, HEAD, 1)
    assert found.rows[0].name == CELL
    assert found.rows[0].head_us == pytest.approx(20.0)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        report(head="main"),
        report(base="a" * 39),
        report(exit_code=0.5),
        report(exit_code=True),
        report(rows={"a": 1}),
        report(rows=[1]),
        report(row("<b>")),
        report(row(ratio=float("nan"))),
        report({**row(), "ratio": "1"}),
        report({**row(), "ratio": -1}),
    ],
)
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a report|Expecting value"):
        reports.parse(text)


def test_artifact_holds_one_small_report(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"aa-bb/report.json": report(row()), "aa-bb/report.md": "@everyone"}
    assert reports.from_zip(zipped(good)).rows[0].name == CELL
    for bad in (b"no zip", zipped({}), zipped({**good, "report.json": report()})):
        with pytest.raises(ValueError, match=r"zip file|wanted 1"):
            reports.from_zip(bad)
    monkeypatch.setattr(reports, "LARGEST_REPORT", 100)
    with pytest.raises(ValueError, match="too large"):
        reports.from_zip(zipped(good))


def test_own_artifact_unpacks_inside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.unpack(zipped({"../../outside": "x", "in/side": "y"}), tmp_path / "folder")
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "folder" / "in" / "side").read_text() == "y"
    with pytest.raises(CiError, match="no zip file"):
        commands.unpack(b"", tmp_path)
    monkeypatch.setattr(commands, "LARGEST_FILE", 0)
    with pytest.raises(CiError, match="unpacks to more"):
        commands.unpack(zipped({"a": "b"}), tmp_path)


def test_newest_artifact_of_a_name_counts_and_large_ones_do_not(gh: Gh) -> None:
    gh.put(7, {"compare-h100": {"a": "1"}})
    (gh.folder / "2.zip").write_bytes(b"newer")
    items = gh.state["static"]["actions/runs/7/artifacts"]["artifacts"]
    gh.answer("actions/runs/7/artifacts", {"artifacts": [{**items[0], "id": 2}, *items, {**items[0], "name": "x"}]})
    assert commands.artifacts("7", "compare-") == {"compare-h100": b"newer"}
    gh.put(7, {"compare-h100": {"a": "1"}}, size_in_bytes=10**9)
    large = commands.artifacts("7", "compare-")["compare-h100"]
    with pytest.raises(CiError, match="over 50 MiB"):
        commands.unpack(large, gh.folder)


def test_output_with_a_line_break_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "out"))
    commands.set_outputs({"a": "1"})
    with pytest.raises(CiError, match="line break"):
        commands.set_outputs({"a": "1\nhead=evil"})
    assert (tmp_path / "out").read_text() == "a=1\n"


def test_failure_is_one_line_and_exit_code_1(gh: Gh, capsys) -> None:
    assert commands.guarded(lambda: commands.api("repos/{owner}/{repo}/nothing")) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: `gh api --method GET repos/{owner}/{repo}/nothing` failed: gh: Not Found")
    assert said.count("\n") == 1


# A pull request: which commit, what is said about it


def pull(**changes: object) -> dict:
    return {"state": "open", "base": {"ref": "main"}, "head": {"sha": HEAD}} | changes


def test_newest_commit_of_an_open_pull_request_may_be_benchmarked(gh: Gh, capsys) -> None:
    gh.answer("pulls/12", pull())
    pull_request.check("12", HEAD)
    assert capsys.readouterr().out == f"number=12\nhead={HEAD}\n"


@pytest.mark.parametrize(
    ("number", "head", "answer", "said"),
    [
        ("12", OTHER, {}, f"is at {HEAD} by now: read that commit"),
        ("12", HEAD, {"state": "closed"}, "is closed"),
        ("12", HEAD, {"base": {"ref": "feature"}}, "not for main"),
        ("12", HEAD[:8], {}, "full commit hash"),
        ("12", f"{HEAD}\n", {}, "full commit hash"),
        ("12", "main; curl evil", {}, "full commit hash"),
        ("../../other/pulls/1", HEAD, {}, "is not a number"),
        ("0", HEAD, {}, "is not a number"),
    ],
)
def test_other_commits_may_not(gh: Gh, number: str, head: str, answer: dict, said: str) -> None:
    gh.answer("pulls/12", pull(**answer))
    with pytest.raises(CiError, match=said):
        pull_request.check(number, head)


def described_run(**changes: object) -> dict:
    name = {"full_name": "owner/ropekern"}
    return {
        "id": 77,
        "event": "workflow_dispatch",
        "head_branch": "main",
        "path": ".github/workflows/benchmark.yml",
        "repository": name,
        "head_repository": name,
        "display_title": f"Benchmark #12 at {HEAD}",
        "conclusion": "failure",
        "html_url": "https://github.com/owner/ropekern/actions/runs/77",
    } | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"event": "pull_request"},
        {"head_branch": "feature"},
        {"head_repository": {"full_name": "fork/ropekern"}},
        {"path": ".github/workflows/evil.yml"},
        {"display_title": "Benchmark #12 at main"},
        {"display_title": f"Benchmark #12 at {HEAD} and more"},
    ],
)
def test_only_a_maintainers_run_is_commented_on(changes: dict) -> None:
    assert comment.read_run(described_run()).pull_request == 12
    assert comment.read_run(described_run(path=".github/workflows/benchmark.yml@refs/heads/main")).head == HEAD
    with pytest.raises(CiError, match="not a benchmark that a maintainer started"):
        comment.read_run(described_run(**changes))


@pytest.fixture
def finished(gh: Gh) -> Gh:
    """A run with a regression on one GPU and no report of the other."""
    slower, faster = row("SLOWER", ratio=1.0523), row("FASTER", CELL.replace("1024", "1"), 0.91)
    gh.put(77, {"compare-h100": {"aa-bb/report.json": report(slower, faster, row(name=CELL.replace("1024", "128")))}})
    jobs = [("check", "success"), ("compare (h100)", "failure"), ("compare (h200)", "timed_out")]
    gh.answer("actions/runs/77/jobs", {"jobs": [{"name": name, "conclusion": end} for name, end in jobs]})
    gh.answer("actions/runs/77", described_run())
    gh.answer("pulls/12", pull())
    return gh


COMMENT = f"""<!-- ropekern benchmark, run 77 -->
### Benchmark of bbbbbbbb

**h100: regression**: 1 SLOWER, 1 FASTER, 1 SAME

`NVIDIA H100 80GB HBM3, driver 580.1, torch 2.13.0`, against aaaaaaaa

| verdict | row | base, us | head, us | head / base | 95 % interval |
| --- | --- | --- | --- | --- | --- |
| SLOWER | `{CELL}` | 12.34 | 12.99 | 1.0523 | 1.0513 - 1.0533 |
| FASTER | `triton, Qwen2.5-VL-72B tp 8, 1 tokens` | 12.34 | 11.23 | 0.9100 | 0.9090 - 0.9110 |

<details><summary>1 other rows</summary>

| verdict | row | base, us | head, us | head / base | 95 % interval |
| --- | --- | --- | --- | --- | --- |
| SAME | `triton, Qwen2.5-VL-72B tp 8, 128 tokens` | 12.34 | 12.34 | 1.0000 | 0.9990 - 1.0010 |

</details>

**h200: no usable report** (`its job: timed_out`)

[The run](https://github.com/owner/ropekern/actions/runs/77) has report.md, report.json and ratios.png. \
The pull request's own code ran where these numbers were taken: they are evidence for a reviewer, not proof."""


def test_comment_is_written_once_then_kept_up_to_date(finished: Gh, capsys) -> None:
    others = [
        {"id": 1, "user": {"login": "someone"}, "body": "<!-- ropekern benchmark, run 1 -->"},
        {"id": 2, "user": BOT, "body": None},
    ]
    finished.add("comments", {"12": others})
    comment.main("77")
    assert finished.state["comments"]["12"][2]["body"] == COMMENT
    finished.answer("pulls/12", pull(head={"sha": OTHER}))
    comment.main("77")
    assert capsys.readouterr().out == "wrote comment 901\nupdated comment 901\n"
    assert finished.state["comments"]["12"][:2] == others
    assert len(finished.state["comments"]["12"]) == 3
    assert "moved on to cccccccc since" in finished.state["comments"]["12"][2]["body"]


def test_older_run_leaves_the_comment_of_a_newer_one(finished: Gh) -> None:
    finished.add("comments", {"12": [{"id": 5, "user": BOT, "body": "<!-- ropekern benchmark, run 78 -->\nnew"}]})
    comment.main("77")
    assert finished.state["writes"] == []


@pytest.mark.parametrize("jobs", [[("check", "failure")], [("check", "failure"), ("compare (h100)", "skipped")]])
def test_run_that_compared_nothing_leaves_the_comment_alone(finished: Gh, capsys, jobs) -> None:
    finished.answer("actions/runs/77/jobs", {"jobs": [{"name": name, "conclusion": end} for name, end in jobs]})
    comment.main("77")
    assert finished.state["writes"] == []
    assert "no GPU has compared anything: no comment" in capsys.readouterr().out


def spoilt_zip() -> bytes:
    """A deflate stream that is none."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("report.json", report(row()))
    start = 30 + len("report.json")
    return data.getvalue()[:start] + b"\xff" * 20 + data.getvalue()[start + 20 :]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped({"report.json": report(exit_code=[])}), "unreadable: TypeError"),
        (zipped({"report.json": report({**row(), "ratio": 10**400})}), "unreadable: OverflowError"),
        (zipped({"report.json": "[" * 200_000}), "unreadable: RecursionError"),
        (spoilt_zip(), "unreadable: error"),  # zlib.error
        (b"PK" * 20, "the artifact is no zip file"),
    ],
)
def test_report_that_cannot_be_read_hides_no_other(finished: Gh, data: bytes, said: str) -> None:
    finished.put(77, {"compare-h100": {"report.json": report(row("SLOWER", ratio=1.5))}, "compare-h200": {}})
    (finished.folder / "2.zip").write_bytes(data)
    comment.main("77")
    body = finished.state["comments"]["12"][0]["body"]
    assert "**h100: regression**: 1 SLOWER" in body
    assert f"**h200: no usable report** (`{said}`)" in body


def test_large_artifact_hides_no_other(finished: Gh) -> None:
    finished.put(77, {"compare-h100": {"report.json": report(row("SLOWER", ratio=1.5))}, "compare-h200": {}})
    items = finished.state["static"]["actions/runs/77/artifacts"]["artifacts"]
    items[1]["size_in_bytes"] = 10**9
    finished.answer("actions/runs/77/artifacts", {"artifacts": items})
    comment.main("77")
    body = finished.state["comments"]["12"][0]["body"]
    assert "**h100: regression**: 1 SLOWER" in body
    assert "**h200: no usable report** (`the artifact is over 50 MiB" in body


def test_job_that_contradicts_its_report_is_shown() -> None:
    ours = report(row(), exit_code=0)
    for code, end, is_doubtful in (
        (0, "success", False),
        (0, "failure", True),
        (3, "success", True),
        (3, "failure", False),
    ):
        jobs = [{"name": "compare (h100)", "conclusion": end}]
        data = {"compare-h100": zipped({"report.json": ours.replace('"exit_code": 0', f'"exit_code": {code}')})}
        text = comment.render(comment.read_run(described_run()), comment.read_reports(data, HEAD, jobs), HEAD)
        assert (f"**Its job ended with `{end}`: job and report contradict each other" in text) == is_doubtful


def test_invalid_run_says_why_first() -> None:
    found = reports.parse(report(row(), exit_code=3, invalid=["the control moved by 3 %"]))
    text = comment.render(comment.read_run(described_run()), {"h100": found}, HEAD)
    assert "**h100: the run is invalid, nothing below may be believed** (`the control moved by 3 %`)" in text


def test_hostile_report_stays_text(finished: Gh) -> None:
    evil = "`x` | @everyone <img src=//evil> [a](http://evil)\n# big " + "y" * 500
    text = report(row("SLOWER", evil, 1.5), invalid=[evil], exit_code=3)
    text = text.replace("NVIDIA H100", evil.replace("\n", " "))
    finished.put(
        77,
        {
            "compare-h100": {"report.json": text},
            "compare-<b>": {},
            "other": {},
            "compare-h200": {"report.json": "@all"},
            "compare-b200": {"report.json": report(row())},  # no such job ran
        },
    )
    comment.main("77")
    body = finished.state["comments"]["12"][0]["body"]
    for mark in ("@everyone", "@all", "<img", "[a](", "# big", "compare-<b>"):
        assert mark not in body
    assert "**h200: no usable report**" in body
    assert "b200" not in body
    assert all(len(line) < 400 for line in body.splitlines())
    rows = [line for line in body.splitlines() if line.startswith("| SLOWER")]
    assert [line.count("|") for line in rows] == [7]
    assert [line.count("`") for line in rows] == [2]


def test_report_of_another_commit_is_not_shown(finished: Gh) -> None:
    finished.put(77, {"compare-h100": {"report.json": report(row(), head=OTHER)}})
    comment.main("77")
    assert "the report is of another commit, cccccccc" in finished.state["comments"]["12"][0]["body"]


def test_long_comment_is_cut() -> None:
    rows = [row("SLOWER", f"cell {i}", 1.5 + i / 1000) for i in range(50)] + [row(name="n" * 120)] * 500
    text = comment.render(comment.read_run(described_run()), {"a": reports.parse(report(*rows))}, HEAD)
    assert "`cell 49`" in text
    assert "... and 20 more." in text
    many = {f"gpu-{i}": reports.parse(report(*rows)) for i in range(9)}
    assert len(comment.render(comment.read_run(described_run()), many, HEAD)) < 65_536


# Branches


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A bare repository with main: four commits."""
    work, bare = tmp_path / "work", tmp_path / "remote.git"
    work.mkdir()
    git(work, "init")
    for name in ("one", "two", "three", "four"):
        git(work, "commit", "--allow-empty", "-m", name)
    git(tmp_path, "clone", "--bare", str(work), str(bare))
    return bare


def measured(folder: Path, machine: str, commit: str, seconds: float, hours: float = 0, **more) -> Path:
    """What a GPU job uploads."""
    store(
        folder / "results",
        {0: seconds, 1: 2 * seconds},
        machine=machine,
        commit=commit,
        hours=hours,
        benchmark=ROPE,
        **more,
    )
    return folder


def on_branch(remote: Path, branch: str) -> list[str]:
    return git(remote, "ls-tree", "-r", "--name-only", branch).splitlines()


def test_results_of_two_runners_become_one_branch(remote: Path, tmp_path: Path, capsys) -> None:
    commits = git(remote, "rev-list", "main").split()
    first = measured(tmp_path / "first", "h100", commits[1], 1e-5)
    second = measured(tmp_path / "second", "h200", commits[1], 2e-5)
    (first / "compare" / "h100" / "aa-bb").mkdir(parents=True)
    (first / "compare" / "h100" / "aa-bb" / "report.json").write_text(report(row("SLOWER", ratio=1.1), row()))
    results_branch.push(str(remote), [first, second])
    files = on_branch(remote, "results")
    assert files == [
        "README.md",
        "comparisons/h100/aaaaaaaa-bbbbbbbb.json",
        "results/benchmarks.json",
        f"results/h100/{commits[1][:8]}-virtualenv-py3.12.json",
        "results/h100/machine.json",
        f"results/h200/{commits[1][:8]}-virtualenv-py3.12.json",
        "results/h200/machine.json",
    ]
    record = json.loads(git(remote, "show", "results:comparisons/h100/aaaaaaaa-bbbbbbbb.json"))
    assert (record["exit_code"], [r["name"] for r in record["rows"]]) == (1, [CELL])
    assert git(remote, "log", "--format=%an %s", "results") == "github-actions[bot] Results of h100, h200"
    capsys.readouterr()
    results_branch.push(str(remote), [second, first])
    assert "nothing new" in capsys.readouterr().out
    results_branch.push(str(remote), [measured(tmp_path / "third", "h100", commits[0], 3e-5, hours=9)])
    assert len(git(remote, "rev-list", "results").split()) == 2
    assert set(files) < set(on_branch(remote, "results"))


def test_fetch_leaves_one_machine_to_asv_new(remote: Path, tmp_path: Path) -> None:
    commits = git(remote, "rev-list", "main").split()
    into = tmp_path / "results"
    measured(tmp_path, "l4", commits[0], 1e-5)  # committed on main, of another machine
    results_branch.fetch(str(remote), into)  # no branch yet: nothing happens
    for machine in ("h100", "h200"):
        results_branch.push(str(remote), [measured(tmp_path / machine, machine, commits[1], 1e-5)])
    results_branch.fetch(str(remote), into)
    assert sorted(path.parent.name for path in into.glob("*/machine.json")) == ["h100", "h200", "l4"]
    results_branch.fetch(str(remote), into, "h200", tmp_path / "earlier")
    assert [path.parent.name for path in into.glob("*/machine.json")] == ["h200"]


def test_newer_ruler_takes_the_branch_over(remote: Path, tmp_path: Path) -> None:
    commits = git(remote, "rev-list", "main").split()
    results_branch.push(str(remote), [measured(tmp_path / "old", "h100", commits[1], 1e-5)])
    newer = {**ROPE, "params": [["'m'"], ["1", "128", "1024"]]}
    store(tmp_path / "new" / "results", {2: 5e-5}, machine="h100", commit=commits[1], benchmark=newer, hours=1)
    results_branch.push(str(remote), [tmp_path / "new"])
    results_branch.fetch(str(remote), tmp_path / "results")
    name = ROPE["name"]
    assert [round(v, 7) for v in medians(tmp_path / "results", name=name, commit=commits[1]).values()] == [
        1e-5,
        2e-5,
        5e-5,
    ]


def test_truncated_results_are_not_pushed(remote: Path, tmp_path: Path) -> None:
    folder = measured(tmp_path / "first", "h100", BASE, 1e-5)
    (path,) = (folder / "results" / "h100").glob("aaaa*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CiError, match=rf"first: .*{path.name} is truncated"):
        results_branch.push(str(remote), [folder])
    with pytest.raises(CiError, match="no job measured anything"):
        results_branch.push(str(remote), [tmp_path / "empty"])
    assert git(remote, "branch", "--list", "results") == ""


def test_runner_that_failed_costs_the_others_nothing(remote: Path, tmp_path: Path, capsys) -> None:
    commits = git(remote, "rev-list", "main").split()
    old = measured(tmp_path / "old", "h100", commits[2], 1e-5)
    assert results_branch.push(str(remote), [old]) == []
    # The suite has changed since. asv did not come to run on the h100, nor on an l4 whose results lie on main.
    newer = {**ROPE, "params": [["'m'"], ["1", "128", "1024"]]}
    store(tmp_path / "h200" / "results", {2: 5e-5}, machine="h200", commit=commits[1], benchmark=newer, hours=9)
    sources = [old, measured(tmp_path / "l4", "l4", commits[2], 1e-5), tmp_path / "h200", tmp_path / "truncated"]
    (measured(tmp_path / "truncated", "b200", commits[1], 1e-5) / "results" / "b200" / "machine.json").write_text("{")
    capsys.readouterr()
    refused = results_branch.push(str(remote), sources)
    assert [line.partition(":")[0] for line in refused] == ["truncated", "l4"]
    assert "share no series" in refused[1]
    out = capsys.readouterr().out
    assert "old: nothing new" in out
    assert out.endswith("stored=true\n")
    machines = {name.split("/")[1] for name in on_branch(remote, "results") if name.startswith("results/")}
    assert machines == {"benchmarks.json", "h100", "h200"}
    assert json.loads(git(remote, "show", "results:results/benchmarks.json"))[ROPE["name"]]["params"] == newer["params"]


def test_machine_of_another_gpu_is_left_out(remote: Path, tmp_path: Path) -> None:
    commits = git(remote, "rev-list", "main").split()
    results_branch.push(str(remote), [measured(tmp_path / "old", "h100", commits[2], 1e-5)])
    other = measured(tmp_path / "other", "h100", commits[1], 1e-5, hours=2, gpu="another")
    (line,) = results_branch.push(str(remote), [other, measured(tmp_path / "good", "h200", commits[1], 1e-5, hours=1)])
    assert "two machines need two names" in line
    assert "results/h200/machine.json" in on_branch(remote, "results")


def test_comparison_that_cannot_be_read_is_left_out(remote: Path, tmp_path: Path) -> None:
    folder = measured(tmp_path / "first", "h100", git(remote, "rev-parse", "main"), 1e-5)
    night(folder / "compare", report(row()))[0].joinpath("h100", "x").mkdir()
    (folder / "compare" / "h100" / "x" / "report.json").write_text("{")
    (line,) = results_branch.push(str(remote), [folder])
    assert line.startswith("first/compare: ")
    assert "comparisons/h100/aaaaaaaa-bbbbbbbb.json" in on_branch(remote, "results")


def test_push_starts_again_where_somebody_was_faster(remote: Path, tmp_path: Path, monkeypatch) -> None:
    commits = git(remote, "rev-list", "main").split()
    results_branch.push(str(remote), [measured(tmp_path / "old", "h100", commits[2], 1e-5)])
    original, races = results_branch.stored.load, []

    def race(folder: Path):
        if not races:
            races.append(1)
            results_branch.push(str(remote), [measured(tmp_path / "faster", "h200", commits[1], 1e-5)])
        return original(folder)

    monkeypatch.setattr(results_branch.stored, "load", race)
    results_branch.push(str(remote), [measured(tmp_path / "slower", "h100", commits[1], 1e-5)])
    assert len(git(remote, "rev-list", "results").split()) == 3
    assert {name.split("/")[1] for name in on_branch(remote, "results") if "results/" in name} >= {"h100", "h200"}


def test_branch_that_refuses_is_an_error(remote: Path, tmp_path: Path) -> None:
    hook = remote / "hooks" / "update"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(CiError, match="could not be pushed in 4 tries"):
        results_branch.push(str(remote), [measured(tmp_path / "first", "h100", BASE, 1e-5)])


def test_artifacts_reach_the_branch(gh: Gh, remote: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    folder = measured(tmp_path / "first", "h100", git(remote, "rev-parse", "main"), 1e-5)
    members = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.json")}
    gh.put(5, {"measured-h100": members, "site": {}})
    monkeypatch.setattr(sys, "argv", ["results_branch", "--remote", str(remote), "push", "--run", "5"])
    assert commands.guarded(results_branch.main) == 0
    assert "results/h100/machine.json" in on_branch(remote, "results")
    git(remote, "branch", "-D", "results")
    gh.put(5, {"measured-h100": members, "measured-h200": {}})
    (gh.folder / "2.zip").write_bytes(b"no zip")
    capsys.readouterr()
    assert commands.guarded(results_branch.main) == 1
    assert "measured-h200: an artifact is no zip file" in capsys.readouterr().err
    assert "results/h100/machine.json" in on_branch(remote, "results")


def test_site_replaces_the_site_before_it(gh: Gh, remote: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["pages_branch", "--remote", str(remote), "--run", "5"])
    for page in ("old", "new"):
        gh.put(5, {"site": {"index.html": page, "index.json": "{}", f"{page}.html": page, "_x/a.js": ""}})
        assert commands.guarded(pages_branch.main) == 0
    assert on_branch(remote, "gh-pages") == [".nojekyll", "_x/a.js", "index.html", "index.json", "new.html"]
    assert git(remote, "rev-list", "--count", "gh-pages") == "1"
    assert gh.state["writes"] == [["POST", "pages/builds"]] * 2
    gh.add("pages", False)
    assert commands.guarded(pages_branch.main) == 1
    assert "pages/builds` failed" in capsys.readouterr().err
    gh.put(5, {"site": {"index.html": "no data"}})
    assert commands.guarded(pages_branch.main) == 1
    gh.put(5, {})
    assert commands.guarded(pages_branch.main) == 1
    said = capsys.readouterr().err
    assert "the site has no index.json: nothing is published" in said
    assert "this run has no artifact `site`" in said


# Regressions


def history(folder: Path, seconds: dict[str, float]) -> Path:
    for hours, (commit, value) in enumerate(seconds.items()):
        measured(folder, "h100", commit, value, hours)
    return folder / "results"


def test_step_between_measured_neighbours_is_a_suspicion(tmp_path: Path) -> None:
    a, b, c, d = (letter * 40 for letter in "abcd")
    results = history(tmp_path, {a: 1.0, c: 1.03, d: 1.035})
    newest_first = [d, c, b, a]
    assert regressions.suspicions(results, "h100", newest_first, []) == [regressions.Pair(a, c)]
    assert regressions.suspicions(results, "h100", newest_first, ["aaaaaaaa-cccccccc"]) == []
    assert regressions.suspicions(results, "h200", newest_first, []) == []
    host = {**about(name="bench_host.HostCost.time_triton"), "params": [["'m'"]]}
    for hours, (commit, value) in enumerate({c: 1.0, d: 9.0}.items()):
        store(results, {0: value}, machine="h100", commit=commit, hours=hours, benchmark=host)
    assert regressions.suspicions(results, "h100", newest_first, []) == [regressions.Pair(a, c)]


@pytest.fixture
def checkout(remote: Path, tmp_path: Path):
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", str(remote), str(folder))
    with contextlib.chdir(folder):
        yield folder


def stub_python(folder: Path, code: int = 0) -> str:
    """Stands for `.venv/bin/python -m benchmarks compare`: notes how it was called."""
    path = folder / f"python{code}"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexit {code}\n')
    path.chmod(0o755)
    return str(path)


def test_nightly_compares_open_issues_then_suspicions(checkout: Path, tmp_path: Path) -> None:
    commits = git(checkout, "rev-list", "main").split()
    results = history(tmp_path, dict(zip(reversed(commits), (1.0, 1.0, 1.1, 1.3), strict=True)))
    earlier = tmp_path / "earlier" / "h100"
    earlier.mkdir(parents=True)
    (earlier / f"{commits[2][:8]}-{commits[1][:8]}.json").write_text('{"exit_code": 1}')  # settled
    (earlier / f"{commits[1][:8]}-{commits[0][:8]}.json").write_text('{"exit_code": 3}')  # was invalid: once more
    issue = regressions.Open(5, "h100", commits[2], commits[1], (CELL,))
    options = argparse.Namespace(
        machine="h100",
        results=results,
        comparisons=tmp_path / "earlier",
        output=Path("compare"),
        minutes=30.0,
        python=stub_python(tmp_path, 1),
    )
    regressions.run_comparisons(options, [issue, regressions.Open(6, "h200", commits[3], commits[2], ())])
    calls = (tmp_path / "calls").read_text().splitlines()
    tail = "--no-store --minutes 30.0 --output compare/h100"
    assert calls == [
        f"-m benchmarks compare {commits[2]} {commits[0]} {tail}",
        f"-m benchmarks compare {commits[1]} {commits[0]} {tail}",
    ]
    options.python = stub_python(tmp_path, 2)
    with pytest.raises(CiError, match="no comparison could be made"):
        regressions.run_comparisons(options, [issue])

    # What was settled with this very main need not be asked again; when time is up, nothing more is begun.
    (tmp_path / "calls").unlink()
    options.python = stub_python(tmp_path, 0)
    (earlier / f"{commits[2][:8]}-{commits[0][:8]}.json").write_text('{"exit_code": 1}')
    regressions.run_comparisons(options, [issue])
    assert (tmp_path / "calls").read_text().splitlines() == calls[1:]
    options.minutes = 0.0
    regressions.run_comparisons(options, [issue])
    assert (tmp_path / "calls").read_text().splitlines() == calls[1:]


def test_open_issues_and_suspicions_share_a_night() -> None:
    issues = {regressions.Pair(f"good {i}", HEAD) for i in range(8)}
    new = [regressions.Pair(f"a {i}", f"b {i}") for i in range(8)]
    both = regressions.tonight(issues, new)
    assert len(both) == regressions.MOST_PAIRS
    assert both[1::2] == new[:3]
    assert len(set(both[::2]) & issues) == 3
    assert set(regressions.tonight(issues, [])) < issues
    assert regressions.tonight([], new) == new[:6]
    assert regressions.tonight([new[1]], new[:2]) == [new[1], new[0]]
    later = {regressions.Pair(pair.base, OTHER) for pair in issues}
    assert [p.base for p in regressions.tonight(later, [])] != [p.base for p in regressions.tonight(issues, [])]


def night(folder: Path, *texts: str, machine: str = "h100") -> list[Path]:
    for text in texts:
        found = reports.parse(text)
        path = folder / machine / f"{found.base[:8]}-{found.head[:8]}" / "report.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [folder]


def test_regression_becomes_one_issue_that_closes_itself(gh: Gh, checkout: Path, tmp_path: Path) -> None:
    newest, bad, good, _ = git(checkout, "rev-list", "main").split()
    found = report(row("SLOWER", ratio=1.07), row("SLOWER", "other", 1.02), row(name="third"), base=good, head=bad)
    done = regressions.report(night(tmp_path / "1", found), regressions.read_issues(), bad)
    assert done == [f"opened issue 901: h100: 2 cells slower since {bad[:8]}, up to 7.0%"]
    (issue,) = gh.state["issues"]
    assert issue["labels"] == ["performance regression"]
    for part in (f"On h100, {bad} made 2 cells slower than {good}:", f"| SLOWER | `{CELL}` | 12.34 | 13.20 | 1.0700 |"):
        assert part in issue["body"]
    (known,) = regressions.read_issues()
    assert known == regressions.Open(901, "h100", good, bad, (CELL, "other"))

    # the next night: still there, then half gone, then unclear, then gone
    assert regressions.report(night(tmp_path / "1", found), [known], newest) == []
    for rows in ([row("SLOWER", ratio=1.05), row(name="other")], [row(), row("INCONCLUSIVE", "other")], [row()]):
        again = night(tmp_path / "2", report(*rows, base=good, head=newest))
        assert regressions.report(again, [known], newest) == []
    invalid = night(
        tmp_path / "2", report(row(), row(name="other"), base=good, head=newest, exit_code=3, invalid=["hot"])
    )
    assert regressions.report(invalid, [known], newest) == [f"h100, {good[:8]} -> {newest[:8]}: invalid, hot"]
    assert gh.state["issues"][0]["state"] == "open"
    fixed = night(tmp_path / "2", report(row(), row("FASTER", "other", 0.9), base=good, head=newest))
    assert regressions.report(fixed, [known], newest) == [f"closed issue 901: gone with {newest[:8]}"]
    assert (gh.state["issues"][0]["state"], gh.state["issues"][0]["state_reason"]) == ("closed", "completed")
    assert gh.state["comments"]["901"][0]["body"].startswith(f"Gone: {newest} is not slower than {good} on h100.")

    # what is closed stays closed, and other machines have issues of their own
    assert regressions.report(night(tmp_path / "1", found), regressions.read_issues(), newest) == []
    assert len(regressions.report(night(tmp_path / "3", found, machine="h200"), regressions.read_issues(), newest)) == 1
    assert len(gh.state["issues"]) == 2


def test_issue_says_when_commits_between_were_not_measured() -> None:
    found = reports.parse(report(row("SLOWER", ratio=1.07)))
    assert (
        f"On h100, one of the 3 commits up to {HEAD}, none measured between, made 1 cell"
        in regressions.text_of("h100", found, 3)[1]
    )
    many = reports.parse(report(*(row("SLOWER", f"cell {i}", 1.5) for i in range(400))))
    title, body = regressions.text_of("h100", many, 1)
    assert title == "h100: 400 cells slower since bbbbbbbb, up to 50.0%"
    assert "... and 360 more." in body
    assert len(body) < 65_536


def test_issues_of_strangers_do_not_count(gh: Gh, capsys) -> None:
    fields = {"machine": "h100", "good": BASE, "bad": HEAD, "cells": []}
    body = f"<!-- ropekern regression {json.dumps(fields)} -->"
    ours = {"number": 1, "user": BOT, "body": body, "state": "open"}
    others = [
        {**ours, "user": {"login": "x"}},
        {**ours, "pull_request": {}},
        {**ours, "body": None},
        {**ours, "state": "closed"},
    ]
    gh.add("issues", [ours, *others])
    assert [issue.is_open for issue in regressions.read_issues()] == [True, False]
    bad = body.replace("h100", "--output=/")
    gh.add("issues", [{**ours, "body": bad}])
    with pytest.raises(CiError, match="marker that is not ours"):
        regressions.read_issues()


def test_open_issues_travel_to_the_gpu_job(gh: Gh, checkout: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    commits = git(checkout, "rev-list", "main").split()
    regressions.report(
        night(tmp_path / "1", report(row("SLOWER", ratio=1.1), base=commits[2], head=commits[1])), [], commits[1]
    )
    monkeypatch.setattr(sys, "argv", ["regressions", "open"])
    assert commands.guarded(regressions.main) == 0
    name, _, text = capsys.readouterr().out.strip().partition("=")
    assert name == "open"
    monkeypatch.setenv("OPEN", text)
    (tmp_path / "results").mkdir()
    words = [
        "--machine",
        "h100",
        "--results",
        str(tmp_path / "results"),
        "--comparisons",
        "none",
        "--output",
        "compare",
    ]
    monkeypatch.setattr(sys, "argv", ["regressions", "compare", *words, "--python", stub_python(tmp_path)])
    assert commands.guarded(regressions.main) == 0
    assert f"compare {commits[2]} {commits[0]}" in (tmp_path / "calls").read_text()


def test_reports_of_a_run_become_issues(gh: Gh, checkout: Path, monkeypatch) -> None:
    commits = git(checkout, "rev-list", "main").split()
    text = report(row("SLOWER", ratio=1.1), base=commits[1], head=commits[0])
    gh.put(5, {"measured-h100": {"compare/h100/x-y/report.json": text, "results/benchmarks.json": "{}"}})
    monkeypatch.setattr(sys, "argv", ["regressions", "report", "--run", "5"])
    assert commands.guarded(regressions.main) == 0
    assert [issue["title"] for issue in gh.state["issues"]] == [
        f"h100: 1 cell slower since {commits[0][:8]}, up to 10.0%"
    ]


# Measuring, releasing


def test_runner_is_what_its_label_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "gpu_names", lambda: ["NVIDIA H100 80GB HBM3"])
    assert measure.here("h100") == "h100"
    with pytest.raises(CiError, match="labelled h200, its GPU is NVIDIA H100 80GB HBM3: its label must be h100"):
        measure.here("h200")
    monkeypatch.setattr(measure, "gpu_names", list)
    with pytest.raises(CiError, match="labelled h100 and shows no GPU"):
        measure.here("h100")


def test_new_commits_are_measured_beside_the_old_ones(
    checkout: Path, remote: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    commits = git(checkout, "rev-list", "main").split()
    for machine in ("h100", "h200"):
        results_branch.push(str(remote), [measured(tmp_path / machine, machine, commits[1], 1e-5)])
    git(checkout, "checkout", "--detach")
    git(checkout, "branch", "-D", "main")
    calls, codes = [], [0, 0, 0, 1, 0, 1]
    monkeypatch.setattr(bootstrap, "RESULTS", checkout / "results")
    monkeypatch.setattr(bootstrap, "main", lambda words: calls.append(words) or codes.pop(0))
    monkeypatch.setattr(measure, "gpu_names", lambda: ["NVIDIA H100 80GB HBM3"])
    monkeypatch.setattr(sys, "argv", ["measure", "h100", "--comparisons", "earlier"])
    assert commands.guarded(measure.main) == 0
    assert calls == [["env"], ["bench", "--machine", "h100", "--commits", "NEW", "--steps", "6"]]
    assert git(checkout, "rev-parse", "main") == commits[0]
    assert [path.parent.name for path in (checkout / "results").glob("*/machine.json")] == ["h100"]
    assert commands.guarded(measure.main) == 1  # bench failed
    measured(checkout, "h100", commits[0], 1e-5)
    calls.clear()
    assert commands.guarded(measure.main) == 0  # nothing is new, so nothing is measured
    assert calls == [["env"]]  # .venv is made all the same: a fresh runner has none, and compares with it
    capsys.readouterr()
    assert commands.guarded(measure.main) == 1  # no .venv: nothing to upload, and no output that says otherwise
    assert capsys.readouterr().out == ""


def test_fresh_runner_compares_where_nothing_is_new(checkout: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A runner takes one job, so .venv is never left from the night before; an open issue still wants its answer."""
    commits = git(checkout, "rev-list", "main").split()
    measured(checkout, "h100", commits[0], 1e-5)
    made = []

    def bootstrapped(words: list[str]) -> int:
        made.append(words)
        (checkout / ".venv" / "bin").mkdir(parents=True)
        (checkout / ".venv" / "bin" / "python").symlink_to(stub_python(tmp_path))
        return 0

    monkeypatch.setattr(bootstrap, "RESULTS", checkout / "results")
    monkeypatch.setattr(bootstrap, "main", bootstrapped)
    monkeypatch.setattr(measure, "gpu_names", lambda: ["NVIDIA H100 80GB HBM3"])
    issue = {"number": 5, "machine": "h100", "good": commits[2], "bad": commits[1], "cells": [], "is_open": True}
    monkeypatch.setenv("OPEN", json.dumps([issue]))
    compare = ["regressions", "compare", "--machine", "h100", "--comparisons", "earlier", "--output", "compare"]
    monkeypatch.setattr(sys, "argv", compare)
    assert commands.guarded(regressions.main) == 1
    assert ".venv/bin/python is absent: `make env` makes it" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["measure", "h100", "--comparisons", "earlier"])
    assert commands.guarded(measure.main) == 0
    assert made == [["env"]]
    assert capsys.readouterr().out.splitlines()[-2:] == ["machine=h100", f"{commits[0][:8]} is measured already"]
    monkeypatch.setattr(sys, "argv", compare)
    assert commands.guarded(regressions.main) == 0
    assert f"compare {commits[2]} {commits[0]}" in (tmp_path / "calls").read_text()


def test_other_branches_are_not_measured(checkout: Path, monkeypatch, capsys) -> None:
    measure.branch_main("origin")
    git(checkout, "checkout", "-b", "feature", "HEAD~1")
    git(checkout, "branch", "-D", "main")
    measure.branch_main("origin")  # a commit of main
    assert git(checkout, "rev-parse", "main") == git(checkout, "rev-parse", "origin/main")
    git(checkout, "commit", "--allow-empty", "-m", "not on main")
    with pytest.raises(CiError, match="HEAD is not on main of origin"):
        measure.branch_main("origin")
    git(checkout, "branch", "--force", "main")
    git(checkout, "checkout", "origin/main")
    with pytest.raises(CiError, match="main is not on main of origin"):
        measure.branch_main("origin")


def test_bench_hands_asv_the_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(bootstrap, "ensure", lambda *_: None)
    monkeypatch.setattr(bootstrap, "python", lambda *words: calls.append(words) or 0)
    monkeypatch.setattr(bootstrap, "publish", lambda: 0)
    monkeypatch.setattr(bootstrap, "RESULTS", Path("/nonexistent"))
    for words in ([], ["--commits", "NEW", "--steps", "6"]):
        assert bootstrap.main(["bench", "--machine", "x", *words]) == 0
    runs = [call[-2:] for call in calls if "run" in call]
    assert [run[-1] for run in runs] == ["HEAD^!", "NEW"]
    assert runs[1] == ("6", "NEW")


def test_site_is_not_published_in_part(monkeypatch: pytest.MonkeyPatch, checkout: Path, capsys) -> None:
    path = store(checkout / "results", {0: 1.0}, commit=git(checkout, "rev-parse", "HEAD"))
    monkeypatch.setattr(bootstrap, "ensure", lambda *_: None)
    monkeypatch.setattr(bootstrap, "ROOT", checkout)
    monkeypatch.setattr(bootstrap, "RESULTS", checkout / "results")
    published = []
    monkeypatch.setattr(bootstrap, "python", lambda *words: published.append(words) or 1)
    assert bootstrap.main(["site"]) == 1
    assert len(published) == 1
    path.write_text("{")
    assert bootstrap.main(["site"]) == 1
    assert len(published) == 1
    assert f"{path.name} is truncated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        ("v1.2.0", "## 1.2.0 (2026-11-30)", "v1.2.0 may be released"),
        ("v1.2.1", "## 1.2.0 (2026-11-30)", "the tag is v1.2.1, pyproject.toml says 1.2.0"),
        ("v1.2.0", "## 1.2.0 (unreleased)", "no heading"),
    ],
)
def test_tag_fits_version_and_changelog(checkout: Path, monkeypatch, capsys, tag: str, heading: str, said: str) -> None:
    (checkout / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    monkeypatch.setattr(release, "ROOT", checkout)
    commands.guarded(lambda: release.check(tag))
    out = capsys.readouterr()
    assert said in out.out + out.err


def test_tag_beside_main_is_not_released(checkout: Path, monkeypatch) -> None:
    git(checkout, "commit", "--allow-empty", "-m", "not on main")
    (checkout / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (checkout / "CHANGELOG.md").write_text("## 1.2.0 (2026-11-30)\n")
    monkeypatch.setattr(release, "ROOT", checkout)
    with pytest.raises(CiError, match="is not on main"):
        release.check("v1.2.0")


def test_release_tools_are_pinned_by_hash() -> None:
    lines = (ROOT / "tools" / "ci" / "release.txt").read_text().splitlines()
    pinned = [line for line in lines if "==" in line]
    assert {line.split("==")[0] for line in pinned} >= {"build", "hatchling", "twine"}
    assert all(line.startswith(("#", "    --hash=sha256:")) or "==" in line for line in lines)


def test_scripts_need_the_standard_library_alone() -> None:
    """A job that may write installs nothing."""
    names = sorted(path.stem for path in (ROOT / "tools" / "ci").glob("*.py") if path.stem != "__init__")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + "\n".join(
        f"import tools.ci.{name}" for name in names
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
