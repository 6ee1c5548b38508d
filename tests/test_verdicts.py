"""Verdicts from log ratios: each step against numbers worked by hand or by scipy, and what must not change them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.compare.moderation import moderate, prior
from benchmarks.compare.verdicts import Finding, Rules, Verdict, confirm, control_failure, judge, pair_log_ratio

SLOWER, FASTER, SAME, INCONCLUSIVE, INVALID = Verdict
MIRRORED = {SLOWER: FASTER, FASTER: SLOWER, SAME: SAME, INCONCLUSIVE: INCONCLUSIVE, INVALID: INVALID}
EULER = 0.5772156649015329


def alone(x, rules=None):
    """Cells in groups of one: nothing to be moderated by."""
    return judge(x, np.arange(len(x)), np.zeros(len(x)), rules)


def numbers(findings):
    return np.array([(f.log_ratio, f.low, f.high, f.margin, f.p_slower, f.p_faster, f.pairs) for f in findings])


class TestPairLogRatio:
    def test_median_of_duos(self):
        base = np.ones(6)
        head = np.exp([0.01, 0.03, 0.10, 0.30, 0.05, 0.01])  # duos 0.02, 0.20, 0.03
        assert pair_log_ratio(base, head) == pytest.approx(0.03)
        assert pair_log_ratio(base[:4], head[:4]) == pytest.approx(0.11)

    def test_a_straight_drift_cancels(self):
        taken = np.exp(0.03 * np.arange(16)).reshape(8, 2)  # sample by sample, turns AB, BA ...
        base = np.where(np.arange(8) % 2, taken[:, 1], taken[:, 0])
        head = np.where(np.arange(8) % 2, taken[:, 0], taken[:, 1])
        assert pair_log_ratio(base, 1.02 * head) == pytest.approx(math.log(1.02))

    def test_leading_axes_and_missing_processes(self):
        rng = np.random.default_rng(0)
        base, head = rng.uniform(1, 2, (2, 3, 5, 8))
        base[1, 2] = np.nan
        ratios = pair_log_ratio(base, head)
        assert ratios.shape == (3, 5)
        assert np.argwhere(np.isnan(ratios)).tolist() == [[1, 2]]
        assert ratios[2, 4] == pair_log_ratio(base[2, 4], head[2, 4])

    @pytest.mark.parametrize(
        ("base", "head", "message"),
        [
            (np.ones(3), np.ones(3), "m must be even and at least 2, got 3"),
            (np.ones(0), np.ones(0), "m must be even and at least 2, got 0"),
            (np.ones(4), np.ones(2), "of one shape"),
            (np.ones(2), np.array([1.0, 0.0]), "head must hold positive finite seconds"),
            (np.array([math.inf, 1.0]), np.ones(2), "base must hold positive finite seconds"),
        ],
    )
    def test_errors(self, base, head, message):
        with pytest.raises(ValueError, match=message):
            pair_log_ratio(base, head)


class TestModeration:
    def test_by_hand(self):
        """Two variances of 9 degrees of freedom, so far apart that their logarithms' excess variance is trigamma(2):
        the prior then has 4. Digamma and trigamma at whole and half numbers from their series.
        """
        trigamma_2, digamma_2 = math.pi**2 / 6 - 1, 1 - EULER
        trigamma_45 = math.pi**2 / 2 - 4 * (1 + 1 / 9 + 1 / 25 + 1 / 49)
        digamma_45 = -EULER - 2 * math.log(2) + 2 * (1 + 1 / 3 + 1 / 5 + 1 / 7)
        apart = math.sqrt(2 * (trigamma_2 + trigamma_45))  # of two logarithms with that variance
        variances, freedom = np.array([1.0, math.exp(apart)]), np.array([9.0, 9.0])
        variance_0 = math.exp(apart / 2 - digamma_45 + math.log(4.5) + digamma_2 - math.log(2))
        assert prior(variances, freedom) == pytest.approx((4.0, variance_0))
        moderated, total = moderate(variances, freedom)
        assert moderated == pytest.approx((4 * variance_0 + 9 * variances) / 13)
        assert total == pytest.approx([13, 13])

    def test_recovers_the_prior_it_was_drawn_from(self):
        """Variances of 5,000 cells about a scaled inverse chi-square, some cells with fewer pairs."""
        rng = np.random.default_rng(1)
        true = 2e-5 * 6 / rng.chisquare(6, 5000)
        freedom = rng.choice([3.0, 9.0], 5000)
        variances = true * rng.chisquare(freedom) / freedom
        freedom_0, variance_0 = prior(variances, freedom)
        assert freedom_0 == pytest.approx(6, rel=0.15)
        assert variance_0 == pytest.approx(2e-5, rel=0.05)
        moderated, _ = moderate(variances, freedom)
        assert np.mean(np.log(moderated / true) ** 2) < 0.6 * np.mean(np.log(variances / true) ** 2)

    def test_equal_variances_are_pooled(self):
        moderated, total = moderate(np.array([2.0, 2.0, 2.0]), np.array([9.0, 9.0, 4.0]))
        assert moderated == pytest.approx([2, 2, 2])
        assert total == pytest.approx([22, 22, 22])  # not infinite: no more than the cells had

    def test_a_group_of_one_keeps_its_variance(self):
        moderated, total = moderate(np.array([3.0]), np.array([9.0]))
        assert (moderated, total) == (pytest.approx([3.0]), pytest.approx([9.0]))

    def test_zero_variances(self):
        moderated, total = moderate(np.array([0.0, 1e-6, 1e-6, 2e-6]), np.full(4, 9.0))
        assert (moderated > 0).all()
        assert (total >= 9).all()
        moderated, _ = moderate(np.zeros(3), np.full(3, 9.0))
        assert moderated == pytest.approx(1e-14)


class TestJudge:
    def test_groups_of_one_are_scipys_t_tests(self):
        rng = np.random.default_rng(2)
        x = rng.normal(0.012, 0.004, (4, 10))
        for row, f in zip(x, alone(x), strict=True):
            assert f.p_slower == pytest.approx(stats.ttest_1samp(row, 0.01, alternative="greater").pvalue)
            assert f.p_faster == pytest.approx(stats.ttest_1samp(row, -0.01, alternative="less").pvalue)
            interval = stats.ttest_1samp(row, 0).confidence_interval(0.95)
            assert (f.low, f.high) == pytest.approx((interval.low, interval.high))
            assert (f.ratio, f.ratio_low, f.ratio_high) == pytest.approx(np.exp([row.mean(), *interval]))
            assert f.pairs == 10

    def test_each_verdict(self):
        noise = 0.001 * np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
        x = np.array([0.03, -0.03, 0.0, 0.01, 0.5])[:, None] + noise
        x[4, :3] = np.nan
        assert [f.verdict for f in alone(x)] == [SLOWER, FASTER, SAME, INCONCLUSIVE, INVALID]

    def test_same_takes_both_one_sided_tests(self):
        """The level of each test decides, at a mean just inside and just outside."""
        noise = 0.002 * np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
        reach = stats.t.isf(0.05, 4) * noise.std(ddof=1) / math.sqrt(5)
        for sign in (-1, 1):
            x = sign * (0.01 - reach + np.array([[-1e-6], [1e-6]])) + noise
            assert [f.verdict for f in alone(x)] == [SAME, INCONCLUSIVE]

    def test_margin_grows_with_sigma(self):
        noise = 0.001 * np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
        x = np.tile(0.03 + noise, (3, 1))
        findings = judge(x, np.arange(3), [0.0, 0.002, 0.02])
        assert [f.margin for f in findings] == pytest.approx([0.01, 0.01, 0.06])
        assert [f.verdict for f in findings] == [SLOWER, SLOWER, SAME]

    def test_false_discovery_rate_over_cells_and_directions(self):
        """Two tests a cell: with 200 cells, a p value of q / 400 passes and one of q / 300 does not. Alone, both do."""
        x = np.random.default_rng(3).normal(0, 0.001, (200, 5))
        unit = np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
        error = unit.std(ddof=1) / math.sqrt(5)
        for tests, verdict in ((401, SLOWER), (300, INCONCLUSIVE)):
            x[0] = 0.01 + 0.001 * (stats.t.isf(0.2 / tests, 4) * error + unit)
            assert alone(x)[0].verdict is verdict
            assert alone(x[:1])[0].verdict is SLOWER

    def test_identical_numbers(self):
        """A coarse timer: no scatter at all, in all cells of a group or in some."""
        x = np.full((6, 10), 0.02)
        x[1], x[2], x[3] = 0.0, -0.02, 0.01
        expected = [SLOWER, SAME, FASTER, INCONCLUSIVE, SLOWER, SLOWER]
        assert [f.verdict for f in judge(x, np.zeros(6), np.zeros(6))] == expected
        assert [f.verdict for f in alone(x)] == expected
        x[4:] += np.random.default_rng(4).normal(0, 0.001, (2, 10))
        findings = judge(x, np.zeros(6), np.zeros(6))
        assert [f.verdict for f in findings] == expected
        assert np.isfinite(numbers(findings)).all()

    def test_a_quiet_cell_borrows_scatter_from_its_group(self):
        """Ten pairs that agree by chance: its own t test is sure, its group knows better."""
        rng = np.random.default_rng(5)
        x = rng.normal(0, 0.02, (40, 10))
        x[0] = 0.013 + 1e-4 * np.linspace(-1, 1, 10)
        assert judge(x, np.zeros(40), np.zeros(40))[0].verdict is INCONCLUSIVE
        assert judge(x, np.arange(40) == 0, np.zeros(40))[0].verdict is SLOWER

    def test_invalid_cells_have_no_numbers_and_disturb_none(self):
        rng = np.random.default_rng(6)
        x = rng.normal(0.01, 0.01, (20, 6))
        lost = x.copy()
        lost[3, 1:5] = np.nan
        findings = judge(lost, np.zeros(20), np.zeros(20))
        f = findings[3]
        assert (f.verdict, f.pairs, f.margin) == (INVALID, 2, 0.01)
        assert np.isnan([f.log_ratio, f.low, f.high, f.p_slower, f.p_faster, f.ratio]).all()
        others = np.arange(20) != 3
        assert findings[:3] + findings[4:] == judge(x[others], np.zeros(19), np.zeros(19))

    def test_nothing_measured(self):
        assert [f.verdict for f in alone(np.full((2, 10), np.nan))] == [INVALID, INVALID]
        assert [f.verdict for f in alone(np.empty((2, 0)))] == [INVALID, INVALID]
        assert alone(np.empty((0, 10))) == []

    @pytest.mark.parametrize(
        ("x", "groups", "sigma", "message"),
        [
            (np.zeros(5), np.zeros(5), np.zeros(5), r"want log_ratios \[cells, K\]"),
            (np.zeros((2, 5)), np.zeros(3), np.zeros(2), r"got \(2, 5\), \(3,\), \(2,\)"),
            (np.full((1, 5), math.inf), [0], [0.0], "finite or nan"),
            (np.zeros((1, 5)), [0], [math.nan], "sigma at least 0"),
            (np.zeros((1, 5)), [0], [-0.1], "sigma at least 0"),
        ],
    )
    def test_errors(self, x, groups, sigma, message):
        with pytest.raises(ValueError, match=message):
            judge(x, groups, sigma)


PROPERTIES = settings(max_examples=100, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def measurements(draw):
    """Base and head `[cells, K, m]`, groups and sigma: cells from far faster to far slower, loud and quiet, coarse
    timers, lost processes.
    """
    cells, rounds, pairs = draw(st.integers(1, 12)), draw(st.integers(3, 12)), 2 * draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(seeds))
    effect = rng.choice([-0.05, -0.02, -0.01, 0.0, 0.003, 0.01, 0.02, 0.05], (cells, 1, 1))
    scatter = 10.0 ** rng.uniform(-4, -1.5, (cells, 1, 1))
    base = np.exp(rng.uniform(-12, 0, (cells, 1, 1)) + scatter * rng.standard_normal((cells, rounds, pairs)))
    head = base * np.exp(effect + scatter * rng.standard_normal((cells, rounds, 1)))
    lost = rng.random((cells, rounds)) < draw(st.sampled_from([0.0, 0.3]))
    base[lost] = np.nan
    groups = rng.integers(0, draw(st.integers(1, 4)), cells)
    return base, head, groups, rng.choice([0.0, 0.002, 0.01], cells)


def judged(measured, base=None, head=None):
    old_base, old_head, groups, sigma = measured
    return judge(
        pair_log_ratio(old_base if base is None else base, old_head if head is None else head), groups, sigma
    )  # fmt: skip


def assert_alike(a, b):
    assert [f.verdict for f in a] == [f.verdict for f in b]
    assert numbers(a) == pytest.approx(numbers(b), rel=1e-6, abs=1e-9, nan_ok=True)


class TestProperties:
    @PROPERTIES
    @given(measurements(), st.floats(1e-3, 1e3))
    def test_scale(self, measured, scale):
        assert_alike(judged(measured, measured[0] * scale, measured[1] * scale), judged(measured))

    @PROPERTIES
    @given(measurements(), seeds)
    def test_a_shift_common_to_both_arms(self, measured, seed):
        """Of a pair of processes, of each of its cells and turns."""
        shift = np.exp(np.random.default_rng(seed).normal(0, 0.1, measured[0].shape))
        assert_alike(judged(measured, measured[0] * shift, measured[1] * shift), judged(measured))

    @PROPERTIES
    @given(measurements())
    def test_swapped_arms_mirror(self, measured):
        swapped, kept = judged(measured, measured[1], measured[0]), judged(measured)
        mirrored = [
            replace(
                f, verdict=MIRRORED[f.verdict], log_ratio=-f.log_ratio, low=-f.high, high=-f.low,
                p_slower=f.p_faster, p_faster=f.p_slower,
            )
            for f in kept
        ]  # fmt: skip
        assert_alike(swapped, mirrored)

    @PROPERTIES
    @given(measurements(), seeds)
    def test_order_of_process_pairs(self, measured, seed):
        order = np.random.default_rng(seed).permutation(measured[0].shape[1])
        assert_alike(judged(measured, measured[0][:, order], measured[1][:, order]), judged(measured))

    @PROPERTIES
    @given(measurements(), seeds)
    def test_order_of_cells(self, measured, seed):
        order = np.random.default_rng(seed).permutation(len(measured[0]))
        kept = judged(measured)
        assert_alike(judged([part[order] for part in measured]), [kept[i] for i in order])

    @PROPERTIES
    @given(measurements(), st.integers(0, 3))
    def test_a_pair_that_no_cell_has_is_as_if_never_begun(self, measured, where):
        missing = [np.insert(part, where, np.nan, axis=1) for part in measured[:2]]
        assert_alike(judged(measured, *missing), judged(measured))

    @PROPERTIES
    @given(measurements())
    def test_numbers_make_sense(self, measured):
        for f in judged(measured):
            assert f.margin >= 0.01
            if f.verdict is INVALID:
                assert f.pairs < 3
                continue
            assert f.low < f.log_ratio < f.high
            assert 0 <= f.p_slower <= 1
            assert 0 <= f.p_faster <= 1
            assert f.verdict is not SLOWER or f.log_ratio > f.margin
            assert f.verdict is not FASTER or f.log_ratio < -f.margin
            assert f.verdict is not SAME or abs(f.log_ratio) < f.margin

    @PROPERTIES
    @given(measurements(), st.floats(1, 3))
    def test_a_larger_sigma_takes_flags_away(self, measured, factor):
        base, head, groups, sigma = measured
        flagged = {SLOWER, FASTER}
        before, after = judged(measured), judged((base, head, groups, sigma * factor + 0.001))
        assert all(b.verdict in flagged for b, a in zip(before, after, strict=True) if a.verdict in flagged)


def finding(verdict, log_ratio, p_slower=0.5, p_faster=0.5):
    return Finding(verdict, log_ratio, log_ratio - 0.002, log_ratio + 0.002, 0.01, p_slower, p_faster, 10)


class TestConfirm:
    first = finding(SLOWER, 0.030, p_slower=1e-9)

    def test_stands_with_the_second_looks_own_numbers(self):
        again = finding(INCONCLUSIVE, 0.018, p_slower=0.05)
        assert confirm(self.first, again) == replace(again, verdict=SLOWER)
        faster = finding(INCONCLUSIVE, -0.018, p_faster=0.04)
        assert confirm(finding(FASTER, -0.03), faster).verdict is FASTER

    def test_falls(self):
        assert confirm(self.first, finding(INCONCLUSIVE, 0.013, p_slower=0.06)).verdict is INCONCLUSIVE
        assert confirm(self.first, finding(SAME, 0.001, p_slower=0.99)).verdict is SAME
        assert (
            confirm(self.first, finding(INCONCLUSIVE, 0.018, p_slower=0.04), Rules(confirm=0.01)).verdict
            is INCONCLUSIVE
        )

    def test_the_other_way_is_no_confirmation(self):
        assert confirm(self.first, finding(FASTER, -0.03, 1.0, 1e-9)).verdict is INCONCLUSIVE
        assert confirm(finding(FASTER, -0.03), finding(SLOWER, 0.03, 1e-9, 1.0)).verdict is INCONCLUSIVE

    def test_a_second_look_without_processes(self):
        nan = math.nan
        assert confirm(self.first, Finding(INVALID, nan, nan, nan, 0.01, nan, nan, 1)).verdict is INVALID

    def test_only_flags_are_confirmed(self):
        with pytest.raises(ValueError, match="only a flagged cell is confirmed, got SAME"):
            confirm(finding(SAME, 0.0), self.first)


class TestControl:
    still = (finding(SAME, 0.001, 1.0, 1.0),) * 4

    def test_still(self):
        assert control_failure(self.still, self.still) is None

    def test_one_cell_moved(self):
        moved = [*self.still, finding(FASTER, -0.021, 1.0, 1e-5)]
        assert control_failure(moved, self.still) == (
            "the frozen control kernel moved in 1 of 5 cells, at most by -2.1% where 1.0% is allowed: "
            "something other than the commit differs between its arms"
        )
        assert control_failure(self.still, moved).startswith("the A/A arm (base against base) moved in 1 of 5 cells")

    def test_all_moved_by_less_than_the_margin(self):
        reason = control_failure([finding(INCONCLUSIVE, 0.009, 0.7, 1.0)] * 4, self.still)
        assert reason.startswith("the frozen control kernel moved by +0.9% in the mean of its 4 cells where 0.5%")
        assert control_failure([finding(SAME, 0.007, 0.99, 1.0)] * 4, self.still) is None

    def test_not_measured(self):
        assert control_failure([], self.still) == "the frozen control kernel was not measured"
        assert control_failure(self.still, []) == "the A/A arm (base against base) was not measured"
        lost = [*self.still, finding(INVALID, math.nan, math.nan, math.nan)]
        assert control_failure(lost, self.still).startswith("the frozen control kernel has too few pairs")
