"""run: shards that are killed, hang, find a full disk or the wrong GPU; submitit and forks are real, cells are not."""

import csv
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import chain, groupby
from pathlib import Path

import pytest

from benchmarks import cli, merge
from benchmarks.compare import cells as lists
from benchmarks.compare import environments, worker
from benchmarks.compare.cells import Cell
from benchmarks.compare.environments import Commit
from benchmarks.compare.processes import WorkerError
from benchmarks.shards import commits, costs, device, engine, gather, job, journal, plan
from benchmarks.shards.crew import Limits
from benchmarks.shards.journal import Row, Table

ROOT = Path(__file__).parents[1]
LABELS = ("Llama-3.1-8B tp1", "Qwen2-VL-7B tp1")
CELLS = tuple(
    Cell("native", label, 1, count, "bench_cpu.Cpu.time_native", (label, count))
    for label in LABELS[:1]
    for count in (1, 16, 128, 512)
)
COMMITS = ("a", "b", "c")
QUICK = Limits(hello_seconds=20, prepare_seconds=1.0, sample_seconds=5, samples=10)
ABOUT = {"python": "3.11", "requirements": {}, "env_name": "virtualenv-py3.11", "env_vars": {}, "date": 0}
H100 = {"gpu": "NVIDIA H100 80GB HBM3", "id": "GPU-1", "driver": "1"}
H200 = {"gpu": "NVIDIA H200", "id": "GPU-2", "driver": "1"}


def hash_of(letter):
    return letter * 40


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A function that writes what the stubs do, and gives the folder of a run whose plan lies there."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # locks and workers' folders: tests must not wait for each other
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(engine, "_CHILDREN", [])

    def make(behaviour=None, place="cpu", cells=CELLS, labels=COMMITS):
        (tmp_path / "plan.json").write_text(json.dumps(behaviour or {}))
        arms = []
        for letter in labels:
            python = tmp_path / f"python-{letter}"
            python.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/stub_shard.py {letter} {tmp_path} "$@"\n')
            python.chmod(python.stat().st_mode | stat.S_IXUSR)
            arms.append(plan.Arm(Commit(letter, hash_of(letter)), str(python), ABOUT, sources=letter))
        folder = tmp_path / "runs" / "r"
        folder.mkdir(parents=True, exist_ok=True)
        plan.Plan("ruler", place, tuple(arms), tuple(cells), plan.versions_of(cells)).save(folder)
        by_hash = {arm.commit.commit_hash: arm for arm in arms}

        def build(commit, _):
            arm = by_hash[commit.commit_hash]
            return arm.python, arm.about

        monkeypatch.setattr(environments, "build", build)
        monkeypatch.setattr(environments, "sources_digest", lambda commit: commit.name)
        return folder

    return make


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "benchmarks.json").write_bytes((ROOT / "results" / "benchmarks.json").read_bytes())
    return tmp_path / "results"


def log(tmp_path, what="prepare"):
    """Process, commit and tokens, of everything of a kind that stubs have done."""
    found = (line.split() for line in (tmp_path / "log").read_text().splitlines())
    return [(int(words[1]), words[2], words[4]) for words in found if words[3] == what]


def measure(folder, cells=CELLS, shard=0, start=1, forgive=False):
    job.assign(folder, start, [[]] * shard + [[cell.name for cell in cells]], forgive=forgive)
    return job.measure(folder, start, shard, QUICK)


def rows(folder):
    return [row for one in journal.read(folder) for row in one.rows]


def left(folder):
    table = Table(journal.read(folder))
    return {cell.num_tokens: found for cell in CELLS if (found := table.missing(cell.name, map(hash_of, COMMITS)))}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command(folder, results, *more):
    return cli.main(["run", "--folder", str(folder), "--results", str(results), "--machine", "m", *more])


