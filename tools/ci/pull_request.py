"""`python -m tools.ci.pull_request NUMBER HEAD`: may this commit of this pull request be benchmarked?

What a maintainer has read is a commit, not a branch: if the author has pushed since, the answer is no.
"""

from __future__ import annotations

import re
import sys

from tools.ci.commands import CiError, api, guarded, set_outputs


def check(number: str, head: str) -> None:
    """Set the outputs number and head.

    Raises:
        CiError: it is closed, not of this commit any more, or not for main.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,9}", number):
        raise CiError("the number of the pull request is not a number")
    if not re.fullmatch(r"[0-9a-f]{40}", head):
        raise CiError("the head must be a full commit hash, 40 hexadecimal digits: `gh pr view N --json headRefOid`")
    pull = api(f"repos/{{owner}}/{{repo}}/pulls/{number}")
    if pull["state"] != "open":
        raise CiError(f"pull request {number} is {pull['state']}")
    if pull["base"]["ref"] != "main":
        raise CiError(f"pull request {number} is not for main")
    if pull["head"]["sha"] != head:
        raise CiError(f"pull request {number} is at {pull['head']['sha']} by now: read that commit, then start again")
    set_outputs({"number": number, "head": head})


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: check(*sys.argv[1:3])))
