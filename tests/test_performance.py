"""The performance tables on a fake device: who is absent or wrong gets a reason, never a number."""

import csv
import time

import pytest

from benchmarks import performance, providers
from benchmarks.cli import main
from benchmarks.performance import Row


class WallClock:
    """Runs calls on the CPU and times them: enough to walk the code."""

    l2_bytes = 1 << 12

    def capture(self, calls):
        for call in calls:
            call()
        return list(calls)

    def replay(self, graph, *, cold):
        start = time.perf_counter()
        for call in graph:
            call()
        return time.perf_counter() - start


def test_rows(monkeypatch, tmp_path):
    def broken(workload, inputs):
        return inputs.query.neg_

    def absent(workload, inputs):
        raise NotImplementedError("not here,\nand not now")

    monkeypatch.setitem(providers.PROVIDERS, "broken", providers.Provider(broken))
    monkeypatch.setitem(providers.PROVIDERS, "absent", providers.Provider(absent))
    tables = [title for title in performance.TABLES if "8 / 1" in title]
    path = tmp_path / "rows.csv"
    measured = performance.measure(WallClock(), "cpu", ["native", "broken", "absent"], tables, largest=16)
    rows = list(performance.save(measured, path))
    assert [(row.num_tokens, row.provider) for row in rows] == [
        (n, name) for n in (1, 16) for name in ("native", "broken", "absent")
    ]
    for row in rows:
        if row.provider == "native":
            assert row.status == "ok"
            assert row.us_min <= row.us <= row.us_max
            assert row.share_of_roofline > 0
        else:
            assert row.us is None
    assert rows[1].status.startswith("CheckError: broken query differs from the float64 oracle")
    assert rows[2].status == "NotImplementedError: not here, and not now"
    with path.open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == [row.status for row in rows]


def test_rows_are_written_as_they_come(tmp_path):
    def rows():
        yield Row("t", 1, "native", 1.0, 1.0, 1.0, 0.5, "ok")
        raise KeyboardInterrupt

    path = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        list(performance.save(rows(), path))
    assert path.read_text().splitlines()[1] == "t,1,native,1.0,1.0,1.0,0.5,ok"


def test_markdown_marks_the_fastest():
    rows = [
        Row("t", 1, "a", 2.5, 2.5, 2.5, 0.1, "ok"),
        Row("t", 1, "b", 2.25, 2.2, 2.3, 0.1, "ok"),
        Row("t", 8, "a", 123.4, 120.0, 130.0, 0.9, "ok"),
        Row("t", 8, "b", None, None, None, None, "absent"),
    ]
    assert performance.markdown(rows, ["a", "b"]).splitlines() == [
        "**t**, us",
        "",
        "| tokens | a | b |",
        "| --- | --- | --- |",
        "| 1 | 2.50 | **2.25** |",
        "| 8 | **123** | - |",
    ]


def test_bad_flags(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["performance", "--provider", "native", "tritn"]) == 2
    assert "--provider must be among native, triton" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
