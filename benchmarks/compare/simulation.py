"""Pull requests measured on a simulated GPU: the proof of `verdicts`.

`python -m benchmarks.compare.simulation` prints the tables of docs/comparing.md.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.compare.moderation import Floats
from benchmarks.compare.noise import MODERATE, SCENARIOS, Noise, Traits, simulate
from benchmarks.compare.verdicts import Finding, Rules, Verdict, confirm, control_failure, judge, pair_log_ratio

CELLS, ROUNDS, PAIRS = 500, 10, 8
_CELLS_A_GROUP = 50


def _judge(samples: Floats, sigma: float = 0.0, rules: Rules | None = None) -> list[Finding]:
    groups = np.arange(len(samples)) // _CELLS_A_GROUP
    return judge(pair_log_ratio(samples[:, :, 0], samples[:, :, 1]), groups, np.full(len(samples), sigma), rules)


def pull_request(
    noise: Noise,
    effect: ArrayLike,
    rng: np.random.Generator,
    sigma: float = 0.0,
    rules: Rules | None = None,
) -> tuple[list[Finding], list[Finding]]:
    """A whole comparison: all cells, and the flagged ones again in new processes.

    Args:
        noise: what moves the samples.
        effect: by how much HEAD is slower, as a share of BASE's time; one number or `[CELLS]`.
        rng: where chance comes from.
        sigma: standard deviation of a cell's mean log ratio over A/A runs, as far as the procedure knows it.
        rules: limits and error rates; the default ones if None.

    Returns:
        Findings of the first look, and what is said in the end.
    """
    effect = np.broadcast_to(np.asarray(effect, np.float64), CELLS)
    traits = Traits.draw(noise, CELLS, rng)
    first = _judge(simulate(noise, CELLS, ROUNDS, PAIRS, effect, rng, traits), sigma, rules)
    flagged = np.array([f.verdict in (Verdict.SLOWER, Verdict.FASTER) for f in first])
    if not (count := int(flagged.sum())):
        return first, first
    samples = simulate(noise, count, ROUNDS, PAIRS, effect[flagged], rng, traits.of(flagged))
    last = list(first)
    for cell, again in zip(np.flatnonzero(flagged), _judge(samples, sigma, rules), strict=True):
        last[cell] = confirm(first[cell], again, rules)
    return first, last


@dataclass(frozen=True, slots=True)
class Rates:
    """Cells counted over pull requests.

    Attributes:
        planted: cells that were made slower.
        found: those of them that were confirmed slower.
        flagged: others that the first look flagged.
        confirmed: others that were confirmed slower or faster, and planted cells confirmed faster.
        same: others called SAME.
        others: all cells that were not made slower.
    """

    planted: int
    found: int
    flagged: int
    confirmed: int
    same: int
    others: int


def power(
    noise: Noise,
    effect: float,
    planted: int,
    runs: int,
    rng: np.random.Generator,
    sigma: float = 0.0,
    rules: Rules | None = None,
) -> Rates:
    """Counts over pull requests in which `planted` cells, drawn anew for each, are slower by `effect`; the other
    arguments as in `pull_request`.
    """
    counts = []
    for _ in range(runs):
        slow = rng.permutation(CELLS) < planted
        first, last = pull_request(noise, np.where(slow, effect, 0.0), rng, sigma, rules)
        before, after = (np.array([f.verdict.value for f in findings]) for findings in (first, last))
        found = slow & (after == Verdict.SLOWER)
        flagged = np.isin(before, [Verdict.SLOWER, Verdict.FASTER]) & ~slow
        confirmed = np.isin(after, [Verdict.SLOWER, Verdict.FASTER]) & ~found
        counts.append([slow, found, flagged, confirmed, ~slow & (after == Verdict.SAME), ~slow])
    return Rates(*np.sum(counts, axis=(0, 2)).tolist())


def error_rates(
    noise: Noise, runs: int, rng: np.random.Generator, sigma: float = 0.0, rules: Rules | None = None
) -> Rates:
    """Counts over A/A pull requests. Sigma 0, a machine without any A/A run before, is the hardest case: a larger sigma
    widens margins and can only take flags away.
    """
    return power(noise, 0.0, 0, runs, rng, sigma, rules)


def aa_sigma(noise: Noise, runs: int, rng: np.random.Generator) -> float:
    """Standard deviation of a cell's mean log ratio over A/A runs, the root mean square over cells."""
    means = []
    for _ in range(runs):
        samples = simulate(noise, CELLS, ROUNDS, PAIRS, 0.0, rng)
        means.append(pair_log_ratio(samples[:, :, 0], samples[:, :, 1]).mean(axis=1))
    return float(np.sqrt(np.mean(np.square(means))))


def invalid_share(
    noise: Noise, shift: float, runs: int, rng: np.random.Generator, control: int = 4, aa: int = 10
) -> float:  # fmt: skip
    """Share of runs that the control declares invalid where all that HEAD's processes time, the frozen kernel too,
    takes `shift` longer for a reason that is not the commit.

    Args:
        noise: what moves the samples; the A/A arm has no arm effect, being of one environment.
        shift: as a share of the time.
        runs: number of runs.
        rng: where chance comes from.
        control: cells of the frozen kernel.
        aa: cells of the A/A arm.
    """
    invalid = 0
    for _ in range(runs):
        kernel = simulate(noise, control, ROUNDS, PAIRS, shift, rng)
        base = simulate(replace(noise, arm=0.0), aa, ROUNDS, PAIRS, 0.0, rng)
        invalid += control_failure(_judge(kernel), _judge(base)) is not None
    return invalid / runs


def _print_tables(runs: int) -> None:
    rng = np.random.default_rng(6)
    cells = runs * CELLS
    print(f"{runs} pull requests a row, {CELLS} cells, K = {ROUNDS}, m = {PAIRS}\n")
    print(
        "| A/A in | flagged at first | confirmed | of cells | called SAME | runs made INVALID |\n" + "| --- " * 6 + "|"
    )
    for name, noise in SCENARIOS.items():
        r = error_rates(noise, runs, rng)
        invalid = invalid_share(noise, 0.0, runs, rng)
        print(f"| {name} | {r.flagged} | {r.confirmed} | {cells:,} | {r.same / cells:.1%} | {invalid:.2%} |")

    sigma = aa_sigma(MODERATE, 40, rng)
    effects = (0.01, 0.02, 0.03, 0.05)
    print(f"\nmoderate noise, sigma {sigma:.2%}\n\n| slower cells of {CELLS} | 1 % | 2 % | 3 % | 5 % | wrong |")
    print("| --- " * 6 + "|")
    for planted in (1, 10, 50, 150):
        rates = [power(MODERATE, e, planted, runs, rng, sigma) for e in effects]
        found = " | ".join(f"{r.found / r.planted:.1%}" for r in rates)
        print(f"| {planted} | {found} | {sum(r.confirmed for r in rates)} |")

    print("\n| all of one arm slower by | 1 % | 1.5 % | 2 % | 3 % |\n" + "| --- " * 5 + "|")
    shares = [invalid_share(MODERATE, shift, runs, rng) for shift in (0.01, 0.015, 0.02, 0.03)]
    print("| runs made INVALID | " + " | ".join(f"{s:.1%}" for s in shares) + " |")


if __name__ == "__main__":
    _print_tables(runs=300)
