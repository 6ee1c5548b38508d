"""The native backend against the float64 oracle."""

import pytest
import torch

from benchmarks import providers
from benchmarks.check import check
from benchmarks.oracle import oracle
from benchmarks.presets import PRESETS, shard
from benchmarks.workload import Workload
from ropekern import apply_rope, apply_rope_
from tests.cases import CASES, Call, Case, assert_same_bits

# dtype -> (atol, rtol): float32 arithmetic, and half a unit in the last place of the result
TOLERANCES = {
    torch.float32: (2e-6, 0.0),
    torch.float16: (2e-6, 2.0**-11),
    torch.bfloat16: (2e-6, 2.0**-8),
}

FAR = 32768
# What float32 costs an angle: its own rounding, its frequency's, and pow's. All grow with the position.
ANGLE_ERROR = 2.0**-23


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    call = Call(CASES[name])
    query, key = apply_rope(*call.arguments, **call.keywords, backend="native")
    call.assert_out_of_place(TOLERANCES, query, key)
    assert query.is_contiguous()

    apply_rope_(*call.arguments, **call.keywords, backend="native")
    call.assert_in_place(TOLERANCES)
    assert_same_bits((query, call.query), (key, call.key))


def test_native_is_the_default_on_the_cpu():
    call, named = Call(CASES["chunked"]), Call(CASES["chunked"])
    apply_rope_(*call.arguments, **call.keywords)
    apply_rope_(*named.arguments, **named.keywords, backend="native")
    assert_same_bits((call.query, named.query), (call.key, named.key))


@pytest.mark.parametrize(
    "case",
    [
        Case("slowest frequencies", 256, head_size=128, dtype=torch.float32, table_rows=FAR, rope={"rope_theta": 1e6}),
        Case("three far axes", 256, head_size=128, dtype=torch.float32, table_rows=FAR,
             rope={"rope_theta": 5e6, "mrope_section": (24, 20, 20), "mrope_interleaved": True}),
        Case("few fast channels", 256, rotary_dim=32, is_neox_style=False, dtype=torch.float32, table_rows=FAR),
    ],
    ids=lambda case: case.why,
)  # fmt: skip
def test_true_angles(case):
    """Against float64 angles the error is that of a float32 angle, at every position up to 32k."""
    call = Call(case)
    query, key = apply_rope(*call.arguments, **call.keywords, backend="native")
    farthest = call.positions.reshape(-1, case.num_tokens).amax(0).double()[:, None, None]
    for before, after in zip(call.before, (query, key), strict=True):
        error = (after.double() - oracle(case.workload, call.positions, before, torch.float64)).abs()
        pair = 2 * before.double().abs().amax(-1, keepdim=True)
        assert (error <= 2e-6 + farthest * ANGLE_ERROR * pair).all()


def test_angles_are_those_of_training():
    """float32 angles differ from the truth by more than the tolerance above: parity is with models, on purpose."""
    call = Call(CASES["float32"])
    query, _ = apply_rope(*call.arguments, backend="native")
    error = query.double() - oracle(call.case.workload, call.positions, call.before[0], torch.float64)
    assert error.abs().max() > 100 * TOLERANCES[torch.float32][0]


@pytest.mark.parametrize("is_packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize("name", PRESETS)
def test_preset(name, is_packed):
    check("native", providers.PROVIDERS["native"], Workload.of(shard(name), 3, is_packed=is_packed), "cpu")
