"""apply_rope_ and apply_rope: checks once for each geometry of tensors, then one backend does the work.

A geometry is everything about a call but addresses and values: shapes, strides, dtypes, devices, keywords. The first
call of one is checked in full and leaves behind what repeats it; later calls of the same geometry only do that. What
needs more than an eager launch (a compiler, fake tensors, gradients of a kernel) goes through the operators of
`library.py`.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.compiler import is_dynamo_compiling

from ropekern import knobs
from ropekern.checks import (
    check_mrope_section,
    check_positions,
    check_positions_shape,
    check_tensors,
    check_writable,
)
from ropekern.errors import UnsupportedError

BACKENDS = ("native", "triton", "flashinfer")

_Repeat = Callable[..., bool]
"""Of positions, query, key, query_out, key_out, cos_sin_cache: does the work, or returns False where it cannot."""

_MAX_GEOMETRIES = 4096
_repeats: dict[tuple[object, ...], _Repeat] = {}
"""Geometry -> what repeats its call. Its functions keep no state, and threads may make one twice."""

_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


def apply_rope_(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    *,
    is_neox_style: bool = True,
    mrope_section: tuple[int, int, int] | None = None,
    mrope_interleaved: bool = False,
    backend: str | None = None,
) -> None:
    """Rotate query and key in place.

    Args:
        positions: int32 or int64, `[num_tokens]`, or `[3, num_tokens]` (t, h, w) for mRoPE; in 0 .. max_position - 1,
            which is checked on the CPU. On a GPU the values are not looked at: outside that range Triton writes NaN,
            native fails on the device and FlashInfer reads foreign memory. One-dimensional positions are plain RoPE
            also where an mrope_section is given (text tokens).
        query: `[num_tokens, num_heads, head_size]`, float32, float16 or bfloat16; token and head strides are free.
        key: `[num_tokens, num_kv_heads, head_size]` of query's dtype, or None.
        cos_sin_cache: `[max_position, rotary_dim]`, contiguous, float32 or query's dtype; the first half of a row is
            cosines, the second sines, see compute_cos_sin_cache. rotary_dim <= head_size; the channels past it stay.
        is_neox_style: the pairing. True pairs channel i with i + rotary_dim // 2, False (GPT-J) 2i with 2i + 1.
        mrope_section: how many of the rotary_dim // 2 channels read the t, h and w position.
        mrope_interleaved: the axis layout: False in three chunks (Qwen2-VL), True alternating (Qwen3-VL).
        backend: "native", "triton" or "flashinfer"; None is Triton on CUDA tensors and native elsewhere.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it, what came and what was wanted.
        UnsupportedError: the backend is absent or cannot do this case; only native rotates in place what requires a
            gradient.
    """
    layout = (is_neox_style, mrope_section, mrope_interleaved, backend)
    if is_dynamo_compiling():
        if _name(backend, query) == "native":
            _checked(positions, query, key, query, key, cos_sin_cache, layout)
        else:
            _refuse_gradient(backend, query, key, cos_sin_cache)
            torch.ops.ropekern.apply_rope_(positions, query, key, cos_sin_cache, *layout)
    elif type(query) in _PLAIN:
        if torch.is_grad_enabled() and requires_grad(query, key, cos_sin_cache):
            _refuse_gradient(backend, query, key, cos_sin_cache)
            _checked(positions, query, key, query, key, cos_sin_cache, layout)
        else:
            _run(positions, query, key, query, key, cos_sin_cache, layout)
    else:  # a fake tensor, or another that knows operators only
        torch.ops.ropekern.apply_rope_(positions, query, key, cos_sin_cache, *layout)


def apply_rope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    *,
    is_neox_style: bool = True,
    mrope_section: tuple[int, int, int] | None = None,
    mrope_interleaved: bool = False,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rotated query and key as new contiguous tensors; the inputs stay untouched. Arguments as for apply_rope_.

    Native and Triton give gradients of query and key (the inverse rotation); of the table, native alone.
    """
    layout = (is_neox_style, mrope_section, mrope_interleaved, backend)
    gradient = torch.is_grad_enabled() and requires_grad(query, key, cos_sin_cache)
    plain = type(query) in _PLAIN
    if (is_dynamo_compiling() or (plain and gradient)) and _name(backend, query) == "native":
        query_out, key_out = _outputs(query, key)
        _checked(positions, query, key, query_out, key_out, cos_sin_cache, layout)
        return query_out, key_out
    if is_dynamo_compiling() or gradient or not plain:
        if gradient and (backend == "flashinfer" or cos_sin_cache.requires_grad):
            _refuse_gradient(backend, query, key, cos_sin_cache)
        query_out, key_out = torch.ops.ropekern.apply_rope(positions, query, key, cos_sin_cache, *layout, False)
        return query_out, None if key is None else key_out
    query_out, key_out = _outputs(query, key)
    _run(positions, query, key, query_out, key_out, cos_sin_cache, layout)
    return query_out, key_out


def rotate_(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    layout: tuple[Any, ...],
) -> None:
    """apply_rope_ below autograd and the dispatcher."""
    with torch.no_grad():
        _run(positions, query, key, query, key, cos_sin_cache, layout)


