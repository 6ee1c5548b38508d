"""What arguments must be: each error names the argument, what came and what was wanted."""

import torch


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


def _interleaved_counts(section: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many channels read t, h and w where h and w take every third until they have their number."""
    half = sum(section)
    h, w = (len(range(axis, min(3 * section[axis], half), 3)) for axis in (1, 2))
    return half - h - w, h, w


def check_tensors(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    cos_sin_cache: torch.Tensor,
) -> None:
    """Shapes, dtypes, strides and devices of one call."""
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


def check_writable(query: torch.Tensor, key: torch.Tensor | None) -> None:
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


def check_positions(
    positions: torch.Tensor, num_tokens: int, max_position: int, mrope_section: tuple[int, int, int] | None
) -> None:
    """Shape and dtype, and on a CPU the values."""
    check_positions_shape(positions, num_tokens, mrope_section)
    # On a GPU the values are not looked at: that would wait for the device. A compiler has none to look at.
    if positions.device.type == "cpu" and positions.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in positions.aminmax())
        if low < 0 or high >= max_position:
            raise ValueError(
                f"positions must lie in 0 .. {max_position - 1} (rows of cos_sin_cache), got {low} .. {high}"
            )


def check_positions_shape(positions: torch.Tensor, num_tokens: int, mrope_section: tuple[int, int, int] | None) -> None:
    """Shape and dtype."""
    if positions.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"positions must be int32 or int64, got {positions.dtype}")
    shape = tuple(positions.shape)
    if shape not in ((num_tokens,), (3, num_tokens)):
        raise ValueError(f"positions must be [num_tokens] or [3, num_tokens] with num_tokens {num_tokens}, got {shape}")
    if positions.dim() == 2 and mrope_section is None:
        raise ValueError(f"mrope_section must be given for positions of shape [3, num_tokens], got None with {shape}")
