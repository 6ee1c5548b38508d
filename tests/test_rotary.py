"""RotaryEmbedding and get_rope: shapes as models have them, and a table that keeps its dtype."""

import pytest
import torch
from torch import nn

from ropekern import RotaryEmbedding, UnsupportedError, apply_rope, compute_cos_sin_cache, get_rope

HEAD_SIZE, HEADS, KV_HEADS, ROWS = 64, 4, 2, 128
PLAIN = {"rope_theta": 1e4}
MROPE = {"rope_theta": 1e4, "mrope_section": [8, 12, 12]}

# rope_parameters, shape of positions, shape before the heads, are heads a dimension of their own
SHAPES = {
    "batch, seq": (PLAIN, (2, 7), (2, 7), False),
    "batch, seq, heads apart": (PLAIN, (2, 7), (2, 7), True),
    "tokens": (PLAIN, (9,), (9,), False),
    "tokens, heads apart": (PLAIN, (9,), (9,), True),
    "no tokens": (PLAIN, (0,), (0,), False),
    "mrope tokens": (MROPE, (3, 9), (9,), False),
    "mrope tokens, heads apart": (MROPE, (3, 9), (9,), True),
    "mrope batch, seq": (MROPE, (3, 2, 7), (2, 7), False),
    "mrope batch of three": (MROPE, (3, 3, 7), (3, 7), False),
    "text tokens of mrope": (MROPE, (9,), (9,), False),
    "text batch of mrope": (MROPE, (2, 7), (2, 7), False),
    "three sequences, no mrope": (PLAIN, (3, 9), (3, 9), False),
}


def make(parameters, position_shape, tokens, apart):
    rope = get_rope(HEAD_SIZE, ROWS, rope_parameters=parameters)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, ROWS, position_shape, generator=generator)

    def heads(n):
        return torch.randn(*tokens, *((n, HEAD_SIZE) if apart else (n * HEAD_SIZE,)), generator=generator)

    return rope, positions, heads(HEADS), heads(KV_HEADS)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    """Each token, taken alone, is what apply_rope makes of it; the inputs stay untouched."""
    parameters, _, tokens, _ = SHAPES[name]
    rope, positions, query, key = make(*SHAPES[name])
    before = query.clone(), key.clone()
    rotated = rope(positions, query, key)
    assert [x.shape for x in rotated] == [query.shape, key.shape]
    assert torch.equal(query, before[0])
    assert torch.equal(key, before[1])
    axes = positions.dim() - len(tokens)
    for index in torch.cartesian_prod(*map(torch.arange, tokens)).view(-1, len(tokens)).tolist():
        token = tuple(index)
        one = (slice(None), *token) if axes else token
        wanted = apply_rope(
            positions[one][..., None],
            query[token].view(1, HEADS, HEAD_SIZE),
            key[token].view(1, KV_HEADS, HEAD_SIZE),
            rope.cos_sin_cache,
            mrope_section=parameters.get("mrope_section"),
        )
        for x, y in zip(rotated, wanted, strict=True):
            assert torch.equal(x[token].flatten(), y.flatten())


