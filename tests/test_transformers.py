"""Parity with Hugging Face transformers: its rotary modules and its apply_rotary_pos_emb, at the models' real sizes."""

import re
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks.presets import PRESETS
from ropekern import get_rope

pytest.importorskip("transformers", reason="transformers is not installed")

# dtype -> atol as a part of the largest input. transformers casts its table to bfloat16 (2^-9 each for cosine and
# sine), rounds both products (2^-9 each) and their sum; this package rounds the result once.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2.0**-6}

MAX_POSITION, BATCH, SEQ, HEADS, KV_HEADS = 32768, 2, 64, 4, 2

LLAMA, GLM = "meta-llama/Llama-3.1-8B", "zai-org/GLM-4.1V-9B-Thinking"
QWEN2, QWEN3 = "Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"

# preset, module under transformers.models, config class, rotary class, what replaces the preset's rope_parameters
MODELS = {
    "llama3": (LLAMA, "llama", "LlamaConfig", "LlamaRotaryEmbedding", None),
    "default": (LLAMA, "llama", "LlamaConfig", "LlamaRotaryEmbedding", {"rope_type": "default", "rope_theta": 1e4}),
    "chunked": (QWEN2, "qwen2_vl", "Qwen2VLTextConfig", "Qwen2VLRotaryEmbedding", None),
    "interleaved": (QWEN3, "qwen3_vl", "Qwen3VLTextConfig", "Qwen3VLTextRotaryEmbedding", None),
    "chunked gptj": (GLM, "glm4v", "Glm4vTextConfig", "Glm4vTextRotaryEmbedding", None),
}


def theirs(name, positions, query, key):
    preset, folder, config_class, rotary_class, parameters = MODELS[name]
    head_size = PRESETS[preset].head_size
    config = getattr(import_module(f"transformers.models.{folder}.configuration_{folder}"), config_class)(
        hidden_size=HEADS * head_size,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=head_size,
        max_position_embeddings=PRESETS[preset].max_position,
        rope_parameters=dict(parameters or PRESETS[preset].rope_parameters),
    )
    modeling = import_module(f"transformers.models.{folder}.modeling_{folder}")
    cos, sin = getattr(modeling, rotary_class)(config)(query, positions)
    rotated = modeling.apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), cos, sin)
    return [x.transpose(1, 2) for x in rotated]


def ours(name, positions, query, key):
    preset, _, _, _, parameters = MODELS[name]
    preset = PRESETS[preset]
    rope = get_rope(preset.head_size, MAX_POSITION, preset.is_neox_style, parameters or preset.rope_parameters)
    return rope(positions, query, key)


def inputs(name, dtype, axes):
    head_size = PRESETS[MODELS[name][0]].head_size
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, MAX_POSITION, (*axes, BATCH, SEQ), generator=generator)
    positions[..., -1] = MAX_POSITION - 1
    query, key = (torch.randn(BATCH, SEQ, n, head_size, generator=generator) for n in (HEADS, KV_HEADS))
    return positions, query.to(dtype), key.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_parity(name, dtype):
    is_mrope = "mrope_section" in PRESETS[MODELS[name][0]].rope_parameters
    given = inputs(name, dtype, (3,) if is_mrope else ())
    for x, y, before in zip(ours(name, *given), theirs(name, *given), given[1:], strict=True):
        assert x.dtype == y.dtype == dtype
        assert (x.double() - y.double()).abs().max() <= TOLERANCES[dtype] * before.double().abs().max()


@pytest.mark.parametrize("name", ["chunked", "interleaved", "chunked gptj"])
def test_text_parity(name):
    """Text tokens have t = h = w: one-dimensional positions here, three equal rows there."""
    positions, query, key = inputs(name, torch.float32, ())
    wanted = theirs(name, positions.expand(3, -1, -1), query, key)
    for x, y in zip(ours(name, positions, query, key), wanted, strict=True):
        assert (x - y).abs().max() <= TOLERANCES[torch.float32] * query.abs().max()


def guide():
    """The code block of docs/transformers.md."""
    text = (Path(__file__).parents[1] / "docs" / "transformers.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)  # the code that readers copy
    return names


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("folder", "prefix"), [("qwen2_vl", "Qwen2VL"), ("qwen2_5_vl", "Qwen2_5_VL")], ids=["Qwen2-VL", "Qwen2.5-VL"]
)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_patched_model(device, folder, prefix, dtype, monkeypatch):
    """Random weights and the patch of the guide: one attention layer, the whole text model, training.

    The truth is the unpatched model in float32: the patched one must come as near to it as the unpatched.
    """
    modeling = import_module(f"transformers.models.{folder}.modeling_{folder}")
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb)  # restored at the end
    configuration = import_module(f"transformers.models.{folder}.configuration_{folder}")
    config = getattr(configuration, f"{prefix}TextConfig")(
        hidden_size=512, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, num_hidden_layers=2,
        vocab_size=8, max_position_embeddings=1024, bos_token_id=None, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    )  # fmt: skip
    torch.manual_seed(0)
    truth_model = getattr(modeling, f"{prefix}TextModel")(config).eval().to(device)
    model = deepcopy(truth_model).to(dtype)
    truth_model.load_state_dict(model.state_dict())
    model.rotary_emb = deepcopy(truth_model.rotary_emb)  # from_pretrained leaves frequencies in float32, too
    positions = torch.randint(0, 1024, (3, BATCH, SEQ), device=device)
    hidden, upstream = torch.randn(2, BATCH, SEQ, 512, device=device, dtype=dtype)

    def run(model, dtype):
        inputs = hidden.to(dtype, copy=True).requires_grad_()
        with torch.no_grad():
            layer, _ = model.layers[0].self_attn(inputs, position_embeddings=model.rotary_emb(inputs, positions))
            whole = model(inputs_embeds=inputs, position_ids=positions).last_hidden_state
        model(inputs_embeds=inputs, position_ids=positions).last_hidden_state.backward(upstream.to(dtype))
        return layer.float(), whole.float(), inputs.grad.float()

    truth, before = run(truth_model, torch.float32), run(model, dtype)
    guide()["patch"](model)
    model.to(device, dtype)
    assert model.rotary_emb.rope.cos_sin_cache.dtype == torch.float32
    after = run(model, dtype)
    for name, want, theirs, got in zip(("layer", "model", "gradient"), truth, before, after, strict=True):
        error, error_before = ((x - want).norm() / want.norm() for x in (got, theirs))
        assert error <= max(1.05 * error_before, 2e-6), (name, error, error_before)
        assert (got - want).abs().max() <= TOLERANCES[dtype] * want.abs().max(), name
        assert got.any()