def test_two_shards(stage, results, tmp_path, capsys):
    """Every row by a process of its own, one at a time; asv results of each commit; a second run has nothing to do."""
    folder = stage()
    assert command(folder, results, "--shards", "2") == 0
    assert "12 of 12 rows measured, 0 failed, 0 left" in capsys.readouterr().err
    prepared = log(tmp_path)
    assert Counter((commit, tokens) for _, commit, tokens in prepared) == {
        (commit, str(cell.num_tokens)): 1 for commit in COMMITS for cell in CELLS
    }
    assert len({pid for pid, _, _ in prepared}) == 12, "a fresh process for each row"
    assert len({pid for pid, _, _ in log(tmp_path, "hello")}) == 2 * 3, "which did not have to import anything"
    turns = [pid for pid, _ in groupby(pid for pid, _, _ in log(tmp_path, "sample"))]
    assert len(turns) == 12, "two shards of one machine never measure at once"
    first, second = journal.read(folder)
    assert {row.cell for row in first.rows}.isdisjoint(row.cell for row in second.rows)
    assert {len(row.samples) for row in first.rows + second.rows} == {10}
    for letter in COMMITS:
        stored = json.loads((results / "m" / f"{letter * 8}-virtualenv-py3.11.json").read_text())
        columns = dict(zip(stored["result_columns"], stored["results"]["bench_cpu.Cpu.time_native"], strict=False))
        assert columns["result"][:4] == pytest.approx([1e-5, 16e-5, 128e-5, 512e-5])
        assert [len(samples) for samples in columns["samples"][:4]] == [10] * 4
        assert columns["duration"] > 0
    assert merge.load(results).results.keys() == {("m", f"{letter * 8}-virtualenv-py3.11.json") for letter in COMMITS}
    (provenance,) = results.glob("m/shards/*.jsonl")
    shards = [json.loads(line) for line in provenance.read_text().splitlines()]
    assert sum(len(shard["rows"]) for shard in shards) == 12
    assert {shard["host"] for shard in shards} == {device.node()}
    with (folder / "rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {(row["status"], row["device"]) for row in table} == {("ok", device.node())}
    assert command(folder, results) == 0
    assert "nothing is left to measure" in capsys.readouterr().err
    assert log(tmp_path) == prepared


def test_a_killed_shard(stage, results, tmp_path):
    """It and all its processes end; the other one, which a rerun finds at work, is waited for; nothing is lost."""
    folder = stage({"seconds": 0.15})
    shards = [[cell.name for cell in CELLS[:2]], [cell.name for cell in CELLS[2:]]]
    job.assign(folder, 1, shards, forgive=False)
    jobs = engine.submit(engine.LOCAL, folder, plan.keep_ruler(folder), 1, 2, engine.Options(), [])
    assert engine.earlier(folder) == jobs
    wait(
        lambda: len(list(folder.glob("journals/*"))) == 2 and len([r for r in rows(folder) if r.cell in shards[0]]) >= 2
    )
    os.kill(int(jobs[0].number), signal.SIGKILL)
    (victim,) = [one for one in journal.read(folder) if one.about["shard"] == 0]
    wait(lambda: not alive(victim.about["process"]), 10)
    before = rows(folder)
    assert any(cell.name in shards[0] for cell in CELLS for row in before if row.cell == cell.name)
    assert set(engine.states(jobs).values()) == {"at work"}
    assert command(folder, results, "--shards", "2") == 0
    assert left(folder) == {}
    assert max(Counter((row.cell, row.commit) for row in rows(folder) if row.samples).values()) == 1
    assert {(row.cell, row.commit) for row in before} < {(row.cell, row.commit) for row in rows(folder)}
    pids = {pid for pid, _, _ in log(tmp_path, "hello")}
    wait(lambda: not any(alive(pid) for pid in pids), 10)


def test_interrupted(stage, results, capsys):
    """Ctrl-C ends all shards."""
    folder = stage({"seconds": 0.2})
    threading.Thread(
        target=lambda: (wait(lambda: rows(folder)), os.kill(os.getpid(), signal.SIGINT)), daemon=True
    ).start()
    assert command(folder, results, "--shards", "2") == 130
    assert f"interrupted; `run --folder {folder}` goes on" in capsys.readouterr().err
    assert engine.states(engine.earlier(folder)) == {}
    assert 0 < len(rows(folder)) < 12


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("crash", "the process ended with 139 in prepare"),
        ("hang", "prepare took longer than 1 s"),
        ("MeasuringError: the GPU is throttled: power cap", "throttled"),
    ],
)
def test_a_bad_cell_costs_itself_only(stage, tmp_path, what, words):
    folder = stage({"b 16": what})
    assert measure(folder) == 11
    errors = [row for row in rows(folder) if row.error]
    assert [(row.commit, row.cell) for row in errors] == [(hash_of("b"), CELLS[1].name)] * 2, "one more try, at the end"
    assert words in errors[0].error
    assert left(folder) == {16: [hash_of("b")]}
    stage()
    assert measure(folder, start=2) == 1, "a rerun on the same device measures what is missing and no more"
    assert left(folder) == {}


