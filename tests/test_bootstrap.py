"""The set-up tooling, without network: which torch is chosen, what is written, which line a user sees."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import bootstrap, environment, machine, share_torch, torch_source
from tools.torch_source import CPU_INDEX, TORCH, TRITON, Found, Resolution, SetupError

CPU = Resolution({"torch": f"{TORCH}+cpu", "sympy": "1.14.0"})
CUDA = Resolution({"torch": TORCH, "triton": TRITON, "nvidia-cublas": "13.1", "cuda-toolkit": "13.0"})
NONE = Resolution({}, "no answer from the package index")


def offers(plain: Resolution, cpu_index: Resolution = NONE) -> Callable[..., Resolution]:
    """A pip that offers `plain` from its usual places and `cpu_index` from PyTorch's CPU index."""
    return lambda *arguments: cpu_index if CPU_INDEX in arguments else plain


def found(site: Path, *, python: str = "3.11.7", torch: str = "2.11.0", folder: str = "", names: str = "") -> Found:
    return Found(python, str(site), dict.fromkeys(names.split(), folder), torch)


def test_cpu_build_is_taken_as_offered() -> None:
    assert torch_source.choose(False, offers(CPU)).arguments == (f"torch=={TORCH}+cpu",)


def test_cuda_build_without_gpu_goes_to_the_cpu_index() -> None:
    choice = torch_source.choose(False, offers(CUDA, CPU))
    assert choice.arguments == (f"torch=={TORCH}+cpu", "--extra-index-url", CPU_INDEX)


@pytest.mark.parametrize("cpu_index", [NONE, CUDA], ids=["unreachable", "cuda again"])
def test_cuda_build_without_gpu_is_refused_with_ways_out(cpu_index: Resolution) -> None:
    with pytest.raises(SetupError, match=r"pip offers the CUDA build, 3 CUDA packages.*PYTHON=.*PIP_FIND_LINKS"):
        torch_source.choose(False, offers(CUDA, cpu_index))


def test_triton_alone_betrays_a_cuda_build() -> None:
    with pytest.raises(SetupError, match="1 CUDA packages"):
        torch_source.choose(False, offers(Resolution({"torch": TORCH, "triton": TRITON})))


def test_cuda_build_with_gpu_is_taken_and_its_size_said() -> None:
    choice = torch_source.choose(True, offers(CUDA, CPU))
    assert choice.arguments == (f"torch=={TORCH}",)
    assert "3 GB" in choice.notice


def test_cpu_build_with_gpu_is_said() -> None:
    assert "although there is a GPU" in torch_source.choose(True, offers(CPU)).notice


@pytest.mark.parametrize("gpu", [True, False])
def test_no_index_is_one_clear_line(gpu: bool) -> None:
    with pytest.raises(SetupError, match=r"no answer from the package index") as caught:
        torch_source.choose(gpu, offers(NONE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("upgraded", "local"), [(0, False), (1, True)])
def test_old_pip_may_only_look_at_local_files(monkeypatch: pytest.MonkeyPatch, upgraded: int, local: bool) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 0 if "--dry-run" in command else upgraded, '{"install": []}', "")

    monkeypatch.setattr(subprocess, "run", run)
    torch_source.resolver("python")("torch")
    assert calls[0][-1] == torch_source.PIP
    assert ("--no-index" in calls[1]) is local
    assert ("--use-feature=fast-deps" in calls[1]) is not local


def test_report_names_are_normalized() -> None:
    report = json.dumps({"install": [{"metadata": {"name": "NVIDIA_cublas.cu13", "version": "13.1"}}]})
    assert torch_source.read_report(report) == {"nvidia-cublas-cu13": "13.1"}


