"""The proof: simulated pull requests in many kinds of noise, and mutants of the procedure that must fail it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from benchmarks.compare import simulation
from benchmarks.compare.noise import MODERATE, SCENARIOS, Noise, Traits, simulate
from benchmarks.compare.simulation import (
    CELLS,
    PAIRS,
    ROUNDS,
    aa_sigma,
    error_rates,
    invalid_share,
    power,
    pull_request,
)
from benchmarks.compare.verdicts import Rules, Verdict

PROCESSES, UNLIKE = SCENARIOS["process effect"], SCENARIOS["unlike cells"]


def assert_no_false_flags(noise, runs, seed, rules=None):
    """No A/A run was made on this machine before (sigma 0): the narrowest margin there is."""
    rates = error_rates(noise, runs, np.random.default_rng(seed), rules=rules)
    assert rates.others == runs * CELLS
    assert rates.confirmed == 0
    assert rates.flagged <= runs / 20, "the first look measures cells again for nothing"


@pytest.mark.parametrize("name", SCENARIOS)
def test_aa_pull_requests_are_never_flagged(name):
    assert_no_false_flags(SCENARIOS[name], 300, seed=1)


def assert_few_false_at_the_margin(noise, runs, seed):
    """The hardest cells that must not be flagged are those slower by just the margin: 450 of them, beside 50 slower by
    3 %. Of what is confirmed at most q * confirm, 1 %, are of the first kind.
    """
    rng = np.random.default_rng(seed)
    slow = np.arange(CELLS) % 10 == 0
    effect = np.where(slow, 0.03, math.expm1(0.01))
    confirmed = np.zeros(CELLS)
    for _ in range(runs):
        confirmed += [f.verdict is Verdict.SLOWER for f in pull_request(noise, effect, rng)[1]]
    assert confirmed[slow].mean() > 0.99 * runs
    assert confirmed[~slow].sum() <= 0.01 * confirmed.sum()


def test_few_false_ones_at_the_margin():
    assert_few_false_at_the_margin(Noise(process=0.004), 40, seed=3)


class TestMutants:
    """Procedures with a known fault fail the same checks, in fewer runs."""

    def test_nothing_mutated(self):
        for noise in (PROCESSES, UNLIKE, MODERATE):
            assert_no_false_flags(noise, 40, seed=2)

    def test_a_sample_taken_for_a_process(self, monkeypatch):
        monkeypatch.setattr(simulation, "pair_log_ratio", lambda a, b: np.log(b / a).reshape(len(a), ROUNDS * PAIRS))
        with pytest.raises(AssertionError, match=r"confirmed=[1-9]"):
            assert_no_false_flags(PROCESSES, 40, seed=2)

    def test_no_correction_for_many_cells(self, monkeypatch):
        monkeypatch.setattr(scipy.stats, "false_discovery_control", lambda ps: ps)
        with pytest.raises(AssertionError):
            assert_no_false_flags(UNLIKE, 40, seed=2)
        with pytest.raises(AssertionError):
            assert_few_false_at_the_margin(Noise(process=0.004), 10, seed=3)

    def test_no_margin(self):
        with pytest.raises(AssertionError, match=r"confirmed=[1-9]"):
            assert_no_false_flags(MODERATE, 10, seed=2, rules=Rules(margin=0.0, sigmas=0.0))


class TestPower:
    """A tenth of the grid is slower, in moderate noise, with the margin that A/A runs before gave."""

    @pytest.mark.parametrize(
        ("effect", "least", "most"), [(0.01, 0, 0.02), (0.02, 0.95, 1), (0.03, 0.99, 1), (0.05, 1, 1)]
    )
    def test_moderate_noise(self, effect, least, most):
        rng = np.random.default_rng(4)
        rates = power(MODERATE, effect, CELLS // 10, 60, rng, aa_sigma(MODERATE, 10, rng))
        assert rates.planted == 60 * CELLS // 10
        assert least <= rates.found / rates.planted <= most
        assert rates.confirmed == 0

    def test_faster_is_found_as_well(self):
        first, last = pull_request(MODERATE, np.where(np.arange(CELLS) < 50, -0.03, 0.0), np.random.default_rng(5))
        assert [f.verdict for f in last[:50]] == [Verdict.FASTER] * 50
        assert {f.verdict for f in last[50:]} <= {Verdict.SAME, Verdict.INCONCLUSIVE}
        assert first[50:] == last[50:]
        assert all(a != b for a, b in zip(first[:50], last[:50], strict=True))

    def test_most_of_the_unchanged_is_called_same(self):
        rates = error_rates(MODERATE, 20, np.random.default_rng(6))
        assert rates.same / rates.others > 0.97


class TestControl:
    @pytest.mark.parametrize("name", SCENARIOS)
    def test_holds_still_in_noise(self, name):
        assert invalid_share(SCENARIOS[name], 0.0, 200, np.random.default_rng(7)) == 0

    def test_sees_an_arm_slower_for_another_reason(self):
        assert invalid_share(MODERATE, 0.02, 100, np.random.default_rng(8)) == 1
        assert invalid_share(MODERATE, -0.02, 100, np.random.default_rng(9)) == 1


SILENT = Noise(call=0.0)


def logs(noise, cells=400, rounds=6, pairs=4, effect=0.0, seed=10):
    samples = simulate(noise, cells, rounds, pairs, effect, np.random.default_rng(seed))
    assert samples.shape == (cells, rounds, 2, pairs)
    return np.log(samples)


class TestNoise:
    """Each term, by itself, is as large as it says and where it says."""

    def test_silence_leaves_the_effect(self):
        x = logs(SILENT, effect=np.linspace(0, 0.1, 400))
        assert np.exp(x[:, :, 1] - x[:, :, 0]) == pytest.approx(
            np.broadcast_to(np.linspace(1, 1.1, 400)[:, None, None], (400, 6, 4))
        )

    def test_call(self):
        assert logs(Noise(call=0.003)).std(axis=(1, 2, 3)).mean() == pytest.approx(0.003, rel=0.05)

    def test_outliers(self):
        x = logs(replace(SILENT, outlier_share=0.05, outlier_mean=0.1))
        late = np.expm1(x - x.min(axis=(1, 2, 3), keepdims=True))
        assert (late > 1e-9).mean() == pytest.approx(0.05, rel=0.1)
        assert late[late > 1e-9].mean() == pytest.approx(0.1, rel=0.1)

    def test_drift_follows_the_turns(self):
        """AB BA AB BA: within a turn the later sample has drifted further, whichever commit's it is."""
        x = logs(replace(SILENT, drift=0.1))
        step = np.diff(x, axis=2)[:, :, 0]  # head less base
        assert np.abs(step) == pytest.approx(0.1 / (400 * 8 - 1), rel=1e-6)
        assert (np.sign(step[:, :, ::2]) == -np.sign(step[:, :, 1::2])).all()

    def test_wander(self):
        x = logs(replace(SILENT, wander=0.01, memory=5.0), cells=2000)
        assert x.std(axis=(1, 2, 3)).mean() == pytest.approx(0.01, rel=0.15)

    def test_clock(self):
        x = logs(replace(SILENT, clock=0.15, switch=0.05))
        states = np.ptp(x, axis=(1, 2, 3))
        switched = states[states > 1e-9]
        assert len(switched) > 200
        assert switched == pytest.approx(math.log(1.15))

    def test_run_shift_is_of_both_arms(self):
        x = logs(replace(SILENT, run_shift=0.05))
        assert np.ptp(x, axis=(1, 2, 3)).max() < 1e-12

    def test_process(self):
        x = logs(replace(SILENT, process=0.01)).mean(axis=3)
        assert (x[:, :, 1] - x[:, :, 0]).std(axis=1, ddof=1).mean() == pytest.approx(0.01 * math.sqrt(2), rel=0.1)

    def test_whole_process(self):
        x = logs(replace(SILENT, whole_process=0.01))
        ratio = x[:, :, 1] - x[:, :, 0]
        assert np.ptp(ratio, axis=0).max() < 1e-12
        assert ratio[0, :, 0].std() > 0.003

    def test_arm_lasts_through_both_looks(self):
        noise, rng = replace(SILENT, arm=0.002), np.random.default_rng(11)
        traits = Traits.draw(noise, 400, rng)
        assert traits.arm.std() == pytest.approx(0.002, rel=0.1)
        some = np.arange(400) % 2 == 0
        for cells, kept in ((400, traits), (200, traits.of(some))):
            x = np.log(simulate(noise, cells, 4, 4, 0.0, rng, kept))
            assert x[:, :, 1] - x[:, :, 0] == pytest.approx(np.broadcast_to(kept.arm[:, None, None], (cells, 4, 4)))

    def test_tick(self):
        samples = simulate(replace(SCENARIOS["ticks"], tick=0.01), 50, 4, 4, 0.0, np.random.default_rng(12))
        assert samples / 0.01 == pytest.approx(np.rint(samples / 0.01))
        assert samples.min() >= 0.99
        assert samples.max() <= 2.01

    def test_unlike(self):
        scale = Traits.draw(Noise(unlike=0.7), 4000, np.random.default_rng(13)).scale
        assert np.log(scale).std() == pytest.approx(0.7, rel=0.05)

    def test_moderate_is_that_of_the_issue(self):
        moderate = Noise(
            call=0.003, outlier_share=0.01, outlier_mean=0.05, drift=0.01, wander=0.005, clock=0.04,
            run_shift=0.015, process=0.004, arm=0.002,
        )  # fmt: skip
        assert SCENARIOS["moderate"] == moderate


def test_the_tables_of_the_page_can_be_printed(capsys):
    simulation._print_tables(runs=1)
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert set(rows) >= {*(f"| {name}" for name in SCENARIOS), "| 50", "| runs made INVALID"}