def test_another_device_measures_a_cell_as_a_whole(stage, monkeypatch):
    """Base and head share a device; but where the missing commit fails again, the others are not measured for it."""
    folder = stage({"b 16": "crash"})
    measure(folder)
    monkeypatch.setenv("SLURMD_NODENAME", "elsewhere")
    assert measure(folder, start=2) == 0
    stage()
    assert measure(folder, start=3) == 3
    table = Table(journal.read(folder))
    assert [table.best(cell.name)[0] for cell in CELLS] == [
        device_of(folder, 1),
        "elsewhere",
        *[device_of(folder, 1)] * 2,
    ]
    assert left(folder) == {}
    assert measure(folder, start=4) == 0


def device_of(folder, start):
    return next(one.device for one in journal.read(folder) if one.about["start"] == start)


def test_interrupted_on_another_device(stage, monkeypatch):
    """What is missing was measured there, then it was killed: a rerun there measures the rest of that cell."""
    folder = stage({f"c {cell.num_tokens}": "crash" for cell in CELLS})
    measure(folder)
    stage()
    monkeypatch.setenv("SLURMD_NODENAME", "elsewhere")
    real = job._Work._measure

    def dying(self, cell, commit):
        real(self, cell, commit)
        raise KeyboardInterrupt

    monkeypatch.setattr(job._Work, "_measure", dying)
    for start in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            measure(folder, CELLS[:1], start=start)
    monkeypatch.setattr(job._Work, "_measure", real)
    assert measure(folder, CELLS[:1], start=4) == 1
    assert 1 not in left(folder)
    assert Counter(row.commit for row in rows(folder) if row.samples and row.cell == CELLS[0].name) == {
        hash_of("a"): 2,
        hash_of("b"): 2,
        hash_of("c"): 1,
    }


def test_failed_for_good(stage, results, capsys):
    """The process was well and said no: tried again when asked. A commit without a process: by every rerun."""
    folder = stage({"c 128": "UnsupportedError: not at this commit", "b": "broken"})
    assert command(folder, results) == 1
    out = capsys.readouterr()
    assert f"cccccccc, {CELLS[2].name}: UnsupportedError: not at this commit" in out.out
    assert "7 of 12 rows measured, 1 failed, 4 left" in out.err
    stored = json.loads((results / "m" / "cccccccc-virtualenv-py3.11.json").read_text())
    values = stored["results"]["bench_cpu.Cpu.time_native"][0]
    assert values[:4] == [pytest.approx(1e-5), pytest.approx(16e-5), None, pytest.approx(512e-5)]
    measured = len(rows(folder))
    stage()
    assert command(folder, results) == 1
    assert len(rows(folder)) == measured + 4
    assert "11 of 12 rows measured, 1 failed, 0 left" in capsys.readouterr().err
    assert command(folder, results, "--retry-failed") == 0
    assert len(rows(folder)) == measured + 5
    stored = json.loads((results / "m" / "cccccccc-virtualenv-py3.11.json").read_text())
    assert stored["results"]["bench_cpu.Cpu.time_native"][0][2] == pytest.approx(128e-5)


@pytest.mark.parametrize(
    ("what", "is_final"),
    [
        ("OSError: [Errno 28] No space left on device", False),
        ("AcceleratorError: CUDA error: uncorrectable ECC error encountered", False),
        ("RuntimeError: no ImportError, but a GPU that fell off the bus", False),
        ("CheckError: native differs from the oracle", True),
        ("ImportError: cannot import name 'apply_rope_'", True),
    ],
)
def test_what_may_pass(stage, what, is_final):
    """Only what a commit says of itself is final."""
    folder = stage({"b 16": what})
    assert measure(folder) == 11
    assert (left(folder) == {}) == is_final
    assert {row.error for row in rows(folder) if row.error} == {what}
    stage()
    assert measure(folder, start=2) == (0 if is_final else 1)


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [({"sources b": "x"}, "here is not the code of bbb"), ({"commit b": "x"}, "here is of commit x, wanted bbb")],
)
def test_other_code_is_installed(stage, behaviour, words):
    folder = stage(behaviour)
    assert measure(folder) == 8
    assert {words in row.error for row in rows(folder) if row.commit == hash_of("b")} == {True}
    stage()
    assert measure(folder, start=2) == 4, "it may be mended: nothing of it is final"


