"""Which commits a run measures: names, hashes, ranges as git and asv write them, and NEW."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.compare.environments import ROOT, Commit, git

NEW = "NEW"
RANGE_MARKS = ("..", "^!")


def resolve(words: Sequence[str], results: Path, machine: str = "") -> list[Commit]:
    """Each commit once, in the order given; those of a range from the oldest on.

    Args:
        words: names, hashes, A..B, A^! or NEW: the commits on asv's branches since the newest that has results.
        results: asv's folder of results, for NEW.
        machine: whose results NEW looks at; empty means any machine's.

    Raises:
        ValueError: a word means nothing here, or there is nothing to measure.
    """
    hashes: dict[str, str] = {}
    for word in words:
        if word == NEW:
            found = {each: each[:8] for each in _new(results, machine)}
        elif any(mark in word for mark in RANGE_MARKS):
            found = {each: each[:8] for each in git("rev-list", "--first-parent", "--reverse", word, "--").split()}
        else:
            found = {git("rev-parse", "--verify", "--end-of-options", f"{word}^{{commit}}"): word}
        hashes |= {each: name for each, name in found.items() if each not in hashes}
    if not hashes:
        raise ValueError(f"{' '.join(words)}: no commit to measure")
    return [Commit(name, each) for each, name in hashes.items()]


def _new(results: Path, machine: str) -> Iterable[str]:
    known = {path.name.partition("-")[0] for path in results.glob(f"{machine or '*'}/*-*.json")}
    branches = json.loads(_without_comments((ROOT / "asv.conf.json").read_text(encoding="utf-8")))["branches"]
    found: list[str] = []
    for branch in branches:
        for each in git("rev-list", "--first-parent", branch, "--").split():
            if each[:8] in known:
                break
            found.append(each)
    return reversed(found)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
