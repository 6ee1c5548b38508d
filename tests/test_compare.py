"""compare: turns, crashes, resumption, orphans, verdicts, asv results; with stub processes, then once for real."""

import json
import math
import re
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cli, suite
from benchmarks.compare import cells as lists
from benchmarks.compare import environments, outcome, processes, report, store, worker
from benchmarks.compare.cells import CONTROL, Cell
from benchmarks.compare.journal import Entry, Journal
from benchmarks.compare.processes import Process, WorkerError
from benchmarks.compare.session import BASE, HEAD, Session, Settings, StartError
from benchmarks.compare.verdicts import Rules, Verdict

ROOT = Path(__file__).parents[1]
CELLS = [Cell("native", "m", 1, n, "bench_cpu.Cpu.time_native", ("Qwen2-VL-7B tp1", n)) for n in (1, 16, 128)]
CONTROLS = [Cell(CONTROL, "m", 1, 2)]


@pytest.fixture
def stub(tmp_path):
    """A function that writes the plan and gives settings whose Pythons are stubs."""
    pythons = {}
    for arm in (BASE, HEAD):
        python = tmp_path / arm
        python.write_text(f"#!/bin/sh\nexec {sys.executable} {ROOT}/tests/stub_worker.py {arm} {tmp_path}\n")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        pythons[arm] = str(python)

    def make(plan=None, **changes):
        (tmp_path / "plan.json").write_text(json.dumps(plan or {}))
        quick = {"rounds": 4, "pairs": 4, "spares": 1, "prepare_seconds": 2.0, "sample_seconds": 2.0}
        return Settings(pythons, "cpu", **(quick | changes))

    return make


def lines(tmp_path):
    return [line.split() for line in (tmp_path / "log").read_text().splitlines()]


def run(settings, journal, cells=CELLS, doubled=(), **more):
    said = []
    session = Session(settings, journal, said.append)
    assert session.run("first", cells, doubled, **more) or more
    return said


def test_turns(stub, tmp_path):
    """A B, B A, one at a time; each arm of each round is a process of its own, alive together."""
    journal = Journal(tmp_path / "j", {}, resume=False)
    run(stub(), journal, doubled=CELLS[:1])
    log = lines(tmp_path)
    begins = [line for line in log if line[3] == "begin"]
    arms = [line[2] for line in begins if line[4] == "16"][:8]
    assert arms == [BASE, HEAD, HEAD, BASE] * 2
    for begin, end in pairwise(line for line in log if line[3] in {"begin", "end"}):
        if begin[3] == "begin":
            assert (end[3], end[1]) == ("end", begin[1]), "two processes measured at once"
    assert len({line[1] for line in begins}) == 4 * 3, "base, head and the second base, new in each round"
    assert len(journal.entries) == 4 * 3
    for entry in journal.entries:
        assert len(entry.base) == len(entry.head) == 4
        assert bool(entry.again) == bool(entry.base_beside_again) == (entry.cell == CELLS[0].name)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("crash", "the process ended with 139 in prepare: Segmentation fault, as it were"),
        ("hang", r"prepare took longer than 1 s"),
        ("error", "UnsupportedError: not on this GPU"),
    ],
)
def test_a_bad_cell_costs_itself_only(stub, tmp_path, what, words):
    journal = Journal(tmp_path / "j", {}, resume=False)
    said = run(stub({"head 16": what}, prepare_seconds=1.0), journal)
    (error,) = [entry for entry in journal.entries if entry.error]
    assert error.cell == CELLS[1].name
    assert re.search(f"head: {words}", error.error)
    tries = 1 if what == "error" else 2
    assert sum("attempt" in line for line in said) == tries, "one retry, none where it says that it never can"
    assert sum(not entry.error for entry in journal.entries) == 4 * 2
    run(stub(), again := Journal(tmp_path / "j", {}, resume=True))
    assert len([entry for entry in again.entries if not entry.error]) == 4 * 3, "another run gives it another chance"


