import random

import pytest

from benchmarks.statistics import Summary, median_interval, relative_difference


def test_summary():
    summary = Summary.of([float(x) for x in range(1, 201)])
    assert summary == Summary(count=200, mean=100.5, median=100.5, p99=198.0, min=1.0, max=200.0)


def test_one_sample_is_all_of_its_statistics():
    assert Summary.of([3.0]) == Summary(1, 3.0, 3.0, 3.0, 3.0, 3.0)


def test_no_sample_is_an_error():
    with pytest.raises(ValueError, match="samples must hold at least one number"):
        Summary.of([])


def test_relative_difference_is_symmetric():
    assert relative_difference(1.0, 1.02) == relative_difference(1.02, 1.0) == pytest.approx(0.02)


def test_median_interval():
    """Ranks from tables of the sign test: 10 samples give the second and ninth, 100 the 40th and 61st."""
    assert median_interval([float(x) for x in range(1, 11)]) == (2.0, 9.0)
    assert median_interval([float(x) for x in range(100, 0, -1)]) == (40.0, 61.0)
    assert median_interval([5.0]) == (5.0, 5.0)
    assert median_interval([5.0, 7.0, 6.0]) == (5.0, 7.0)
    with pytest.raises(ValueError, match="at least one number"):
        median_interval([])


def test_median_interval_covers():
    generator = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval([generator.expovariate(1.0) for _ in range(10)])
        hits += low <= 0.6931 <= high
    assert 0.95 <= hits / 2000 <= 0.995