def check_shapes(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    layout: tuple[Any, ...],
) -> None:
    """What can be checked of tensors without data. Raises as apply_rope_."""
    _, mrope_section, mrope_interleaved, backend = layout
    check_tensors(positions, query, key, cos_sin_cache)
    if mrope_section is not None:
        check_mrope_section(mrope_section, mrope_interleaved, cos_sin_cache.shape[1])
    check_positions_shape(positions, query.shape[0], mrope_section)
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"backend must be None or one of {BACKENDS}, got {backend!r}")


def rotated(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    layout: tuple[Any, ...],
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """apply_rope below autograd: no gradient is recorded. `inverse` turns the other way, which is the gradient."""
    query_out, key_out = _outputs(query, key)
    _run(positions, query, key, query_out, key_out, cos_sin_cache, layout, inverse)
    return query_out, key_out


def _run(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    query_out: torch.Tensor,
    key_out: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    layout: tuple[Any, ...],
    inverse: bool = False,
) -> None:
    if layout[1] is not None and type(layout[1]) is not tuple:
        layout = (layout[0], tuple(layout[1]), *layout[2:])
    p, q, k, t = positions, query, positions if key is None else key, cos_sin_cache
    geometry = (
        p.shape, p.stride(), p.dtype, p.get_device(), q.shape, q.stride(), q.dtype, q.get_device(),
        k.shape, k.stride(), k.dtype, k.get_device(), t.shape, t.is_contiguous(), t.dtype, t.get_device(),
        layout, key is None, query_out is query, inverse, knobs.programmatic_dependent_launch,
    )  # fmt: skip
    if query_out is query:
        increment_version(query if key is None else (query, key))  # whoever saved them for a gradient must be told
    repeat = _repeats.get(geometry)
    has_no_tangent = forward_ad._current_level < 0
    if repeat is not None and has_no_tangent and repeat(positions, query, key, query_out, key_out, cos_sin_cache):
        return
    made = _checked(positions, query, key, query_out, key_out, cos_sin_cache, layout, inverse)
    if made is not None and repeat is None:
        if len(_repeats) >= _MAX_GEOMETRIES:
            _repeats.clear()  # they are made again as they come; a cleverer choice would cost every call
        _repeats[geometry] = made


def _checked(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    query_out: torch.Tensor,
    key_out: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    layout: tuple[Any, ...],
    inverse: bool = False,
) -> _Repeat | None:
    """Check everything, rotate, and return what repeats it without the checks; None where nothing can."""
    is_neox_style, mrope_section, mrope_interleaved, backend = layout
    check_tensors(positions, query, key, cos_sin_cache)
    if mrope_section is not None:
        mrope_section = check_mrope_section(mrope_section, mrope_interleaved, cos_sin_cache.shape[1])
    check_positions(positions, query.shape[0], cos_sin_cache.shape[0], mrope_section)
    if query_out is query:
        check_writable(query, key)
    if forward_ad._current_level >= 0 and _name(backend, query) != "native":
        for name, x in (("query", query), ("key", key), ("cos_sin_cache", cos_sin_cache)):
            if x is not None and forward_ad.unpack_dual(x).tangent is not None:
                raise UnsupportedError(f"{name} has a tangent, only backend 'native' differentiates forwards")
    rope = _backend(_name(backend, query)).rope
    keywords = {
        "is_neox_style": is_neox_style,
        "mrope_section": mrope_section,
        "mrope_interleaved": mrope_interleaved,
        "inverse": inverse,
    }
    repeat: _Repeat | None = rope(positions, query, key, query_out, key_out, cos_sin_cache, **keywords)
    return repeat


def _outputs(query: torch.Tensor, key: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    query_out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    return query_out, None if key is None else torch.empty(key.shape, dtype=key.dtype, device=key.device)


def requires_grad(query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor) -> bool:
    """Whether one of them does."""
    return query.requires_grad or cos_sin_cache.requires_grad or (key is not None and key.requires_grad)


def _refuse_gradient(
    backend: str | None, query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor
) -> None:
    """Raise where a gradient would be lost: in place, by FlashInfer, or of the table, native alone gives one."""
    name = _name(backend, query)
    if name == "native" or not torch.is_grad_enabled():
        return
    # The table first: query and key may get theirs from Triton, out of place.
    for argument, x in (("cos_sin_cache", cos_sin_cache), ("query", query), ("key", key)):
        if x is not None and x.requires_grad:
            raise UnsupportedError(f"backend {name!r}: {argument} requires a gradient, only 'native' gives this one")


def _name(backend: str | None, query: torch.Tensor) -> str:
    if backend is None:
        return "triton" if query.is_cuda else "native"
    return backend


def _backend(name: str) -> ModuleType:
    # Imported on first use: `import ropekern` needs neither Triton nor FlashInfer.
    if name == "native":
        from ropekern.backends import native

        return native
    if name == "flashinfer":
        from ropekern.backends import flashinfer

        return flashinfer
    if name == "triton":
        try:
            from ropekern.backends import triton
        except ImportError as error:
            raise UnsupportedError(f"backend 'triton' cannot be imported: {error}") from error
        return triton
    raise ValueError(f"backend must be None or one of {BACKENDS}, got {name!r}")
