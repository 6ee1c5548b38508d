"""How the Triton kernel is cut into programs and launched: one launch a call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton

from ropekern import knobs
from ropekern.backends.triton_kernel import rope_kernel
from ropekern.backends.triton_launch import make_repeat
from ropekern.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Tile:
    """How the work is cut: what one program holds."""

    rows: int
    heads: int  # of a row
    prefetch: bool
    """While it waits for its predecessor, it asks for what it will read."""


def choose_tile(
    num_tokens: int, num_heads: int, num_kv_heads: int, rotary_dim: int, mrope_interleaved: bool = False
) -> Tile:
    """At most three tiles for a model: rows of one head, of two, and of about four.

    Measured on an H100 (docs/data/tiles-h100.txt). One head while the GPU has room for all programs at once and latency
    is what counts; more heads once bandwidth is, since each use of a lane's cos and sin saves a load of them.
    Interleaved axes load three table rows, and so turn earlier. Rows are as many as give each lane 16 bytes of a 16-bit
    head.
    """
    rows = min(64, max(1, 256 // triton.next_power_of_2(rotary_dim // 2)))
    heads = num_heads + num_kv_heads
    programs = num_tokens * heads // rows  # of one head a row
    if programs < 1024:
        return Tile(rows, heads=1, prefetch=True)
    if programs < (8192 if mrope_interleaved else 16384):
        return Tile(rows, heads=2, prefetch=True)
    # Of the numbers that keep all loads of a lane in registers the first that leaves no row half empty.
    # Programs that do not wait prefetch, too: in vain where a head is two lines or more, at a loss where it is one.
    return Tile(rows, heads=next((n for n in (4, 5, 3, 2) if heads % n == 0), 4), prefetch=rotary_dim >= 128)


NUM_WARPS = 1
"""Many small programs hide latency better than few large ones."""


@cache
def supports_pdl(device: torch.device) -> bool:
    """Whether a device has programmatic dependent launch: NVIDIA GPUs since Hopper. Triton's interpreter has not."""
    return device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device)[0] >= 9


def meta_parameters(
    tile: Tile,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    mrope_section: tuple[int, int, int] | None,
    mrope_interleaved: bool,
    inverse: bool = False,
    pdl: bool,
) -> dict[str, Any]:
    """The constexpr arguments of rope_kernel, in its order: shared by the launch and by ropekern.compile_kernel."""
    section_t, section_h, section_w = mrope_section or (0, 0, 0)
    return {
        "NUM_Q_HEADS": num_heads,
        "NUM_K_HEADS": num_kv_heads,
        "HEAD_SIZE": head_size,
        "ROTARY_DIM": rotary_dim,
        "IS_NEOX": is_neox_style,
        "MROPE": mrope_section is not None,
        "INTERLEAVED": mrope_interleaved,
        "SECTION_T": section_t,
        "SECTION_H": section_h,
        "SECTION_W": section_w,
        "INVERSE": inverse,
        "BLOCK_HALF": triton.next_power_of_2(rotary_dim // 2),
        "ROWS": tile.rows,
        "HEADS": tile.heads,
        "PREFETCH": tile.prefetch,
        "PDL": pdl,
    }


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
) -> Callable[..., bool] | None:
    """Rotate query and key into query_out and key_out, which may be the same tensors. Shapes as in ropekern.ops.

    A position outside the table gives NaN in that token's rotated channels.

    Returns:
        What does the same for other tensors that differ in address and values only, see triton_launch; None where
        there is no such thing.

    Raises:
        UnsupportedError: the tensors are not on a CUDA device, and Triton's interpreter is off.
    """
    interpreted = triton.knobs.runtime.interpret
    if not query.is_cuda and not interpreted:
        raise UnsupportedError(f"backend 'triton': query.device is {query.device}, wanted a CUDA device")
    num_tokens, num_heads, head_size = query.shape
    num_kv_heads = 0 if key is None else key.shape[1]
    if not num_tokens or not num_heads + num_kv_heads:
        return None
    mrope = mrope_section if positions.dim() == 2 else None
    tile = choose_tile(num_tokens, num_heads, num_kv_heads, cos_sin_cache.shape[1], mrope_interleaved)
    rows_per_token = triton.cdiv(num_heads + num_kv_heads, tile.heads)
    programs = triton.cdiv(num_tokens * rows_per_token, tile.rows)
    pdl = knobs.programmatic_dependent_launch and supports_pdl(query.device) and not interpreted
    constants = meta_parameters(
        tile,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        rotary_dim=cos_sin_cache.shape[1],
        is_neox_style=is_neox_style,
        mrope_section=mrope,
        mrope_interleaved=mrope_interleaved,
        inverse=inverse,
        pdl=pdl,
    )
    keys = query if key is None else key  # no program reads the heads of k where there are none
    outputs = (None, None) if query_out is query else (query_out, query_out if key_out is None else key_out)
    sizes = (
        num_tokens,
        cos_sin_cache.shape[0],
        positions.stride(0),
        *query.stride()[:2],
        *keys.stride()[:2],
        *(stride for x in outputs for stride in ((None, None) if x is None else x.stride()[:2])),
    )
    options = {"num_warps": NUM_WARPS} | ({"launch_pdl": True} if pdl else {})  # an AMD launch knows no such option
    with torch.cuda.device_of(query):
        kernel = rope_kernel[(programs,)](
            positions, cos_sin_cache, query, keys, *outputs, *sizes, *constants.values(), **options
        )
    if interpreted or any(x is not None and x.data_ptr() % 16 for x in (positions, cos_sin_cache, query, keys)):
        return None
    return make_repeat(kernel, programs, query.device.index, (*sizes, *constants.values()))
