"""asv results of several runners in one folder, and what is refused instead of being left out of the site."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import cli, stored
from benchmarks import merge as module
from benchmarks.merge import check, merge

asv_results = pytest.importorskip("asv.results")
NAME, AXES = "bench_x.X.time_it", [["'small'", "'large'"], ["1", "128"]]
COMMIT = "a" * 40
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def about(version: str = "1", axes: list[list[str]] = AXES, name: str = NAME) -> dict[str, object]:
    names = ["model", "num_tokens"][: len(axes)]
    fields = {"name": name, "version": version, "params": axes, "param_names": names, "type": "time", "unit": "seconds"}
    return {**fields, "code": "", "timeout": 60}


def store(
    folder: Path,
    seconds: dict[int, float | None],
    *,
    hours: float = 0,
    machine: str = "h100",
    commit: str = COMMIT,
    benchmark: dict[str, object] | None = None,
    gpu: str = "one",
) -> Path:
    """What `asv run` leaves behind: rows of one benchmark, by index; those not named were not measured."""
    from asv.runner import BenchmarkResult
    from asv.util import write_json

    benchmark = benchmark or about()
    count = math.prod(len(axis) for axis in benchmark["params"])
    values = [seconds.get(i) for i in range(count)]
    timed = [value is not None and not math.isnan(value) for value in values]
    result = BenchmarkResult(
        result=[0.0 if is_timed else value for is_timed, value in zip(timed, values, strict=True)],
        samples=[
            [value + i * 1e-9 for i in range(11)] if ok else None for ok, value in zip(timed, values, strict=True)
        ],
        number=[1 if ok else None for ok in timed],
        errcode=0,
        stderr="",
        profile=None,
    )
    fields = {"machine": machine, "os": "linux", "arch": "x86_64", "cpu": "", "num_cpu": "", "ram": "", "gpu": gpu}
    path = folder / asv_results.get_filename(machine, commit, "virtualenv-py3.12")
    about_run = ({**fields, "python": "3.12"}, {}, commit, 1_700_000_000_000, "3.12", "virtualenv-py3.12", {})
    results = asv_results.Results(*about_run)
    results.load_data(str(folder))
    when = NOON + timedelta(hours=hours)
    results.add_result(benchmark, result, started_at=when, duration=1.5, record_samples=True, selected_idx=set(seconds))
    results.save(str(folder))
    write_json(str(folder / machine / "machine.json"), fields, 1)
    known = stored.read_benchmarks(folder / "benchmarks.json") if (folder / "benchmarks.json").exists() else {}
    write_json(str(folder / "benchmarks.json"), {**known, benchmark["name"]: benchmark}, 2)
    return path


def medians(
    folder: Path, machine: str = "h100", name: str = NAME, commit: str = COMMIT
) -> dict[tuple[str, ...], object]:
    path = folder / asv_results.get_filename(machine, commit, "virtualenv-py3.12")
    results = asv_results.Results.load(str(path), machine_name=machine)
    keys = list(itertools.product(*results.get_result_params(name)))
    return dict(zip(keys, results.get_result_value(name, results.get_result_params(name)), strict=True))


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path, Path]:
    return tmp_path / "first", tmp_path / "second", tmp_path / "into"


def test_machines_lie_side_by_side(roots) -> None:
    first, second, into = roots
    store(first, {0: 1.0, 1: 2.0})
    store(second, {0: 3.0, 1: 4.0}, machine="h200")
    merge([first, second], into)
    assert sorted(files(into)) == [
        "benchmarks.json",
        "h100/aaaaaaaa-virtualenv-py3.12.json",
        "h100/machine.json",
        "h200/aaaaaaaa-virtualenv-py3.12.json",
        "h200/machine.json",
    ]
    for folder, machine in ((first, "h100"), (second, "h200")):
        name = f"{machine}/aaaaaaaa-virtualenv-py3.12.json"
        assert (into / name).read_bytes() == (folder / name).read_bytes()  # asv's own bytes


def test_rows_of_one_commit_are_put_together_with_their_samples(roots) -> None:
    first, second, into = roots
    store(first, {0: 1e-3, 1: 2e-3})
    path = store(second, {2: 3e-3, 3: 4e-3}, hours=1)
    merge([first, second], into)
    assert [round(v, 6) for v in medians(into).values()] == [1e-3, 2e-3, 3e-3, 4e-3]
    results = asv_results.Results.load(str(into / "h100" / path.name))
    assert [len(samples) for samples in results.get_result_samples(NAME, AXES)] == [11] * 4
    assert [stats["repeat"] for stats in results.get_result_stats(NAME, AXES)] == [11] * 4
    assert results.started_at[NAME] == int((NOON + timedelta(hours=1)).timestamp() * 1000)


@pytest.mark.parametrize(("prefer", "wanted"), [("newest", 2.0), ("into", 1.0), ("source", 2.0)])
def test_newest_row_counts_unless_told_otherwise(roots, prefer: str, wanted: float) -> None:
    older, newer, _ = roots
    store(older, {0: 1.0})
    store(newer, {0: 2.0}, hours=1)
    outcome = merge([newer], older, prefer=prefer)
    assert medians(older)["'small'", "1"] == pytest.approx(wanted)
    assert "1 rows measured twice, up to +100.0% apart" in outcome.lines[0]


def test_order_of_sources_does_not_matter(roots, tmp_path) -> None:
    first, second, into = roots
    store(first, {0: 1.0, 1: 5.0})
    store(second, {0: 2.0, 2: math.nan}, hours=1)
    merge([first, second], into)
    merge([second, first], tmp_path / "other")
    assert {name: text for name, (text, _) in files(into).items()} == {
        name: text for name, (text, _) in files(tmp_path / "other").items()
    }


def test_number_beats_na_and_na_beats_failure(roots) -> None:
    first, second, into = roots
    store(first, {0: 1.0, 1: math.nan, 2: None})
    store(second, {0: None, 1: 2.0, 2: math.nan}, hours=1)
    merge([first, second], into)
    values = list(medians(into).values())
    assert values[:2] == pytest.approx([1.0, 2.0])
    assert math.isnan(values[2])
    assert values[3] is None


def test_second_merge_changes_nothing(roots) -> None:
    first, second, into = roots
    store(first, {0: 1.0, 1: 2.0})
    store(second, {0: 1.5, 2: 3.0}, hours=1)
    for folder, text in ((first, "older\n"), (second, "newer\n")):
        (folder / "h100" / "environment.txt").write_text(text)
    (first / "h100" / "environment-aaaaaaaa.txt").write_text("of a commit\n")
    assert merge([first, second], into).changed
    before = files(into)
    assert before["h100/environment.txt"][0] == b"newer\n"
    assert before["h100/environment-aaaaaaaa.txt"][0] == b"of a commit\n"
    assert merge([first], into).changed == []
    assert merge([first, second], into).changed == []
    assert files(into) == before


def test_two_merges_at_once_lose_nothing(roots, monkeypatch) -> None:
    first, second, into = roots
    store(first, {0: 1.0})
    store(second, {1: 2.0}, hours=1)
    load = stored.load

    def slow(folder: Path) -> stored.Stored:
        found = load(folder)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(module, "load", slow)
    threads = [threading.Thread(target=merge, args=([source], into)) for source in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(medians(into).values())[:2] == pytest.approx([1.0, 2.0])
    assert not list(into.rglob(".*"))


def test_where_rows_were_measured_is_carried(roots, tmp_path) -> None:
    first, second, into = roots
    for folder, lines in ((first, "a b"), (second, "c b")):
        store(folder, {0: 1.0})
        (folder / "h100" / "shards").mkdir()
        (folder / "h100" / "shards" / "r.jsonl").write_text("".join(f'"{line}"\n' for line in lines.split()))
    merge([first, second], into)
    path = into / "h100" / "shards" / "r.jsonl"
    assert path.read_text() == '"a"\n"b"\n"c"\n'
    assert merge([second], into).changed == []
    merge([second, first], tmp_path / "other")
    assert (tmp_path / "other" / "h100" / "shards" / "r.jsonl").read_text() == path.read_text()


def test_appended_axis_value_keeps_old_rows(roots) -> None:
    first, second, _ = roots
    store(first, {0: 1.0, 3: 4.0})
    longer = about(axes=[AXES[0], [*AXES[1], "1024"]])
    store(second, {2: 9.0}, hours=1, benchmark=longer)
    with pytest.raises(ValueError, match=r"benchmarks.json: params of bench_x.*two rulers.*--benchmarks"):
        merge([second], first)
    merge([second], first, benchmarks=second / "benchmarks.json")
    assert {key: value for key, value in medians(first).items() if value is not None} == pytest.approx(
        {("'small'", "1"): 1.0, ("'large'", "128"): 4.0, ("'small'", "1024"): 9.0}
    )
    assert stored.read_benchmarks(first / "benchmarks.json")[NAME]["params"] == longer["params"]


def test_other_version_is_refused_and_nothing_written(roots) -> None:
    first, second, _ = roots
    store(first, {0: 1.0})
    store(second, {0: 2.0}, benchmark=about("2"))
    store(second, {0: 2.0}, benchmark=about("2"), machine="h200")
    before = files(first)
    with pytest.raises(ValueError, match=r"version of bench_x.X.time_it is 2, elsewhere 1"):
        merge([second], first)
    assert files(first) == before
    lines = merge([second], first, benchmarks=second / "benchmarks.json").lines
    assert f"h100/aaaaaaaa-virtualenv-py3.12.json: {NAME}: version 2 is kept, 1 is dropped" in lines
    assert medians(first)["'small'", "1"] == pytest.approx(2.0)


def test_two_machines_of_one_name_are_refused(roots) -> None:
    first, second, _ = roots
    store(first, {0: 1.0})
    store(second, {0: 2.0}, gpu="two")
    with pytest.raises(ValueError, match=r"second/h100/machine.json: \{'gpu': 'two'\}, elsewhere \{'gpu': 'one'\}"):
        merge([second], first)


def test_commits_that_share_eight_digits_are_refused(roots) -> None:
    first, second, _ = roots
    store(first, {0: 1.0})
    store(second, {0: 2.0}, commit="a" * 39 + "b")
    with pytest.raises(ValueError, match=r"aaaaaaaa-virtualenv-py3.12.json: commit_hash is a"):
        merge([second], first)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_killed_merge_leaves_whole_files(roots, monkeypatch, written: int) -> None:
    first, second, into = roots
    store(first, {0: 1.0})
    store(second, {0: 2.0}, hours=1)
    store(second, {0: 2.0}, machine="h200")
    merge([first], into)
    replaced = []

    def die(self: Path, target: Path) -> None:
        replaced.append(target)
        if len(replaced) > written:
            raise KeyboardInterrupt
        shutil.move(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            merge([second], into)
    assert not list(into.rglob(".*"))
    stored.load(into)  # machine.json of the h200 came before its results
    assert merge([second], into).changed
    assert medians(into, "h200")["'small'", "1"] == pytest.approx(2.0)


def spoil(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), r"aaaaaaaa-\S+json is truncated or not JSON"),
        (lambda p: p.write_text(""), "is truncated"),
        (lambda p: p.write_text('{"a": 1, "version": 2}'), "is foreign: it has no commit_hash"),
        (lambda p: spoil(p, version=1), "format version 1, wanted 2"),
        (lambda p: spoil(p, commit_hash="b" * 40), "its content is that of bbbbbbbb-virtualenv-py3.12.json"),
        (lambda p: spoil(p, params={"machine": "h200"}), "machine is 'h200', machine.json says 'h100'"),
        (lambda p: spoil(p, results={NAME: [[1.0], AXES, "1"]}), "result does not have the 4 rows of its parameters"),
        (lambda p: spoil(p, results={NAME: [[1.0] * 4, AXES]}), f"aaaaaaaa-.*{NAME}: no version"),
        (lambda p: spoil(p, result_columns=["result"]), "it has no result_columns"),
        (lambda p: (p.parent / "machine.json").unlink(), "left out by asv: machine.json beside it is missing"),
        (lambda p: (p.parent / "machine.json").write_text("{"), "machine.json is truncated"),
        (lambda p: spoil(p.parent / "machine.json", machine="h200"), "it is of machine h200"),
        (lambda p: (p.parents[1] / "benchmarks.json").unlink(), "benchmarks.json cannot be read: No such file"),
        (lambda p: (p.parents[1] / "report.json").write_text("{}"), "report.json is foreign: result files lie in"),
        (lambda p: shutil.copytree(p.parent, p.parent / "old"), "one folder deep"),
    ],
)
def test_what_asv_would_leave_out_is_refused_by_name(roots, damage, said: str) -> None:
    first, _, into = roots
    damage(store(first, {0: 1.0}))
    with pytest.raises(ValueError, match=said):
        merge([first], into)
    assert not into.exists()


def test_every_bad_file_is_named(roots) -> None:
    first, _, into = roots
    for machine in ("h100", "h200", "l4"):
        store(first, {0: 1.0}, machine=machine).write_text("{")
    with pytest.raises(ValueError, match="h100/") as caught:
        merge([first], into)
    assert len(str(caught.value).splitlines()) == 3


def git(repository: Path, *arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@localhost", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git checkout with an asv configuration and two commits."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init")
    conf = {"version": 1, "project": "x", "repo": ".", "branches": ["main"], "dvcs": "git", "results_dir": "results"}
    (folder / "asv.conf.json").write_text(json.dumps({**conf, "html_dir": "html", "environment_type": "virtualenv"}))
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "commit", "--allow-empty", "-m", "two")
    return folder


def test_asv_publishes_a_merged_folder(repository: Path, roots) -> None:
    first, second, _ = roots
    old, new = git(repository, "rev-parse", "HEAD~1", "HEAD").split()
    store(first, {0: 1.0, 1: 2.0}, commit=old)
    store(first, {0: 1.5, 1: 2.5}, commit=new)
    store(second, {2: 3.0, 3: 4.0}, commit=new, hours=1)
    store(second, {0: 7.0}, commit=new, machine="h200")
    merge([first, second], repository / "results")
    assert check(repository / "results", repository) == 3
    command = [sys.executable, "-m", "asv", "publish", "--no-pull"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Skipping" not in done.stdout + done.stderr
    index = json.loads((repository / "html" / "index.json").read_text())
    assert sorted(index["machines"]) == ["h100", "h200"]
    graphs = {
        path.parts[path.parts.index("graphs") + 1 :][0]: json.loads(path.read_text())
        for path in (repository / "html" / "graphs").rglob(f"{NAME}.json")
        if "machine-h100" in path.as_posix()
    }
    (points,) = graphs.values()
    assert [[None if v is None else round(v, 6) for v in values] for _, values in points] == [
        [1.0, 2.0, None, None],
        [1.5, 2.5, 3.0, 4.0],
    ]


def test_commit_that_is_not_here_is_refused(repository: Path) -> None:
    store(repository / "results", {0: 1.0}, commit="c" * 40)
    with pytest.raises(ValueError, match=r"h100/cccccccc-virtualenv-py3.12.json is foreign: commit cccccccc is not in"):
        check(repository / "results", repository)


def test_command_merges_checks_and_says_what_is_wrong(roots, repository: Path, capsys) -> None:
    first, _, _ = roots
    path = store(first, {0: 1.0}, commit=git(repository, "rev-parse", "HEAD"))
    with contextlib.chdir(repository):
        assert cli.main(["merge", str(first), "--into", "results", "--check"]) == 0
        assert "results: 1 result files, all whole and of this repository" in capsys.readouterr().out
        assert cli.main(["merge", str(first)]) == 0
        assert "0 files changed" in capsys.readouterr().out
        (Path("results") / "h100" / path.name).write_text("[")
        assert cli.main(["merge", "--check"]) == 2
        assert path.name in capsys.readouterr().err
        assert cli.main(["merge"]) == 2


def test_reference_results_are_whole() -> None:
    root = Path(__file__).resolve().parent.parent
    stored.load(root / "results")