def test_the_same_command_again(stage, results, tmp_path, monkeypatch):
    """Its parent was killed: its shards keep their plan, and environments are touched when they are done."""
    from benchmarks.shards import command as module

    folder = stage({"seconds": 0.2})
    run_plan = plan.load(folder)
    monkeypatch.setattr(commits, "resolve", lambda *_: [arm.commit for arm in run_plan.arms[::-1]])
    monkeypatch.setattr(environments, "ruler_version", lambda: "ruler")
    monkeypatch.setattr(module, "_cells", lambda *_: list(CELLS))
    job.assign(folder, 1, [[cell.name for cell in CELLS]], forgive=False)
    jobs = engine.submit(engine.LOCAL, folder, plan.keep_ruler(folder), 1, 1, engine.Options(), [])
    seen, build, save = [], environments.build, plan.Plan.save

    def watched_build(commit, arm):
        seen.append(len(engine.states(jobs)))
        return build(commit, arm)

    def watched_save(self, where):
        save(self, where)
        assert len(plan.load(where).measurable) == 3

    monkeypatch.setattr(environments, "build", watched_build)
    monkeypatch.setattr(plan.Plan, "save", watched_save)
    assert command(folder, results, "c", "b", "a", "--device", "cpu") == 0
    assert seen == [0, 0, 0]
    assert len(log(tmp_path)) == 12
    monkeypatch.setattr(environments, "build", _no_environment)
    with pytest.raises(ValueError, match="no commit can be installed"):
        module._install(plan.load(folder), 0.0)


def _no_environment(*_):
    raise ValueError("asv cannot")


def test_order_is_no_part_of_a_name():
    arms = tuple(plan.Arm(Commit(letter, hash_of(letter))) for letter in COMMITS)
    one, other = plan.Plan("r", "cpu", arms, CELLS), plan.Plan("r", "cpu", arms[::-1], CELLS[::-1])
    assert one.name == other.name != plan.Plan("r", "cpu", arms[1:], CELLS).name


def test_one_build_at_a_time(tmp_path, monkeypatch):
    """Whoever builds the same environment is waited for."""
    folder = tmp_path / environments.FOLDER
    folder.mkdir(parents=True)
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr("asv.config.Config.load", _no_environment)
    script = f"touch {tmp_path}/held; sleep 0.7; touch {tmp_path}/done"
    with subprocess.Popen(["flock", str(folder / "x.lock"), "sh", "-c", script]):
        wait((tmp_path / "held").exists)
        with pytest.raises(ValueError, match="asv cannot"):
            environments.build(Commit("a", hash_of("a")), "x")
        assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda known: known.clear(), "does not know bench_cpu.Cpu.time_native"),
        (lambda known: known["bench_cpu.Cpu.time_native"].update(version="0"), "in version 0, this run's ruler has 1"),
        (None, "benchmarks.json is missing"),
    ],
)
def test_results_of_another_ruler(stage, results, tmp_path, capsys, change, words):
    """Refused before anything is measured, unless nothing is to be stored."""
    folder, path = stage(), results / "benchmarks.json"
    if change is None:
        path.unlink()
    else:
        known = json.loads(path.read_text())
        version = known.pop("version")
        change(known)
        path.write_text(json.dumps({**known, "version": version}))
    assert command(folder, results) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "log").exists()
    assert command(folder, results, "--no-store") == 0


def test_new_to_which_machine(tmp_path, monkeypatch):
    """This one's results count, not those of any machine."""
    from benchmarks.shards import command as module
    from tools import machine

    asked = []
    monkeypatch.setattr(commits, "resolve", lambda words, results, name: asked.append(name) or [])
    monkeypatch.setattr(machine, "gpu_names", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(machine, "cpu_name", lambda: "AMD EPYC 9654")
    for more in (["--device", "cuda"], ["--device", "cpu"], ["--device", "cpu", "--machine", "m"]):
        parser = module.argparse.ArgumentParser()
        module.add_command(parser.add_subparsers())
        module._wanted(parser.parse_args(["run", "NEW", "--folder", str(tmp_path), "--results", str(tmp_path), *more]))
    assert asked == ["h200", "cpu-amd-epyc-9654", "m"]


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["gres=gpu:h100:1"], "cuda"),
        (["qos=high", "gpus-per-task=1"], "cuda"),
        (["gres=craynetwork:1"], "cpu"),
        ([], "cpu"),
    ],
)
def test_a_clusters_place(words, place):
    from benchmarks.shards import command as module

    options = module.argparse.Namespace(device=None, executor="slurm", gres=None, slurm=words)
    assert module._place(options) == place