WRONG_SHAPES = {
    "tokens differ": ((9,), (8, HEADS * HEAD_SIZE), "query"),
    "flat, but positions are not": ((2, 7), (14, HEADS * HEAD_SIZE), "query"),
    "half a head": ((9,), (9, HEAD_SIZE // 2), "query"),
    "head size differs": ((9,), (9, HEADS, HEAD_SIZE // 2), "query"),
    "no head dimension": ((9,), (9,), "query"),
    "one dimension too many": ((9,), (9, 1, HEADS, HEAD_SIZE), "query"),
    "three axes, no mrope": ((3, 9), (9, HEADS * HEAD_SIZE), "query"),
}


@pytest.mark.parametrize(("position_shape", "shape", "argument"), WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_wrong_shape(position_shape, shape, argument):
    rope = get_rope(HEAD_SIZE, ROWS)
    positions = torch.zeros(position_shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"^{argument} must have the shape") as error:
        rope(positions, torch.zeros(shape))
    assert str(list(shape)) in str(error.value)
    assert str(list(position_shape)) in str(error.value)
    with pytest.raises(ValueError, match=r"^key must have the shape"):
        rope(positions, torch.zeros(*position_shape, HEAD_SIZE), torch.zeros(shape))


def test_new_tensors():
    rope, positions, query, key = make(PLAIN, (9,), (9,), True)
    for x, y in zip((query, key), rope(positions, query, key), strict=True):
        assert x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()


def test_slices_of_a_fused_projection():
    """What a model hands over: views of one qkv tensor."""
    rope, positions, query, key = make(PLAIN, (2, 7), (2, 7), False)
    qkv = torch.cat((query, key, key), dim=-1)
    sliced = qkv.split((HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE), dim=-1)[:2]
    for x, y in zip(rope(positions, *sliced), rope(positions, query, key), strict=True):
        assert torch.equal(x, y)


def test_key_none():
    rope, positions, query, key = make(PLAIN, (9,), (9,), False)
    rotated, nothing = rope(positions, query)
    assert nothing is None
    assert torch.equal(rotated, rope(positions, query, key)[0])


@pytest.mark.usefixtures("interpreter")
def test_backends_by_name():
    pytest.importorskip("triton", reason="Triton is not installed")
    rope, positions, query, key = make(MROPE, (3, 2, 7), (2, 7), False)
    native, kernel = rope.forward_native(positions, query, key), rope.forward_triton(positions, query, key)
    for x, y, z in zip(rope(positions, query, key), native, kernel, strict=True):
        assert torch.equal(x, y)
        assert torch.allclose(y, z, rtol=0, atol=1e-6)
    with pytest.raises(UnsupportedError, match="flashinfer"):
        rope.forward_flashinfer(positions, query, key)


def test_forward_cuda_is_triton():
    assert RotaryEmbedding.forward_cuda is RotaryEmbedding.forward_triton


@pytest.mark.parametrize(
    "convert",
    [
        lambda model: model.to(torch.bfloat16),
        lambda model: model.half(),
        lambda model: model.to("cpu", torch.float16),
        lambda model: model.bfloat16().float(),
    ],
    ids=["to", "half", "device and dtype", "there and back"],
)
def test_table_keeps_its_dtype(convert):
    model = nn.ModuleList([nn.Linear(2, 2), get_rope(HEAD_SIZE, ROWS)])
    table = model[1].cos_sin_cache.clone()
    assert convert(model) is model
    assert model[1].cos_sin_cache.dtype == torch.float32
    assert torch.equal(model[1].cos_sin_cache, table)


def test_table_moves():
    rope = get_rope(HEAD_SIZE, ROWS).to("meta", torch.bfloat16)
    assert rope.cos_sin_cache.is_meta
    assert rope.cos_sin_cache.dtype == torch.float32


def test_table_of_the_models_dtype():
    rope = get_rope(HEAD_SIZE, ROWS, dtype=torch.bfloat16)
    assert rope.cos_sin_cache.dtype == torch.bfloat16
    assert rope.float().cos_sin_cache.dtype == torch.bfloat16
    assert torch.equal(rope.cos_sin_cache, get_rope(HEAD_SIZE, ROWS).cos_sin_cache.bfloat16())


def test_table_is_not_saved():
    assert not get_rope(HEAD_SIZE, ROWS).state_dict()


def test_partial_factor_is_applied_once():
    rope = get_rope(128, ROWS, rope_parameters={"partial_rotary_factor": 0.5})
    assert rope.cos_sin_cache.shape == (ROWS, 64)
    wanted = 1e4 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)  # the exponent's divisor is 64, not 128 or 32
    assert torch.allclose(rope.cos_sin_cache[1, :32].double().acos(), wanted, rtol=1e-3, atol=1e-3)
    query = torch.randn(9, 128)
    rotated, _ = rope(torch.arange(1, 10), query)
    assert torch.equal(rotated[:, 64:], query[:, 64:])
    assert (rotated[:, :64] != query[:, :64]).any(0).all()


def test_theta_defaults_to_ten_thousand():
    named = get_rope(HEAD_SIZE, ROWS, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    assert torch.equal(get_rope(HEAD_SIZE, ROWS).cos_sin_cache, named.cos_sin_cache)
    other = get_rope(HEAD_SIZE, ROWS, rope_parameters={"rope_theta": 5e5})
    assert not torch.equal(other.cos_sin_cache, named.cos_sin_cache)


def test_pairing_is_passed_on():
    query = torch.randn(9, HEAD_SIZE)
    rope = get_rope(HEAD_SIZE, ROWS, is_neox_style=False)
    wanted, _ = apply_rope(
        torch.arange(9), query.view(9, 1, HEAD_SIZE), None, rope.cos_sin_cache, is_neox_style=False
    )  # fmt: skip
    assert torch.equal(rope(torch.arange(9), query)[0], wanted.flatten(1))


def test_axis_layout_is_passed_on():
    section = (12, 10, 10)
    positions, query = torch.randint(0, ROWS, (3, 9)), torch.randn(9, HEAD_SIZE)
    rope = get_rope(HEAD_SIZE, ROWS, rope_parameters={"mrope_section": section, "mrope_interleaved": True})
    wanted, _ = apply_rope(
        positions, query.view(9, 1, HEAD_SIZE), None, rope.cos_sin_cache, mrope_section=section, mrope_interleaved=True
    )
    assert torch.equal(rope(positions, query)[0], wanted.flatten(1))


def test_print_shows_what_it_is():
    text = repr(get_rope(HEAD_SIZE, ROWS, rope_parameters=MROPE))
    assert text == (
        "RotaryEmbedding(head_size=64, rotary_dim=64, max_position=128, is_neox_style=True, "
        "mrope_section=(8, 12, 12), mrope_interleaved=False)"
    )


def test_made_under_a_meta_device():
    """vLLM and transformers make models so; frequencies stay on the CPU, where they are exact."""
    with torch.device("meta"):
        rope = get_rope(128, 16, rope_parameters={"mrope_section": [24, 20, 20], "mrope_interleaved": True})
        table = compute_cos_sin_cache(64, 16, device="cpu")
    assert torch.equal(table, compute_cos_sin_cache(64, 16))
    assert rope.cos_sin_cache.is_meta
    assert rope.cos_sin_cache.shape == (16, 128)
