"""The models the ruler knows offline: frozen literals, standard library only.

Each literal is the model's own config.json on the Hugging Face hub, text part, with `rope_scaling` in the newer form
`rope_parameters`. Sizes are those of the whole model; `shard` gives what one tensor-parallel rank holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's attention sizes and rotary parameters."""

    name: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    max_position: int
    rope_parameters: Mapping[str, Any] = field(hash=False)
    head_size: int = 128
    is_neox_style: bool = True

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that rotate."""
        return int(self.head_size * self.rope_parameters.get("partial_rotary_factor", 1.0))


@dataclass(frozen=True, slots=True)
class Shard:
    """What one of tp_size ranks holds of a model: heads are divided, kv heads are replicated below one a rank."""

    preset: Preset
    tp_size: int
    num_heads: int
    num_kv_heads: int

    @property
    def is_deployable(self) -> bool:
        """False where the heads do not divide evenly: vLLM's grid has such a row, no real deployment does."""
        return self.preset.num_heads % self.tp_size == 0


def shard(model: str | Preset, tp_size: int = 1) -> Shard:
    """One rank of a model.

    Args:
        model: a key of PRESETS, or a preset.
        tp_size: tensor-parallel size, from 1 to the model's number of heads.

    Raises:
        ValueError: the name is not in PRESETS or the tp_size is out of range.
    """
    if isinstance(model, str) and model not in PRESETS:
        raise ValueError(f"model name {model!r} is not in the table, wanted one of {sorted(PRESETS)}")
    preset = PRESETS[model] if isinstance(model, str) else model
    if not 1 <= tp_size <= preset.num_heads:
        raise ValueError(f"tp_size must be in 1 .. {preset.num_heads} (heads of {preset.name}), got {tp_size}")
    return Shard(preset, tp_size, preset.num_heads // tp_size, max(1, preset.num_kv_heads // tp_size))


_QWEN2_VL = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": (16, 24, 24)}
_QWEN3_VL = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": (24, 20, 20), "mrope_interleaved": True}
_GLM_4_1V = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": (8, 12, 12), "partial_rotary_factor": 0.5}
_LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("Qwen/Qwen2-VL-2B-Instruct", 1536, 12, 2, 32768, _QWEN2_VL),
        Preset("Qwen/Qwen2-VL-7B-Instruct", 3584, 28, 4, 32768, _QWEN2_VL),
        Preset("Qwen/Qwen2-VL-72B-Instruct", 8192, 64, 8, 32768, _QWEN2_VL),
        Preset("Qwen/Qwen2.5-VL-3B-Instruct", 2048, 16, 2, 128000, _QWEN2_VL),
        Preset("Qwen/Qwen2.5-VL-7B-Instruct", 3584, 28, 4, 128000, _QWEN2_VL),
        Preset("Qwen/Qwen2.5-VL-32B-Instruct", 5120, 40, 8, 128000, _QWEN2_VL),
        Preset("Qwen/Qwen2.5-VL-72B-Instruct", 8192, 64, 8, 128000, _QWEN2_VL),
        Preset("Qwen/Qwen3-VL-2B-Instruct", 2048, 16, 8, 262144, _QWEN3_VL),
        Preset("Qwen/Qwen3-VL-4B-Instruct", 2560, 32, 8, 262144, _QWEN3_VL),
        Preset("Qwen/Qwen3-VL-8B-Instruct", 4096, 32, 8, 262144, _QWEN3_VL),
        Preset("Qwen/Qwen3-VL-32B-Instruct", 5120, 64, 8, 262144, _QWEN3_VL),
        Preset("Qwen/Qwen3-VL-30B-A3B-Instruct", 2048, 32, 4, 262144, _QWEN3_VL),
        Preset("zai-org/GLM-4.1V-9B-Thinking", 4096, 32, 2, 65536, _GLM_4_1V, is_neox_style=False),
        Preset("meta-llama/Llama-3.1-8B", 4096, 32, 8, 131072, _LLAMA_3_1),
        Preset("meta-llama/Llama-3.1-70B", 8192, 64, 8, 131072, _LLAMA_3_1),
    )
}
