"""The asv suite: what asv discovers, what a row does on this machine, and one real run over two commits."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bench_relative, bench_static, gpu, suite

ROOT = Path(__file__).resolve().parent.parent

# Names and axes stand in every result file ever written: appended to, never renamed or reordered.
DISCOVERED = {
    "bench_cpu.Cpu.time_native": (3, 4),
    "bench_host.HostCost.time_flashinfer": (2,),
    "bench_host.HostCost.time_native": (2,),
    "bench_host.HostCost.time_triton": (2,),
    "bench_mrope.Mrope.time_flashinfer": (4, 5),
    "bench_mrope.Mrope.time_native": (4, 5),
    "bench_mrope.Mrope.time_triton": (4, 5),
    "bench_relative.RelativeToNative.track_flashinfer": (6, 5),
    "bench_relative.RelativeToNative.track_triton": (6, 5),
    "bench_relative.RelativeToRoofline.track_flashinfer": (6, 5),
    "bench_relative.RelativeToRoofline.track_triton": (6, 5),
    "bench_rope.Rope.time_flashinfer": (2, 5),
    "bench_rope.Rope.time_native": (2, 5),
    "bench_rope.Rope.time_triton": (2, 5),
    "bench_static.CompiledKernel.track_narrow_accesses": (4, 2, 3),
    "bench_static.CompiledKernel.track_registers": (4, 2, 3),
    "bench_static.CompiledKernel.track_spill_bytes": (4, 2, 3),
}

# What asv may find in an environment: torch and numpy, nothing else of ours or of others.
BARE = """
import json, sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ropekern", "triton", "flashinfer", "scipy", "matplotlib", "pynvml", "transformers"}:
            raise ImportError(f"{name} is absent in a bare environment")
