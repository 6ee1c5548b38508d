"""A simulated GPU: the samples of a comparison, and what moves them."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.compare.moderation import Floats


@dataclass(frozen=True, slots=True)
class Noise:
    """What moves a time, as a share of it. Time runs sample by sample, cell by cell, round by round.

    Attributes:
        call: standard deviation of a sample on its own.
        outlier_share: share of the samples that are hit by something and take longer.
        outlier_mean: mean of the exponential by which those take longer.
        drift: a round ends so much slower or faster than it began (heat), in a straight line, direction by chance.
        wander: stationary standard deviation of an autoregressive walk over the samples.
        memory: samples over which the walk forgets (a cell takes twice `pairs` samples).
        clock: the slower of two clock states takes so much longer.
        switch: chance that the clock changes its state after a sample.
        run_shift: standard deviation of a cell's time from one run of the whole procedure to the next.
        process: standard deviation of a cell's time from process to process (addresses, say): each of the two processes
            of a pair has its own, so that a pair's log ratio scatters by 1.4 times this.
        whole_process: the same for all cells of a process at once.
        arm: standard deviation of a cell's ratio between the two commits' environments though their code is the same;
            drawn once for a pull request, so that neither more rounds nor the second look average it out.
        tick: quantum of the timer, as a share of a sample between half of it and all of it.
        unlike: standard deviation of the logarithm of a factor on `call` and `process`, by cell: cells of a like size
            that are not alike.
    """

    call: float = 0.003
    outlier_share: float = 0.0
    outlier_mean: float = 0.05
    drift: float = 0.0
    wander: float = 0.0
    memory: float = 50.0
    clock: float = 0.0
    switch: float = 0.002
    run_shift: float = 0.0
    process: float = 0.0
    whole_process: float = 0.0
    arm: float = 0.0
    tick: float = 0.0
    unlike: float = 0.0


MODERATE = Noise(
    call=0.003,
    outlier_share=0.01,
    outlier_mean=0.05,
    drift=0.01,
    wander=0.005,
    clock=0.04,
    run_shift=0.015,
    process=0.004,
    arm=0.002,
)

# Each by itself is several times what moderate noise has of it.
SCENARIOS: dict[str, Noise] = {
    "iid": Noise(),
    "drift": Noise(drift=0.10, wander=0.02),
    "clock states": Noise(clock=0.15, switch=0.01),
    "run shift": Noise(run_shift=0.05, arm=0.002),
    "process effect": Noise(process=0.015),
    "whole processes": Noise(process=0.004, whole_process=0.01),
    "heavy tails": Noise(outlier_share=0.10, outlier_mean=0.20),
    "ticks": Noise(call=0.001, process=0.001, tick=0.005),
    "unlike cells": replace(MODERATE, unlike=0.7),
    "moderate": MODERATE,
}


@dataclass(frozen=True, slots=True)
class Traits:
    """What stays with a cell through a pull request, `[cells]` each.

    Attributes:
        arm: log ratio between the two environments though the code is the same.
        scale: factor on `call` and `process`.
    """

    arm: Floats
    scale: Floats

    @classmethod
    def draw(cls, noise: Noise, cells: int, rng: np.random.Generator) -> "Traits":
        """Those of new cells."""
        return cls(noise.arm * rng.standard_normal(cells), np.exp(noise.unlike * rng.standard_normal(cells)))

    def of(self, cells: NDArray[np.bool_]) -> "Traits":
        """Those of some of the cells."""
        return Traits(self.arm[cells], self.scale[cells])


def simulate(
    noise: Noise,
    cells: int,
    rounds: int,
    pairs: int,
    effect: ArrayLike,
    rng: np.random.Generator,
    traits: Traits | None = None,
) -> Floats:
    """Samples of one run of the procedure.

    Args:
        noise: what moves them.
        cells: number of cells, timed one after the other in each round.
        rounds: number of pairs of processes.
        pairs: turns of a cell in a round: AB, BA, AB, BA ...; even.
        effect: by how much HEAD is slower, as a share of BASE's time; one number or `[cells]`.
        rng: where chance comes from.
        traits: of the cells, where they were measured before; new ones if None.

    Returns:
        `[cells, rounds, 2, pairs]` seconds of BASE and HEAD in the order of the turns.
    """
    shape = (rounds, cells, pairs, 2)
    size = math.prod(shape)
    traits = traits or Traits.draw(noise, cells, rng)

    # By time: [rounds, cells, turns, place in the turn].
    time = rng.standard_normal(shape)
    time *= noise.call * traits.scale[:, None, None]
    flat = time.reshape(-1)
    if noise.outlier_share:
        hit = rng.integers(size, size=rng.binomial(size, noise.outlier_share))
        flat[hit] += np.log1p(rng.exponential(noise.outlier_mean, len(hit)))
    if noise.drift:
        line = np.linspace(0, noise.drift, size // rounds).reshape(shape[1:])
        time += line * rng.choice([-1.0, 1.0], rounds)[:, None, None, None]
    if noise.wander:
        flat += _walk(noise, size, rng)
    if noise.clock:
        switches = np.zeros(size, np.int64)
        np.add.at(switches, rng.integers(size, size=rng.binomial(size, noise.switch)), 1)
        flat += math.log1p(noise.clock) * (np.cumsum(switches) % 2)

    # By arm: in every second turn HEAD comes first.
    time[:, :, 1::2] = time[:, :, 1::2, ::-1]
    logs = time.transpose(1, 0, 3, 2)
    logs += noise.process * traits.scale[:, None, None, None] * rng.standard_normal((cells, rounds, 2, 1))
    logs += noise.whole_process * rng.standard_normal((rounds, 2, 1))
    logs += noise.run_shift * rng.standard_normal((cells, 1, 1, 1))
    logs[:, :, 1] += (np.log1p(effect) + traits.arm)[:, None, None]
    logs += np.log1p(rng.random((cells, 1, 1, 1)))  # seconds between one and two
    samples: Floats = np.exp(logs)
    return np.maximum(np.rint(samples / noise.tick), 1) * noise.tick if noise.tick else samples


def _walk(noise: Noise, size: int, rng: np.random.Generator) -> Floats:
    from scipy import signal

    keep = math.exp(-1 / noise.memory)
    steps = rng.standard_normal(size) * noise.wander * math.sqrt(1 - keep**2)
    steps[0] = noise.wander * rng.standard_normal()
    walk: Floats = signal.lfilter([1.0], [1.0, -keep], steps)
    return walk