@pytest.mark.parametrize("what", ["crash", "hang", "gibberish"])
def test_no_cell_is_blamed_for_a_process_that_cannot_start(stub, tmp_path, what):
    journal = Journal(tmp_path / "j", {}, resume=False)
    with pytest.raises(StartError, match=r"^head: "):
        run(stub({"head hello": what}, hello_seconds=1.0), journal)
    assert journal.entries == []
    run(stub({"head hello": "crash once"}), journal)
    assert len(journal.entries) == 4 * 3


def test_an_environment_that_changes_meanwhile(stub, tmp_path):
    with pytest.raises(StartError, match="base: the environment now holds commit , wanted abc"):
        run(stub(commits={"base": "abc"}), Journal(tmp_path / "j", {}, resume=False))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf")])
def test_a_sample_that_is_no_time(stub, tmp_path, seconds):
    journal = Journal(tmp_path / "j", {}, resume=False)
    run(stub({"seconds": seconds}), journal, CELLS[:1])
    assert [entry.error for entry in journal.entries] == [f"base: a sample of {seconds} s is no time"]


def test_a_worker_that_closes_its_output_and_stays(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_END_SECONDS", 0.5)
    journal = Journal(tmp_path / "j", {}, resume=False)
    run(stub({"base 16": "close"}), journal, CELLS[1:2])
    assert "or rather closed its output in prepare" in journal.entries[0].error


def test_one_crash_is_forgiven(stub, tmp_path):
    journal = Journal(tmp_path / "j", {}, resume=False)
    said = run(stub({"base 16": "crash once"}), journal)
    assert not [entry for entry in journal.entries if entry.error]
    assert len(journal.entries) == 4 * 3
    assert sum("attempt 1" in line for line in said) == 1


def test_resume(stub, tmp_path):
    """What a killed run measured is not measured again; half a line is."""
    path = tmp_path / "j"
    run(stub(), Journal(path, {"base": "a"}, resume=False), deadline=time.monotonic() + 2.0)
    text = path.read_text()
    kept = text.splitlines()[:6]
    path.write_text("\n".join([*kept, text.splitlines()[1][:40]]))
    (tmp_path / "log").unlink()
    journal = Journal(path, {"base": "a"}, resume=True)
    assert len(journal.entries) == 5
    run(stub(), journal)
    assert len(journal.entries) == 4 * 3
    assert len({(entry.round, entry.cell) for entry in journal.entries}) == 4 * 3
    prepared = {(line[1], line[4]) for line in lines(tmp_path) if line[3] == "prepare" and line[2] == "head"}
    assert len(prepared) == 4 * 3 - 5
    with pytest.raises(ValueError, match=r"--resume: .* is of another run: base differ, first 'a' there and 'b' here"):
        Journal(path, {"base": "b"}, resume=True)
    path.write_text(path.read_text().replace('"phase"', '"phrase"', 1))
    with pytest.raises(ValueError, match="is damaged in line 2"):
        Journal(path, {"base": "a"}, resume=True)
    Journal(path, {"base": "a"}, resume=False)
    assert '"phrase"' in (tmp_path / "j-before").read_text(), "an older journal is put aside, not lost"
    path.write_text("[]\n")
    with pytest.raises(ValueError, match="is not a journal of compare"):
        Journal(path, {"base": "a"}, resume=True)


def test_deadline(stub, tmp_path):
    journal = Journal(tmp_path / "j", {}, resume=False)
    run(stub(), journal, deadline=time.monotonic() - 1)
    assert journal.entries == []


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_survives(stub, tmp_path, end):
    """Whatever ends the parent, its workers end, also one that hangs in a call."""
    settings = stub({"head 16": "hang"}, prepare_seconds=300.0)
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from benchmarks.compare.cells import Cell
from benchmarks.compare.journal import Journal
from benchmarks.compare.session import Session, Settings
cells = [Cell("native", "m", 1, n) for n in (1, 16)]
settings = Settings({dict(settings.pythons)!r}, "cpu", rounds=3, pairs=4, prepare_seconds=300.0)
Session(settings, Journal(Path({str(tmp_path / "j")!r}), {{}}, resume=False)).run("first", cells)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (tmp_path / "log").exists() and any(line[2:] == ["head", "prepare", "16"] for line in lines(tmp_path)):
            break
        time.sleep(0.05)
    pids = {int(line[1]) for line in lines(tmp_path)}
    assert any(alive(pid) for pid in pids)
    parent.send_signal(end)
    parent.wait(30)
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def test_the_checkout_is_not_measured(tmp_path):
    """The real worker, given the Python of the tests: the package it would import is not of its own environment."""
    process = Process(sys.executable, "cpu", tmp_path)
    try:
        with pytest.raises(WorkerError, match=r"No module named 'ropekern'|ropekern was imported from"):
            process.wait_until_ready(120)
    finally:
        process.close()


def journal_of(tmp_path, head, again=None, error="", control=1.0, cells=CELLS, rounds=(10, 10)):
    """A journal in which head is slower by the factors given; rounds of the first look and of the second."""
    journal = Journal(tmp_path / "j", {}, resume=False)
    for phase, factors, count in (("first", head, rounds[0]), ("again", again or {}, rounds[1] if again else 0)):
        for number in range(count):
            wobble = 1 + 1e-3 * math.sin(7 * number)
            for cell in [*CONTROLS, *cells]:
                factor = control if cell.provider == CONTROL else factors.get(cell.num_tokens)
                if factor is None:
                    continue
                base = [1e-5 * (1 + 1e-4 * math.cos(i + number)) for i in range(8)]
                slow = [x * factor * wobble for x in base]
                beside = [base, [x * wobble for x in base]] if cell == cells[0] and phase == "first" else [[], []]
                journal.add(Entry(phase, number, cell.name, base, slow, *beside))
    if error:
        journal.add(Entry("first", 9, cells[0].name, error=error))
    return journal


def conclude(journal, cells=CELLS):
    return outcome.conclude(journal, [*CONTROLS, *cells], cells[:1], Rules())


def test_verdicts(tmp_path):
    found = conclude(journal_of(tmp_path, {1: 1.05, 16: 1.0, 128: 0.9}, {1: 1.05, 128: 0.9}))
    assert [row.finding.verdict for row in found.rows] == [Verdict.SLOWER, Verdict.SAME, Verdict.FASTER]
    assert (found.exit_code, found.missing, found.invalid) == (1, {}, [])
    slower = found.rows[0]
    assert slower.finding.ratio == pytest.approx(1.05, rel=2e-3)
    assert slower.finding.ratio_low < 1.05 < slower.finding.ratio_high
    assert (slower.base_seconds, slower.head_seconds) == (
        pytest.approx(1e-5, rel=1e-3),
        pytest.approx(1.05e-5, rel=2e-3),
    )
    assert "Regression: 1 SLOWER, 1 FASTER, 1 SAME" in report.headline(found)


def test_a_flag_that_new_processes_do_not_confirm(tmp_path):
    found = conclude(journal_of(tmp_path, {1: 1.05, 16: 1.0, 128: 1.0}, {1: 1.0}))
    assert found.rows[0].finding.verdict == Verdict.SAME
    assert found.rows[0].was_flagged
    assert found.exit_code == 0
    assert "SAME (flag not confirmed)" in report.markdown(found, "t", [], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"error": "head: crashed"}, "1 expected rows are missing; besides, 3 SAME"),
        ({"rounds": (4, 0)}, "4 expected rows are missing"),
        ({"rounds": (2, 0)}, "INVALID run"),
        ({"error": "head: MeasuringError: the GPU is throttled: power cap"}, "the GPU was throttled: native, m tp 1"),
        ({"control": 1.04}, "INVALID run"),
    ],
)
def test_invalid_runs(tmp_path, changes, words):
    found = conclude(journal_of(tmp_path, {1: 1.0, 16: 1.0, 128: 1.0}, **changes))
    assert found.exit_code == 3
    assert words in report.headline(found)


