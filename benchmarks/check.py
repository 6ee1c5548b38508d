"""The float64 oracle, and the gate in front of every clock: what fails here is never timed.

The oracle shares no formula with the package: it multiplies complex128 numbers, recomposes the mRoPE axes by slices,
and makes its own angles. Angles come in two kinds. float32 angles are what models were trained with, so they are the
parity that kernels are held to; float64 angles are the truth, and show what float32 angles cost.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.workload import Call, MakeCall, Workload, make_inputs

# dtype -> (atol, rtol): one unit in the last place of the result, and float32 arithmetic below it
TOLERANCES = {
    torch.float32: (1e-5, 1e-6),
    torch.float16: (1e-5, 2.0**-10),
    torch.bfloat16: (1e-5, 2.0**-8),
}

_SEED = 20_000  # not the seed of the buffers that are timed
_CHUNK = 8192  # tokens at a time: complex128 takes eight times the memory of bfloat16


class CheckError(AssertionError):
    """A provider's result is not the oracle's."""


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
    frequencies = _frequencies(workload.rope_parameters, workload.rotary_dim, angles).to(x.device)
    angle = positions.to(angles)[..., None] * frequencies
    if positions.dim() == 2:
        angle = _recompose(angle, workload.mrope_section or (0, 0, 0), workload.mrope_interleaved)
    turn = torch.polar(torch.ones((), dtype=torch.float64, device=x.device), angle.double())[:, None, :]
    y = x.double()
    if workload.is_neox_style:
        z = torch.complex(y[..., :half], y[..., half : 2 * half]) * turn
        rotated = torch.cat((z.real, z.imag), dim=-1)
    else:
        z = torch.view_as_complex(y[..., : 2 * half].unflatten(-1, (half, 2)).contiguous()) * turn
        rotated = torch.view_as_real(z).flatten(-2)
    return torch.cat((rotated, y[..., 2 * half :]), dim=-1)


def _frequencies(parameters: Mapping[str, Any], rotary_dim: int, dtype: torch.dtype) -> torch.Tensor:
    # In float32 this first line is the definition itself, to the bit: 1 / theta ** (2i / r), in this order.
    base: torch.Tensor = 1.0 / parameters["rope_theta"] ** (torch.arange(0, rotary_dim, 2, dtype=dtype) / rotary_dim)
    rope_type = parameters.get("rope_type", "default")
    if rope_type == "default":
        return base
    if rope_type == "llama3":  # after the reference code published with Llama 3.1: three bands by wavelength
        original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
        low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
        wavelength = 2 * math.pi / base
        smooth = (original / wavelength - low) / (high - low)
        between = (1 - smooth) * base / factor + smooth * base
        slowed = torch.where(wavelength > original / low, base / factor, between)
        return torch.where(wavelength < original / high, base, slowed)
    raise NotImplementedError(f"the oracle has no rope_type {rope_type!r}")


def _recompose(angle: torch.Tensor, section: tuple[int, int, int], interleaved: bool) -> torch.Tensor:
    """`[3, num_tokens, half]` angles of t, h, w to the `[num_tokens, half]` that the channels see."""
    _, h, w = section
    if interleaved:
        mixed = angle[0].clone()
        mixed[:, 1 : 3 * h : 3] = angle[1, :, 1 : 3 * h : 3]
        mixed[:, 2 : 3 * w : 3] = angle[2, :, 2 : 3 * w : 3]
        return mixed
    return torch.cat([part[axis] for axis, part in enumerate(angle.split(section, dim=-1))], dim=-1)


def compare(name: str, workload: Workload, positions: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
    """Raise CheckError unless `after` is the rotation of `before` within the tolerance of its dtype."""
    atol, rtol = TOLERANCES[after.dtype]
    for start in range(0, before.shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        wanted = oracle(workload, positions[..., part], before[part], torch.float32)
        error = (after[part].double() - wanted).abs()
        bad = ~(error <= atol + rtol * wanted.abs())  # so written that NaN is bad
        if bad.any():
            token, head, channel = (int(i) for i in bad.nonzero()[0])
            came, due = after[part][token, head, channel].item(), wanted[token, head, channel].item()
            raise CheckError(
                f"{name} differs from the float64 oracle in {int(bad.sum())} of {bad.numel()} elements, first at token "
                f"{start + token}, head {head}, channel {channel}: got {came:.6g}, wanted {due:.6g} "
                f"(atol {atol:g}, rtol {rtol:g})"
            )


def check(
    name: str,
    make_call: MakeCall,
    workload: Workload,
    device: torch.device | str,
) -> None:
    """Run a provider once on inputs of its own and compare query and key, in place or returned, with the oracle.

    Raises:
        CheckError: they differ.
        UnsupportedError: the provider cannot do this workload.
    """
    (inputs,) = make_inputs(workload, 1, device, _SEED)
    query, key = inputs.query.clone(), inputs.key.clone()
    result = make_call(workload, inputs)()
    rotated = result if isinstance(result, tuple) else (inputs.query, inputs.key)
    for which, before, after in zip(("query", "key"), (query, key), rotated, strict=True):
        compare(f"{name} {which}", workload, inputs.positions, before, after)


def checked_calls(
    name: str,
    make_call: MakeCall,
    workload: Workload,
    device: torch.device | str,
    seed: int = 0,
) -> Callable[[int], list[Call]]:
    """Check a provider; then a function that gives as many of its calls as asked, each on inputs of its own.

    What a clock is given comes from here: nothing else is timed. Raises as `check`.
    """
    check(name, make_call, workload, device)
    return lambda count: [make_call(workload, inputs) for inputs in make_inputs(workload, count, device, seed)]
