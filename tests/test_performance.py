"""The performance tables on a fake device: who is absent or wrong gets a reason, never a number."""

import time
from dataclasses import replace

import pytest
import torch

from benchmarks import (
    model_block,
    performance,
    performance_page,
    providers,
    roofline,
    shapes,
    subject,
    timing,
)
from benchmarks.cli import main
from benchmarks.performance import Row
from benchmarks.workload import Workload, make_inputs


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


PLAIN = Workload(1, 4, 1, 16, 8, {"rope_theta": 1e4}, table_rows=64)
SHAPES = {"partial": (PLAIN, (1, 16, 64)), "the same": (PLAIN, (16,)), "full": (replace(PLAIN, rotary_dim=16), (1,))}


def test_rows(monkeypatch, tmp_path):
    calls = []

    def broken(workload, inputs):
        return inputs.query.neg_

    def absent(workload, inputs):
        raise NotImplementedError("not here,\nand not now")

    def counted(workload, inputs):
        calls.append(workload)
        return subject.make_call("native", workload, inputs)

    monkeypatch.setitem(providers.PROVIDERS, "broken", providers.Provider(broken))
    monkeypatch.setitem(providers.PROVIDERS, "absent", providers.Provider(absent))
    monkeypatch.setitem(providers.PROVIDERS, "native", providers.Provider(counted))
    path = tmp_path / "rows.csv"
    names = ["native", "broken", "absent"]
    measured = performance.measure(WallClock(), "cpu", names, SHAPES, largest=16, machine="a machine")
    rows = list(performance.save(measured, path))
    assert [(row.table, row.num_tokens, row.provider) for row in rows] == [
        (table, n, name)
        for table, n in (("partial", 1), ("partial", 16), ("the same", 16), ("full", 1))
        for name in names
    ]
    for row in rows:
        assert row.machine == "a machine"
        if row.provider == "native":
            assert row.status == "ok"
            assert row.us_min <= row.us <= row.us_max
            assert row.share_of_roofline > 0
        else:
            assert row.us is None
    assert rows[1].status.startswith("CheckError: broken query differs from the float64 oracle")
    assert rows[2].status == "NotImplementedError: not here, and not now"
    assert replace(rows[6], table="partial") == rows[3], "what is equal is measured once"
    assert rows[0].traffic_mb == pytest.approx((2 * 5 * 8 * 2 + 8 * 4 + 8) / 1e6)
    assert performance.load(path) == rows


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"rows\.csv must have the columns table, num_tokens, .* got \['a', 'b'\]"):
        performance.load(path)


def row(table, num_tokens, provider, us, share=None, traffic=1.0):
    return Row(table, num_tokens, provider, us, us, us, traffic, share, "ok" if us else "absent", "One GPU, torch 2")


def test_rows_are_written_as_they_come(tmp_path):
    def rows():
        yield row("t", 1, "native", 1.0, 0.5)
        raise KeyboardInterrupt

    path = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        list(performance.save(rows(), path))
    assert path.read_text().splitlines()[1] == 't,1,native,1.0,1.0,1.0,1.0,0.5,ok,"One GPU, torch 2"'


def test_seed_grids():
    """vLLM's grids: 16 shards x 18 token counts; 4 batches x 4 sequences x 2 numbers of heads, in two pairings."""
    assert sum(len(counts) for _, counts in shapes.MROPE_GRID.values()) == 288
    assert len(shapes.MROPE_GRID) == 16
    assert sum(len(counts) for _, counts in shapes.ROPE_GRID.values()) == 64
    for group in (shapes.TABLES, *shapes.GRIDS.values()):
        for workload, counts in group.values():
            assert workload.num_tokens == 1
            assert list(counts) == sorted(counts)
    assert set(shapes.GRID_PROVIDERS) <= providers.PROVIDERS.keys()


PAGE = [
    row(shapes.NEOX, 1024, "triton", 8.0, 0.75),
    row(shapes.NEOX, 1024, "triton alone", 10.0, 0.6),
    row(shapes.NEOX, 1024, "triton out of place", 8.4, 0.7),
    row(shapes.NEOX, 1024, "flashinfer", 16.0, 0.3),
    row(shapes.NEOX, 8192, "triton", 123.4, 0.98, traffic=170.0),
    row(shapes.NEOX, 8192, "flashinfer", None),
    row(shapes.GPTJ, 1024, "triton", 8.2, 0.75),
    row("benchmark_rope: 32 heads, NeoX", 256, "triton", 1.0),
    row("benchmark_rope: 32 heads, NeoX", 256, "flashinfer", 4.0),
    row("benchmark_rope: 32 heads, NeoX", 512, "triton", 2.0),
    row("benchmark_rope: 32 heads, NeoX", 512, "flashinfer", 1.0),
]


