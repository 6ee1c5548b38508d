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
from tools.ci.commands import CREDENTIALS, CiError, artifacts, git, guarded, set_outputs, succeeds, unpack

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
            sources, refused = [], []
            for name, data in artifacts(options.run, "measured-").items():
                try:
                    sources.append(unpack(data, Path(folder, name)))
                except CiError as error:
                    refused.append(f"{name}: {error}")
            refused += push(options.remote, sources)
        if refused:
            raise CiError("left out:\n" + "\n".join(refused))


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


def push(remote: str, sources: Sequence[Path]) -> list[str]:
    """Merge folders, laid out as the branch is, into the branch; again where somebody else was faster.

    Sets the output `stored` when the branch holds what fits; returns what does not fit, a line each: what one runner
    got wrong is no reason to lose what the others have measured.

    Raises:
        CiError: there is nothing to push, or the branch cannot be pushed.
    """
    measured = [source / "results" for source in sources if (source / "results" / "benchmarks.json").exists()]
    if not measured:
        raise CiError("no job measured anything")
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as name:
            tree, joined = Path(name, "tree"), Path(name, "joined")
            _checkout(remote, tree)
            refused = _join(measured, joined, tree / "results")
            if not (tree / "results").exists():
                raise CiError("nothing could be stored:\n" + "\n".join(refused))
            stored.load(tree / "results")
            for source in sources:
                try:
                    _keep_comparisons(source / "compare", tree / "comparisons")
                except ValueError as error:
                    refused.append(f"{source.name}/compare: {error}")
            (tree / "README.md").write_text(README, encoding="utf-8")
            git("add", "--all", "--force", ".", folder=tree)
            if succeeds("diff", "--cached", "--quiet", folder=tree):
                print("nothing new")
                set_outputs({"stored": "true"})
                return refused
            machines = ", ".join(sorted({path.parent.name for path in measured_files(measured)}))
            git("commit", "--quiet", "--message", f"Results of {machines}", folder=tree)
            if succeeds(*CREDENTIALS, "push", "--quiet", "origin", f"HEAD:refs/heads/{BRANCH}", folder=tree):
                print(f"pushed {git('rev-parse', '--short', 'HEAD', folder=tree)} to {BRANCH}")
                set_outputs({"stored": "true"})
                return refused
    raise CiError(f"{BRANCH} could not be pushed in {TRIES} tries")


def _join(measured: Sequence[Path], joined: Path, into: Path) -> list[str]:
    """Merge folders of results into the branch's, each by itself; what does not fit, a line each.

    Tonight's runners share one ruler, which must agree; the branch may still have yesterday's. So has a runner where
    asv did not come to run, and it brings nothing new; of the others the one that measured last has the ruler.
    """
    branch = _texts(stored.load(into)) if into.exists() else {}
    refused, ages = [], {}
    for folder in measured:
        try:
            found = stored.load(folder)
        except ValueError as error:
            refused.append(f"{folder.parent.name}: {error}")
            continue
        if any(branch.get(key) != text for key, text in _texts(found).items()):
            ages[folder] = _newest(found)
        else:
            print(f"{folder.parent.name}: nothing new")
    for folder in sorted(ages, key=lambda folder: ages[folder], reverse=True):
        try:
            merge.merge([folder], joined)
            outcome = merge.merge([folder], into, benchmarks=joined / "benchmarks.json")
        except ValueError as error:
            refused.append(f"{folder.parent.name}: {error}")
        else:
            print("\n".join(outcome.lines))
    return refused


def _texts(found: stored.Stored) -> dict[tuple[str, str], str]:
    """As text, because n/a, which is not a number, is not equal to itself."""
    return {key: json.dumps(content, sort_keys=True) for key, content in found.results.items()}


def _newest(found: stored.Stored) -> int:
    """When the newest benchmark was started; 0 where there is none."""
    contents = found.results.values()
    rows = (
        zip(content["result_columns"], row, strict=False) for content in contents for row in content["results"].values()
    )
    return max((dict(row).get("started_at") or 0 for row in rows), default=0)


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