def test_torch_of_a_host_is_shared_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = str(tmp_path / "host")
    old = found(tmp_path, python="3.12.1", folder="/wrong", names="torch")
    host = found(tmp_path, folder=folder, names="torch triton numpy")
    target = found(tmp_path, torch="")
    answers = iter([target, None, old, host, host, host])
    monkeypatch.setattr(torch_source, "find", lambda _: next(answers))
    monkeypatch.setattr(torch_source, "install", lambda *a: pytest.fail(f"installed {a}"))
    lines: list[str] = []
    torch_source.provide("python", ["absent", "other version", "host"], lines.append)
    assert (tmp_path / torch_source.PATH_FILE).read_text() == folder + "\n"
    assert lines == [f"torch 2.11.0 is shared from {folder}"]


@pytest.mark.parametrize(
    ("torch", "triton"), [(f"{TORCH}+cpu", f"triton=={TRITON}"), ("2.11.0", "triton")], ids=["our torch", "older torch"]
)
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has Linux wheels only")
def test_missing_triton_is_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch: str, triton: str) -> None:
    installed: list[str] = []
    monkeypatch.setattr(torch_source, "find", lambda _: found(tmp_path, torch=torch, folder="/s", names="torch numpy"))
    monkeypatch.setattr(torch_source, "install", lambda _, *arguments: installed.extend(arguments))
    torch_source.provide("python", [], print)
    assert installed == [triton]


def test_shared_folder_comes_last_and_its_editable_installs_do_not_leak(tmp_path: Path) -> None:
    site, host, editable = tmp_path / "site", tmp_path / "host", tmp_path / "editable"
    for folder in (site, host, editable):
        folder.mkdir()
    (host / "editable.pth").write_text(f"{editable}\n")
    torch_source.share(found(host, folder=str(host), names="torch numpy"), found(site, torch=""))
    program = "import site, sys; site.addsitedir(sys.argv[1]); print(*sys.path, sep='\\n')"
    done = subprocess.run([sys.executable, "-I", "-c", program, str(site)], capture_output=True, text=True, check=True)
    paths = done.stdout.splitlines()
    assert paths.index(str(site)) < paths.index(str(host))
    assert str(editable) not in paths


def test_probe_finds_folders_without_importing() -> None:
    here = torch_source.find(sys.executable)
    assert here is not None
    assert here.python == sys.version.split()[0]
    assert Path(here.folders["torch"], "torch", "__init__.py").exists()
    assert torch_source.find("/nonexistent/python") is None


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
    ],
)
def test_gpu_names_the_machine(device: str, name: str) -> None:
    assert machine.machine_name([device], "some cpu") == name


def test_cpu_names_the_machine_where_there_is_no_gpu() -> None:
    assert machine.machine_name([], "Intel(R) Xeon(R) CPU @ 2.20GHz") == "cpu-intel-xeon-2.20ghz"
    assert machine.machine_name([], "AMD EPYC 9R14") == "cpu-amd-epyc-9r14"


def test_machine_fields_do_not_tell_kernel_or_memory() -> None:
    fields = machine.machine_fields("h100", ["NVIDIA H100 80GB HBM3"])
    assert {key: fields[key] for key in ("cpu", "num_cpu", "ram")} == {"cpu": "", "num_cpu": "", "ram": ""}
    assert fields["os"] == sys.platform
    assert fields["gpu"] == "NVIDIA H100 80GB HBM3"


def test_stamp_is_fresh_only_for_its_digest_and_extras() -> None:
    stamp = "d1\nasv\ntest\n"
    assert environment.is_fresh(stamp, "d1", {"test"})
    assert not environment.is_fresh(stamp, "d1", {"test", "dev"})
    assert not environment.is_fresh(stamp, "d2", {"test"})
    assert not environment.is_fresh("", "d1", set())


def test_fingerprint_changes_with_pyproject_and_python(monkeypatch: pytest.MonkeyPatch) -> None:
    one = environment.fingerprint(b"one")
    assert one == environment.fingerprint(b"one") != environment.fingerprint(b"two")
    monkeypatch.setattr(sys, "version", "another")
    assert environment.fingerprint(b"one") != one


def test_python_without_venv_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "VENV", tmp_path)
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "bin" / "python")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SetupError, match="python3-venv"):
        environment.create(print)