def test_rows_that_are_missing(tmp_path):
    """Never measured, or flagged and not measured again: never a pass."""
    found = conclude(journal_of(tmp_path, {1: 1.05, 16: 1.0}))
    again = "0 of 10 rounds when it was measured again"
    assert found.missing == {CELLS[2].name: "0 of 10 rounds", CELLS[0].name: again, CONTROLS[0].name: again}
    assert found.exit_code == 3
    assert found.rows[0].finding.verdict == Verdict.INCONCLUSIVE, "a flag alone is no regression"


def test_a_second_look_that_was_cut_short(tmp_path):
    found = conclude(journal_of(tmp_path, {1: 1.05, 16: 1.0, 128: 1.0}, {1: 1.05}, rounds=(10, 2)))
    assert found.exit_code == 3
    assert "2 of 10 rounds when it was measured again" in found.missing[CELLS[0].name]


def test_a_control_that_moves_in_the_second_look(tmp_path):
    journal = journal_of(tmp_path, {1: 1.05, 16: 1.0, 128: 1.0}, {1: 1.05})
    for i, entry in enumerate(journal.entries):
        if entry.phase == "again" and entry.cell == CONTROLS[0].name:
            journal.entries[i] = replace(entry, head=[x * 1.05 for x in entry.head])
    found = conclude(journal)
    assert found.exit_code == 3
    assert found.invalid[0].startswith("when flagged cells were measured again, the frozen control kernel moved")


