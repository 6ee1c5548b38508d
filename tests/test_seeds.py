"""vLLM's two benchmarks: every flag honoured, their functions and files, on the CPU with small shapes."""

import csv
import json
import shlex
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import cli, providers, records, report, seed_cli, seeds, summary, sweep
from benchmarks.shapes import MROPE_NUM_TOKENS
from ropekern import UnsupportedError

TINY = ["--benchmark-iter", "3", "--warmup-iter", "0", "--device", "cpu"]

# The seed's usage examples after the script's path, and how many shapes they ask for
MROPE_EXAMPLES = {
    "--model-name Qwen/Qwen2-VL-7B-Instruct --tp-size 1 --warmup-iter 10 --benchmark-iter 100 --dtype bfloat16 "
    "--num-tokens 1024": 1,
    '--model-name "" --tp-size 1 --num-tokens 1024 4096 16384': 6 * 3,
    "--model-name Qwen/Qwen2-VL-72B-Instruct --tp-size 2 4 8 --num-tokens 2048": 3,
    "--model-name Qwen/Qwen2.5-VL-7B-Instruct --output-csv qwen25_mrope_results.csv": 18,
    "": 288,
}
ROPE_EXAMPLES = {
    "--head-size 128 --rotary-dim 32 --is-neox-style True --device cpu --save-path ./configs/rope/": 32,
    "--is-neox-style False --batch-size 2 3 --seq-len 5 --num-heads 7 --num-kv-heads 1 7 --head-size 64 128 "
    "--rotary-dim 16 20": 2 * 1 * 1 * 2 * 2 * 2,
    "--no-is-neox-style": 32,
    "": 32,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def asked(monkeypatch):
    """Cells and options of a command, which measures nothing."""
    seen = []
    monkeypatch.setattr(seed_cli, "_run", lambda cells, options, path, finish: seen.append((cells, options, path)) or 0)

    def ask(command):
        assert cli.main(shlex.split(command)) == 0
        return seen.pop()

    return ask


@pytest.mark.parametrize("example", MROPE_EXAMPLES)
def test_mrope_examples(example, asked):
    cells, options, path = asked(f"mrope {example}")
    assert len(cells) == MROPE_EXAMPLES[example]
    assert path.name == f"{options.output_csv.stem}_long.csv"
    for cell in cells:
        assert cell.workload.dtype == torch.bfloat16
        assert cell.workload.position_limit == cell.workload.table_rows // 4
        assert cell.workload.mrope_section == (16, 24, 24)


def test_mrope_flags(asked):
    cells, options, _ = asked(
        "mrope --model-name Qwen/Qwen3-VL-4B-Instruct Qwen/Qwen2-VL-2B-Instruct --tp-size 2 4 --num-tokens 3 5 "
        "--dtype float32 --seed 7 --positions video --layout packed --output new --cache hot --provider native "
        "--provider triton liger"
    )
    assert {(c.model_name, c.tp_size, c.workload.num_tokens) for c in cells} == {
        (name, tp, n)
        for name in ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen2-VL-2B-Instruct") for tp in (2, 4) for n in (3, 5)
    }  # fmt: skip
    workload = cells[0].workload
    assert (workload.dtype, workload.positions, workload.is_packed) == (torch.float32, "video", True)
    assert (workload.num_heads, workload.num_kv_heads, workload.mrope_interleaved) == (16, 4, True)
    assert not workload.in_place
    assert (options.seed, options.cache, options.provider) == (7, "hot", ["native", "triton", "liger"])


@pytest.mark.parametrize("example", ROPE_EXAMPLES)
def test_rope_examples(example, asked):
    cells, _, path = asked(f"rope {example}")
    assert len(cells) == ROPE_EXAMPLES[example]
    is_neox = "False" not in example and "--no-" not in example
    assert {cell.workload.is_neox_style for cell in cells} == {is_neox}
    assert path.name == ("rope-perf-neox-style_long.csv" if is_neox else "rope-perf_long.csv")
    for cell in cells:
        assert cell.workload.num_tokens == cell.batch_size * cell.seq_len
        assert "--num-kv-heads" in example or cell.workload.num_kv_heads == cell.workload.num_heads


def test_default_token_counts(asked):
    cells, _, _ = asked("mrope --model-name Qwen/Qwen2-VL-7B-Instruct")
    assert tuple(cell.workload.num_tokens for cell in cells) == MROPE_NUM_TOKENS == tuple(2**i for i in range(18))


def exit_code(command):
    """argparse leaves by itself where a flag is wrong."""
    try:
        return cli.main(shlex.split(command))
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("mrope --num-tokens 0", "argument --num-tokens: must be an integer of at least 1, got '0'"),
        ("mrope --dtype int8", "argument --dtype: invalid choice: 'int8'"),
        ("mrope --model-name nobody/knows", "'nobody/knows' is neither in the table"),
        ("mrope --model-name Qwen/Qwen2-VL-7B-Instruct --tp-size 64", "tp_size must be in 1 .. 28"),
        ("mrope --num-tokens 1 --provider tritn", "--provider must be among triton, triton alone"),
        (
            "mrope --num-tokens 1 --provider no.such:thing",
            "--provider no.such:thing cannot be imported: ModuleNotFound",
        ),
        ("mrope --num-tokens 1 --device gpu9", "device must be a torch device such as cuda:0 or cpu, got 'gpu9'"),
        ("rope --rotary-dim 31", "--rotary-dim must be even and in 2 .. head size 128, got 31"),
        ("rope --is-neox-style maybe", "argument --is-neox-style: must be true or false, got 'maybe'"),
        ("rope --warmup-iter -1", "argument --warmup-iter: must be an integer of at least 0, got '-1'"),
    ],
)
def test_bad_flags(command, words, capsys, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert exit_code(command) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(folder.iterdir()), "nothing is written before the flags are right"


OWN = """
from ropekern import apply_rope_

def right(positions, query, key, cos_sin_cache, **layout):
    apply_rope_(positions, query, key, cos_sin_cache, backend="native", **layout)

def wrong(positions, query, key, cos_sin_cache, **layout):
    query.neg_()
"""


def test_mrope_run(capsys, folder, monkeypatch):
    """A user's own provider beside native; a wrong and an absent one say why. Then the run goes on where it stopped."""
    (folder / "own_kernels.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder))
    command = [
        "mrope",
        "--model-name",
        "Qwen/Qwen2.5-VL-72B-Instruct",
        "--tp-size",
        "8",
        "--num-tokens",
        "2",
        "4",
        *TINY,
    ]
    chosen = ["--provider", "native", "own_kernels:right", "own_kernels:wrong", "flashinfer"]
    assert cli.main([*command, *chosen]) == 0
    output = capsys.readouterr()
    found = records.read(folder / "mrope_benchmark_results_long.csv")
    assert [(r.num_tokens, r.provider, r.status == "ok") for r in found] == [
        (n, name, name in {"native", "own_kernels:right"}) for n in (2, 4) for name in chosen[1:]
    ]
    assert "| Qwen/Qwen2.5-VL-72B-Instruct tp 8, 8 / 1 heads | 2 |" in output.out
    assert "own_kernels:wrong: CheckError: own_kernels:wrong query differs" in output.out
    assert "flashinfer: UnsupportedError: backend 'flashinfer' cannot be imported" in output.out
    with (folder / "mrope_benchmark_results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["num_tokens"] for row in rows] == ["2", "4"]
    for row, record in zip(rows, found[::4], strict=True):
        assert float(row["torch_mean"]) == pytest.approx(record.mean_us * 1e-6)
        assert row["triton_mean"] == row["speedup"] == ""

    monkeypatch.setattr(sweep, "_measure", None)  # nothing may be measured twice
    assert cli.main([*command, *chosen, "--resume", "--json"]) == 0
    assert [row["provider"] for row in json.loads(capsys.readouterr().out)] == chosen[1:] * 2


def test_interrupted_run(capsys, folder, monkeypatch):
    measure = sweep._measure

    def interrupted(cell, provider, blank, *rest):
        if blank.num_tokens == 4:
            raise KeyboardInterrupt
        return measure(cell, provider, blank, *rest)

    monkeypatch.setattr(sweep, "_measure", interrupted)
    command = [
        "mrope",
        "--model-name",
        "Qwen/Qwen2-VL-2B-Instruct",
        "--num-tokens",
        "2",
        "4",
        "--provider",
        "native",
        *TINY,
    ]
    assert cli.main(command) == 130
    assert "interrupted; --resume goes on with mrope_benchmark_results_long.csv" in capsys.readouterr().err
    assert [record.num_tokens for record in records.read(folder / "mrope_benchmark_results_long.csv")] == [2]
    monkeypatch.setattr(sweep, "_measure", measure)
    assert cli.main([*command, "--resume"]) == 0
    assert [record.num_tokens for record in records.read(folder / "mrope_benchmark_results_long.csv")] == [2, 4]


def test_rope_run(folder):
    pytest.importorskip("matplotlib")
    command = (
        "rope --batch-size 1 2 --seq-len 3 --num-heads 2 --no-is-neox-style --provider native --save-path made/here"
    )
    assert cli.main([*shlex.split(command), *TINY]) == 0
    made = folder / "made" / "here"
    with (made / "rope-perf.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["batch_size"], row["seq_len"], row["num_heads"]) for row in rows] == [("1", "3", "2"), ("2", "3", "2")]
    assert all(float(row["PyTorch"]) > 0 and row["FlashInfer"] == row["vLLM"] == "" for row in rows)
    for name in ("rope-perf.png", "rope-perf-speedup.png"):
        assert (made / name).read_bytes().startswith(b"\x89PNG")
        assert f'src="{name}"' in (made / "results.html").read_text()
    assert "native at every size" in (made / "results.html").read_text()


def test_benchmark_mrope(monkeypatch):
    native = providers.PROVIDERS["native"]
    rows = []
    writer = type("Writer", (), {"writerow": staticmethod(rows.append)})
    arguments = ("m", 3, 128, 8, 4, 1)
    parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    keywords = {"rope_parameters": parameters, "warmup_iter": 1, "benchmark_iter": 5, "csv_writer": writer}
    if not torch.cuda.is_available():
        monkeypatch.setattr("triton.knobs.runtime.interpret", False)
        with pytest.raises(UnsupportedError, match="wanted a CUDA device"):
            seeds.benchmark_mrope(*arguments, **keywords)
    monkeypatch.setitem(providers.PROVIDERS, "triton", native)
    for statistics in seeds.benchmark_mrope(*arguments, **keywords):
        assert list(statistics) == ["mean", "median", "p99", "min", "max"]
        assert 0 < statistics["min"] <= statistics["median"] <= statistics["p99"] <= statistics["max"] < 1
    (row,) = rows
    assert len(row) == len(records.MROPE_HEADER)
    assert row[:8] == ["m", 8, 3, 4, 1, 128, 8192, True]


def test_generate_test_data():
    positions, query, key = seeds.generate_test_data(5, 4, 2, 16, 64, torch.float16, "cpu")
    assert (positions.shape, query.shape, key.shape) == ((3, 5), (5, 64), (5, 32))
    assert positions.max() < 16
    assert query.dtype == key.dtype == torch.float16


def test_get_benchmark():
    benchmark = seeds.get_benchmark(64, 32, False, "cpu")
    for provider in ("native", "torch"):
        median, low, high = benchmark(2, 3, 4, provider)
        assert 0 < low <= median <= high
    with pytest.raises(ValueError, match="provider must be among"):
        benchmark(2, 3, 4, "cutlass")
    with pytest.raises(ValueError, match=r"rotary_dim must be even and in 2 \.\. head_size 64, got 66"):
        seeds.get_benchmark(64, 66, False, "cpu")


def record(num_tokens, provider, us, spread=0.01):
    cell = sweep.Cell("mrope", seeds.rope_workload(num_tokens, 4, 1, 64, 32, True), model_name="m")
    blank = sweep._blank(cell, provider, sweep.Settings("cpu", None))
    if us is None:
        return replace(blank, status="absent")
    return replace(blank, status="ok", us=us, us_low=us * (1 - spread), us_high=us * (1 + spread))


RECORDS = [
    record(1, "native", 5.0), record(1, "triton", 2.0), record(1, "flashinfer", 1.0), record(1, "liger", None),
    record(8, "native", 6.0), record(8, "triton", 2.0), record(8, "flashinfer", 2.01), record(8, "liger", None),
    record(64, "native", 9.0), record(64, "triton", 2.0), record(64, "flashinfer", 3.0), record(64, "liger", None),
]  # fmt: skip


def test_summary():
    assert summary.advice(RECORDS) == (
        "m tp 1, 4 / 1 heads: flashinfer from 1 tokens, flashinfer or triton from 8 tokens, triton from 64 tokens"
    )
    assert summary.reasons(RECORDS) == "liger: absent (3 rows)"
    assert summary.table(RECORDS).splitlines()[2] == "| m tp 1, 4 / 1 heads | 1 | 5.00 | 2.00 | **1.00** |"


def test_plot_without_numbers(tmp_path):
    with pytest.raises(ValueError, match="no number to draw"):
        report.plot_sweep([record(1, "liger", None)], tmp_path / "x.png")


def test_own_provider_has_the_packages_interface():
    """The call of a user's function is that of apply_rope_: apply_rope_ itself will do."""
    own = providers.find(["ropekern:apply_rope_"])["ropekern:apply_rope_"]
    workload = seeds.rope_workload(3, 4, 1, 64, 32, True)
    settings = sweep.Settings("cpu", None, 0, 2)
    assert len(sweep.measure(own, "own", workload, settings).single) == 2