def test_requirements_leave_torch_and_triton_out() -> None:
    optional = {"a": ["Triton>=3", "x[y]>=1"], "b": ["z"]}
    project = {"dependencies": ["torch>=2.4", "numpy"], "optional-dependencies": optional}
    pyproject: dict[str, object] = {"build-system": {"requires": ["hatchling"]}, "project": project}
    assert environment.requirements(pyproject, {"a"}) == ["hatchling", "numpy", "x[y]>=1"]
    with pytest.raises(SetupError, match="no extra c; it has a, b"):
        environment.requirements(pyproject, {"c"})


def test_project_files_agree() -> None:
    pyproject = tomllib.loads((environment.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = environment.requirements(pyproject, bootstrap.EXTRAS)
    assert "asv==0.6.6" in wanted
    text = (environment.ROOT / "asv.conf.json").read_text(encoding="utf-8")
    conf = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    (runner,) = conf["matrix"]["req"]["pip+asv_runner"]
    assert f"asv_runner=={runner}" in wanted
    assert ".tools.share_torch" in conf["plugins"]


def test_site_assets_go_where_the_plugin_looks() -> None:
    offline_site = pytest.importorskip("tools.offline_site")
    assert offline_site.RELEASE.relative_to(sys.prefix) == environment.SITE_ASSETS_FOLDER.relative_to(environment.VENV)
    assert offline_site.INSTALL.endswith(environment.SITE_ASSETS)


def test_missing_site_assets_do_not_stop_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise SetupError("pip could not")

    monkeypatch.setattr(environment, "SITE_ASSETS_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(environment, "install", fail)
    lines: list[str] = []
    environment.add_site_assets(lines.append)
    assert lines == ["the site cannot be published until its scripts are there: pip could not"]


def test_hosts_begin_with_venv_and_leave_this_environment_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(share_torch.ASV_PYTHON, "")
    share_torch.setup()
    monkeypatch.setenv("PATH", str(Path(sys.prefix, "bin")))
    assert share_torch.hosts() == list(dict.fromkeys([str(environment.PYTHON), sys.executable]))


def test_expected_failure_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise SetupError("wanted this, that came")

    monkeypatch.setattr(bootstrap, "ensure", fail)
    assert bootstrap.main(["env"]) == 1
    assert capsys.readouterr().err == "error: wanted this, that came\n"


def test_old_python_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"3\.11 or newer is wanted"):
        runpy.run_path(str(environment.ROOT / "tools" / "__init__.py"))


def test_git_failure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(SetupError, match=r"`git rev-parse HEAD` failed.*not a git repository"):
        bootstrap.git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="git was not found"):
        bootstrap.git("rev-parse", "HEAD")


def test_rows_without_a_number_are_counted(tmp_path: Path) -> None:
    nan = float("nan")
    results = {"a.time_native": [[1.0, 2.0], [], "1"], "a.time_triton": [[nan, nan]], "b.time_x": [None], "c.t": []}
    stored = {"result_columns": ["result", "params", "version"], "results": results}
    (tmp_path / "abcd1234-virtualenv-py3.11.json").write_text(json.dumps(stored))
    (tmp_path / "ffff0000-virtualenv-py3.11.json").write_text("not this commit")
    counted = ["a.time_triton: 2 of 2 rows n/a", "b.time_x: 1 of 1 rows failed", "c.t: 1 of 1 rows failed"]
    assert bootstrap.missing_rows(tmp_path, "abcd1234", None) == counted
    assert bootstrap.missing_rows(tmp_path, "abcd1234", "no driver")[-1].endswith("no driver")


def test_flashinfer_is_wanted_on_a_gpu_and_its_absence_ends_nothing(tmp_path, monkeypatch):
    said, commands = [], []

    def refuse(python, *arguments):
        commands.append(arguments)
        raise SetupError("pip could not install it")

    monkeypatch.setattr(environment, "install", refuse)
    environment.add_flashinfer(tmp_path / "constraints.txt", ["flashinfer-python"], said.append)
    assert commands[0][-1] == "flashinfer-python"
    assert said[-1] == "FlashInfer's rows will fail: pip could not install it"