def test_both_looks_flag_the_same_cells(tmp_path):
    """What is measured again is what is concluded about, near the limit as well."""
    rng = np.random.default_rng(1)
    cells = [Cell("native", "m", 1, n) for n in range(10, 40)]
    for attempt in range(20):
        journal = Journal(tmp_path / f"{attempt}", {}, resume=False)
        for number in range(4):
            for cell in [*CONTROLS, *cells]:
                base = (1e-5 * (1 + 0.003 * rng.standard_normal(4))).tolist()
                head = (1e-5 * (1.012 + 0.01 * rng.standard_normal()) * (1 + 0.003 * rng.standard_normal(4))).tolist()
                journal.entries.append(Entry("first", number, cell.name, base, head))
        suspects = outcome.flagged(outcome.first_look(journal, [*CONTROLS, *cells], Rules()))
        found = outcome.conclude(journal, [*CONTROLS, *cells], cells[:1], Rules(), rounds=4)
        assert [row.cell for row in found.rows if row.was_flagged] == suspects


def test_report(tmp_path):
    found = conclude(journal_of(tmp_path, {1: 1.05, 16: 1.0, 128: 0.9}, {1: 1.05, 128: 0.9}))
    text = report.markdown(found, "a -> b", ["a note"], ["a machine"])
    assert text.startswith("## a -> b\n\n**Regression: 1 SLOWER, 1 FASTER, 1 SAME**\n\n- a note\n")
    assert re.search(r"\| SLOWER \| native, m tp 1, 1 tokens \| 10\.00 \| 10\.50 \| 1\.05\d\d \|", text)
    assert "<details><summary>1 rows SAME</summary>" in text
    geometric = (1.05 * 1.0 * 0.9) ** (1 / 3)
    assert float(re.search(r"\| native \| 3 \| ([\d.]+) \|", text)[1]) == pytest.approx(geometric, rel=2e-3)
    assert "| decode (1 - 64) | 2 |" in text
    assert "| short (65 - 4096) | 1 |" in text
    data = json.loads(json.dumps(report.as_json(found, {"base": "a"}, []), allow_nan=False))
    assert [row["verdict"] for row in data["rows"]] == ["SLOWER", "SAME", "FASTER"]
    assert (data["exit_code"], data["rows"][0]["pairs"]) == (1, 10)
    pytest.importorskip("matplotlib")
    report.plot(found, "a -> b", tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").stat().st_size > 10_000


def test_cells():
    every = lists.of_suite("cuda")
    assert len(every) == 3 * (2 + 4) * 5
    known = json.loads((ROOT / "results" / "benchmarks.json").read_text())
    for cell in [*every, *lists.of_suite("cpu")]:
        axes = known[cell.benchmark]["params"]
        assert all(repr(value) in axis for value, axis in zip(cell.params, axes, strict=True))
    small = lists.smoke(every)
    assert {cell.provider for cell in small} == {"triton"}
    assert len(small) == 12
    assert {cell.params for cell in small} <= {cell.params for cell in every}
    assert len(lists.smoke(lists.of_suite("cpu"))) == 6
    full = lists.full(every)
    assert full[: len(every)] == every
    assert len({cell.name for cell in full}) == len(full) > 90 + 16 * 18 - 40
    assert len(lists.doubled(every)) == 8
    assert {cell.model_name for cell in lists.doubled(small)} == {cell.model_name for cell in small}
    assert lists.full(lists.of_suite("cpu")) == lists.of_suite("cpu")
    assert lists.full(lists.of_suite("cuda", ["native"])) == lists.of_suite("cuda", ["native"])
    assert {suite.SHARDS[label] for label in suite.CPU_MODELS} == {
        (c.model_name, c.tp_size) for c in lists.of_suite("cpu")
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-commit"], "git rev-parse --verify no-such-commit^{commit} failed"),
        (["HEAD", "--rounds", "2"], "--rounds must be 3 or more and --pairs even, got 2 and 8"),
        (["HEAD", "--pairs", "3"], "--rounds must be 3 or more and --pairs even, got 10 and 3"),
        (["HEAD", "--provider", "cutlass"], "--provider must be among"),
        (["HEAD", "--margin", "0"], "--margin must be above 0 and below 100 percent, got 0"),
        (["HEAD", "--margin", "nan"], "--margin must be above 0 and below 100 percent, got nan"),
        (["HEAD", "--device", "meta"], "--device must be cpu or cuda, got 'meta'"),
        (["HEAD", "--base-python", "/no/python", "--head-python", "/no/python"], "/no/python"),
    ],
)
def test_bad_flags(arguments, words, capsys, tmp_path):
    code = cli.main(["compare", "--device", "cpu", *arguments, "--output", str(tmp_path)])
    error = capsys.readouterr().err
    assert code == 2
    assert words in error
    assert "Traceback" not in error


