"""A model's preset by name: from the offline table, from a config file here, or from the hub for other names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.presets import PRESETS, Preset

# model_type of configs whose layers pair adjacent channels (GPT-J); all others pair the halves (NeoX)
_GPTJ_PAIRING = {
    "chatglm", "codegen", "cohere", "cohere2", "ernie4_5", "glm", "glm4", "glm4v", "glm4v_moe", "glm4v_text", "gptj",
}  # fmt: skip


def find(name: str, *, trust_remote_code: bool = False) -> Preset:
    """The preset of a model.

    Args:
        name: a key of PRESETS; else a Hugging Face config.json or a folder that holds one; else a name on the hub,
            which is asked only then and only through transformers.
        trust_remote_code: let the hub's model bring code of its own.

    Raises:
        ValueError: the model cannot be found, or its config does not say what a benchmark needs.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return from_config(name, _read(path))
    return from_config(name, _ask_hub(name, trust_remote_code))


def from_config(name: str, config: Mapping[str, Any]) -> Preset:
    """The preset of a model's config.json: its text part, older and newer spelling.

    Raises:
        ValueError: an entry is missing or impossible; the message names it.
    """
    text = {**config, **(config.get("text_config") or {})}

    def number(key: str, default: int | None = None) -> int:
        value = text.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"config of {name}: {key} must be a positive integer, got {text.get(key)!r}")
        return value

    hidden_size, num_heads = number("hidden_size"), number("num_attention_heads")
    head_size = number("head_dim", hidden_size // num_heads)
    preset = Preset(
        name=name,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=number("num_key_value_heads", num_heads),
        max_position=number("max_position_embeddings"),
        rope_parameters=_rope_parameters(name, text),
        head_size=head_size,
        is_neox_style=text.get("model_type") not in _GPTJ_PAIRING,
    )
    if preset.rotary_dim % 2 or not 0 < preset.rotary_dim <= head_size:
        raise ValueError(f"config of {name}: {preset.rotary_dim} of {head_size} channels cannot rotate")
    section = preset.rope_parameters.get("mrope_section")
    if section is not None and (len(section) != 3 or 2 * sum(section) != preset.rotary_dim):
        raise ValueError(
            f"config of {name}: mrope_section must be three counts with sum {preset.rotary_dim // 2}, got {section}"
        )
    return preset


def _rope_parameters(name: str, text: Mapping[str, Any]) -> dict[str, Any]:
    """In the newer form: one dictionary that also holds what older configs say beside rope_scaling."""
    found = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
    if found and all(isinstance(value, Mapping) for value in found.values()):
        raise ValueError(
            f"config of {name}: rope_parameters differ by layer type ({', '.join(found)}), wanted one for all"
        )
    rope_type = found.pop("type", None)
    found.setdefault("rope_type", rope_type or "default")
    if found["rope_type"] == "mrope":  # as raw Qwen2-VL configs say it
        found["rope_type"] = "default"
    for key, default in (("rope_theta", 10000.0), ("partial_rotary_factor", None)):
        value = found.get(key, text.get(key, default))
        if value is not None:
            found[key] = value
    if found["rope_type"] in {"dynamic", "yarn", "llama3", "longrope"}:
        found.setdefault("original_max_position_embeddings", text.get("original_max_position_embeddings"))
        if found["original_max_position_embeddings"] is None:
            found["original_max_position_embeddings"] = text["max_position_embeddings"]
    if found.get("mrope_section") is not None:
        found["mrope_section"] = tuple(found["mrope_section"])
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"config file {path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"config file {path} must hold an object, got {type(config).__name__}")
    return config


def _ask_hub(name: str, trust_remote_code: bool) -> dict[str, Any]:
    known = ", ".join(PRESETS)
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ValueError(
            f"model name {name!r} is neither in the table ({known}) nor a config file or folder here, and "
            f"transformers, which would ask the hub, is not installed"
        ) from error
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # the hub's client fails in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"model name {name!r} is neither in the table ({known}) nor a config file or folder here, and the hub does "
            f"not give it: {reason}"
        ) from error
    return dict(config.to_dict())
