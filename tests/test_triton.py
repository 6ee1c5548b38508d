"""The Triton kernel in Triton's interpreter on the CPU, and its machine code for GPUs that are not here."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.presets import PRESETS, shard
from ropekern import apply_rope, apply_rope_
from tests.cases import CASES, Call, Case, assert_rotated, assert_same_bits

pytest.importorskip("triton", reason="Triton is not installed")

from ropekern.backends import triton as backend

ROPE_KERNEL = backend.rope_kernel

# dtype -> (atol, rtol): as native's, but the interpreter truncates to bfloat16 where a GPU rounds to nearest
TOLERANCES = {
    torch.float32: (2e-6, 0.0),
    torch.float16: (2e-6, 2.0**-11),
    torch.bfloat16: (2e-6, 2.0**-7),
}

FEW, SOME, MANY = 1, 500, 1 << 20  # num_tokens for which choose_tile gives its three tiles to 32 + 8 heads of 128

# What an offline compile must give. 16-byte accesses need 8 neighbours a thread: full rotation of 128 or 256 channels.
COMPILED = {
    "neox": {},
    "gptj": {"is_neox_style": False},
    "head 256": {"head_size": 256, "rotary_dim": 256},
    "chunked": {"mrope_section": (16, 24, 24)},
    "interleaved": {"mrope_section": (24, 20, 20), "mrope_interleaved": True},
    "out of place": {"in_place": False},
    "long tail": {"head_size": 256, "rotary_dim": 32, "in_place": False},
    "long tail gptj": {"head_size": 256, "rotary_dim": 16, "is_neox_style": False, "in_place": False},
    "one pair": {"rotary_dim": 2, "in_place": False},
    "glm": {"rotary_dim": 64, "is_neox_style": False, "mrope_section": (8, 12, 12), "in_place": False},
}
NARROW = {"one pair"}  # two channels are 4 bytes
MISALIGNED = {"head_size": 120, "rotary_dim": 120}  # 60 pairs: the second half begins at no 16-byte address
TARGETS = (80, 90, 100)


@pytest.fixture(params=[1, 2, 3, 4], ids=lambda heads: f"{heads} heads a row")
def tile(request, monkeypatch):
    """A tile, whatever the case's number of tokens: so all of them run in few programs."""
    choose = backend.choose_tile

    def chosen(_, *sizes):
        return replace(choose(FEW, *sizes), heads=request.param)

    monkeypatch.setattr(backend, "choose_tile", chosen)
    return chosen


@pytest.mark.usefixtures("interpreter", "tile")
@pytest.mark.parametrize("name", CASES)
def test_case(name):
    call = Call(CASES[name])
    outputs = call.query_out, call.key_out
    backend.rope(*call.arguments[:3], *outputs, call.table, **call.keywords)
    call.assert_out_of_place(TOLERANCES, *outputs)

    query, key = apply_rope(*call.arguments, **call.keywords, backend="triton")
    assert_same_bits((query, call.query_out), (key, call.key_out))

    apply_rope_(*call.arguments, **call.keywords, backend="triton")
    call.assert_in_place(TOLERANCES)
    assert_same_bits((call.query, call.query_out), (call.key, call.key_out))


@pytest.mark.usefixtures("interpreter")
def test_tile_boundaries(tile):
    block = tile(FEW, 1, 1, 128).rows
    for num_tokens in {max(1, block - 1), block, block + 1, 2 * block + 1}:
        call = Call(Case("", num_tokens, heads=(1, 1), rope=CASES["chunked"].rope, head_size=128))
        apply_rope_(*call.arguments, **call.keywords, backend="triton")
        call.assert_in_place(TOLERANCES)


@pytest.mark.usefixtures("interpreter")
def test_real_tile_of_many_tokens():
    """choose_tile itself, not forced: just past the number of tokens where its answer changes."""
    call = Call(Case("", 1025, heads=(8, 1), has_key=False))
    apply_rope_(*call.arguments, **call.keywords, backend="triton")
    call.assert_in_place(TOLERANCES)


@pytest.mark.parametrize("name", PRESETS)
def test_few_compilations(name):
    """A model's token counts, 1 .. 131072, choose among at most four kernels."""
    model = shard(name)
    interleaved = bool(model.preset.rope_parameters.get("mrope_interleaved", False))
    sizes = model.num_heads, model.num_kv_heads, model.preset.rotary_dim, interleaved
    tiles = [backend.choose_tile(num_tokens, *sizes) for num_tokens in range(1, 131073, 7)]
    assert 2 <= len(set(tiles)) <= 4
    assert [tile.heads for tile in tiles] == sorted(tile.heads for tile in tiles)


def test_interleaved_axes_take_more_heads_earlier():
    """Three table rows a row of heads: measured at 1024 tokens of 32 + 8 heads."""
    assert backend.choose_tile(1024, 32, 8, 128, False).heads == 2
    assert backend.choose_tile(1024, 32, 8, 128, True).heads == 4


@pytest.mark.usefixtures("interpreter")
def test_position_axes_far_apart():
    """Twice the stride between axes does not fit 32 bits, the stride does."""
    stride = 2**30 + 64
    memory = torch.empty(2 * stride + 5, dtype=torch.int64)  # 17 GB that are never touched but for three short rows
    positions = memory.as_strided((3, 5), (stride, 1))
    call = Call(CASES["chunked"])
    positions.copy_(call.positions)
    call.positions = positions
    apply_rope_(*call.arguments, **call.keywords, backend="triton")
    call.assert_rotated(TOLERANCES, call.query, call.key)


