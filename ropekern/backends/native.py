"""Plain PyTorch: the baseline, the copy to read, and the one that runs everywhere and differentiates."""

import torch

from ropekern.cache import gather_cos_sin


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
    """Rotate query and key into query_out and key_out, which may be the same tensors. Shapes as in ropekern.ops."""
    rows = gather_cos_sin(positions, cos_sin_cache, mrope_section, mrope_interleaved)
    cos, sin = rows.float().unsqueeze(1).chunk(2, dim=-1)
    if inverse:
        sin = -sin
    for x, out in ((query, query_out), (key, key_out)):
        if x is not None and out is not None:
            _rotate(x, out, cos, sin, is_neox_style)


def _rotate(x: torch.Tensor, out: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox_style: bool) -> None:
    half = cos.shape[-1]
    if is_neox_style:
        first, second = slice(0, half), slice(half, 2 * half)
    else:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    x1, x2 = x[..., first], x[..., second]
    # cos and sin are float32, so the products are too; each result is rounded once, when it is stored.
    y1, y2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    out[..., first] = y1
    out[..., second] = y2
    if out is not x:
        out[..., 2 * half :] = x[..., 2 * half :]
