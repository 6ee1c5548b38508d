"""The engine of the seed benchmarks on the CPU: rows as measured, nothing lost, nothing twice, vLLM's headers."""

import csv
import errno
from dataclasses import fields, replace

import pytest
import torch

from benchmarks import providers, records, subject, sweep
from benchmarks.presets import shard
from benchmarks.workload import Workload

QWEN = Workload.of(shard("Qwen/Qwen2.5-VL-72B-Instruct", 8), 2)
CELLS = [
    sweep.Cell("mrope", replace(QWEN, num_tokens=n), model_name="Qwen/Qwen2.5-VL-72B-Instruct", tp_size=8)
    for n in (2, 4)
]
SETTINGS = sweep.Settings("cpu", None, warmup_iter=1, benchmark_iter=7, machine="a CPU, torch 2", commit="abc")


def broken(workload, inputs):
    return inputs.query.neg_


def absent(workload, inputs):
    raise ImportError("no such library")


def slower(workload, inputs):
    native = subject.make_call("native", workload, inputs)
    idle = torch.randn(600, 600)

    def call():
        native()
        for _ in range(8):
            idle @ idle

    return call


PROVIDERS = {
    "broken": providers.Provider(broken),
    "slower": providers.Provider(slower, "with idle work"),
    "native": providers.PROVIDERS["native"],
    "absent": providers.Provider(absent),
}


@pytest.fixture(scope="module")
def rows():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = list(sweep.run(CELLS, PROVIDERS, SETTINGS))
    torch.set_num_threads(threads)
    return found


def test_rows(rows):
    assert [(row.num_tokens, row.provider) for row in rows] == [
        (n, name) for n in (2, 4) for name in ("native", "broken", "slower", "absent")
    ]
    for row in rows:
        assert (row.model_name, row.tp_size, row.seq_len) == ("Qwen/Qwen2.5-VL-72B-Instruct", 8, row.num_tokens)
        assert (row.machine, row.commit) == ("a CPU, torch 2", "abc")
        if row.provider in {"native", "slower"}:
            assert row.status == "ok"
            assert row.us_low <= row.us <= row.us_high
            assert row.min_us <= row.median_us <= row.p99_us <= row.max_us
            assert row.min_us <= row.mean_us <= row.max_us
            assert row.gbps > 0
        else:
            assert (row.us, row.speedup) == (None, None)
    native, wrong, slow, missing = rows[:4]
    assert native.speedup == 1.0
    assert slow.speedup_low <= slow.speedup <= slow.speedup_high < 1.0
    assert slow.note == "with idle work"
    assert wrong.status.startswith("CheckError: broken query differs from the float64 oracle")
    assert missing.status == "ImportError: no such library"


def test_csv_keeps_everything(rows, tmp_path):
    log = records.Log(tmp_path / "new" / "long.csv", resume=False)
    for row in rows:
        log.add(row)
    assert records.read(log.path) == rows


def test_resume(rows, tmp_path):
    """What is there is not measured again, a line that was cut off is."""
    path = tmp_path / "long.csv"
    log = records.Log(path, resume=False)
    for row in rows[:3]:
        log.add(row)
    text = path.read_text()
    path.write_text(text[: text.rindex(",abc")])  # killed while the third row was written
    again = records.Log(path, resume=True)
    assert again.records == rows[:2]
    new = list(sweep.run(CELLS, PROVIDERS, SETTINGS, again.records))
    assert [(row.num_tokens, row.provider) for row in new] == [(row.num_tokens, row.provider) for row in rows[2:]]
    assert new[0].speedup is not None, "over the native row of the earlier run"
    for row in new:
        again.add(row)
    assert len(records.read(path)) == len(rows)


def test_an_older_file_is_put_aside(tmp_path):
    path = tmp_path / "long.csv"
    for text in ("first", "second"):
        path.write_text(text)
        records.Log(path, resume=False)
    assert (tmp_path / "long.1.csv").read_text() == "first"
    assert (tmp_path / "long.2.csv").read_text() == "second"


def test_resume_of_something_else(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"long\.csv is not a long CSV of this benchmark: it begins with \['a', 'b'\]"):
        records.Log(path, resume=True)
    assert path.read_text() == "a,b\n1,2\n"