@pytest.mark.usefixtures("interpreter", "tile")
@pytest.mark.parametrize("position", [-1, 1024, 2**32], ids=["negative", "one past", "zero in 32 bits"])
def test_position_outside_the_table(position):
    """NaN in that token, in the channels that read that axis; the neighbours are right. ops refuses it on a CPU."""
    case = CASES["chunked"]
    call, axis, token = Call(case), 1, 2
    call.positions[axis, token] = position
    backend.rope(*call.arguments[:3], call.query, call.key, call.table, **call.keywords)
    t, h, _ = case.workload.mrope_section
    spoiled = torch.zeros(case.head_size, dtype=torch.bool)
    spoiled[t : t + h] = spoiled[t + case.head_size // 2 : t + h + case.head_size // 2] = True
    others = [i for i in range(case.num_tokens) if i != token]
    for before, after in zip(call.before, (call.query, call.key), strict=True):
        assert torch.equal(after[token].isnan(), spoiled.expand(after.shape[1:]))
        assert_rotated(case, TOLERANCES, call.positions[:, others], before[others], after[others])
    call.inputs.assert_frozen(but=(call.query, call.key))


def test_grid_has_one_dimension(monkeypatch):
    """Only the first dimension of a CUDA grid may pass 65535, and it must cover every token and head."""
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launches.append((grid, arguments, options))

    monkeypatch.setattr(backend, "rope_kernel", Kernel())
    monkeypatch.setattr(backend.triton.knobs.runtime, "interpret", True)
    num_tokens = 2**20 + 1
    query, key = torch.zeros(1, 7, 64).expand(num_tokens, 7, 64), torch.zeros(1, 3, 64).expand(num_tokens, 3, 64)
    positions = torch.zeros(1, dtype=torch.int64).expand(num_tokens).contiguous()
    layout = {"is_neox_style": True, "mrope_section": None, "mrope_interleaved": False}
    backend.rope(positions, query, key, query, key, torch.zeros(1, 64), **layout)
    (((programs,), arguments, options),) = launches
    tile = backend.choose_tile(num_tokens, 7, 3, 64)
    assert tile.heads * tile.rows * programs >= num_tokens * (7 + 3)
    names = ROPE_KERNEL.arg_names
    assert len(arguments) == len(names), "every argument has its place"
    assert dict(zip(names, arguments, strict=True))["PDL"] is False
    assert options == {"num_warps": backend.NUM_WARPS}


@pytest.fixture(scope="module")
def machine_code():
    """(name, num_tokens, target) -> metrics. In another process: with the interpreter on, Triton compiles nothing."""
    program = """
import dataclasses, json, sys
from benchmarks.machine_code import MachineCode
from ropekern import KernelCase, compile_kernel
rows = []
for name, case in json.load(sys.stdin):
    for target in case.pop("targets"):
        compiled = compile_kernel(KernelCase(num_heads=32, num_kv_heads=8, **case), target)
        ptx = compiled.asm["ptx"]
        row = dataclasses.asdict(MachineCode.of(compiled)) | {"num_warps": compiled.metadata.num_warps}
        row |= {"wait": ptx.find("griddepcontrol.wait"), "load": ptx.find("ld.global"), "store": ptx.find("st.global")}
        rows.append(((name, case["num_tokens"], target), row))
json.dump(rows, sys.stdout)
"""
    full = {"head_size": 128, "rotary_dim": 128}
    cases = [
        (name, {**full, **case, "num_tokens": num_tokens, "targets": TARGETS})
        for name, case in {**COMPILED, "misaligned": MISALIGNED}.items()
        for num_tokens in (FEW, SOME, MANY)
    ]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(cases), env=environment | {"PYTHONPATH": str(root)},
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return {tuple(key): row for key, row in json.loads(result.stdout)}


@pytest.mark.parametrize("name", COMPILED)
def test_machine_code(name, machine_code):
    for num_tokens in (FEW, SOME, MANY):
        for target in TARGETS:
            row = machine_code[name, num_tokens, target]
            assert row["spill_bytes"] == 0, (num_tokens, target, row)
            assert name in NARROW or row["narrow_accesses"] == 0, (num_tokens, target, row)
            assert 0 < row["registers"] <= 255


def test_machine_code_follows_the_launch(machine_code):
    few, many = machine_code["neox", FEW, 90], machine_code["neox", MANY, 90]
    assert few["num_warps"] == many["num_warps"] == backend.NUM_WARPS
    assert few["registers"] < many["registers"]


@pytest.mark.parametrize("name", COMPILED)
def test_nothing_is_read_before_the_wait(name, machine_code):
    """Programmatic dependent launch, in the machine code of GPUs that have it; older ones do without."""
    for num_tokens in (FEW, SOME, MANY):
        assert machine_code[name, num_tokens, 80]["wait"] == -1
        for target in (90, 100):
            row = machine_code[name, num_tokens, target]
            assert 0 < row["wait"] < row["load"] < row["store"]


def test_narrow_accesses_are_counted(machine_code):
    """The metric can be other than zero."""
    assert all(
        machine_code["misaligned", n, target]["narrow_accesses"] > 0 for n in (FEW, SOME, MANY) for target in TARGETS
    )
