"""`python -m tools.ci.release TAG`: may this tag become a release?"""

from __future__ import annotations

import re
import sys
import tomllib

from tools.ci.commands import CiError, git, guarded, succeeds
from tools.environment import ROOT


def check(tag: str) -> None:
    """Refuse a tag that does not fit.

    Raises:
        CiError: it is not the version's, the changelog does not know it, or its commit is not on main.
    """
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        raise CiError(f"the tag is {tag}, pyproject.toml says {version}: it must be v{version}")
    heading = re.compile(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", re.MULTILINE)
    if not heading.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")):
        raise CiError(f"CHANGELOG.md has no heading `## {version} (YYYY-MM-DD)`")
    if not succeeds("merge-base", "--is-ancestor", "HEAD", "refs/remotes/origin/main", folder=ROOT):
        raise CiError(f"{git('rev-parse', '--short', 'HEAD', folder=ROOT)} is not on main")
    print(f"{tag} may be released")


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: check(*sys.argv[1:2])))
