"""The workflows: pins, permissions, where strangers' code may run, and that what they call exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.test_ci_scripts import HEAD, described_run
from tools.ci import comment

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
FLOWS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {(name, job): body for name, flow in FLOWS.items() for job, body in flow["jobs"].items()}
STEPS = [(*key, step) for key, body in JOBS.items() for step in body["steps"]]
GPU_JOBS = [("benchmark.yml", "compare"), ("nightly.yml", "measure")]

PINS = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "actions/setup-python": "a309ff8b426b58ec0e2a45f0f869d46889d02405 # v6.2.0",
    "actions/upload-artifact": "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f # v7.0.0",
}

# Whoever adds a permission says so here as well.
READ = {"contents": "read"}
PERMISSIONS = {
    ("ci.yml", "test"): READ,
    ("ci.yml", "lint"): READ,
    ("benchmark.yml", "check"): {**READ, "pull-requests": "read"},
    ("benchmark.yml", "compare"): READ,
    ("benchmark-comment.yml", "comment"): {**READ, "actions": "read", "pull-requests": "write"},
    ("nightly.yml", "open"): {**READ, "issues": "read"},
    ("nightly.yml", "measure"): READ,
    ("nightly.yml", "store"): {"actions": "read", "contents": "write"},
    ("nightly.yml", "issues"): {**READ, "actions": "read", "issues": "write"},
    ("nightly.yml", "site"): READ,
    ("nightly.yml", "pages"): {"actions": "read", "contents": "write", "pages": "write"},
    ("release.yml", "build"): READ,
    ("release.yml", "test"): READ,
    ("release.yml", "publish"): {**READ, "actions": "read", "id-token": "write"},
}
WRITERS = [key for key, wanted in PERMISSIONS.items() if "write" in wanted.values() and key[0] != "release.yml"]


def triggers(name: str) -> dict:
    return FLOWS[name][True]  # YAML 1.1 reads `on` as a truth value


def test_every_action_is_pinned_by_commit() -> None:
    lines = [line.strip() for text in TEXTS.values() for line in text.splitlines() if "uses:" in line]
    wanted = {f"uses: {action}@{pin}" for action, pin in PINS.items()}
    assert {line.removeprefix("- ") for line in lines} == wanted
    assert len(lines) == sum("uses" in step for *_, step in STEPS)


def test_permissions_are_the_least_and_stand_at_each_job() -> None:
    assert all(flow["permissions"] == {} for flow in FLOWS.values())
    assert {key: body["permissions"] for key, body in JOBS.items()} == PERMISSIONS


def test_no_secret_is_stored_and_tokens_stay_away_from_gpus() -> None:
    for name, text in TEXTS.items():
        assert "secrets." not in text, name
    for key in GPU_JOBS:
        assert "github.token" not in str(JOBS[key])
        assert "GH_TOKEN" not in str(JOBS[key])
    for name, job, step in STEPS:
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, (name, job)


def test_gpus_take_jobs_that_a_maintainer_or_main_has_started() -> None:
    own = {key for key, body in JOBS.items() if "self-hosted" in str(body["runs-on"])}
    assert own == set(GPU_JOBS)
    assert list(triggers("benchmark.yml")) == ["workflow_dispatch"]
    assert set(triggers("nightly.yml")) == {"schedule", "workflow_dispatch"}
    for key, label in zip(GPU_JOBS, ("pull-request", "nightly"), strict=True):
        assert JOBS[key]["runs-on"] == ["self-hosted", label, "${{ matrix.gpu }}"]
    assert not any("pull_request_target" in text for text in TEXTS.values())


def test_what_is_started_by_hand_on_another_branch_does_nothing() -> None:
    """The first job of each says no, and the others wait for it."""
    for (name, first), gpu in zip([("benchmark.yml", "check"), ("nightly.yml", "open")], GPU_JOBS, strict=True):
        assert "github.ref == 'refs/heads/main'" in JOBS[name, first]["if"]
        assert JOBS[gpu]["needs"] == first
        assert "if" not in JOBS[gpu]  # success() is what GitHub puts there: skipped after a job that was skipped
    for job in ("store", "issues"):
        assert JOBS["nightly.yml", job]["if"] == "${{ !cancelled() && needs.measure.result != 'skipped' }}"


def test_strangers_run_joins_no_queue_of_the_privileged_job() -> None:
    assert "concurrency" not in FLOWS["benchmark-comment.yml"]
    job = JOBS["benchmark-comment.yml", "comment"]
    assert job["concurrency"]["cancel-in-progress"] is False
    assert "head_repository.full_name == github.repository" in job["if"]


def test_measuring_ends_before_its_step_does() -> None:
    (step,) = [step for step in JOBS["nightly.yml", "measure"]["steps"] if step.get("id") == "measure"]
    wait, most = re.match(r"timeout --signal=INT --kill-after=(\d+)m (\d+)m python3 ", step["run"]).groups()
    assert int(wait) + int(most) < step["timeout-minutes"]


@pytest.mark.parametrize("key", GPU_JOBS, ids="/".join)
def test_gpu_job_has_time_left_to_upload(key: tuple[str, str]) -> None:
    """A job that is cut off uploads nothing; a step that is cut off leaves the next ones their time."""
    steps = JOBS[key]["steps"]
    assert steps[-1]["timeout-minutes"] > 0
    assert steps[-1]["if"].startswith("${{ !cancelled()")
    assert sum(step.get("timeout-minutes", 0) for step in steps) <= JOBS[key]["timeout-minutes"] - 10
    (comparing,) = [step for step in steps if "--minutes" in step.get("run", "")]
    assert int(re.search(r"--minutes (\d+)", comparing["run"])[1]) <= comparing["timeout-minutes"] - 10


def test_site_does_not_wait_for_the_runner_that_failed() -> None:
    assert JOBS["nightly.yml", "store"]["outputs"] == {"stored": "${{ steps.store.outputs.stored }}"}
    assert [step.get("id") for step in JOBS["nightly.yml", "store"]["steps"]] == [None, "store"]
    assert "needs.store.outputs.stored == 'true'" in JOBS["nightly.yml", "site"]["if"]


def test_tests_run_with_a_browser_and_before_a_release() -> None:
    assert set(JOBS["release.yml", "publish"]["needs"]) == {"build", "test"}
    for key in (("ci.yml", "test"), ("release.yml", "test")):
        browser, tests = JOBS[key]["steps"][-2:]
        assert "command -v google-chrome" in browser["run"]
        assert tests["run"] == "make test"


def test_privileged_workflow_runs_nothing_of_the_pull_request() -> None:
    assert list(triggers("benchmark-comment.yml")) == ["workflow_run"]
    assert triggers("benchmark-comment.yml")["workflow_run"]["workflows"] == [FLOWS["benchmark.yml"]["name"]]
    fetchers = {name for name, text in TEXTS.items() if "refs/pull/" in text}
    assert fetchers == {"benchmark.yml"}
    for name, job, step in STEPS:
        assert not {"ref", "repository", "token"} & set(step.get("with", {})), (name, job)


def test_nothing_is_cached() -> None:
    """A benchmark of a pull request runs on main: what it put into the cache, other workflows would take out."""
    for name, job, step in STEPS:
        assert "cache" not in str(step.get("uses", "")), (name, job)
        assert not any("cache" in key for key in step.get("with", {})), (name, job)


@pytest.mark.parametrize("key", WRITERS, ids="/".join)
def test_job_that_may_write_installs_nothing(key: tuple[str, str]) -> None:
    for step in JOBS[key]["steps"]:
        if "run" in step:
            assert re.fullmatch(r"python3 -m tools\.ci\.\w+[ \w\"$-]*", step["run"]), step["run"]
        else:
            assert step["uses"].startswith("actions/checkout@")


def test_scripts_are_shell_without_expressions() -> None:
    for name, job, step in STEPS:
        if "run" in step:
            assert "${{" not in step["run"], (name, job)  # an expression would be pasted into the script
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)


def test_what_is_called_exists() -> None:
    modules, targets = set(), set()
    for *_, step in STEPS:
        for line in step.get("run", "").splitlines():
            words = shlex.split(line, comments=True)
            modules |= {words[i + 1] for i, word in enumerate(words[:-1]) if word == "-m"}
            targets |= set(words[1:]) if words[:1] == ["make"] else set()
    ours = {module for module in modules if module.startswith(("tools", "benchmarks"))}
    assert modules - ours == {"pip", "build", "twine"}
    assert ours >= {f"tools.ci.{path.stem}" for path in (ROOT / "tools" / "ci").glob("*.py")} - {
        f"tools.ci.{name}" for name in ("__init__", "commands", "reports")
    }
    assert all(importlib.util.find_spec(module) for module in ours)
    known = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets <= set(known[1].split())
    assert targets == {"test", "lint", "env", "site"}


def test_names_that_one_workflow_gives_the_other_understands() -> None:
    title = FLOWS["benchmark.yml"]["run-name"]
    title = title.replace("${{ inputs.pull_request }}", "12").replace("${{ inputs.head }}", HEAD)
    assert comment.read_run(described_run(display_title=title)).pull_request == 12
    assert (ROOT / comment.WORKFLOW).exists()
    assert (
        comment.JOB.fullmatch(JOBS["benchmark.yml", "compare"]["name"].replace("${{ matrix.gpu }}", "h100"))[1]
        == "h100"
    )
    uploads = {
        (name, job): step["with"]["name"].replace("${{ matrix.gpu }}", "h100")
        for name, job, step in STEPS
        if "upload-artifact" in step.get("uses", "")
    }
    assert comment.LABEL.fullmatch(uploads["benchmark.yml", "compare"])[1] == "h100"
    assert uploads["nightly.yml", "measure"] == "measured-h100"
    assert uploads["nightly.yml", "site"] == "site"
    assert f"--name {uploads['release.yml', 'build']}" in TEXTS["release.yml"]


def test_upload_takes_no_hidden_folder() -> None:
    """upload-artifact leaves those out without a word."""
    paths = [step["with"]["path"] for *_, step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert sorted(paths) == ["comparison/", "dist/", "measured/", "site/"]


def test_jobs_end_and_pythons_are_those_that_are_supported() -> None:
    assert all(0 < body["timeout-minutes"] <= 360 for body in JOBS.values())
    assert JOBS["ci.yml", "test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert JOBS["release.yml", "publish"]["environment"] == "pypi"


def test_documents_name_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") + (ROOT / "docs" / "results.md").read_text(
        encoding="utf-8"
    )
    assert set(re.findall(r"[\w-]+\.yml", text)) == set(TEXTS)
    for module in re.findall(r"python3? -m (tools[\w.]+)", text):
        assert importlib.util.find_spec(module), module
    for label in ("pull-request", "nightly", "BENCHMARK_GPUS", "performance regression"):
        assert label in text
