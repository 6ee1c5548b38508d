"""Inverse frequencies of each `rope_type`, from Hugging Face `rope_parameters`.

A frequency variant is one function and one line of ROPE_TYPES; no kernel knows about it.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

RopeParameters = Mapping[str, Any]


def default_frequencies(rotary_dim: int, rope_parameters: RopeParameters) -> tuple[torch.Tensor, float]:
    """theta ** (-2i / rotary_dim), the original RoPE (Su et al., arXiv:2104.09864)."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu") / rotary_dim
    return 1.0 / (rope_parameters["rope_theta"] ** exponents), 1.0


def llama3_frequencies(rotary_dim: int, rope_parameters: RopeParameters) -> tuple[torch.Tensor, float]:
    """Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended."""
    inv_freq, scaling = default_frequencies(rotary_dim, rope_parameters)
    factor = rope_parameters["factor"]
    low, high = rope_parameters["low_freq_factor"], rope_parameters["high_freq_factor"]
    original = rope_parameters["original_max_position_embeddings"]
    if not low < high:
        raise ValueError(f"rope_parameters: low_freq_factor ({low}) must be less than high_freq_factor ({high})")
    wavelength = 2 * math.pi / inv_freq
    kept = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * inv_freq / factor + kept * inv_freq, scaling


# rope_type -> (function, the keys of rope_parameters it needs)
ROPE_TYPES: dict[str, tuple[Callable[[int, RopeParameters], tuple[torch.Tensor, float]], tuple[str, ...]]] = {
    "default": (default_frequencies, ("rope_theta",)),
    "llama3": (
        llama3_frequencies,
        ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    ),
}


def rope_type_of(rope_parameters: RopeParameters) -> str:
    """The rope_type, also under its older key `type`, where "mrope" only announced an mrope_section."""
    rope_type = str(rope_parameters.get("rope_type", rope_parameters.get("type", "default")))
    return "default" if rope_type == "mrope" else rope_type


def inverse_frequencies(rotary_dim: int, rope_parameters: RopeParameters) -> tuple[torch.Tensor, float]:
    """Inverse frequencies and attention scaling of a model.

    Always computed in float32 on the CPU: pow() differs between devices by a unit in the last place, and at position
    32768 that is 2e-3 in the cosine. Models were trained with these very numbers.

    Args:
        rotary_dim: number of channels that rotate, even.
        rope_parameters: Hugging Face `rope_parameters`; `rope_type` (default "default") selects the variant.

    Returns:
        `[rotary_dim // 2]` float32 radians per position, and the factor that multiplies cos and sin.

    Raises:
        ValueError: the rope_type is unknown, or a key it needs is missing.
    """
    rope_type = rope_type_of(rope_parameters)
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_parameters: rope_type {rope_type!r} is unknown, wanted one of {sorted(ROPE_TYPES)}")
    function, needed = ROPE_TYPES[rope_type]
    missing = [key for key in needed if key not in rope_parameters]
    if missing:
        raise ValueError(f"rope_parameters: rope_type {rope_type!r} needs {missing}, got {sorted(rope_parameters)}")
    return function(rotary_dim, rope_parameters)
