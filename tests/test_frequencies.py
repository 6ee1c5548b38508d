"""Every rope_type against Hugging Face transformers, which computes them on a CPU."""

import pytest
import torch

from ropekern import compute_cos_sin_cache
from ropekern.frequencies import ROPE_TYPES, inverse_frequencies

transformers = pytest.importorskip("transformers")

HEAD_SIZE, ORIGINAL = 64, 2048
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 100 for i in range(HEAD_SIZE // 2)],
    "long_factor": [2.0 + i / 10 for i in range(HEAD_SIZE // 2)],
    "original_max_position_embeddings": ORIGINAL,
}
# name -> rope_parameters, length served
CASES = {
    "default": ({"rope_type": "default"}, ORIGINAL),
    "linear": ({"rope_type": "linear", "factor": 4.0}, ORIGINAL),
    "dynamic": ({"rope_type": "dynamic", "factor": 4.0}, 4 * ORIGINAL),
    "yarn": (YARN, 4 * ORIGINAL),
    "yarn, its own betas": (YARN | {"beta_fast": 16, "beta_slow": 2, "truncate": False}, 4 * ORIGINAL),
    "yarn, mscale": (YARN | {"mscale": 0.7, "mscale_all_dim": 0.9}, 4 * ORIGINAL),
    "yarn, attention factor": (YARN | {"attention_factor": 1.5}, 4 * ORIGINAL),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": ORIGINAL,
        },
        8 * ORIGINAL,
    ),
    "longrope, long": (LONGROPE, 16 * ORIGINAL),
    "longrope, short": (LONGROPE | {"factor": 1.0}, ORIGINAL),
}


def theirs(parameters, length):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaConfig

    if parameters["rope_type"] == "default":  # not in their table of functions: linear by a factor of one is the same
        parameters = parameters | {"rope_type": "linear", "factor": 1.0}
    rope_type = parameters["rope_type"]
    config = LlamaConfig(
        hidden_size=2 * HEAD_SIZE,
        num_attention_heads=2,
        # their dynamic reads the original maximum here; their longrope derives its factor from it
        max_position_embeddings=ORIGINAL if rope_type == "dynamic" else length,
        rope_parameters=dict(parameters),
    )
    return ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", seq_len=length)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("partial", [1.0, 0.5], ids=["full", "partial"])
def test_parity_with_transformers(name, partial):
    parameters, length = CASES[name]
    rotary_dim = int(HEAD_SIZE * partial)
    parameters = parameters | {"rope_theta": 1e6, "partial_rotary_factor": partial}
    for key in ("short_factor", "long_factor"):
        if key in parameters:
            parameters[key] = parameters[key][: rotary_dim // 2]
    wanted, scaling = theirs(parameters, length)
    came, attention = inverse_frequencies(rotary_dim, parameters, length)
    assert torch.equal(came, wanted), "to the bit: at far positions a unit in the last place is a wrong angle"
    assert attention == pytest.approx(scaling, rel=1e-12)


def test_every_type_is_compared():
    assert {parameters["rope_type"] for parameters, _ in CASES.values()} == set(ROPE_TYPES)


@pytest.mark.parametrize("name", [name for name in CASES if name != "default" and "short" not in name])
def test_no_variant_is_a_silent_default(name):
    parameters, length = CASES[name]
    came, _ = inverse_frequencies(HEAD_SIZE, parameters | {"rope_theta": 1e6}, length)
    plain, _ = inverse_frequencies(HEAD_SIZE, {"rope_theta": 1e6}, length)
    assert not torch.allclose(came, plain, rtol=1e-2)


def test_attention_factor_scales_the_table():
    parameters = YARN | {"rope_theta": 1e6, "attention_factor": 1.5}
    table = compute_cos_sin_cache(HEAD_SIZE, 8, rope_parameters=parameters)
    assert torch.equal(table[0, : HEAD_SIZE // 2], torch.full((HEAD_SIZE // 2,), 1.5))
