"""`python -m tools.ci.pages_branch FOLDER`: put a built site on the branch that GitHub Pages serves.

One commit without a parent, pushed over the last one: a site is made from the results, so its history is theirs.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tools.ci.commands import CREDENTIALS, CiError, api, artifacts, git, guarded, unpack

BRANCH = "gh-pages"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.ci.pages_branch", description=__doc__)
    parser.add_argument("--remote", default="origin")
    parser.add_argument("--run", required=True, help="number of the run whose artifact `site` to publish")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = artifacts(options.run, "site")
        if "site" not in found:
            raise CiError("this run has no artifact `site`")
        push(options.remote, unpack(found["site"], Path(folder)))
    # GitHub builds nothing on a push by a workflow's own token. Fails where Pages is not set up: CONTRIBUTING.md.
    api("repos/{owner}/{repo}/pages/builds", "POST")
    print("asked Pages to build it")


def push(remote: str, site: Path) -> None:
    """Replace the branch by this folder.

    Raises:
        CiError: the folder is no site, or the branch cannot be pushed.
    """
    for name in ("index.html", "index.json"):
        if not (site / name).is_file():
            raise CiError(f"the site has no {name}: nothing is published")
    address = remote if Path(remote).exists() or "://" in remote else git("remote", "get-url", remote)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name, "tree")
        shutil.copytree(site, tree)
        (tree / ".nojekyll").touch()  # or Pages leaves out names that begin with an underscore
        git("init", "--quiet", f"--initial-branch={BRANCH}", str(tree))
        git("add", "--all", "--force", ".", folder=tree)
        git("commit", "--quiet", "--message", "The site", folder=tree)
        git(*CREDENTIALS, "push", "--quiet", "--force", address, f"HEAD:refs/heads/{BRANCH}", folder=tree)
    print(f"pushed the site to {BRANCH}")


if __name__ == "__main__":
    raise SystemExit(guarded(main))