def test_full_disk(rows, tmp_path, monkeypatch):
    """The error names the file and holds the row; what was written before is still there."""
    log = records.Log(tmp_path / "long.csv", resume=False)
    log.add(rows[0])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(ValueError, match=r"long\.csv cannot be written: .*No space left.* the row .*Qwen2\.5-VL-72B"):
        log.add(rows[2])
    monkeypatch.undo()
    assert records.read(log.path)[0] == rows[0]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        records.Log(tmp_path / "file" / "long.csv", resume=False)


def test_vllms_mrope_format(rows, tmp_path):
    """The header to the byte, seconds, the speedup of the means; empty where one has no number."""
    triton = replace(rows[0], provider="triton", **{f"{name}_us": 2.0 for name in records.STATISTICS})
    native = replace(rows[0], **{f"{name}_us": 5.0 for name in records.STATISTICS})
    path = tmp_path / "mrope.csv"
    records.write_csv(path, records.MROPE_HEADER, records.mrope_rows([native, triton, *rows[4:]]))
    header, line, alone = path.read_bytes().splitlines()
    assert header.decode() == (
        "model_name,tp_size,num_tokens,num_heads,num_kv_heads,head_dim,max_position,is_neox_style,rope_parameters,dtype,"
        "torch_mean,torch_median,torch_p99,torch_min,torch_max,triton_mean,triton_median,triton_p99,triton_min,"
        "triton_max,speedup"
    )
    values = next(csv.reader([line.decode()]))
    assert values[:8] == ["Qwen/Qwen2.5-VL-72B-Instruct", "8", "2", "8", "1", "128", "32768", "True"]
    assert "'mrope_section': [16, 24, 24]" in values[8]
    assert [float(value) for value in values[10:]] == pytest.approx([5e-6] * 5 + [2e-6] * 5 + [2.5])
    assert next(csv.reader([alone.decode()]))[15:] == [""] * 6


def test_vllms_rope_format(rows):
    shape = replace(rows[0], batch_size=4, seq_len=64)
    found = records.rope_rows([replace(shape, us=9.0), replace(shape, provider="flashinfer", us=3.0)])
    assert records.ROPE_HEADER == ("batch_size", "seq_len", "num_heads", "PyTorch", "FlashInfer", "vLLM")
    assert found == [[4, 64, 8, 9.0, 3.0, ""]]


def test_a_record_says_all_that_makes_a_row():
    """Whatever is in the key was chosen before measuring; nothing measured is."""
    names = [field.name for field in fields(records.Record)]
    assert names.index("status") == len(sweep._blank(CELLS[0], "native", SETTINGS).key)


def test_place():
    assert sweep.place_of("cpu") == "cpu"
    with pytest.raises(ValueError, match="device must be a torch device such as cuda:0 or cpu, got 'gpu9'"):
        sweep.place_of("gpu9")
    if not torch.cuda.is_available():
        assert sweep.place_of() == "cpu"
        with pytest.raises(ValueError, match="device 'cuda:0' is not here: no NVIDIA driver"):
            sweep.place_of("cuda:0")


class RecordingDevice:
    """A clock's device that remembers how it was asked; its calls take a microsecond."""

    l2_bytes = 1 << 10

    def __init__(self):
        self.asked = set()

    def capture(self, calls):
        for call in calls:
            call()
        return len(calls)

    def replay(self, graph, *, cold):
        self.asked.add(cold)
        return graph * 1e-6


@pytest.mark.parametrize("is_cold", [True, False])
def test_cold_or_hot(is_cold, monkeypatch):
    monkeypatch.setattr(sweep.roofline, "floor_us", lambda workload, device, place: 0.5)
    device = RecordingDevice()
    settings = replace(SETTINGS, device=device, is_cold=is_cold)
    (row,) = sweep.run(CELLS[:1], {"native": PROVIDERS["native"]}, settings)
    assert (row.status, row.cache) == ("ok", "cold" if is_cold else "hot")
    assert row.share_of_roofline == (pytest.approx(0.5) if is_cold else None), "a hot call is not bound by memory"
    assert is_cold in device.asked
    assert (not is_cold) not in device.asked - {False}, "the estimate before the clock may be hot, samples may not"


def test_output_is_part_of_a_row(rows):
    cell = replace(CELLS[0], workload=replace(QWEN, in_place=False))
    (new,) = sweep.run([cell], {"native": PROVIDERS["native"]}, SETTINGS)
    assert (rows[0].output, new.output, new.status) == ("in place", "new tensors", "ok")
    assert new.key != rows[0].key
