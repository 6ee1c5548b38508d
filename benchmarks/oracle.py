"""The float64 oracle: what query and key must become.

It shares no code with the package: it multiplies complex128 numbers, recomposes the mRoPE axes by slices, and makes its
own angles. Angles come in two kinds. float32 angles are what models were trained with, so they are the parity that
kernels are held to; float64 angles are the truth, and show what float32 angles cost.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.workload import Workload


def oracle(workload: Workload, positions: torch.Tensor, x: torch.Tensor, angles: torch.dtype) -> torch.Tensor:
    """What query or key must become.

    Args:
        workload: pairing, rotary_dim, frequencies and axis layout.
        positions: `[num_tokens]` or `[3, num_tokens]`.
        x: `[num_tokens, heads, head_size]`.
        angles: torch.float32 for parity with trained models, torch.float64 for the truth.

    Returns:
        `[num_tokens, heads, head_size]` float64.
    """
    half = workload.rotary_dim // 2
    frequencies, scaling = _frequencies(workload.rope_parameters, workload.rotary_dim, workload.table_rows, angles)
    angle = positions.to(angles)[..., None] * frequencies.to(x.device)
    if positions.dim() == 2:
        angle = _recompose(angle, workload.mrope_section or (0, 0, 0), workload.mrope_interleaved)
    turn = torch.polar(torch.tensor(scaling, dtype=torch.float64, device=x.device), angle.double())[:, None, :]
    y = x.double()
    if workload.is_neox_style:
        z = torch.complex(y[..., :half], y[..., half : 2 * half]) * turn
        rotated = torch.cat((z.real, z.imag), dim=-1)
    else:
        z = torch.view_as_complex(y[..., : 2 * half].unflatten(-1, (half, 2)).contiguous()) * turn
        rotated = torch.view_as_real(z).flatten(-2)
    return torch.cat((rotated, y[..., 2 * half :]), dim=-1)


def _frequencies(
    parameters: Mapping[str, Any], rotary_dim: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, float]:
    """Radians per position of each channel, and what cos and sin are multiplied by.

    In float32 these lines are the definitions themselves, in the order of operations that models were trained with.
    """
    rope_type = parameters.get("rope_type", "default")
    if rope_type not in _VARIANTS:
        raise NotImplementedError(f"the oracle has no rope_type {rope_type!r}")
    return _VARIANTS[rope_type](parameters, rotary_dim, length, dtype)


def _powers(theta: float, rotary_dim: int, dtype: torch.dtype) -> torch.Tensor:
    powers: torch.Tensor = theta ** (torch.arange(0, rotary_dim, 2, dtype=dtype) / rotary_dim)
    return powers


def _default(parameters: Mapping[str, Any], rotary_dim: int, _: int, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    return 1.0 / _powers(parameters["rope_theta"], rotary_dim, dtype), 1.0


def _linear(
    parameters: Mapping[str, Any], rotary_dim: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, float]:
    base, scaling = _default(parameters, rotary_dim, length, dtype)
    return base / parameters["factor"], scaling


def _dynamic(parameters: Mapping[str, Any], rotary_dim: int, _: int, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    # b * (factor * L / L0 - (factor - 1)) ** (r / (r - 2)) for the length L = factor * L0 that a fixed table serves
    factor = parameters["factor"]
    theta = parameters["rope_theta"] * (factor * factor - (factor - 1)) ** (rotary_dim / (rotary_dim - 2))
    return 1.0 / _powers(theta, rotary_dim, dtype), 1.0


def _yarn(parameters: Mapping[str, Any], rotary_dim: int, _: int, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    theta, factor = parameters["rope_theta"], parameters["factor"]
    turns_of_one = parameters["original_max_position_embeddings"] / (2 * math.pi)
    low, high = (
        rotary_dim * math.log(turns_of_one / (parameters.get(name) or default)) / (2 * math.log(theta))
        for name, default in (("beta_fast", 32), ("beta_slow", 1))
    )
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    ramp = ((torch.arange(rotary_dim // 2, dtype=dtype) - low) / (high - low or 0.001)).clamp(0, 1)
    powers = _powers(theta, rotary_dim, dtype)
    kept = 1 - ramp
    frequencies = 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept
    attention = parameters.get("attention_factor")
    if attention is None:
        one, all_of = parameters.get("mscale"), parameters.get("mscale_all_dim")
        attention = 0.1 * math.log(factor) + 1.0
        if one and all_of:
            attention = (0.1 * one * math.log(factor) + 1.0) / (0.1 * all_of * math.log(factor) + 1.0)
    return frequencies, float(attention)


def _llama3(
    parameters: Mapping[str, Any], rotary_dim: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, float]:
    # After the reference code published with Llama 3.1: three bands by wavelength
    base, scaling = _default(parameters, rotary_dim, length, dtype)
    original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    wavelength = 2 * math.pi / base
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * base / factor + smooth * base
    slowed = torch.where(wavelength > original / low, base / factor, between)
    return torch.where(wavelength < original / high, base, slowed), scaling


def _longrope(
    parameters: Mapping[str, Any], rotary_dim: int, length: int, dtype: torch.dtype
) -> tuple[torch.Tensor, float]:
    original = parameters["original_max_position_embeddings"]
    factors = torch.tensor(parameters["long_factor" if length > original else "short_factor"], dtype=dtype)
    frequencies = 1.0 / (factors * _powers(parameters["rope_theta"], rotary_dim, dtype))
    attention, ratio = parameters.get("attention_factor"), parameters.get("factor") or length / original
    if attention is None:
        attention = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return frequencies, float(attention)


_VARIANTS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def _recompose(angle: torch.Tensor, section: tuple[int, int, int], interleaved: bool) -> torch.Tensor:
    """`[3, num_tokens, half]` angles of t, h, w to the `[num_tokens, half]` that the channels see."""
    _, h, w = section
    if interleaved:
        mixed = angle[0].clone()
        mixed[:, 1 : 3 * h : 3] = angle[1, :, 1 : 3 * h : 3]
        mixed[:, 2 : 3 * w : 3] = angle[2, :, 2 : 3 * w : 3]
        return mixed
    return torch.cat([part[axis] for axis, part in enumerate(angle.split(section, dim=-1))], dim=-1)
