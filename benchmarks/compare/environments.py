"""The two commits: what their names mean, and an environment for each, built as asv builds them."""

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import locks

ROOT = Path(__file__).resolve().parents[2]
WORKING_TREE = "."
FOLDER = Path(".asv", "compare")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit to measure. `is_stored` is False for the working tree: asv stores commits."""

    name: str
    commit_hash: str
    is_stored: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({self.commit_hash[:8]})"


def resolve(base: str, head: str) -> tuple[Commit, Commit, list[str]]:
    """Both commits, and what a reader should know about how their names were read.

    Where the base has moved on since the head left it, the commit at which it left is compared with: what others
    changed on the base since then is not the head's doing.

    Args:
        base: name or hash.
        head: name or hash; "." is the working tree.

    Raises:
        ValueError: a name means nothing here, or the commits are unrelated.
    """
    notes = []
    tree = head == WORKING_TREE
    head_hash = git("rev-parse", "--verify", "HEAD^{commit}" if tree else f"{head}^{{commit}}")
    base_hash = git("rev-parse", "--verify", f"{base}^{{commit}}")
    try:
        merge_base = git("merge-base", base_hash, head_hash)
    except ValueError as error:
        raise ValueError(f"{base} and {head} have no commit in common (a shallow clone?)") from error
    if merge_base == head_hash != base_hash:
        notes.append(f"{base} is newer than {head}, which is compared with it as named")
    elif merge_base != base_hash:
        notes.append(f"{base} has moved on since {head} left it: compared with their merge base {merge_base[:8]}")
        base_hash = merge_base
    if base_hash == head_hash and not tree:
        notes.append("both are one commit: whatever is not SAME is noise")
    if tree:
        return Commit(base, base_hash), Commit("working tree", _commit_of_working_tree(), is_stored=False), notes
    if git("status", "--porcelain", "--", "ropekern", "pyproject.toml"):
        notes.append('uncommitted changes in ropekern/ are not measured; "." as HEAD would measure them')
    return Commit(base, base_hash), Commit(head, head_hash), notes


def build(commit: Commit, arm: str) -> tuple[str, dict[str, Any]]:
    """The interpreter of an environment that has this commit, and what asv would file its results under.

    Each arm has an environment of its own, kept for the next comparison. Whoever else builds it is waited for.

    Args:
        commit: what to install.
        arm: "base" or "head".

    Raises:
        ValueError: asv cannot make it; its own lines are above.
    """
    from asv import util
    from asv.config import Config
    from asv.environment import get_environments
    from asv.plugin_manager import plugin_manager
    from asv.repo import get_repo

    # asv looks for its Python on PATH: let it find this one, as `make bench` does.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    # Two runs of one commit that build its environment at once would destroy each other's.
    alone = locks.held(ROOT / FOLDER / f"{arm}.lock")
    with alone, contextlib.chdir(ROOT), contextlib.redirect_stdout(sys.stderr):
        conf = Config.load("asv.conf.json")
        for plugin in conf.plugins:
            plugin_manager.import_plugin(plugin)
        conf.env_dir = str(FOLDER / arm)
        try:
            repo = get_repo(conf)
            environment = next(iter(get_environments(conf, None)))
            environment.create()
            environment.install_project(conf, repo, commit.commit_hash)
        except (StopIteration, util.UserError, util.ProcessError) as error:
            raise ValueError(f"{commit} cannot be installed: {' '.join(str(error).split())[:300]}") from error
        about = {
            "python": environment.python,
            "requirements": environment.requirements,
            "env_name": environment.name,
            "env_vars": environment.env_vars,
            "date": repo.get_date(commit.commit_hash),
        }
        return str(environment.find_executable("python")), about


def locked() -> contextlib.AbstractContextManager[None]:
    """Nobody else compares in this checkout meanwhile: environments and the GPU are for one at a time. Entering it
    raises ValueError where somebody does.
    """
    return locks.held(ROOT / FOLDER / "lock", "another compare runs in this checkout; wait until it is done")


def sources_digest(commit: Commit) -> str:
    """A hash over the package's modules in a commit, as worker.sources_digest makes one of what is installed."""
    lines = []
    for line in git("ls-tree", "-r", commit.commit_hash, "ropekern").splitlines():
        about, _, path = line.partition("\t")
        if path.endswith(".py"):
            lines.append(f"{about.split()[2]} {path}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def ruler_version() -> str:
    """A hash of the working tree's benchmarks/: what measures both commits."""
    with tempfile.TemporaryDirectory() as folder:
        return git("rev-parse", _tree("benchmarks", index=Path(folder, "index")) + ":benchmarks")


def _commit_of_working_tree() -> str:
    """A commit of ropekern/ and pyproject.toml as they lie here, on top of HEAD; no branch knows it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = _tree("ropekern", "pyproject.toml", index=Path(folder, "index"))
    return git("commit-tree", tree, "-p", "HEAD", "-m", "working tree")


def _tree(*paths: str, index: Path) -> str:
    environment = {"GIT_INDEX_FILE": str(index)}
    git("read-tree", "HEAD", **environment)
    git("add", "--all", "--", *paths, **environment)
    return git("write-tree", **environment)


def git(*arguments: str, **environment: str) -> str:
    """What git prints, asked in the repository.

    Raises:
        ValueError: it failed.
    """
    author = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "compare"), ("EMAIL", "compare@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
    }
    done = subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env={**os.environ, **author, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing said"]
        raise ValueError(f"git {' '.join(arguments)} failed: {lines[-1]}")
    return done.stdout.strip()
