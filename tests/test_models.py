"""A model by name: the table, config files as published, and errors that say what is wrong with them."""

import json
import sys

import pytest

from benchmarks import models
from benchmarks.presets import PRESETS, shard
from benchmarks.workload import Workload

QWEN2_RAW = {  # as Qwen2-VL's own config.json
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}
QWEN3_NESTED = {
    "model_type": "qwen3_vl",
    "text_config": {
        "model_type": "qwen3_vl_text",
        "hidden_size": 2560,
        "head_dim": 128,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
}
GLM = {
    "model_type": "glm4v",
    "text_config": {
        "model_type": "glm4v_text",
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 65536,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "default", "mrope_section": [8, 12, 12]},
    },
}


def test_table():
    for name, preset in PRESETS.items():
        assert models.find(name) is preset


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (QWEN2_RAW, "Qwen/Qwen2-VL-7B-Instruct"),
        (QWEN3_NESTED, "Qwen/Qwen3-VL-4B-Instruct"),
        (GLM, "zai-org/GLM-4.1V-9B-Thinking"),
    ],
    ids=["raw, flat", "new, nested", "partial, old"],
)
@pytest.mark.parametrize("is_folder", [True, False], ids=["folder", "file"])
def test_config_of_a_model_in_the_table(config, name, is_folder, tmp_path):
    """The offline literal and the file give the same workload."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    found, known = models.find(str(tmp_path if is_folder else path)), PRESETS[name]
    for field in (
        "hidden_size",
        "num_heads",
        "num_kv_heads",
        "max_position",
        "head_size",
        "rotary_dim",
        "is_neox_style",
    ):
        assert getattr(found, field) == getattr(known, field), field
    assert dict(found.rope_parameters) == dict(known.rope_parameters)
    assert Workload.of(shard(name), 5).mrope_section == tuple(found.rope_parameters["mrope_section"])


def test_defaults():
    """No kv heads: as many as heads; no rope entries: RoPE as published first."""
    config = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 128, "model_type": "gptj"}
    preset = models.from_config("m", config)
    assert (preset.num_kv_heads, preset.head_size, preset.is_neox_style) == (4, 16, False)
    assert preset.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


def test_a_yarn_config_gets_its_original_length():
    yarn = {**QWEN2_RAW, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    assert models.from_config("m", yarn).rope_parameters["original_max_position_embeddings"] == 32768


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "hidden_size must be a positive integer, got None"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive integer, got 0"),
        ({"max_position_embeddings": "long"}, "max_position_embeddings must be a positive integer, got 'long'"),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]}},
            "mrope_section must be three counts with sum 64",
        ),
        ({"partial_rotary_factor": 1.5}, "192 of 128 channels cannot rotate"),
        ({"rope_parameters": {"full": {}, "sliding": {}}}, r"differ by layer type \(full, sliding\)"),
    ],
)
def test_bad_config(change, words):
    with pytest.raises(ValueError, match=f"config of m: .*{words}"):
        models.from_config("m", QWEN2_RAW | change)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_unreadable_config(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"config file .*config\.json (cannot be read|must hold an object)"):
        models.find(str(path))


def test_a_name_that_nobody_knows(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ValueError, match=r"'Qwen/Qwen9' is neither in the table \(Qwen/.*transformers.*is not installed"
    ):
        models.find("Qwen/Qwen9")


def test_the_hub_fails(monkeypatch):
    transformers = pytest.importorskip("transformers")

    def fail(name, trust_remote_code):
        assert (name, trust_remote_code) == ("Qwen/Qwen9", True)
        raise OSError("no such repository\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(ValueError, match=r"the hub does not give it: no such repository$"):
        models.find("Qwen/Qwen9", trust_remote_code=True)
