"""`python -m tools.ci.results_branch fetch | push`: the branch `results`, home of what the runners measured.

results/        asv's folder: benchmarks.json and one folder for each machine
comparisons/    one folder for each machine, one file for each pair of commits that was compared in turns
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import merge, stored
from tools.ci import reports
from tools.ci.commands import CREDENTIALS, CiError, artifacts, git, guarded, succeeds, unpack

BRANCH = "results"
TRIES = 4
README = f"""Measurements, written by the nightly workflow; `main` says how: docs/results.md.

{__doc__.partition(chr(10) * 2)[2].rstrip()}
"""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.ci.results_branch", description=__doc__)
    parser.add_argument("--remote", default="origin")
    commands = parser.add_subparsers(dest="command", required=True)
    getting = commands.add_parser("fetch", help="merge the branch into a folder of results")
    getting.add_argument("--into", type=Path, default=Path("results"))
    getting.add_argument(
        "--only-machine", help="leave that machine's results alone in the folder, as `asv run NEW` wants"
    )
    getting.add_argument("--comparisons", type=Path, help="copy the comparisons to this folder")
    pushing = commands.add_parser("push", help="merge what this run's jobs measured into the branch")
    pushing.add_argument("--run", required=True, help="number of the run whose artifacts measured-* to take")
    options = parser.parse_args()
    if options.command == "fetch":
        fetch(options.remote, options.into, options.only_machine, options.comparisons)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = artifacts(options.run, "measured-")
            push(options.remote, [unpack(data, Path(folder, name)) for name, data in found.items()])


def fetch(remote: str, into: Path, only_machine: str | None = None, comparisons: Path | None = None) -> None:
    """Merge the branch into a folder, where there is such a branch.

    Args:
        remote: name or address of the repository.
        into: asv's folder of results.
        only_machine: leave only this machine's results there: asv takes what any machine has measured for old.
        comparisons: folder to copy the comparisons to.
    """
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        if _checkout(remote, tree):
            branch = tree / "results"
            merge.merge([branch], into, benchmarks=branch / "benchmarks.json")
            if comparisons and (tree / "comparisons").exists():
                shutil.copytree(tree / "comparisons", comparisons, dirs_exist_ok=True)
        else:
            print(f"{remote} has no branch {BRANCH} yet")
    if only_machine is not None:
        for machine in into.glob("*/machine.json"):
            if machine.parent.name != only_machine:
                shutil.rmtree(machine.parent)


def push(remote: str, sources: Sequence[Path]) -> None:
    """Merge folders, laid out as the branch is, into the branch; again where somebody else was faster.

    Raises:
        CiError: there is nothing to push, or the branch cannot be pushed.
        ValueError: a folder is truncated or foreign.
    """
    measured = [source / "results" for source in sources if (source / "results" / "benchmarks.json").exists()]
    if not measured:
        raise CiError("no job measured anything")
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as name:
            tree, joined = Path(name, "tree"), Path(name, "joined")
            _checkout(remote, tree)
            # Tonight's runners share one ruler, which must agree; the branch may still have yesterday's.
            merge.merge(measured, joined)
            outcome = merge.merge([joined], tree / "results", benchmarks=joined / "benchmarks.json")
            print("\n".join(outcome.lines))
            stored.load(tree / "results")
            for source in sources:
                _keep_comparisons(source / "compare", tree / "comparisons")
            (tree / "README.md").write_text(README, encoding="utf-8")
            git("add", "--all", "--force", ".", folder=tree)
            if succeeds("diff", "--cached", "--quiet", folder=tree):
                print("nothing new")
                return
            machines = ", ".join(sorted({path.parent.name for path in measured_files(measured)}))
            git("commit", "--quiet", "--message", f"Results of {machines}", folder=tree)
            if succeeds(*CREDENTIALS, "push", "--quiet", "origin", f"HEAD:refs/heads/{BRANCH}", folder=tree):
                print(f"pushed {git('rev-parse', '--short', 'HEAD', folder=tree)} to {BRANCH}")
                return
    raise CiError(f"{BRANCH} could not be pushed in {TRIES} tries")


def measured_files(folders: Sequence[Path]) -> list[Path]:
    """machine.json of every machine in these folders of results."""
    return [path for folder in folders for path in folder.glob("*/machine.json")]


def _keep_comparisons(folder: Path, into: Path) -> None:
    """The record of a comparison: machine, commits, verdict, and the rows that differ."""
    for path in sorted(folder.glob("*/*/report.json")):
        report = reports.parse(path.read_text(encoding="utf-8"))
        changed = [*report.of("SLOWER"), *report.of("FASTER")]
        record = {
            "base": report.base,
            "head": report.head,
            "machine": report.machine,
            "exit_code": report.exit_code,
            "why": report.why,
            "rows": [{name: getattr(row, name) for name in row.__slots__} for row in changed],
        }
        target = into / path.parents[1].name / f"{report.base[:8]}-{report.head[:8]}.json"
        stored.write(target, json.dumps(record, indent=1) + "\n")


def _checkout(remote: str, tree: Path) -> bool:
    """The branch's newest commit in a clone of its own, or an empty one where there is no such branch."""
    address = remote if Path(remote).exists() or "://" in remote else git("remote", "get-url", remote)
    git("init", "--quiet", f"--initial-branch={BRANCH}", str(tree))
    git("remote", "add", "origin", address, folder=tree)
    if not git("ls-remote", "origin", f"refs/heads/{BRANCH}", folder=tree):
        return False
    git("fetch", "--quiet", "--depth=1", "origin", f"+refs/heads/{BRANCH}:refs/remotes/origin/{BRANCH}", folder=tree)
    git("checkout", "--quiet", "-B", BRANCH, f"refs/remotes/origin/{BRANCH}", folder=tree)
    return True


if __name__ == "__main__":
    raise SystemExit(guarded(main))