sys.meta_path.insert(0, Absent())
from asv_runner._aux import update_sys_path
from asv_runner.discovery import disc_benchmarks
root = sys.argv[1]
update_sys_path(root)
found = {b.name: [len(p) for p in b.params] for b in disc_benchmarks(root)}
import torch
assert not torch.cuda.is_initialized(), "importing the suite initialised CUDA: forkserver could not fork after it"
print(json.dumps(found))
"""


def test_discovery_in_a_bare_environment(tmp_path):
    command = [sys.executable, "-P", "-c", BARE, str(ROOT / "benchmarks")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: list(axes) for name, axes in DISCOVERED.items()}


def test_every_label_is_a_model():
    for label in (*suite.ROPE_MODELS, *suite.MROPE_MODELS):
        shard = suite.model_shard(label)
        assert label.endswith(f" tp{shard.tp_size}")
        assert label.split()[0] in shard.preset.name
        assert (shard.preset.rope_parameters.get("mrope_section") is None) == (label in suite.ROPE_MODELS)


@pytest.mark.parametrize("reason", [None, "no driver"])
def test_rows_apply_by_machine(monkeypatch, reason):
    monkeypatch.setattr(gpu, "reason_absent", lambda: reason)

    def on_gpu(): ...

    def on_cpu(): ...

    # asv asks `params in skip_params` before it runs a row
    params = ("Qwen2-VL-7B tp1", 1)
    assert (params in suite.on_gpu(on_gpu).skip_params) == (reason is not None)
    assert (params in suite.on_cpu(on_cpu).skip_params) == (reason is None)


def test_tick_advances_the_clock_that_asv_reads():
    before = suite.CLOCK()
    suite.tick(lambda: 12.5e-6)
    assert suite.CLOCK() - before == pytest.approx(12.5e-6)
    assert suite.Clocked.timer is suite.CLOCK


def test_a_provider_that_is_wrong_is_never_timed(monkeypatch):
    from benchmarks import check, providers, subject, timing

    monkeypatch.setattr(subject, "assert_installed", lambda: None)
    idle = providers.Provider(lambda workload, inputs: lambda: None)
    monkeypatch.setitem(providers.PROVIDERS, "idle", idle)
    monkeypatch.setattr(timing, "prepare_cpu", lambda call: pytest.fail("a wrong provider was timed"))
    with pytest.raises(check.CheckError, match="idle query differs from the float64 oracle"):
        suite.cpu_sampler("idle", "Qwen2-VL-7B tp1", 3)


def test_a_working_tree_is_not_taken_for_an_installed_commit(monkeypatch):
    import ropekern
    from benchmarks import subject

    monkeypatch.setattr(ropekern, "__file__", str(ROOT / "ropekern" / "__init__.py"))
    monkeypatch.setattr(sys, "prefix", "/usr")
    with pytest.raises(RuntimeError, match="wanted the one installed in /usr"):
        subject.assert_installed()


def test_a_commit_without_compile_kernel_is_not_applicable(monkeypatch):
    import ropekern
    from benchmarks import subject

    monkeypatch.setattr(subject, "assert_installed", lambda: None)
    monkeypatch.delattr(ropekern, "compile_kernel")
    benchmark = bench_static.CompiledKernel()
    metrics = benchmark.setup_cache()
    assert metrics == {}
    with pytest.raises(NotImplementedError):
        benchmark.setup(metrics, "Llama-3.1-8B tp1", 1, "sm_90")


def test_relative_rows(monkeypatch):
    seconds = {"native": 100e-6, "triton": 10e-6}

    def sampler(backend, model, num_tokens):
        if backend == "flashinfer":
            raise NotImplementedError("head_size is 80")
        return lambda: seconds[backend]

    sampler.cache_clear = lambda: None
    monkeypatch.setattr(bench_relative, "device_sampler", sampler)
    monkeypatch.setattr(bench_relative, "floor_sampler", lambda model, num_tokens: lambda: 8e-6)
    times = bench_relative._measure("m", 1)
    for benchmark, ratio in ((bench_relative.RelativeToNative(), 0.1), (bench_relative.RelativeToRoofline(), 1.25)):
        benchmark.setup(times, "m", 1)
        assert benchmark.track_triton(times, "m", 1) == pytest.approx(ratio)
        with pytest.raises(RuntimeError, match="head_size is 80"):  # failed, not n/a: the row was expected
            benchmark.track_flashinfer(times, "m", 1)
        with pytest.raises(NotImplementedError):  # nothing was measured: no GPU
            benchmark.setup({}, "m", 1)


def test_relative_rows_are_measured_once_for_both_classes():
    caches = {getattr(bench_relative, name).setup_cache for name in ("RelativeToNative", "RelativeToRoofline")}
    assert len(caches) == 1


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def scratch() -> tuple[Path, str, str]:
    """A clone with two commits: the oldest that has the package, and the working tree.

    It stays in one place, so that asv's environment is made once and later runs need no network.
    """
    clone = ROOT / ".asv" / "selftest"
    if not clone.exists():
        clone.mkdir(parents=True)
        git(clone, "init", "--quiet", "--initial-branch", "main")
    git(clone, "fetch", "--quiet", str(ROOT), "HEAD")
    git(clone, "checkout", "--quiet", "--force", "-B", "main", "FETCH_HEAD")
    oldest = git(clone, "rev-list", "--reverse", "HEAD", "--", "ropekern/__init__.py").splitlines()[0]
    git(clone, "rm", "-r", "--quiet", ".")
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    shutil.rmtree(clone / "results", ignore_errors=True)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "working tree")
    return clone, oldest, git(clone, "rev-parse", "HEAD")


def asv(clone: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "asv", *arguments]
    home = clone / ".asv" / "home"  # asv keeps its machines there; the user's are not ours to touch
    home.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PATH": path, "HOME": str(home)}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_real_run_over_two_commits(scratch):
    clone, oldest, newest = scratch
    fields = {"machine": "selftest", "os": "any", "arch": "any", "cpu": "", "num_cpu": "", "ram": ""}
    asv(clone, "machine", *[word for key, value in fields.items() for word in (f"--{key}", value)])
    (clone / ".asv" / "commits").write_text(f"{oldest}\n{newest}\n", encoding="utf-8")
    rows = r"Cpu.time_native\('Qwen2-VL-7B tp1', 1\)|Rope.time_triton\('Llama-3.1-8B tp1', 1\)|" + (
        r"track_registers\('Qwen3-VL-8B tp1', 1, 'sm_90'\)"
    )
    asv(
        clone, "run", "--machine", "selftest", "--launch-method", "forkserver", "--bench", rows, "--show-stderr",
        "HASHFILE:.asv/commits",
    )  # fmt: skip
    stored = {}
    for commit in (oldest, newest):
        (path,) = (clone / "results" / "selftest").glob(f"{commit[:8]}-*.json")
        content = json.loads(path.read_text(encoding="utf-8"))
        column = content["result_columns"].index("result")
        # asv fills the unselected rows of a benchmark with NaN: the selected one is the number, where there is one
        stored[commit] = {
            name: [value for value in (row[column] or [None]) if value is None or not math.isnan(value)]
            for name, row in content["results"].items()
        }
    on_cpu = gpu.reason_absent() is not None
    for commit in (oldest, newest):
        (seconds,) = stored[commit]["bench_cpu.Cpu.time_native"] if on_cpu else [1e-3]
        assert 1e-6 < seconds < 1
        (registers,) = stored[commit]["bench_static.CompiledKernel.track_registers"]
        assert 8 <= registers <= 255
        assert len(stored[commit]["bench_rope.Rope.time_triton"]) == (0 if on_cpu else 1)
    found = json.loads((clone / "results" / "benchmarks.json").read_text(encoding="utf-8"))
    kept = json.loads((ROOT / "results" / "benchmarks.json").read_text(encoding="utf-8"))
    assert found == kept, "results/benchmarks.json is what `make site` shows: run `make bench` and commit it"
    compared = asv(clone, "compare", oldest, newest)
    assert "track_registers" in compared
    asv(clone, "publish", "--no-pull")
    index = json.loads((clone / ".asv" / "html" / "index.json").read_text(encoding="utf-8"))
    assert "bench_static.CompiledKernel.track_registers" in index["benchmarks"]


def test_compare_finds_a_slower_commit(scratch):
    """Both commits in environments of their own: a worker that took the checkout's package would call all SAME."""
    if gpu.reason_absent() is None:
        pytest.skip("slows the native backend down, which is compared on a CPU")
    clone, _, newest = scratch
    native = clone / "ropekern" / "backends" / "native.py"
    slower = native.read_text(encoding="utf-8").replace(
        "    cos, sin = rows", "    sum(range(100_000))\n    cos, sin = rows"
    )
    native.write_text(slower, encoding="utf-8")
    git(clone, "checkout", "--quiet", "-B", "slower")
    git(clone, "commit", "--quiet", "--all", "--message", "slower")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "benchmarks", "compare", "main", "slower", "--smoke", "--rounds", "3", "--json"]
    done = subprocess.run(
        command, cwd=clone, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    git(clone, "checkout", "--quiet", "main")
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["header"]["base"] == newest
    assert {row["verdict"] for row in found["rows"]} == {"SLOWER"}
    assert all(row["ratio"] > 1.2 for row in found["rows"])
    assert any("not stored: 3 rounds" in note for note in found["notes"]), "ten rounds are stored, three are not"
