import json

import pytest

from benchmarks.agreement import Pair, pair_rows, report
from benchmarks.cli import main
from benchmarks.results import Row, read_timed_rows

TRITON = "bench_rope.Rope", "triton"


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
    assert read_timed_rows(write(tmp_path / "a.json")) == {
        Row(*TRITON, ("a", 1)): 2e-6,
        Row(*TRITON, ("a", 2)): 60e-6,
    }


def test_limits_by_length_of_row(tmp_path):
    rows = read_timed_rows(write(tmp_path / "a.json")), read_timed_rows(write(tmp_path / "b.json", scale=1.05))
    short, long = pair_rows(*rows)
    assert short.difference == pytest.approx(0.05)
    assert short.difference < short.limit
    assert long.difference > long.limit
    assert "time_triton('a', 2): 60.00 and 63.00 us, 5.0%" in report([short, long])


def test_host_rows_have_no_limit_but_are_shown():
    pair = Pair(Row("bench_host.HostCost", "triton", ("a",)), 47e-6, 88e-6)
    assert pair.difference < pair.limit
    assert "| host cost | 1 | none | 87.23% |" in report([pair])


def test_a_missing_row_is_never_agreement():
    with pytest.raises(ValueError, match="1 rows stand in one run only"):
        pair_rows({Row(*TRITON, (1,)): 1.0, Row(*TRITON, (2,)): 1.0}, {Row(*TRITON, (1,)): 1.0})


def test_exit_codes(tmp_path, capsys):
    first, near, far = (write(tmp_path / f"{s}.json", scale=s) for s in (1.0, 1.01, 1.05))
    assert main(["agreement", str(first), str(near)]) == 0
    assert main(["agreement", str(first), str(far)]) == 1
    assert main(["agreement", str(first), str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "machine.json").write_text("{}", encoding="utf-8")
    assert main(["agreement", str(first), str(tmp_path / "machine.json")]) == 2
    assert "machine.json is not an asv result file" in capsys.readouterr().err


def test_plot(tmp_path, capsys):
    picture = tmp_path / "latency.png"
    assert main(["plot", str(write(tmp_path / "a.json")), str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    static_only = write(tmp_path / "b.json", drop=("bench_rope.Rope.time_triton",))
    assert main(["plot", str(static_only), str(picture)]) == 2
    assert "no row of GPU time" in capsys.readouterr().err


def test_difference_does_not_depend_on_order():
    row = Row(*TRITON, ())
    assert Pair(row, 1.0, 1.1).difference == Pair(row, 1.1, 1.0).difference
