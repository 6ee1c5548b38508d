"""Errors taken apart: each part is where it was put."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks import accuracy, providers, subject
from benchmarks.cli import main
from benchmarks.presets import shard
from benchmarks.workload import Workload

QWEN = replace(Workload.of(shard("Qwen/Qwen2.5-VL-72B-Instruct", 8), 64), table_rows=8192)


def errors(monkeypatch, dtype, **others):
    for name, make_call in others.items():
        monkeypatch.setitem(providers.PROVIDERS, name, providers.Provider(make_call))
    return {
        error.provider: error
        for error in accuracy.measure(replace(QWEN, dtype=dtype), providers.find(["native", *others]), "cpu")
    }


def off_by(amount):
    def make_call(workload, inputs):
        native = subject.make_call("native", workload, inputs)

        def call():
            native()
            inputs.query[3, 1, 5] += amount

        return call

    return make_call


def absent(workload, inputs):
    raise ImportError("no such library")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_parts(dtype, monkeypatch):
    found = errors(monkeypatch, dtype, worse=off_by(0.5), absent=absent)
    native, worse = found["native"], found["worse"]
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}[dtype]
    assert 0.1 * unit <= native.cast <= unit
    assert 1e-5 < native.angles == worse.angles < 1e-2, "float32 angles at position 8192"
    assert native.kernel <= 2.0**-21, "native adds float32 arithmetic alone"
    assert native.total <= native.angles + native.cast + native.kernel + 1e-12
    assert worse.kernel == pytest.approx(0.5 / 4, rel=0.5)  # the largest of 65536 normal numbers is a little over 4
    assert worse.kernel > 10 * native.kernel
    assert math.isnan(found["absent"].total)
    assert found["absent"].status == "ImportError: no such library"


def test_coarse_tables():
    coarse, finer = (accuracy.table_error(QWEN, "cpu", dtype) for dtype in (torch.bfloat16, torch.float16))
    assert accuracy.table_error(QWEN, "cpu", torch.float32) == 0.0
    assert 2.0**-10 < coarse < 2.0**-7
    assert 4 < coarse / finer < 16, "three bits of mantissa"


def test_command(capsys):
    assert main(["accuracy", "--num-tokens", "4", "--device", "cpu", "--provider", "native"]) == 0
    output = capsys.readouterr().out
    assert "| native | " in output
    assert "a bfloat16 table instead of float32 would cost" in output
