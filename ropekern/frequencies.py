"""Inverse frequencies of each `rope_type`, from Hugging Face `rope_parameters`.

A frequency variant is one function and one line of ROPE_TYPES; no kernel knows about it. A function is given
rotary_dim, the parameters and the number of rows of the table, and returns inverse frequencies and attention scaling.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

RopeParameters = Mapping[str, Any]
Frequencies = tuple[torch.Tensor, float]


def default_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:  # noqa: ARG001
    """theta ** (-2i / rotary_dim), the original RoPE (Su et al., arXiv:2104.09864)."""
    return 1.0 / _wavenumbers(rope_parameters["rope_theta"], rotary_dim), 1.0


def linear_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:
    """Positions divided by `factor` (position interpolation, arXiv:2306.15595)."""
    inv_freq, scaling = default_frequencies(rotary_dim, rope_parameters, max_position)
    return inv_freq / _factor(rope_parameters), scaling


def dynamic_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:  # noqa: ARG001
    """NTK-aware: a larger theta for a longer context. A fixed table serves the length factor * the original maximum."""
    factor = _factor(rope_parameters)
    longer = factor * factor - (factor - 1)
    theta = rope_parameters["rope_theta"] * longer ** (rotary_dim / (rotary_dim - 2))
    return 1.0 / _wavenumbers(theta, rotary_dim), 1.0


def yarn_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:  # noqa: ARG001
    """YaRN (arXiv:2309.00071): channels that turn often keep their frequency, those that turn seldom are slowed by
    `factor`, a ramp between; cos and sin are scaled by the attention factor.
    """  # fmt: skip
    factor, theta = _factor(rope_parameters), rope_parameters["rope_theta"]
    original = rope_parameters["original_max_position_embeddings"]

    def channel(turns: float) -> float:
        """Which channel turns so often within the original context."""
        return rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = channel(rope_parameters.get("beta_fast") or 32)
    high = channel(rope_parameters.get("beta_slow") or 1)
    if rope_parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low > high:
        raise ValueError(
            f"rope_parameters: beta_fast must turn more often than beta_slow, got the range {low} .. {high}"
        )
    steps = torch.arange(rotary_dim // 2, dtype=torch.float32, device="cpu")
    slowed = ((steps - low) / (high - low or 0.001)).clamp(0, 1)
    kept, wavenumbers = 1 - slowed, _wavenumbers(theta, rotary_dim)
    # In transformers' order of operations, to the bit: at far positions a unit in the last place is a wrong angle.
    inv_freq = 1.0 / (factor * wavenumbers) * (1 - kept) + 1.0 / wavenumbers * kept
    return inv_freq, _yarn_attention(rope_parameters, factor)


def _yarn_attention(rope_parameters: RopeParameters, factor: float) -> float:
    if rope_parameters.get("attention_factor") is not None:
        return float(rope_parameters["attention_factor"])

    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0

    mscale, all_dim = rope_parameters.get("mscale"), rope_parameters.get("mscale_all_dim")
    return scale(mscale) / scale(all_dim) if mscale and all_dim else scale(1.0)


def llama3_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:
    """Llama 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended."""
    inv_freq, scaling = default_frequencies(rotary_dim, rope_parameters, max_position)
    factor = _factor(rope_parameters)
    low, high = rope_parameters["low_freq_factor"], rope_parameters["high_freq_factor"]
    original = rope_parameters["original_max_position_embeddings"]
    if not low < high:
        raise ValueError(f"rope_parameters: low_freq_factor ({low}) must be less than high_freq_factor ({high})")
    wavelength = 2 * math.pi / inv_freq
    kept = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - kept) * inv_freq / factor + kept * inv_freq, scaling


def longrope_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:
    """LongRoPE (arXiv:2402.13753): a factor for each channel, from `long_factor` where the table is longer than the
    original context and from `short_factor` where it is not. `factor`, where it is not given, is that ratio of lengths.
    """  # fmt: skip
    original = rope_parameters["original_max_position_embeddings"]
    name = "long_factor" if max_position > original else "short_factor"
    if len(rope_parameters[name]) != rotary_dim // 2:
        came = len(rope_parameters[name])
        raise ValueError(f"rope_parameters: {name} must hold rotary_dim // 2 = {rotary_dim // 2} numbers, got {came}")
    factors = torch.tensor(rope_parameters[name], dtype=torch.float32, device="cpu")
    attention = rope_parameters.get("attention_factor")
    if attention is None:
        ratio = rope_parameters.get("factor") or max_position / original
        attention = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return 1.0 / (factors * _wavenumbers(rope_parameters["rope_theta"], rotary_dim)), float(attention)


def _wavenumbers(theta: float, rotary_dim: int) -> torch.Tensor:
    # On the CPU whatever torch's default device is: see inverse_frequencies.
    powers: torch.Tensor = theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu") / rotary_dim)
    return powers


def _factor(rope_parameters: RopeParameters) -> float:
    factor = float(rope_parameters["factor"])
    if factor < 1:
        raise ValueError(f"rope_parameters: factor must be at least 1, got {factor}")
    return factor


# rope_type -> its function, the keys of rope_parameters it needs beside rope_theta
ROPE_TYPES: dict[str, tuple[Callable[[int, RopeParameters, int], Frequencies], tuple[str, ...]]] = {
    "default": (default_frequencies, ()),
    "linear": (linear_frequencies, ("factor",)),
    "dynamic": (dynamic_frequencies, ("factor",)),
    "yarn": (yarn_frequencies, ("factor", "original_max_position_embeddings")),
    "llama3": (
        llama3_frequencies,
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    ),
    "longrope": (longrope_frequencies, ("long_factor", "short_factor", "original_max_position_embeddings")),
}

_SHARED_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved"}
_KEYS = _SHARED_KEYS | {
    "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor", "finetuned",
}  # fmt: skip
"""What Hugging Face configs hold; a key that no variant knows is a misspelling or a variant that is not here."""


def rope_type_of(rope_parameters: RopeParameters) -> str:
    """The rope_type, also under its older key `type`, where "mrope" only announced an mrope_section."""
    rope_type = str(rope_parameters.get("rope_type", rope_parameters.get("type", "default")))
    return "default" if rope_type == "mrope" else rope_type


def inverse_frequencies(rotary_dim: int, rope_parameters: RopeParameters, max_position: int) -> Frequencies:
    """Inverse frequencies and attention scaling of a model.

    Always computed in float32 on the CPU: pow() differs between devices by a unit in the last place, and at position
    32768 that is 2e-3 in the cosine. Models were trained with these very numbers.

    Args:
        rotary_dim: number of channels that rotate, even.
        rope_parameters: Hugging Face `rope_parameters`; `rope_type` (default "default") selects the variant.
        max_position: rows of the table, which longrope's choice depends on.

    Returns:
        `[rotary_dim // 2]` float32 radians per position, and the factor that multiplies cos and sin.

    Raises:
        ValueError: the rope_type or a key is unknown, a key it needs is missing, or a value is impossible.
    """
    rope_type = rope_type_of(rope_parameters)
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_parameters: rope_type {rope_type!r} is unknown, wanted one of {sorted(ROPE_TYPES)}")
    if unknown := sorted(rope_parameters.keys() - _KEYS):
        raise ValueError(f"rope_parameters: {', '.join(unknown)} is unknown, wanted keys among {sorted(_KEYS)}")
    function, needed = ROPE_TYPES[rope_type]
    missing = [key for key in ("rope_theta", *needed) if key not in rope_parameters]
    if missing:
        raise ValueError(f"rope_parameters: rope_type {rope_type!r} needs {missing}, got {sorted(rope_parameters)}")
    return function(rotary_dim, rope_parameters, max_position)