def test_a_full_disk(stage):
    """A limit on file sizes stands in for it: a write fails half way through a line."""
    folder = stage()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            measure(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = rows(folder)
    assert 1 < len(kept) < 12
    (path,) = (folder / "journals").iterdir()
    assert not path.read_text().endswith("\n")
    assert measure(folder, start=2) == 12 - len(kept)
    assert max(Counter((row.cell, row.commit) for row in rows(folder)).values()) == 1


def test_two_kinds_of_gpu(stage, results, tmp_path, monkeypatch, capsys):
    """The second kind refuses before it measures; a journal from elsewhere is refused when results are made."""
    folder = stage({"devices": {"0": H100, "1": H200}}, "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert measure(folder, CELLS[:2]) == 6
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(ValueError, match=r"has NVIDIA H200, this run is of NVIDIA H100 80GB HBM3: ask for one kind"):
        measure(folder, CELLS[2:], shard=1)
    assert {one.device for one in journal.read(folder)} == {"GPU-1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert cli.main(["run", "--folder", str(folder), "--results", str(results), "--shards", "2"]) == 1
    said = capsys.readouterr().err
    assert "ended early: ValueError" in said
    assert "has NVIDIA H200, this run is of NVIDIA H100" in said
    assert {path.name for path in results.iterdir()} == {"benchmarks.json", "h100"}
    assert {tokens for _, _, tokens in log(tmp_path)} > {"1", "16"}
    strange = journal.Writer(folder, 9, 0, {"device": {**H200, "name": H200["gpu"]}, "place": "cuda"})
    strange.close()
    run_plan, journals = plan.load(folder), journal.read(folder)
    machine = gather.machine_of(folder, "", "cuda")
    assert machine["machine"] == "h100"
    with pytest.raises(ValueError, match="journals of NVIDIA H200 lie among those of another device"):
        gather.gather(folder, run_plan, journals, Table(journals), machine, results)


def test_one_gpu_each(stage, results, monkeypatch):
    """Shards are given the GPUs that this process may use; three shards share two of them."""
    folder = stage({"devices": {"5": H100, "7": {**H100, "id": "GPU-7"}}}, "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert command(folder, results, "--shards", "3") == 0
    found = journal.read(folder)
    assert sorted(one.device for one in found) == ["GPU-1", "GPU-1", "GPU-7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"there is no GPU here; --device cpu"):
        _no_gpu(stage, results)


def _no_gpu(stage, results):
    from benchmarks.shards import command as module

    folder = stage({}, "cuda")
    for path in (folder / "journals").iterdir():
        path.unlink()
    options = module.argparse.Namespace(retry_failed=False, results=results, executor="local", shards=None)
    module._measure(plan.load(folder), folder, folder, options, 0.0)


@pytest.mark.parametrize("forks", [False, "no GPU"])
def test_without_forks(stage, tmp_path, forks):
    """Where importing has touched the GPU, or a fork cannot use it: a process of its own for each row."""
    folder = stage({"forks": forks, "devices": {"": H100}}, "cuda")
    assert measure(folder) == 12
    assert len({pid for pid, _, _ in log(tmp_path)}) == 12
    assert {pid for pid, _, _ in log(tmp_path)} < {pid for pid, _, _ in log(tmp_path, "hello")}


def test_what_touches_a_gpu(tmp_path):
    assert not worker.touches_gpu(tmp_path / "absent")
    (tmp_path / "3").symlink_to("/dev/null")
    assert not worker.touches_gpu(tmp_path)
    (tmp_path / "4").symlink_to("/dev/nvidiactl")
    assert worker.touches_gpu(tmp_path)


def test_no_process_at_all(stage):
    folder = stage({"devices": {}, **dict.fromkeys(COMMITS, "broken")}, "cuda")
    with pytest.raises(WorkerError, match="cannot import name"):
        measure(folder)


def test_a_damaged_journal(stage):
    folder = stage()
    measure(folder, CELLS[:1])
    (path,) = (folder / "journals").iterdir()
    lines = path.read_text().splitlines()
    (folder / "journals" / "0000-000.jsonl").write_text(lines[0][:30])
    path.write_text("\n".join([*lines, lines[-1][:40]]))
    assert len(rows(folder)) == 3, "half a last line, or half a first one, is a disk that was full"
    path.write_text("\n".join([lines[0], lines[1][:-9], *lines[2:], ""]))
    with pytest.raises(ValueError, match="is damaged in line 2"):
        rows(folder)


def test_which_rows_count():
    """The device with most samples of a cell, then most commits; a number before a failure; the first of two."""

    def row(commit, *, samples=(1.0,), error="", final=False, seconds=0.0):
        return Row("x", commit, 0.0, seconds, list(samples), error, final)

    table = Table()
    for where, found in (("g1", row("a")), ("g1", row("b", samples=(), error="hung")), ("g2", row("a"))):
        table.add(where, found)
    assert table.best("x")[0] == "g1"
    assert table.missing("x", ["a", "b"]) == ["b"]
    table.add("g2", row("b", samples=(), error="no", final=True))
    assert (table.best("x")[0], table.missing("x", ["a", "b"])) == ("g2", [])
    table.add("g2", row("a", seconds=9.0))
    assert table.of("x", "g2")["a"].seconds == 0.0
    assert table.best("y") == ("", {})
    table.add("g2", row("c", samples=(), error="no", final=True))
    table.add("g1", row("b"))
    assert table.best("x")[0] == "g1", "two numbers are more than one and two failures"


def test_share():
    names = [f"c{i}" for i in range(23)]
    seconds = [1.0 + (7 * i) % 11 for i in range(23)]
    parts = plan.share(names, seconds, 4)
    assert parts == plan.share(names, seconds, 4)
    assert sorted(chain(*parts)) == sorted(names)
    loads = [sum(seconds[names.index(name)] for name in part) for part in parts]
    assert max(loads) - min(loads) <= 1.0
    assert len(plan.share(names[:2], seconds[:2], 8)) == 2, "no shard is empty"


def test_another_run_in_the_folder(stage, results, capsys):
    folder = stage()
    assert cli.main(["run", "HEAD", "--folder", str(folder), "--device", "cpu", "--results", str(results)]) == 2
    assert "holds another run: its ruler and commits and cells differ; --folder another" in capsys.readouterr().err
    (folder / "lock").touch()
    holder = subprocess.Popen(["flock", str(folder / "lock"), "sleep", "30"])
    try:
        wait(lambda: Path(f"/proc/{holder.pid}/comm").read_text().strip() == "flock")
        time.sleep(0.2)
        assert command(folder, results) == 2
    finally:
        holder.kill()
        holder.wait()
    assert "another run is at work" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-commit"], "rev-parse --verify --end-of-options no-such-commit^{commit} failed"),
        (["HEAD..HEAD"], "HEAD..HEAD: no commit to measure"),
        (["NEW", "--executor", "slurm"], "NEW with --executor slurm needs --machine"),
        (["HEAD", "--shards", "0"], "--shards must be 1 or more, got 0"),
        (["HEAD", "--provider", "cutlass"], "--provider must be among"),
        (["HEAD", "--provider", "flashinfer", "--device", "cuda", "--smoke"], "--smoke measures triton"),
    ],
)
def test_bad_flags(arguments, words, capsys, tmp_path):
    code = cli.main(
        ["run", *arguments, "--folder", str(tmp_path / "f"), *([] if "--device" in arguments else ["--device", "cpu"])]
    )
    assert code == 2
    assert words in capsys.readouterr().err


def test_commits(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "main")
    (tmp_path / "asv.conf.json").write_text('{\n// a comment\n"branches": ["main"]}')
    for number in range(4):
        git("commit", "-q", "--allow-empty", "-m", str(number))
    every = git("rev-list", "--reverse", "main").split()
    monkeypatch.setattr(commits, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "ROOT", tmp_path)

    def found(*words, machine=""):
        return [one.commit_hash for one in commits.resolve(words, tmp_path / "results", machine)]

    assert found("main~3..main") == every[1:]
    assert found("main^!") == every[3:]
    assert found("HEAD", every[0][:7], "main") == [every[3], every[0]]
    assert found(every[2], "main~3..main~1", every[0]) == [every[2], every[1], every[0]]
    assert found("NEW") == every
    for machine, number in (("m", 1), ("n", 2)):
        (tmp_path / "results" / machine).mkdir(parents=True)
        (tmp_path / "results" / machine / f"{every[number][:8]}-virtualenv.json").touch()
    assert found("NEW") == every[3:]
    assert found("NEW", machine="m") == every[2:]
    (tmp_path / "results" / "m" / f"{every[3][:8]}-virtualenv.json").touch()
    with pytest.raises(ValueError, match="NEW: no commit to measure"):
        found("NEW")


def test_forecast(capsys):
    """From what asv stored of an H100: the whole grid at twenty commits."""
    everything = lists.full(lists.of_suite("cuda"))
    known = costs.known(ROOT / "absent", ROOT / "results", "cuda")
    seconds = {
        provider: known.of(next(c for c in everything if c.provider == provider)) for provider in ("triton", "native")
    }
    assert 0.5 < seconds["native"] < seconds["triton"] < 1.5
    grid = [cell for cell in everything if not cell.benchmark]
    assert {round(known.of(cell), 1) for cell in grid} == {1.0}, "those of the suite's Triton rows"
    assert cli.main(["run", "HEAD", "--full", "--device", "cuda", "--dry-run", "--folder", "/no/run/here"]) == 0
    out = capsys.readouterr().out
    assert f"1 commits x {len(everything)} cells on cuda, {len(everything)} rows to measure" in out
    found = costs.forecast(["x", "y"], [10.0, 4.0], 3, (1, 2, 4))
    assert [one.measuring for one in found] == [14.0, 10.0, 10.0], "a cell is never divided"
    assert found[0].total == 14.0 + 3 * costs.BUILD_SECONDS + costs.START_SECONDS


def test_costs_of_earlier_runs(stage, tmp_path):
    folder = stage({"seconds": 0.3}, cells=CELLS[:1], labels=("a",))
    measure(folder, CELLS[:1])
    known = costs.known(tmp_path / "runs", tmp_path / "absent", "cpu")
    assert known.of(CELLS[0]) == pytest.approx(0.3, abs=0.2)
    assert known.of(CELLS[1]) == known.of(CELLS[0])
    assert costs.known(tmp_path / "runs", tmp_path / "absent", "cuda").of(CELLS[0]) == costs.UNKNOWN_SECONDS


def test_slurm_options(tmp_path, monkeypatch):
    """What sbatch is given, and how its queue is read; tools/loopback_slurm.py runs the real one."""
    for name, script in (
        ("srun", ""),
        ("sbatch", f'cp "$1" {tmp_path}/submitted; echo Submitted batch job 77'),
        ("squeue", f"cat {tmp_path}/queue"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    options = engine.Options("gpu", "us", "gpu:h100:1", "nvlink", 90, {"qos": "high"})
    jobs = engine.submit(engine.SLURM, tmp_path / "r", tmp_path, 1, 3, options, [])
    script = (tmp_path / "submitted").read_text()
    for words in ("partition=gpu", "account=us", "gres=gpu:h100:1", "constraint=nvlink", "time=90", "qos=high"):
        assert f"#SBATCH --{words}\n" in script
    assert "#SBATCH --no-requeue\n" in script
    assert "#SBATCH --array=0-2%3\n" in script
    assert [one.number for one in jobs] == ["77_0", "77_1", "77_2"]
    (tmp_path / "queue").write_text("77_0 RUNNING\n77_1 PENDING\n77_2 NODE_FAIL\n")
    assert engine.states(jobs) == {jobs[0]: "at work", jobs[1]: "queued"}
    assert engine.last_words(jobs[2]).startswith("NODE_FAIL, no word in")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error: Invalid job id specified >&2; exit 1\n")
    assert engine.states(jobs) == {}, "long over, and forgotten"
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho sbatch: error: invalid partition specified: gpu >&2; exit 1\n")
    with pytest.raises(ValueError, match=r"slurm: .*invalid partition specified: gpu"):
        engine.submit(engine.SLURM, tmp_path / "r", tmp_path, 1, 3, options, [])
    monkeypatch.setenv("PATH", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match='Could not detect "srun"'):
        engine.submit(engine.SLURM, tmp_path / "r", tmp_path, 1, 3, options, [])
