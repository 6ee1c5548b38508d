"""Inputs: the same for everyone, each call's memory its own, bytes as counted by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.presets import PRESETS, shard
from benchmarks.workload import POSITIONS, Workload, make_inputs

QWEN = Workload.of(shard("Qwen/Qwen2.5-VL-72B-Instruct", 8), 5)


@pytest.mark.parametrize("is_packed", [False, True], ids=["apart", "packed"])
def test_each_call_has_memory_of_its_own(is_packed):
    workload = Workload.of(shard("Qwen/Qwen2.5-VL-72B-Instruct", 8), 5, is_packed=is_packed)
    stretches = []
    for inputs in make_inputs(workload, 4, "cpu"):
        assert inputs.query.shape == (5, 8, 128)
        assert inputs.key.shape == (5, 1, 128)
        assert inputs.query.is_contiguous() != is_packed
        tensors = [inputs.positions, inputs.query] if is_packed else [inputs.positions, inputs.query, inputs.key]
        for tensor in tensors:
            assert tensor.data_ptr() % 16 == 0
            last = tensor[(-1,) * tensor.dim()].data_ptr() + tensor.element_size()
            stretches.append((tensor.data_ptr(), last))
    stretches.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(stretches))


def test_a_seed_is_a_set_of_inputs():
    (first,), (again,), (other,) = (make_inputs(QWEN, 1, "cpu", seed) for seed in (3, 3, 4))
    assert torch.equal(first.query, again.query)
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.query, other.query)
    assert 0 <= int(first.positions.min()) <= int(first.positions.max()) < QWEN.table_rows


@pytest.mark.parametrize("kind", POSITIONS)
def test_kinds_of_positions(kind):
    workload = replace(QWEN, num_tokens=20, positions=kind, table_rows=64, position_limit=48)
    first, second = make_inputs(workload, 2, "cpu")
    for inputs in (first, second):
        assert inputs.positions.shape == (3, 20)
        assert 0 <= int(inputs.positions.min()) <= int(inputs.positions.max()) < 48
    assert not torch.equal(first.positions, second.positions), "each call has positions of its own"
    t, h, w = (axis - first.positions.min() for axis in first.positions)
    if kind == "text":
        assert torch.equal(t, torch.arange(20))
        assert torch.equal(t, h)
        assert torch.equal(t, w)
    elif kind == "image":  # 5 words, then 15 pixels, 3 a line
        assert t.tolist() == [*range(5), *[5] * 15]
        assert h.tolist() == [*range(5), *[5 + i // 3 for i in range(15)]]
        assert w.tolist() == [*range(5), *[5 + i % 3 for i in range(15)]]
    elif kind == "video":  # 4 frames of 4 pixels, the last one short
        assert t.tolist() == [*range(5), *[5 + i // 4 for i in range(15)]]
        assert h.tolist() == [*range(5), *[5 + i % 4 // 2 for i in range(15)]]


def test_unknown_positions():
    with pytest.raises(ValueError, match=r"positions must be one of .* got 'random'"):
        make_inputs(replace(QWEN, positions="random"), 1, "cpu")


def test_bytes_by_hand():
    assert QWEN.buffer_bytes == 5 * 9 * 128 * 2
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 7, 7, 7, 7], [0, 0, 1, 1, 1]])
    table = 4 * 2 * (16 * 5 + 24 * 1 + 24 * 2)  # float32, cos and sin, each axis' channels of its distinct rows
    assert QWEN.bytes_moved(positions) == 2 * QWEN.buffer_bytes + table + 15 * 8


def test_shards():
    whole, eighth = shard("Qwen/Qwen2.5-VL-7B-Instruct"), shard("Qwen/Qwen2.5-VL-7B-Instruct", 8)
    assert (whole.num_heads, whole.num_kv_heads, whole.is_deployable) == (28, 4, True)
    assert (eighth.num_heads, eighth.num_kv_heads, eighth.is_deployable) == (3, 1, False)
    with pytest.raises(ValueError, match="'Qwen3' is not in the table"):
        shard("Qwen3")
    with pytest.raises(ValueError, match=r"tp_size must be in 1 .. 28 .* got 29"):
        shard("Qwen/Qwen2.5-VL-7B-Instruct", 29)


def test_presets_are_consistent():
    for preset in PRESETS.values():
        section = preset.rope_parameters.get("mrope_section")
        assert section is None or 2 * sum(section) == preset.rotary_dim
        assert preset.num_heads % preset.num_kv_heads == 0