def test_page():
    page = performance_page.page(PAGE, ["picture.png"])
    for line in (
        "Measured on: One GPU, torch 2.",
        "![picture.png](picture.png)",
        "| tokens | triton | triton alone | triton out of place | flashinfer | roofline, triton "
        "| roofline, triton alone |",
        "| 1024 | **8.00** | 10.00 | 8.40 | 16.00 | 75.0% | 60.0% |",
        "| 8192 | **123** | - | - | - | 98.0% | - |",
        f"- no number of flashinfer: absent ({shapes.NEOX})",
        # 256 = 1 x 256 = 4 x 64, 512 = 1 x 512 = 4 x 128: as often in the grid as there are such products
        "| benchmark_rope.py's grid | triton | flashinfer | 4 | 1.41 | 0.50 "
        "| benchmark_rope: 32 heads, NeoX, 512 tokens | 2 |",
        f"| tables | triton | flashinfer | 1 | 2.00 | 2.00 | {shapes.NEOX}, 1024 tokens | 0 |",
        f"| {shapes.NEOX} | 98.0% at 8192 tokens | - |",
        "| GPT-J over NeoX | triton | 1.025 | - | - | - |",
        "| out of place over in place | triton | 1.050 | - | - | - |",
    ):
        assert line in page.splitlines(), line


def test_page_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    csv, page = tmp_path / "rows.csv", tmp_path / "gpu.md"
    list(performance.save(PAGE, csv))
    assert main(["page", str(page), str(csv)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_text().startswith("# Performance on one One GPU\n\nWritten by `python -m benchmarks page` from")
    for name in ("gpu-latency.png", "gpu-roofline.png"):
        assert f"]({name})" in page.read_text()
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_host_cost():
    rows = list(performance.measure_host(["native", "flashinfer"], "cpu", {"t": (PLAIN, (1,))}, machine="a machine"))
    assert [(row.provider, row.status == "ok") for row in rows] == [
        ("native", True), ("flashinfer", False), (performance.ONE_KERNEL, True),
    ]  # fmt: skip
    native, _, kernel = rows
    assert native.us_min <= native.us <= native.us_max
    assert kernel.us < native.us
    (rope, mrope) = shapes.HOST
    text = performance_page.host([replace(native, table=rope, us=9.04, us_min=8.0, us_max=10.0)])
    assert text.splitlines()[2:] == [
        f"| provider | {rope} | {mrope} |",
        "| --- | --- | --- |",
        "| native | 9.0 (8.0 - 10.0) | - |",
    ]


def test_page_of_grids_alone(tmp_path):
    csv, page = tmp_path / "rows.csv", tmp_path / "gpu.md"
    list(performance.save([row for row in PAGE if row.share_of_roofline is None and row.us], csv))
    assert main(["page", str(page), str(csv)]) == 0
    assert "benchmark_rope.py's grid" in page.read_text()
    assert "png" not in page.read_text()


def test_a_roofline_that_fails_leaves_the_rows(monkeypatch):
    def fail(*_):
        raise torch.cuda.OutOfMemoryError("no memory")

    monkeypatch.setattr(roofline, "floor_sampler", fail)
    rows = list(performance.measure(WallClock(), "cpu", ["native"], {"t": (PLAIN, (1,))}, largest=1))
    assert [(row.status, row.share_of_roofline) for row in rows] == [("ok", None)]


def test_roofline_counts_all_bytes_of_the_row(monkeypatch):
    """The kernel's time over query and key, scaled to the table's and the positions' bytes, too."""
    monkeypatch.setattr(timing, "prepare_device", lambda *_: lambda: 1.0)
    (inputs,) = make_inputs(PLAIN, 1, "cpu")
    wanted = PLAIN.bytes_moved(inputs.positions) / (2 * PLAIN.buffer_bytes)
    assert roofline.floor_sampler(PLAIN, WallClock(), "cpu")() == pytest.approx(wanted)
    assert wanted > 1.1


def test_model_block():
    modeling = pytest.importorskip("transformers.models.qwen2_vl.modeling_qwen2_vl")
    before = modeling.apply_rotary_pos_emb
    (block,) = model_block.measure(WallClock(), "cpu", [8], backend="native", num_heads=2)
    assert modeling.apply_rotary_pos_emb is before
    assert min(block.theirs, block.ours, block.without) > 0
    block = model_block.Block(8, theirs=100.0, ours=60.0, without=50.0)
    assert model_block.table([block]).splitlines()[-1] == "| 8 | 100.0 | 50.0% | 60.0 | 16.7% |"


def test_bad_flags(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["performance", "--provider", "native", "tritn"]) == 2
    assert "--provider must be among triton, triton alone" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
