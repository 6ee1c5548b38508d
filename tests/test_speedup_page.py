"""The Speedup page says what the result files say, and publishing stops with one clear error where it cannot."""

import json
import math
import os
import re
import shutil
import time
from pathlib import Path

import pytest

pytest.importorskip("asv", reason="the site plugin runs inside asv")
pytest.importorskip("plotly", reason="the site's charts are drawn by plotly.js")

import asv
from asv.publishing import OutputPublisher
from asv.util import UserError

from benchmarks.results import Row, read_timed_rows
from tests.site_results import FULL, REFERENCE, ROOT, SECOND, git
from tools import bootstrap, speedup_page
from tools.offline_site import QUOTED_OUTSIDE, OfflineSite, loads
from tools.speedup_data import build, machines_with_numbers
from tools.speedup_page import SpeedupPage, publish, subjects
from tools.stored_results import read_environment, read_machines

BENCHMARKS = json.loads((REFERENCE / "benchmarks.json").read_text())
del BENCHMARKS["version"]
FILES = {json.loads(path.read_text())["commit_hash"]: path for path in (REFERENCE / "h100").glob("*-*.json")}
COMMITS = dict.fromkeys(FILES, "subject")


@pytest.fixture
def results(tmp_path):
    """A copy of the H100's reference results that a test may spoil."""
    shutil.copytree(REFERENCE / "h100", tmp_path / "results" / "h100")
    shutil.copy(REFERENCE / "benchmarks.json", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def site(tmp_path):
    """What `asv publish` lays down before any publisher runs."""
    return Path(shutil.copytree(Path(asv.__file__).parent / "www", tmp_path / "site"))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def data(results, commits=COMMITS, published=()):
    return build(read_machines(results), BENCHMARKS, commits, published)


def test_every_time_is_the_stored_one(results):
    (machine,) = data(results)["machines"]
    assert [result["commit"] for result in machine["results"]] == list(COMMITS)
    for result in machine["results"]:
        shown = {
            Row("bench_rope.Rope" if model.startswith("Llama") else "bench_mrope.Mrope", provider, (model, count)): cell
            for provider, rows in result["times"].items()
            for model, row in rows.items()
            for count, cell in zip(machine["tokens"], row, strict=True)
        }
        stored = {
            row: seconds for row, seconds in read_timed_rows(FILES[result["commit"]]).items() if len(row.params) > 1
        }
        assert {row: cell[0] for row, cell in shown.items()} == pytest.approx(stored, rel=1e-5)
        assert all(low <= value <= high for value, low, high in shown.values())


def test_intervals_are_those_of_the_file_at_99_percent(results):
    content = json.loads(FULL.read_text())
    entry = dict(zip(content["result_columns"], content["results"]["bench_rope.Rope.time_triton"], strict=False))
    (result,) = [one for one in data(results)["machines"][0]["results"] if one["commit"] == content["commit_hash"]]
    shown = result["times"]["triton"]["Llama-3.1-8B tp1"]
    wanted = zip(entry["stats_ci_99_a"][:5], entry["stats_ci_99_b"][:5], strict=True)
    assert [tuple(cell[1:]) for cell in shown] == [pytest.approx(pair, rel=1e-5) for pair in wanted]


def test_share_of_the_roofline_and_models_and_commits(results):
    shown = data(results, published=set(COMMITS))
    content = json.loads(FULL.read_text())
    (result,) = [one for one in shown["machines"][0]["results"] if one["commit"] == content["commit_hash"]]
    stored = content["results"]["bench_relative.RelativeToRoofline.track_triton"][0]
    found = [cell[0] for model in shown["models"] for cell in result["roofline"]["triton"][model["name"]]]
    assert found == pytest.approx(stored, rel=1e-5)
    assert [model["kind"] for model in shown["models"]] == ["RoPE"] * 2 + ["mRoPE"] * 4
    assert shown["providers"] == ["native", "triton", "flashinfer"]
    assert all(commit["published"] and commit["subject"] == "subject" for commit in shown["commits"])


def test_commits_stand_in_the_order_of_history_and_unknown_ones_are_left_out(results):
    order = sorted(FILES)[1:][::-1]
    shown = data(results, dict.fromkeys([*order, "f" * 40], ""), published=order[:1])
    assert [commit["hash"] for commit in shown["commits"]] == order
    assert [result["commit"] for result in shown["machines"][0]["results"]] == order
    assert [commit["published"] for commit in shown["commits"]] == [True] + [False] * (len(order) - 1)


def test_rows_without_a_number_say_why(results):
    def spoil(content):
        entry = content["results"]["bench_rope.Rope.time_triton"]
        entry[0][:3] = [None, math.nan, 1e-6]
        for column in range(5, 9):  # intervals and quartiles
            entry[column][2] = None
        content["results"]["bench_rope.Rope.time_native"][0] = None
        del content["results"]["bench_rope.Rope.time_flashinfer"]

    change(results / "h100" / FULL.name, spoil)
    commit = json.loads(FULL.read_text())["commit_hash"]
    (result,) = data(results, {commit: ""})["machines"][0]["results"]
    model = "Llama-3.1-8B tp1"
    assert result["times"]["triton"][model][:3] == ["failed", "n/a", [1e-6]]
    assert result["times"]["native"][model] == ["failed"] * 5
    assert model not in result["times"]["flashinfer"]


def test_an_unbounded_interval_gives_way_to_quartiles(results):
    def spoil(content):
        entry = content["results"]["bench_rope.Rope.time_triton"]
        entry[5][0], entry[6][0], entry[7][0], entry[8][0] = -math.inf, math.inf, 1e-6, 2e-6

    change(results / "h100" / FULL.name, spoil)
    shown = [one for one in data(results)["machines"][0]["results"] if FULL.name.startswith(one["commit"][:8])]
    assert shown[0]["times"]["triton"]["Llama-3.1-8B tp1"][0][1:] == [1e-6, 2e-6]


def test_rows_of_an_older_benchmark_are_left_out_as_asv_does(results):
    change(
        results / "h100" / FULL.name,
        lambda content: content["results"]["bench_rope.Rope.time_triton"].__setitem__(2, "0"),
    )
    shown = {one["commit"]: one for one in data(results)["machines"][0]["results"]}
    assert "Llama-3.1-8B tp1" not in shown[json.loads(FULL.read_text())["commit_hash"]]["times"]["triton"]
    assert "Llama-3.1-8B tp1" in shown[json.loads(SECOND.read_text())["commit_hash"]]["times"]["triton"]


def cpu_machine(results):
    """A machine without a GPU, whose name comes first."""
    folder = results / "a-cpu"
    folder.mkdir()
    about = json.loads((results / "h100" / "machine.json").read_text()) | {"machine": "a-cpu", "gpu": ""}
    (folder / "machine.json").write_text(json.dumps(about))
    path = Path(shutil.copy(FULL, folder))

    def on_cpu(content):
        content["params"] |= {"machine": "a-cpu", "gpu": ""}
        for name, entry in content["results"].items():
            entry[0] = [1e-3 if name.startswith("bench_cpu") else math.nan for _ in entry[0]]

    change(path, on_cpu)
    return path


def test_a_machine_without_a_gpu_comes_last_and_shows_its_cpu_rows(results):
    cpu_machine(results)
    h100, cpu = data(results)["machines"]
    assert (h100["name"], cpu["name"]) == ("h100", "a-cpu")
    assert cpu["tokens"] == [1, 16, 128, 512]
    assert cpu["results"][0]["times"]["native"]["Qwen2-VL-7B tp1"] == [[1e-3]] * 4
    assert h100["tokens"] == [1, 128, 1024, 8192, 131072]
    assert h100["results"][0]["times"]["native"]["Qwen2-VL-7B tp1"][0][0] < 1e-3
    numbers = machines_with_numbers(read_machines(results))
    assert numbers["bench_cpu.Cpu.time_native"] == ["a-cpu"]
    assert numbers["bench_mrope.Mrope.time_triton"] == ["h100"]


def test_two_pythons_on_one_machine_are_two_entries(results):
    path = Path(shutil.copy(FULL, results / "h100" / FULL.name.replace("3.12", "3.13")))
    change(path, lambda content: content.update(env_name="virtualenv-py3.13", python="3.13"))
    assert [machine["name"] for machine in data(results)["machines"]] == [
        "h100, virtualenv-py3.12",
        "h100, virtualenv-py3.13",
    ]


def test_the_environment_of_a_commit_and_of_the_machine(results):
    commit = json.loads(FULL.read_text())["commit_hash"]
    sections = (
        "device:\n  driver: 1.2\nversions:\n  triton: 9.9\n  flashinfer-python: absent\nproviders:\n  triton: ok\n"
    )
    text = f"{commit[:8]}\n{sections}"
    (results / "h100" / f"environment-{commit[:8]}.txt").write_text(text)
    change(results / "h100" / FULL.name, lambda content: content["requirements"].update({"pip+torch": "2.12"}))
    machine = data(results)["machines"][0]
    shown = {one["commit"]: one["environment"] for one in machine["results"]}
    gpu = {"gpu": "NVIDIA H100 80GB HBM3", "python": "3.12"}
    assert shown[commit] == {**gpu, "torch": "2.12", "driver": "1.2", "triton": "9.9"}
    assert shown[json.loads(SECOND.read_text())["commit_hash"]] == gpu
    latest, versions = read_environment(REFERENCE / "h100" / "environment.txt")
    assert machine["environment"] == {"commit": latest, "versions": versions}
    assert versions["triton"] == "3.6.0", "not what is said of the provider"


def test_bench_keeps_the_environment_of_each_commit_it_measured(tmp_path):
    for name in ("aaaaaaaa-env.json", "bbbbbbbb-env.json", "machine.json"):
        (tmp_path / name).write_text("{}")
    os.utime(tmp_path / "aaaaaaaa-env.json", (1, 1))
    bootstrap.keep_environment(tmp_path, "cccccccc", time.time() - 60, "versions:\n  torch: 2\n")
    found = {path.name: read_environment(path) for path in tmp_path.glob("*.txt")}
    versions = {"torch": "2"}
    assert found == {"environment.txt": ("cccccccc", versions), "environment-bbbbbbbb.txt": ("bbbbbbbb", versions)}


@pytest.mark.parametrize("spoil", [lambda text: text[: len(text) // 2], lambda text: "{}", lambda text: ""])
def test_a_spoiled_result_file_is_named(results, site, spoil):
    path = results / "h100" / FULL.name
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        publish(site, results, BENCHMARKS, COMMITS, set())
    assert "\n" not in str(caught.value)
    assert not (site / "speedup.html").exists()


def test_published_files_and_what_asv_pages_become(site):
    publish(site, REFERENCE, BENCHMARKS, COMMITS | dict.fromkeys(FILES, 'see "https://example.org/x"'), set(COMMITS))
    html = (site / "index.html").read_text()
    assert html.index('location.replace("speedup.html")') < html.index("<script src"), "before anything is loaded"
    assert html.index('href="speedup.html"') < html.index('href="#/"'), "the first entry"
    assert html.index("asv_ui.js") < html.index("asv-pages.js") < html.index("summarygrid.js")
    script = (site / "speedup-data.js").read_text()
    assert not QUOTED_OUTSIDE.search(script)
    assert json.loads(script.removeprefix("window.SPEEDUP_DATA = ").removesuffix(";\n"))["commits"][0][
        "subject"
    ].endswith('/x"')
    for source in speedup_page.SOURCES.iterdir():
        assert (site / source.name).read_bytes() == source.read_bytes()
        assert all(
            (site / address).is_file() or address.startswith("assets/")
            for address in loads(source)
            if "data:" not in address
        )
    assert "MIT" in (site / "assets" / "LICENSE-plotly.txt").read_text()
    assert (site / "assets" / "plotly.min.js").stat().st_size > 1e6


def test_another_asv_is_said_to_be_one(site):
    (site / "graphdisplay.js").write_text("")
    with pytest.raises(UserError, match=r"graphdisplay\.js is not as .*another asv version\?"):
        publish(site, REFERENCE, BENCHMARKS, COMMITS, set())


def test_a_missing_plotly_is_said(site, monkeypatch):
    monkeypatch.setattr(speedup_page.importlib.metadata, "files", lambda _: None)
    with pytest.raises(UserError, match="pip install plotly"):
        publish(site, REFERENCE, BENCHMARKS, COMMITS, set())


def test_asv_runs_it_after_its_own_publishers_and_before_the_check():
    order = sorted(OutputPublisher.__subclasses__(), key=lambda cls: cls.order)
    assert order[-2:] == [SpeedupPage, OfflineSite]


def test_subjects_come_from_git_in_the_order_asked_for():
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    head = git(ROOT, "log", "-1", "--format=%H %s")
    assert subjects(ROOT, [head[:40]]) == {head[:40]: head[41:]}
    assert subjects(ROOT, []) == {}
    with pytest.raises(UserError, match="git has no subjects"):
        subjects(ROOT, ["f" * 40])
