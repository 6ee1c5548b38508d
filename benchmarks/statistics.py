"""What is said about a set of samples, and how two sets compare."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of samples, in their unit."""

    count: int
    mean: float
    median: float
    p99: float
    min: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Summary":
        """Of at least one sample; p99 is the smallest sample that 99 % of them do not exceed."""
        if not samples:
            raise ValueError("samples must hold at least one number, got none")
        ordered = sorted(samples)
        p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
        return cls(
            len(ordered), statistics.fmean(ordered), statistics.median(ordered), p99, ordered[0], ordered[-1]
        )  # fmt: skip


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval that holds the true median with at least this confidence, whatever the distribution: between two of
    the ordered samples, by the binomial distribution of how many fall below it. All samples where they are too few.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("samples must hold at least one number, got none")
    ordered, count = sorted(samples), len(samples)
    outside, skipped = 0.0, 0
    for below in range(count // 2):
        outside += 2 * math.comb(count, below) / 2**count
        if outside > 1 - confidence:
            break
        skipped = below
    return ordered[skipped], ordered[count - 1 - skipped]


def relative_difference(a: float, b: float) -> float:
    """|a - b| over the smaller: 0.02 means that one is 2 % more than the other."""
    return abs(a - b) / min(a, b)
