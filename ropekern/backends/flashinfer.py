"""Adapter to FlashInfer's rope op (`flashinfer.apply_rope_with_cos_sin_cache_inplace` and its out-of-place twin).

FlashInfer has no mRoPE of its own. For positions `[3, num_tokens]` the rows that each channel needs are gathered
into a table with one row a token, which its op then reads at positions 0, 1, 2, ...: the gather is part of the call.
"""

import torch

from ropekern.cache import gather_cos_sin
from ropekern.errors import UnsupportedError

# The sizes that its RoPE kernel is built for. Version 0.7.2 sends others to a kernel that reads misaligned addresses.
HEAD_SIZES = (64, 128, 256, 512)


def rope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    query_out: torch.Tensor,
    key_out: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    *,
    is_neox_style: bool,
    mrope_section: tuple[int, int, int] | None,
    mrope_interleaved: bool,
    inverse: bool = False,
) -> None:
    """Rotate query and key into query_out and key_out, which may be the same tensors. Shapes as in ropekern.ops.

    Raises:
        UnsupportedError: FlashInfer is not installed or cannot do this case; the message says which.
    """
    try:
        from flashinfer.rope import apply_rope_with_cos_sin_cache_inplace
    except Exception as error:  # a broken installation fails in many ways; all of them mean absent
        raise UnsupportedError(f"backend 'flashinfer' cannot be imported: {error}") from error
    if inverse:
        raise UnsupportedError("backend 'flashinfer': it does not turn the other way, so it gives no gradient")
    _check(query, key, cos_sin_cache)
    if not query.shape[0]:
        return
    if positions.dim() == 2:
        cos_sin_cache = gather_cos_sin(positions, cos_sin_cache, mrope_section, mrope_interleaved)
        positions = torch.arange(positions.shape[1], device=positions.device)
    if query_out is not query:
        query_out.copy_(query)
    if key_out is not key and key_out is not None and key is not None:
        key_out.copy_(key)
    # The op always rotates two tensors: without a key, the last query head takes its place.
    first, second = (query_out, key_out) if key_out is not None else (query_out[:, :-1], query_out[:, -1:])
    apply_rope_with_cos_sin_cache_inplace(
        positions=positions,
        query=first.flatten(1),
        key=second.flatten(1),
        head_size=query.shape[-1],
        cos_sin_cache=cos_sin_cache,
        is_neox=is_neox_style,
    )


def _check(query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor) -> None:
    head_size, half = query.shape[-1], cos_sin_cache.shape[-1] // 2

    def refuse(argument: str, came: object, wanted: str) -> UnsupportedError:
        return UnsupportedError(f"backend 'flashinfer': {argument} is {came}, wanted {wanted}")

    if not query.is_cuda:
        raise refuse("query.device", query.device, "a CUDA device")
    if query.dtype not in (torch.float16, torch.bfloat16):
        raise refuse("query.dtype", query.dtype, "torch.float16 or torch.bfloat16")
    if cos_sin_cache.dtype != torch.float32:
        raise refuse("cos_sin_cache.dtype", cos_sin_cache.dtype, "torch.float32")
    if head_size not in HEAD_SIZES:
        raise refuse("head_size", head_size, f"one of {HEAD_SIZES}")
    channels = max(8, head_size // 32)  # of one thread, which would read wrong pairs across the middle
    if half % channels:
        raise refuse("rotary_dim // 2", half, f"a multiple of {channels}")
    if key is None and query.shape[1] < 2:
        raise refuse("key", None, "a tensor where query has one head")
    for name, x in (("query", query), ("key", key)):
        if x is not None and x.shape[1] > 1 and x.stride(1) != head_size:
            raise refuse(f"{name}.stride(1)", x.stride(1), f"head_size ({head_size}): heads next to each other")
        # It reads 16 bytes a thread wherever the tensor begins; elsewhere the whole CUDA context would be lost.
        if x is not None and (x.data_ptr() % 16 or x.stride(0) * x.element_size() % 16):
            came = f"at byte {x.data_ptr() % 16} of 16 with token stride {x.stride(0) * x.element_size()} bytes"
            raise refuse(name, came, "address and token stride a multiple of 16 bytes")
