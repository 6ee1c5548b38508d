"""A scratch repository with a history of results for the site's tests: real H100 numbers under made-up commits."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results"
FIRST, SECOND, TRITON_ONLY, FULL = (
    next((REFERENCE / "h100").glob(f"{commit}-*.json")) for commit in ("ae824f4b", "cdcc4ea4", "da617ec2", "f93af847")
)
# A subject that a careless page would run, and a careless check would take for a request.
SUBJECT = 'Kernel <img src="https://example.org/x.png"> </script> "https://example.org/y.js"'
SLOWER = 1.3

Content = dict[str, Any]


@dataclass
class History:
    """The scratch repository; `results` are machine -> commit -> content of the result file."""

    folder: Path
    commits: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Content]] = field(default_factory=dict)

    def number(self, machine: str, commit: str, benchmark: str, model: str, tokens: int, column: str = "result") -> Any:
        """A number of a result file, spelled apart from the page's own reader; None where there is none."""
        content = self.results[machine][commit]
        entry = dict(zip(content["result_columns"], content["results"].get(benchmark, []), strict=False))
        if not entry.get(column):
            return None
        models, counts = entry["params"]
        found = entry[column][models.index(repr(model)) * len(counts) + counts.index(repr(tokens))]
        return None if found is None or math.isnan(found) else found

    def seconds(self, machine: str, commit: str, provider: str, model: str, tokens: int) -> Any:
        """GPU time of one call."""
        benchmark = "bench_rope.Rope" if model.startswith("Llama") else "bench_mrope.Mrope"
        return self.number(machine, commit, f"{benchmark}.time_{provider}", model, tokens)


def make(folder: Path) -> History:
    """Twelve commits on main and one beside it, an H100 with all of them, a machine without a GPU with the last."""
    history = History(folder)
    folder.mkdir()
    shutil.copy(ROOT / "asv.conf.json", folder)
    (folder / "results" / "h100").mkdir(parents=True)
    for name in ("benchmarks.json", "h100/machine.json"):
        shutil.copy(REFERENCE / name, folder / "results" / name)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    for source in (FIRST, SECOND, TRITON_ONLY, *[FULL] * 9):
        commit = add_commit(history)
        late = len(history.commits) > 8
        add_result(history, "h100", commit, source, slower if late else None)
        add_environment(history, commit, torch="2.10.0" if source == FIRST else "2.11.0")
    cpu = folder / "results" / "a-cpu"  # by name it comes first
    cpu.mkdir()
    about = {
        **json.loads((REFERENCE / "h100" / "machine.json").read_text()),
        "machine": "a-cpu",
        "gpu": "",
        "cpu": "C1",
    }
    (cpu / "machine.json").write_text(json.dumps(about))
    add_result(history, "a-cpu", history.commits[-1], FULL, without_gpu)
    git(folder, "checkout", "--quiet", "-b", "side")
    add_result(history, "h100", add_commit(history), FULL)
    git(folder, "checkout", "--quiet", "main")
    return history


def git(folder: Path, *arguments: str, date: int = 1_790_000_000) -> str:
    """Its output; author and clock are made up."""
    known = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {f"GIT_{who}_DATE": f"{date} +0000" for who in ("AUTHOR", "COMMITTER")}
    environment = {**os.environ, **known, **dates}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def add_commit(history: History) -> str:
    """An empty commit, a day after the one before."""
    date = 1_790_000_000 + 86_400 * len(history.commits)
    subject = f"{SUBJECT} {len(history.commits)}"
    git(history.folder, "commit", "--quiet", "--allow-empty", "--message", subject, date=date)
    commit = git(history.folder, "rev-parse", "HEAD")
    history.commits.append(commit)
    return commit


def add_result(
    history: History, machine: str, commit: str, source: Path, change: Callable[[Content], None] | None = None
) -> None:
    """The content of a reference file as that of `commit` on `machine`."""
    content = json.loads(source.read_text(encoding="utf-8"))
    folder = history.folder / "results" / machine
    about = json.loads((folder / "machine.json").read_text())
    del about["version"]
    content["commit_hash"] = commit
    content["params"] |= about
    content["date"] = 1000 * int(git(history.folder, "show", "--no-patch", "--format=%ct", commit))
    if change:
        change(content)
    history.results.setdefault(machine, {})[commit] = content
    (folder / f"{commit[:8]}-{content['env_name']}.json").write_text(json.dumps(content))


def add_environment(history: History, commit: str, torch: str) -> None:
    """As `make bench` keeps it."""
    text = f"{commit[:8]}\ndevice:\n  driver: 580.1\nversions:\n  torch: {torch}\nproviders:\n  triton: ok on cuda\n"
    (history.folder / "results" / "h100" / f"environment-{commit[:8]}.txt").write_text(text)


def slower(content: Content) -> None:
    """Triton's mRoPE takes longer, and native gets faster, which makes every time relative to native rise."""
    for name, entry in content["results"].items():
        if name == "bench_mrope.Mrope.time_triton" or "RelativeToNative" in name:
            for column, label in enumerate(content["result_columns"][: len(entry)]):
                if (label == "result" or label.startswith("stats_")) and label not in {"stats_number", "stats_repeat"}:
                    entry[column] = entry[column] and [value * SLOWER for value in entry[column]]


def without_gpu(content: Content) -> None:
    """GPU rows are n/a, rows of the CPU are not."""
    for name, entry in content["results"].items():
        rows = len(entry[0])
        if name.startswith("bench_cpu"):
            entry[0] = [1e-5 * (row + 1) for row in range(rows)]
        elif not name.startswith("bench_static"):
            entry[:] = [[math.nan] * rows, *entry[1:5]]


def publish(history: History, site: Path) -> None:
    """`asv publish` as `make site` runs it, in the scratch repository."""
    command = [sys.executable, "-m", "asv", "publish", "--no-pull", "--html-dir", str(site)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=history.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
