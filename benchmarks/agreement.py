"""Do two runs of one commit agree? Compares them row by row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.results import Row
from benchmarks.statistics import Summary, relative_difference

# Rows of this many seconds and more must agree within the first limit, shorter ones within the second.
LONG_ROW = 20e-6
LONG_LIMIT, SHORT_LIMIT = 0.02, 0.10
# Its rows are shown, but held to no limit: they are a property of the host's CPU as much as of the code.
HOST_BENCHMARK = "bench_host.HostCost"


@dataclass(frozen=True, slots=True)
class Pair:
    """One timed row as two runs measured it, in seconds."""

    row: Row
    first: float
    second: float

    @property
    def difference(self) -> float:
        """How much more the slower run took: 0.02 is 2 %."""
        return relative_difference(self.first, self.second)

    @property
    def limit(self) -> float:
        """What the difference may be."""
        if self.row.benchmark == HOST_BENCHMARK:
            return math.inf
        return LONG_LIMIT if min(self.first, self.second) >= LONG_ROW else SHORT_LIMIT


def pair_rows(first: Mapping[Row, float], second: Mapping[Row, float]) -> list[Pair]:
    """Rows that both runs have.

    Raises:
        ValueError: a row is missing from one of them; that is never agreement.
    """
    if missing := sorted(map(str, first.keys() ^ second.keys())):
        raise ValueError(
            f"{len(missing)} rows stand in one run only, wanted the same rows: {', '.join(missing[:3])} ..."
        )
    return [Pair(row, first[row], second[row]) for row in first]


def report(pairs: list[Pair]) -> str:
    """A Markdown table of the differences by kind of row, and the rows past their limit."""
    lines = ["| rows | number | limit | median | p99 | largest | past the limit |", "| --- " * 7 + "|"]
    kinds = {
        "20 us and more": [p for p in pairs if p.limit == LONG_LIMIT],
        "below 20 us": [p for p in pairs if p.limit == SHORT_LIMIT],
        "host cost": [p for p in pairs if p.limit == math.inf],
    }
    for kind, members in kinds.items():
        if members:
            s = Summary.of([p.difference for p in members])
            past = sum(p.difference > p.limit for p in members)
            cells = (f"{s.median:.2%}", f"{s.p99:.2%}", f"{s.max:.2%}", str(past))
            limit = "none" if members[0].limit == math.inf else f"{members[0].limit:.0%}"
            lines.append(f"| {kind} | {s.count} | {limit} | {' | '.join(cells)} |")
    past_limit = sorted((p for p in pairs if p.difference > p.limit), key=lambda p: -p.difference)
    lines += [f"- {p.row}: {p.first * 1e6:.2f} and {p.second * 1e6:.2f} us, {p.difference:.1%}" for p in past_limit]
    return "\n".join(lines)
