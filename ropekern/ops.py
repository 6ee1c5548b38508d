"""apply_rope_ and apply_rope: arguments are checked here, once; then one backend does the work."""

from functools import cache
from types import ModuleType

import torch

from ropekern.errors import UnsupportedError

BACKENDS = ("native", "triton", "flashinfer")


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
        UnsupportedError: the backend is absent or cannot do this case.
    """
    _rope(
        positions, query, key, query, key, cos_sin_cache, is_neox_style, mrope_section, mrope_interleaved, backend
    )  # fmt: skip


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
    """Rotated query and key as new contiguous tensors; the inputs stay untouched. Arguments as for apply_rope_."""
    query_out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    key_out = None if key is None else torch.empty(key.shape, dtype=key.dtype, device=key.device)
    _rope(
        positions, query, key, query_out, key_out, cos_sin_cache, is_neox_style, mrope_section, mrope_interleaved,
        backend,
    )  # fmt: skip
    return query_out, key_out


def _rope(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    query_out: torch.Tensor,
    key_out: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
    is_neox_style: bool,
    mrope_section: tuple[int, int, int] | None,
    mrope_interleaved: bool,
    backend: str | None,
) -> None:
    _check(positions, query, key, cos_sin_cache)
    if mrope_section is not None:
        mrope_section = check_mrope_section(mrope_section, mrope_interleaved, cos_sin_cache.shape[1])
    _check_positions(positions, query.shape[0], cos_sin_cache.shape[0], mrope_section)
    if query_out is query:
        _check_writable(query, key)
    if backend is None:
        backend = "triton" if query.is_cuda else "native"
    if backend != "native" and torch.is_grad_enabled():
        for name, tensor in (("query", query), ("key", key), ("cos_sin_cache", cos_sin_cache)):
            if tensor is not None and tensor.requires_grad:
                raise UnsupportedError(f"backend {backend!r}: {name} requires a gradient, only 'native' gives one")
    _backend(backend).rope(
        positions,
        query,
        key,
        query_out,
        key_out,
        cos_sin_cache,
        is_neox_style=is_neox_style,
        mrope_section=mrope_section,
        mrope_interleaved=mrope_interleaved,
    )


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


def check_mrope_section(
    mrope_section: tuple[int, int, int], mrope_interleaved: bool, rotary_dim: int
) -> tuple[int, int, int]:
    """The section as a tuple; ValueError unless it is three counts that the axis layout can give."""
    section = tuple(mrope_section)
    if len(section) != 3 or min(section) < 0 or 2 * sum(section) != rotary_dim:
        wanted = f"three counts (t, h, w) with sum rotary_dim // 2 = {rotary_dim // 2}"
        raise ValueError(f"mrope_section must be {wanted}, got {section}")
    if mrope_interleaved and (counts := _interleaved_counts(section)) != section:
        raise ValueError(f"mrope_section {section} cannot be interleaved: the pattern would give {counts}")
    return section


@cache
def _interleaved_counts(section: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many channels read t, h and w where h and w take every third until they have their number."""
    half = sum(section)
    h, w = (len(range(axis, min(3 * section[axis], half), 3)) for axis in (1, 2))
    return half - h - w, h, w


def _check(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
) -> None:
    tensors = {"positions": positions, "query": query, "cos_sin_cache": cos_sin_cache}
    if key is not None:
        tensors["key"] = key
    for name, tensor in tensors.items():
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on the device of query ({query.device}), got {tensor.device}")
        if tensor.dim() and tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"{name} must have stride 1 in its last dimension, got strides {tensor.stride()}")
    if query.dim() != 3:
        raise ValueError(f"query must be [num_tokens, num_heads, head_size], got shape {tuple(query.shape)}")
    num_tokens, _, head_size = query.shape
    if query.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"query must be float32, float16 or bfloat16, got {query.dtype}")
    if key is not None:
        if key.dim() != 3 or key.shape[0] != num_tokens or key.shape[2] != head_size:
            wanted = f"[num_tokens, num_kv_heads, head_size] = [{num_tokens}, *, {head_size}]"
            raise ValueError(f"key must be {wanted} as query is, got shape {tuple(key.shape)}")
        if key.dtype != query.dtype:
            raise TypeError(f"key must have the dtype of query ({query.dtype}), got {key.dtype}")
    _check_table(cos_sin_cache, query)


def _check_writable(query: torch.Tensor, key: torch.Tensor | None) -> None:
    """In place each element is written once: none may stand for two."""
    for name, x in (("query", query), ("key", key)):
        if x is not None and any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.stride(), strict=True)):
            raise ValueError(f"{name} must have memory of its own for each element, got strides {x.stride()}")
    if torch.compiler.is_compiling():
        return  # which has no addresses
    if key is not None and key.numel() and query.numel() and key.data_ptr() == query.data_ptr():
        raise ValueError("key must not share memory with query, got two tensors that begin at the same address")


def _check_table(cos_sin_cache: torch.Tensor, query: torch.Tensor) -> None:
    if cos_sin_cache.dim() != 2 or not cos_sin_cache.is_contiguous():
        came = f"shape {tuple(cos_sin_cache.shape)}, strides {cos_sin_cache.stride()}"
        raise ValueError(f"cos_sin_cache must be contiguous [max_position, rotary_dim], got {came}")
    rotary_dim, head_size = cos_sin_cache.shape[1], query.shape[2]
    if rotary_dim % 2 or not 0 < rotary_dim <= head_size:
        raise ValueError(f"cos_sin_cache: rotary_dim must be even and in 2 .. head_size {head_size}, got {rotary_dim}")
    if cos_sin_cache.dtype not in (torch.float32, query.dtype):
        raise TypeError(f"cos_sin_cache must be float32 or query's {query.dtype}, got {cos_sin_cache.dtype}")


def _check_positions(
    positions: torch.Tensor, num_tokens: int, max_position: int, mrope_section: tuple[int, int, int] | None
) -> None:
    if positions.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"positions must be int32 or int64, got {positions.dtype}")
    shape = tuple(positions.shape)
    if shape not in ((num_tokens,), (3, num_tokens)):
        raise ValueError(f"positions must be [num_tokens] or [3, num_tokens] with num_tokens {num_tokens}, got {shape}")
    if positions.dim() == 2 and mrope_section is None:
        raise ValueError(f"mrope_section must be given for positions of shape [3, num_tokens], got None with {shape}")
    # On a GPU the values are not looked at: that would wait for the device. A compiler has none to look at.
    if positions.device.type == "cpu" and positions.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in positions.aminmax())
        if low < 0 or high >= max_position:
            raise ValueError(
                f"positions must lie in 0 .. {max_position - 1} (rows of cos_sin_cache), got {low} .. {high}"
            )
