"""Is a cell slower? Statistics over pairs of processes, never over the samples of one process.

scipy is imported where it is used: asv imports this module in environments that have torch and numpy alone.
"""

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.compare.moderation import Floats, moderate

_FEWEST_PAIRS = 3
# Half-widths of the 95 % interval by which the mean of a control must pass half the margin: 3 to 3.4 standard errors.
_CONTROL_REACH = 1.5


class Verdict(enum.StrEnum):
    """What is said about a cell of HEAD against the same cell of BASE."""

    SLOWER = "SLOWER"
    FASTER = "FASTER"
    SAME = "SAME"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits and error rates.

    Attributes:
        margin: log ratio that is not called a difference.
        sigmas: the margin is at least this many standard deviations of a cell's mean log ratio over A/A runs.
        q: false discovery rate of the first look, over all cells and both directions (Benjamini-Hochberg). It decides
            what is measured again, not what is a regression.
        confirm: one-sided level of the second look, in new processes. Both looks are independent, so that about
            q * confirm of the confirmed cells, 1 %, may be false ones whose true ratio is just the margin.
        same: level of each of the two one-sided tests behind SAME.
    """

    margin: float = 0.01
    sigmas: float = 3.0
    q: float = 0.2
    confirm: float = 0.05
    same: float = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """A cell's verdict and its numbers; log ratios are of HEAD's time to BASE's, nan where the verdict is INVALID.

    Attributes:
        verdict: what is said.
        log_ratio: mean over the pairs of processes.
        low: lower end of its 95 % interval.
        high: upper end of it.
        margin: log ratio that is not called a difference.
        p_slower: one-sided p value of "not slower by more than the margin", before any correction for many cells.
        p_faster: the same of "not faster by more than the margin".
        pairs: number of pairs of processes behind it.
    """

    verdict: Verdict
    log_ratio: float
    low: float
    high: float
    margin: float
    p_slower: float
    p_faster: float
    pairs: int

    @property
    def ratio(self) -> float:
        """HEAD's time over BASE's."""
        return math.exp(self.log_ratio)

    @property
    def ratio_low(self) -> float:
        """Lower end of the ratio's 95 % interval."""
        return math.exp(self.low)

    @property
    def ratio_high(self) -> float:
        """Upper end of it."""
        return math.exp(self.high)