def test_with_given_pythons(stub, tmp_path, capsys, monkeypatch):
    """The whole command on stubs: a slower head, then an equal one whose torch is another."""
    settings = stub({"slow": 1.2})
    arguments = [
        "compare",
        "HEAD",
        "--smoke",
        "--device",
        "cpu",
        "--rounds",
        "4",
        "--pairs",
        "4",
        "--output",
        str(tmp_path),
    ]
    arguments += ["--base-python", settings.pythons[BASE], "--head-python", settings.pythons[HEAD]]
    assert cli.main(arguments) == 1
    out = capsys.readouterr()
    assert "**Regression: 6 SLOWER**" in out.out
    assert "not only the commit differs: torch base -> head" in out.out
    assert "6 cells are flagged: measured again in new processes" in out.err
    stub()
    assert cli.main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {row["verdict"] for row in data["rows"]} == {"SAME"}
    assert cli.main([*arguments, "--minutes", "0"]) == 3
    out = capsys.readouterr().out
    assert "INVALID run" in out
    assert "time was up before all was measured: --resume goes on" in out
    assert cli.main([*arguments, "--resume"]) == 0
    assert "of it measuring" in capsys.readouterr().out
    assert cli.main([*arguments, "--resume", "--margin", "7"]) == 2
    assert "is of another run: rules differ" in capsys.readouterr().err
    with environments.locked():
        assert cli.main(arguments) == 2
    assert "another compare runs in this checkout" in capsys.readouterr().err
    for error, code, words in (
        (KeyboardInterrupt(), 130, "--resume goes on with what was measured"),
        (RuntimeError("CUDA error: an illegal memory access"), 2, "an illegal memory access"),
    ):
        monkeypatch.setattr(Session, "run", lambda *_, error=error, **__: raise_(error))
        assert cli.main([*arguments, "--resume"]) == code, "1 would mean a regression"
        assert words in capsys.readouterr().err


def raise_(error):
    raise error


def test_what_is_installed_is_the_commit(tmp_path):
    """The worker's hash over the installed modules is git's over the commit's."""
    git(tmp_path, "clone", "-q", "--no-local", "--depth", "1", f"file://{ROOT}", "clone")
    head = environments.Commit("HEAD", environments.git("rev-parse", "HEAD"))
    package = tmp_path / "clone" / "ropekern"
    assert worker.sources_digest(package) == environments.sources_digest(head)
    (package / "ops.py").write_text("")
    assert worker.sources_digest(package) != environments.sources_digest(head)


