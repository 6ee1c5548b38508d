import pytest

from benchmarks.statistics import Summary, relative_difference


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
