import json

import pytest

from benchmarks.agreement import Pair, pair_rows, read_rows, report
from benchmarks.cli import main


def write(path, scale=1.0, drop=()):
    results = {
        "bench_rope.Rope.time_triton": [
            [2e-6 * scale, 60e-6 * scale, float("nan"), None],
            [["'a'", "'b'"], ["1", "2"]],
        ],
        "bench_static.CompiledKernel.track_registers": [[32], []],
    }
    columns = ["result", "params"]
    kept = {name: row for name, row in results.items() if name not in drop}
    path.write_text(json.dumps({"result_columns": columns, "results": kept}), encoding="utf-8")
    return path


def test_rows_are_timed_rows_with_a_number(tmp_path):
    assert read_rows(write(tmp_path / "a.json")) == {
        "bench_rope.Rope.time_triton('a', 1)": 2e-6,
        "bench_rope.Rope.time_triton('a', 2)": 60e-6,
    }


def test_limits_by_length_of_row(tmp_path):
    rows = read_rows(write(tmp_path / "a.json")), read_rows(write(tmp_path / "b.json", scale=1.05))
    short, long = pair_rows(*rows)
    assert short.difference == pytest.approx(0.05)
    assert short.difference < short.limit
    assert long.difference > long.limit
    assert "time_triton('a', 2): 60.00 and 63.00 us, 5.0%" in report([short, long])


def test_host_rows_have_no_limit_but_are_shown():
    pair = Pair("bench_host.HostCost.time_triton('a')", 47e-6, 88e-6)
    assert pair.difference < pair.limit
    assert "| host cost | 1 | none | 87.23% |" in report([pair])


def test_a_missing_row_is_never_agreement():
    with pytest.raises(ValueError, match="1 rows stand in one run only"):
        pair_rows({"a": 1.0, "b": 1.0}, {"a": 1.0})


def test_exit_codes(tmp_path, capsys):
    first, near, far = (write(tmp_path / f"{s}.json", scale=s) for s in (1.0, 1.01, 1.05))
    assert main(["agreement", str(first), str(near)]) == 0
    assert main(["agreement", str(first), str(far)]) == 1
    assert main(["agreement", str(first), str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_difference_does_not_depend_on_order():
    assert Pair("r", 1.0, 1.1).difference == Pair("r", 1.1, 1.0).difference