def test_store(tmp_path):
    """Ten process medians become the samples of the rows that were measured; other rows stay as they were."""
    pytest.importorskip("asv")
    from asv.results import Results

    (tmp_path / "benchmarks.json").write_bytes((ROOT / "results" / "benchmarks.json").read_bytes())
    about = {"python": "3.11", "requirements": {}, "env_name": "virtualenv-py3.11", "env_vars": {}, "date": 0}
    machine = {"machine": "m", "os": "linux", "arch": "x", "cpu": "", "num_cpu": "", "ram": "", "gpu": ""}
    commit = environments.Commit("main", "ab" * 20)
    cells = lists.of_suite("cpu")
    first = {cells[0]: [1e-5 + i * 1e-7 for i in range(10)], cells[1]: [2e-5] * 10}
    path = store.store(commit, first, about, machine, tmp_path)
    assert path == tmp_path / "m" / "abababab-virtualenv-py3.11.json"
    store.store(commit, {cells[1]: [3e-5] * 10, cells[2]: [4e-5] * 3}, about, machine, tmp_path)
    stored = Results.load(str(path), machine_name="m")
    name = "bench_cpu.Cpu.time_native"
    params = stored.get_result_params(name)
    values, samples = stored.get_result_value(name, params), stored.get_result_samples(name, params)
    assert values[:3] == [pytest.approx(1.045e-5), pytest.approx(3e-5), None]
    assert [len(s) if s else 0 for s in samples[:3]] == [10, 10, 0]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("tmp")]
    assert store.store(environments.Commit("tree", "ab" * 20, is_stored=False), first, about, machine, tmp_path) is None
    with pytest.raises(ValueError, match=r"benchmarks\.json is missing"):
        store.store(commit, first, about, machine, tmp_path / "m")


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A repository with the branches main and topic, which left main before its last commit."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "ropekern").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    for number, branch in enumerate(("main", "main", "topic", "main")):
        if branch == "topic":
            git(tmp_path, "checkout", "-q", "-b", "topic")
        elif number == 3:
            git(tmp_path, "checkout", "-q", "main")
        (tmp_path / "ropekern" / f"{branch}.py").write_text(str(number))
        (tmp_path / "benchmarks" / "ruler.py").write_text("1")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", str(number))
    git(tmp_path, "checkout", "-q", "topic")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    return tmp_path


def test_resolve(scratch):
    base, head, notes = environments.resolve("main~1", "topic")
    assert (base.commit_hash, head.commit_hash) == (
        git(scratch, "rev-parse", "main~1"),
        git(scratch, "rev-parse", "topic"),
    )
    assert notes == []
    base, _, (note,) = environments.resolve("main", "topic")
    assert base.commit_hash == git(scratch, "rev-parse", "main~1")
    assert "main has moved on since topic left it: compared with their merge base" in note
    base, head, (note,) = environments.resolve("main", "main~1")
    assert (base.commit_hash, head.commit_hash) == (
        git(scratch, "rev-parse", "main"),
        git(scratch, "rev-parse", "main~1"),
    )
    assert note == "main is newer than main~1, which is compared with it as named"
    git(scratch, "checkout", "-q", "--orphan", "stranger")
    git(scratch, "commit", "-q", "-m", "no parent")
    with pytest.raises(ValueError, match=r"main and stranger have no commit in common \(a shallow clone\?\)"):
        environments.resolve("main", "stranger")


def test_working_tree(scratch):
    ruler = environments.ruler_version()
    (scratch / "ropekern" / "new.py").write_text("untracked files count, too")
    (scratch / "benchmarks" / "ruler.py").write_text("2")
    status = git(scratch, "status", "--porcelain")
    _, head, _ = environments.resolve("main~1", ".")
    assert not head.is_stored
    assert git(scratch, "show", f"{head.commit_hash}:ropekern/new.py") == "untracked files count, too"
    assert git(scratch, "show", f"{head.commit_hash}:benchmarks/ruler.py") == "1", "the ruler is never installed"
    assert git(scratch, "status", "--porcelain") == status, "index and files are as they were"
    assert environments.resolve("main~1", ".")[1].commit_hash == head.commit_hash, "the same tree is installed once"
    assert environments.ruler_version() != ruler
    _, _, (note,) = environments.resolve("main~1", "topic")
    assert note.startswith("uncommitted changes in ropekern/ are not measured")