def pair_log_ratio(base: ArrayLike, head: ArrayLike) -> Floats:
    """Log ratio of one pair of processes: the median over duos. A duo is a turn AB and the turn BA after it, whose mean
    log ratio is free of any drift that is straight over their four samples.

    Args:
        base: `[..., m]` seconds in the order taken, turns AB, BA, AB, BA ...; nan where a process is missing.
        head: `[..., m]` the same turns' other commit.

    Returns:
        `[...]` log(head / base); nan where a sample is.

    Raises:
        ValueError: the shapes differ, m is odd or below two, or a time is not positive and finite.
    """
    base, head = np.asarray(base, np.float64), np.asarray(head, np.float64)
    if base.shape != head.shape or base.ndim == 0:
        raise ValueError(f"base and head must be of one shape [..., m], got {base.shape} and {head.shape}")
    m = base.shape[-1]
    if m < 2 or m % 2:
        raise ValueError(f"turns come in duos AB BA: m must be even and at least 2, got {m}")
    for name, times in (("base", base), ("head", head)):
        if (times <= 0).any() or np.isinf(times).any():
            raise ValueError(f"{name} must hold positive finite seconds (nan: missing)")
    turns = np.log(head) - np.log(base)
    duos = turns.reshape(*turns.shape[:-1], m // 2, 2).mean(axis=-1)
    # np.median warns at nan; a plain sort carries it to the end, where it would be taken for a number.
    ordered = np.sort(duos, axis=-1)
    middle = (ordered[..., (m // 2 - 1) // 2] + ordered[..., m // 4]) / 2
    return np.where(np.isnan(ordered[..., -1]), np.nan, middle)


def judge(log_ratios: ArrayLike, groups: ArrayLike, sigma: ArrayLike, rules: Rules | None = None) -> list[Finding]:
    """The verdict of each cell, all cells judged together.

    Args:
        log_ratios: `[cells, K]` of K pairs of processes, nan where a pair is missing.
        groups: `[cells]` integers: cells of a like size, whose variances are moderated together.
        sigma: `[cells]` standard deviation of a cell's mean log ratio over A/A runs; 0 where none is known.
        rules: limits and error rates; the default ones if None.

    Raises:
        ValueError: shapes do not fit, a log ratio is infinite, or a sigma is negative or not a number.
    """
    from scipy import special, stats

    rules = rules or Rules()
    x, groups, sigma = np.asarray(log_ratios, np.float64), np.asarray(groups), np.asarray(sigma, np.float64)
    if x.ndim != 2 or groups.shape != x.shape[:1] or sigma.shape != x.shape[:1]:
        raise ValueError(
            f"want log_ratios [cells, K], groups [cells], sigma [cells], got {x.shape}, {groups.shape}, {sigma.shape}"
        )
    if np.isinf(x).any() or not (sigma >= 0).all():
        raise ValueError("log ratios must be finite or nan, sigma at least 0")
    pairs = np.count_nonzero(~np.isnan(x), axis=1)
    valid = pairs >= _FEWEST_PAIRS
    margin = np.maximum(rules.margin, rules.sigmas * sigma)
    mean, error, freedom = (np.full(len(x), np.nan) for _ in range(3))
    mean[valid] = np.nansum(x[valid], axis=1) / pairs[valid]
    variance = np.nansum((x[valid] - mean[valid, None]) ** 2, axis=1) / (pairs[valid] - 1)
    for group in np.unique(groups[valid]):
        members = groups[valid] == group
        cells = np.flatnonzero(valid)[members]
        moderated, freedom[cells] = moderate(variance[members], pairs[cells] - 1.0)
        error[cells] = np.sqrt(moderated / pairs[cells])

    # How far the mean lies beyond the margin, in standard errors, upwards and downwards.
    beyond = np.stack([mean - margin, -mean - margin]) / error
    p = special.stdtr(freedom, -beyond)
    found = np.zeros(p.shape, bool)
    found[:, valid] = (stats.false_discovery_control(p[:, valid].ravel()) <= rules.q).reshape(2, -1)
    within = (special.stdtr(freedom, beyond) <= rules.same).all(axis=0)
    verdicts = np.select(
        [~valid, found[0], found[1], within],
        [Verdict.INVALID, Verdict.SLOWER, Verdict.FASTER, Verdict.SAME],
        Verdict.INCONCLUSIVE,
    )
    reach = special.stdtrit(freedom, 0.975) * error
    columns = (c.tolist() for c in (verdicts, mean, mean - reach, mean + reach, margin, *p, pairs))
    return [Finding(Verdict(verdict), *numbers) for verdict, *numbers in zip(*columns, strict=True)]


def confirm(first: Finding, again: Finding, rules: Rules | None = None) -> Finding:
    """What is said of a flagged cell after its second look.

    The numbers are the second look's own: a cell was flagged because its first look came out large, so that the first
    ratio, or one pooled with it, says too much.

    Args:
        first: SLOWER or FASTER.
        again: the same cell in new processes, judged among the flagged cells alone.
        rules: limits and error rates; the default ones if None.

    Raises:
        ValueError: the first look flagged nothing.
    """
    rules = rules or Rules()
    if first.verdict not in (Verdict.SLOWER, Verdict.FASTER):
        raise ValueError(f"only a flagged cell is confirmed, got {first.verdict}")
    if again.verdict is Verdict.INVALID:
        return again
    p = again.p_slower if first.verdict is Verdict.SLOWER else again.p_faster
    if p <= rules.confirm:
        return replace(again, verdict=first.verdict)
    return again if again.verdict is Verdict.SAME else replace(again, verdict=Verdict.INCONCLUSIVE)


def control_failure(control: Sequence[Finding], aa: Sequence[Finding], rules: Rules | None = None) -> str | None:
    """Why a run says nothing about its commits, or None if it may.

    Both arms of a control ran the same code. It fails where one of its cells lies beyond its margin (corrected for the
    control's own cells, however many the grid has), or where all of them together lie beyond half of it: a shift of
    everything by less than the margin is enough to carry small true differences past it. The cells share their
    processes, so that their mean is taken to be no more certain than one of them.

    Args:
        control: cells of the frozen kernel, one arm from each commit's processes.
        aa: cells timed in two processes of the base commit.
        rules: limits and error rates; the default ones if None.
    """
    from scipy import stats

    rules = rules or Rules()
    for name, findings in (("the frozen control kernel", control), ("the A/A arm (base against base)", aa)):
        if not findings:
            return f"{name} was not measured"
        if lost := sum(f.verdict is Verdict.INVALID for f in findings):
            return f"{name} has too few pairs of processes in {lost} of {len(findings)} cells"
        p = stats.false_discovery_control([p for f in findings for p in (f.p_slower, f.p_faster)])
        beyond = (p <= rules.q * rules.confirm).reshape(-1, 2).any(axis=1)
        if moved := [f for f, b in zip(findings, beyond, strict=True) if b]:
            far = max(moved, key=lambda f: abs(f.log_ratio))
            return (
                f"{name} moved in {len(moved)} of {len(findings)} cells, at most by {far.ratio - 1:+.1%} where "
                f"{math.expm1(far.margin):.1%} is allowed: something other than the commit differs between its arms"
            )
        mean, margin = (float(np.mean([getattr(f, n) for f in findings])) for n in ("log_ratio", "margin"))
        if abs(mean) - _CONTROL_REACH * float(np.mean([f.high - f.low for f in findings])) / 2 > margin / 2:
            return (
                f"{name} moved by {math.expm1(mean):+.1%} in the mean of its {len(findings)} cells where "
                f"{math.expm1(margin / 2):.1%} is allowed: something other than the commit differs between its arms"
            )
    return None
