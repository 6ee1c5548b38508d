"""`make test`, `make bench`, `make site` and the rest: `python -m tools.bootstrap VERB`, from a bare Python."""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import merge
from benchmarks.gpu import reason_absent
from tools.environment import PYTHON, ROOT, VENV, ensure
from tools.machine import cpu_name, gpu_names, machine_fields, machine_name
from tools.torch_source import SetupError

EXTRAS = {"asv", "plots", "test"}  # one set for tests and benchmarks: whichever ran first, the other needs no network
SITE = ROOT / ".asv" / "html"
RESULTS = ROOT / "results"
START = time.monotonic()
ASV = ".venv/bin/python -m asv"
# zizmor is a program without a module; it lies beside the Python that has it, which may be one that shares its torch.
ZIZMOR = (
    "import importlib.metadata as m, os, sys; "
    "path = str(next(f for f in m.files('zizmor') if f.name == 'zizmor').locate()); "
    "os.execv(path, [path, *sys.argv[1:]])"
)
# asv keeps its machines in the home folder under a layout of its own: let asv write it.
SAVE_MACHINE = (
    "import json, sys; from asv.machine import MachineCollection as M; "
    "fields = json.loads(sys.argv[1]); M.save(fields['machine'], fields)"
)


def say(text: str) -> None:
    """One line for each step, with the time since the start."""
    print(f"[{time.monotonic() - START:5.1f} s] {text}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Expected failures end in one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.bootstrap", description=__doc__, allow_abbrev=False)
    parser.add_argument("--launch", choices=["forkserver", "spawn"], default="forkserver", help="asv's --launch-method")
    parser.add_argument("--machine", default="", help="asv's machine name; default: the GPU's or the CPU's")
    parser.add_argument("--commits", default="HEAD^!", help="what asv measures: a range of commits, or NEW")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("verb", choices=["env", "test", "lint", "bench", "site", "serve"])
    options, rest = parser.parse_known_args(argv)  # the rest goes to pytest or to asv run
    verbs: dict[str, Callable[[], int]] = {
        "env": env,
        "test": lambda: test(rest),
        "lint": lint,
        "bench": lambda: bench(options.launch, options.machine, options.commits, rest),
        "site": site,
        "serve": lambda: serve(options.port),
    }
    try:
        return verbs[options.verb]()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def python(*arguments: str) -> int:
    """Run .venv's Python in the repository root, its folder first on PATH so that asv builds on the same Python."""
    path = os.pathsep.join([str(VENV / "bin"), *os.get_exec_path()])
    return subprocess.run([PYTHON, *arguments], cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def python_output(*arguments: str) -> str:
    """What .venv's Python prints."""
    done = subprocess.run([PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def env() -> int:
    """Make .venv, for an editor or a shell."""
    ensure(EXTRAS, say)
    say(f".venv is ready: {PYTHON}")
    return 0


def test(arguments: list[str]) -> int:
    """Run pytest."""
    ensure(EXTRAS, say)
    return python("-m", "pytest", "tests", *arguments)


def lint() -> int:
    """Run ruff and mypy, then what reads the workflows; none of them needs the network."""
    ensure(EXTRAS | {"dev"}, say)
    workflows = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    schema = ("-m", "check_jsonschema", "--builtin-schema")
    return (
        python("-m", "ruff", "check", ".")
        or python("-m", "mypy")
        or python(*schema, "vendor.github-workflows", *workflows)
        or python(*schema, "vendor.dependabot", str(ROOT / ".github" / "dependabot.yml"))
        or python("-c", ZIZMOR, "--quiet", "--offline", "--persona", "auditor", "--strict-collection", ".github")
    )


def bench(launch: str, machine: str, commits: str, arguments: list[str]) -> int:
    """Measure HEAD, or other commits, with asv and publish the site."""
    commit = git("rev-parse", "--short=8", "HEAD")
    ensure(EXTRAS, say)
    gpus = gpu_names()
    name = machine or machine_name(gpus, cpu_name())
    if python("-c", SAVE_MACHINE, json.dumps(machine_fields(name, gpus))):
        raise SetupError("asv could not store the machine's name: its own lines are above")
    if git("status", "--porcelain", "--", "ropekern"):
        say("uncommitted changes in ropekern/ are not measured: asv measures commits")
    say(f"measuring {commit if commits == 'HEAD^!' else commits} as machine {name}")
    how = ("--show-stderr", "--record-samples", "--no-pull", "--launch-method", launch, "--machine", name)
    started = time.time()
    measured = python("-m", "asv", "run", *how, *arguments, commits)
    published = publish()
    if (RESULTS / name).exists():  # asv makes it with the first result
        keep_environment(RESULTS / name, commit, started, python_output("-m", "benchmarks", "env"))
    say(f"to compare two measured commits: {ASV} compare --machine {name} BASE HEAD")
    for line in missing_rows(RESULTS / name, commit, reason_absent()):
        say(line)
    return measured or published


def keep_environment(folder: Path, head: str, started: float, environment: str) -> None:
    """Beside the results, the latest and one for each commit measured since: the site marks where it changed."""
    commits = {path.name[:8] for path in folder.glob("*-*.json") if path.stat().st_mtime >= started}
    for commit, name in [(head, "environment.txt"), *((commit, f"environment-{commit}.txt") for commit in commits)]:
        (folder / name).write_text(f"{commit}\n{environment}", encoding="utf-8")


def site() -> int:
    """Publish what is stored, measuring nothing."""
    ensure(EXTRAS, say)
    return publish()


def publish() -> int:
    """Write the site from what lies in results/."""
    git("rev-parse", "HEAD")
    if not (RESULTS / "benchmarks.json").exists():
        raise SetupError("results/benchmarks.json is missing, so there is nothing to publish: run `make bench` first")
    if not git("branch", "--list", "main"):
        git("branch", "main", "HEAD")
        say("created a local branch main at HEAD: asv publishes that branch")
    elif git("rev-list", "--max-count=1", "main..HEAD"):
        say("HEAD is not on main: its results are stored, but the site draws main only")
    try:
        merge.check(RESULTS, ROOT)
    except ValueError as error:
        raise SetupError(f"the site would leave out results:\n{error}") from error
    say("publishing the site")
    code = python("-m", "asv", "publish", "--no-pull")
    if code == 0:
        say(f"the site is in {SITE.relative_to(ROOT)}; `make serve` shows it")
    return code


def missing_rows(folder: Path, commit: str, no_gpu: str | None) -> list[str]:
    """One line for each benchmark of this commit with rows that hold no number, and why GPU rows hold none."""
    lines = []
    for path in sorted(folder.glob(f"{commit}-*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        column = stored["result_columns"].index("result")
        for name, row in sorted(stored["results"].items()):
            values = (row[column] if len(row) > column else None) or [None]
            counts = Counter("failed" if v is None else "n/a" if math.isnan(v) else "ok" for v in values)
            lines += [f"{name}: {counts[k]} of {len(values)} rows {k}" for k in ("n/a", "failed") if counts[k]]
    if lines and no_gpu:
        lines.append(f"rows that need a GPU are n/a: {no_gpu}")
    return lines


class Server(http.server.ThreadingHTTPServer):
    """Says nothing of a browser that leaves before a file has come, as the start page makes it do."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Hide what is no error of the server's."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(port: int) -> int:
    """Show the site to this machine only."""
    if not (SITE / "index.html").exists():
        raise SetupError(f"{SITE.relative_to(ROOT)} holds no site: run `make site` or `make bench` first")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(SITE))
    try:
        server = Server(("127.0.0.1", port), handler)
    except OSError as error:
        raise SetupError(f"port {port} of 127.0.0.1 cannot be had ({error.strerror}): make serve PORT=8081") from error
    say(f"http://127.0.0.1:{port} (Ctrl-C ends it)")
    server.serve_forever()
    return 0


def git(*arguments: str) -> str:
    """git's output; asv measures commits, so without git or a commit there is nothing to do."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SetupError("git was not found; asv measures the commits of a git checkout") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        raise SetupError(f"`git {' '.join(arguments)}` failed, a git checkout with a commit is wanted: {lines[0]}")
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
