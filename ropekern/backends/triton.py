"""One Triton launch does it all: table rows are gathered inside from positions, q and k are rotated together.

A program holds a tile of BLOCK_TOKENS tokens x BLOCK_HEADS heads of q or of k. Head blocks of the same tokens are
neighbours in the grid, so that a table row is fetched from device memory once and read from L2 by the rest.
Arithmetic is float32 whatever the tensors hold; offsets are 64-bit.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from ropekern.errors import UnsupportedError


@triton.jit
def rotate(x1, x2, cos, sin):
    return x1 * cos - x2 * sin, x2 * cos + x1 * sin


@triton.jit
def load_cos_sin(
    positions,  # [num_tokens] or [3, num_tokens]
    cos_sin_cache,  # [max_position, ROTARY_DIM]
    positions_stride_axis,
    max_position,
    o_t,  # [BLOCK_TOKENS] token offsets
    m_t,
    ROTARY_DIM: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    MROPE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SECTION_T: tl.constexpr,
    SECTION_H: tl.constexpr,
    SECTION_W: tl.constexpr,
):
    HALF: tl.constexpr = ROTARY_DIM // 2
    o_c = tl.arange(0, BLOCK_HALF)
    b_row = tl.load(positions + o_t, mask=m_t, other=0).to(tl.int64)[:, None]
    if MROPE:
        b_row_h = tl.load(positions + positions_stride_axis + o_t, mask=m_t, other=0).to(tl.int64)[:, None]
        b_row_w = tl.load(positions + 2 * positions_stride_axis + o_t, mask=m_t, other=0).to(tl.int64)[:, None]
        if INTERLEAVED:
            reads_h = (o_c % 3 == 1) & (o_c < 3 * SECTION_H)
            reads_w = (o_c % 3 == 2) & (o_c < 3 * SECTION_W)
        else:
            reads_h = (o_c >= SECTION_T) & (o_c < SECTION_T + SECTION_H)
            reads_w = o_c >= SECTION_T + SECTION_H
        b_row = tl.where(reads_h[None, :], b_row_h, tl.where(reads_w[None, :], b_row_w, b_row))
    # A position outside the table poisons its token with NaN instead of reading foreign memory.
    mask = (m_t[:, None] & (o_c < HALF)[None, :]) & ((b_row >= 0) & (b_row < max_position))
    p_cos = cos_sin_cache + b_row * ROTARY_DIM + o_c[None, :]
    b_cos = tl.load(p_cos, mask=mask, other=float("nan")).to(tl.float32)
    b_sin = tl.load(p_cos + HALF, mask=mask, other=float("nan")).to(tl.float32)
    return b_cos, b_sin


@triton.jit
def rotate_tile(
    x,  # [num_tokens, NUM_HEADS, HEAD_SIZE]
    y,  # [num_tokens, NUM_HEADS, HEAD_SIZE], the tensor x itself for in place
    x_stride_token,
    x_stride_head,
    y_stride_token,
    y_stride_head,
    o_t,
    m_t,
    i_h,  # which block of heads
    b_cos,  # [BLOCK_TOKENS, BLOCK_HALF]
    b_sin,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr,
    COPY_REST: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    HALF: tl.constexpr = ROTARY_DIM // 2
    o_h = (i_h * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)).to(tl.int64)
    m_th = (m_t[:, None] & (o_h < NUM_HEADS)[None, :])[:, :, None]
    p_x = x + (o_t[:, None] * x_stride_token + o_h[None, :] * x_stride_head)[:, :, None]
    p_y = y + (o_t[:, None] * y_stride_token + o_h[None, :] * y_stride_head)[:, :, None]
    b_cos = b_cos[:, None, :]
    b_sin = b_sin[:, None, :]
    if IS_NEOX:
        o_c = tl.arange(0, BLOCK_HALF)[None, None, :]
        mask = m_th & (o_c < HALF)
        b_x1 = tl.load(p_x + o_c, mask=mask).to(tl.float32)
        b_x2 = tl.load(p_x + o_c + HALF, mask=mask).to(tl.float32)
        b_y1, b_y2 = rotate(b_x1, b_x2, b_cos, b_sin)
        tl.store(p_y + o_c, b_y1.to(y.dtype.element_ty), mask=mask)
        tl.store(p_y + o_c + HALF, b_y2.to(y.dtype.element_ty), mask=mask)
    else:
        o_c = tl.arange(0, 2 * BLOCK_HALF)[None, None, :]
        mask = m_th & (o_c < ROTARY_DIM)
        b_x = tl.load(p_x + o_c, mask=mask).to(tl.float32)
        b_x1, b_x2 = tl.split(tl.reshape(b_x, [b_x.shape[0], BLOCK_HEADS, BLOCK_HALF, 2]))
        b_y1, b_y2 = rotate(b_x1, b_x2, b_cos, b_sin)
        b_y = tl.reshape(tl.join(b_y1, b_y2), [b_x.shape[0], BLOCK_HEADS, 2 * BLOCK_HALF])
        tl.store(p_y + o_c, b_y.to(y.dtype.element_ty), mask=mask)
    if COPY_REST:
        o_c = ROTARY_DIM + tl.arange(0, BLOCK_REST)[None, None, :]
        mask = m_th & (o_c < HEAD_SIZE)
        tl.store(p_y + o_c, tl.load(p_x + o_c, mask=mask), mask=mask)


@triton.jit(do_not_specialize=["num_tokens", "max_position", "positions_stride_axis"])
def rope_kernel(
    # tensors
    positions,  # [num_tokens] or [3, num_tokens]
    cos_sin_cache,  # [max_position, ROTARY_DIM]
    q,  # [num_tokens, NUM_Q_HEADS, HEAD_SIZE]
    k,  # [num_tokens, NUM_K_HEADS, HEAD_SIZE]
    q_out,
    k_out,
    # sizes
    num_tokens,
    max_position,
    # strides, in elements
    positions_stride_axis,
    q_stride_token,
    q_stride_head,
    k_stride_token,
    k_stride_head,
    q_out_stride_token,
    q_out_stride_head,
    k_out_stride_token,
    k_out_stride_head,
    # meta-parameters
    NUM_Q_HEADS: tl.constexpr,
    NUM_K_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr,
    MROPE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SECTION_T: tl.constexpr,
    SECTION_H: tl.constexpr,
    SECTION_W: tl.constexpr,
    COPY_REST: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_REST: tl.constexpr,
):
    Q_BLOCKS: tl.constexpr = (NUM_Q_HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
    K_BLOCKS: tl.constexpr = (NUM_K_HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
    i_t = tl.program_id(0) // (Q_BLOCKS + K_BLOCKS)
    i_h = tl.program_id(0) % (Q_BLOCKS + K_BLOCKS)
    o_t = i_t.to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    m_t = o_t < num_tokens
    b_cos, b_sin = load_cos_sin(
        positions, cos_sin_cache, positions_stride_axis, max_position, o_t, m_t,
        ROTARY_DIM, BLOCK_HALF, MROPE, INTERLEAVED, SECTION_T, SECTION_H, SECTION_W,
    )  # fmt: skip
    if i_h < Q_BLOCKS:
        rotate_tile(
            q, q_out, q_stride_token, q_stride_head, q_out_stride_token, q_out_stride_head, o_t, m_t, i_h, b_cos, b_sin,
            NUM_Q_HEADS, HEAD_SIZE, ROTARY_DIM, IS_NEOX, COPY_REST, BLOCK_HEADS, BLOCK_HALF, BLOCK_REST,
        )  # fmt: skip
    else:
        rotate_tile(
            k, k_out, k_stride_token, k_stride_head, k_out_stride_token, k_out_stride_head, o_t, m_t, i_h - Q_BLOCKS,
            b_cos, b_sin, NUM_K_HEADS, HEAD_SIZE, ROTARY_DIM, IS_NEOX, COPY_REST, BLOCK_HEADS, BLOCK_HALF, BLOCK_REST,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tile:
    """How the work is cut: the programs of a launch, and the threads of a program."""

    block_tokens: int
    block_heads: int
    num_warps: int


def choose_tile(num_tokens: int, num_heads: int, num_kv_heads: int, rotary_dim: int) -> Tile:
    """One warp a program: many small programs hide latency better than few large ones.

    Measured on an H100 (docs/data/tiles-h100.txt). A warp that holds 2 tokens x 8 heads x 64 pairs was within 5 % of
    the fastest tile of nearly every shape from 128 tokens up, and the fastest of several.
    Below 64 tokens a program holds as little as 16-byte accesses allow, so that more multiprocessors have one.
    """
    pairs = triton.next_power_of_2(rotary_dim // 2)
    heads = triton.next_power_of_2(max(num_heads, num_kv_heads))
    if num_tokens < 64:
        return Tile(block_tokens=1, block_heads=min(heads, max(1, 256 // pairs)), num_warps=1)
    return Tile(block_tokens=2, block_heads=min(heads, max(1, 512 // pairs), 8), num_warps=1)


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
    in_place: bool,
) -> dict[str, Any]:
    """The constexpr arguments of rope_kernel: shared by the launch and by ropekern.compile_kernel."""
    section_t, section_h, section_w = mrope_section or (0, 0, 0)
    rest = head_size - rotary_dim
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
        "COPY_REST": rest > 0 and not in_place,
        "BLOCK_TOKENS": tile.block_tokens,
        "BLOCK_HEADS": tile.block_heads,
        "BLOCK_HALF": triton.next_power_of_2(rotary_dim // 2),
        "BLOCK_REST": triton.next_power_of_2(max(rest, 1)),
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
) -> None:
    """Rotate query and key into query_out and key_out, which may be the same tensors. Shapes as in ropekern.ops.

    A position outside the table gives NaN in that token's rotated channels.

    Raises:
        UnsupportedError: the tensors are not on a CUDA device, and Triton's interpreter is off.
    """
    if not query.is_cuda and not triton.knobs.runtime.interpret:
        raise UnsupportedError(f"backend 'triton': query.device is {query.device}, wanted a CUDA device")
    num_tokens, num_heads, head_size = query.shape
    in_place = query_out is query
    if key is None or key_out is None:
        key, key_out, num_kv_heads = query, query_out, 0  # no program of the grid touches them
    else:
        num_kv_heads = key.shape[1]
    if not num_tokens or not num_heads + num_kv_heads:
        return
    mrope = mrope_section if positions.dim() == 2 else None
    tile = choose_tile(num_tokens, num_heads, num_kv_heads, cos_sin_cache.shape[1])
    head_blocks = triton.cdiv(num_heads, tile.block_heads) + triton.cdiv(num_kv_heads, tile.block_heads)
    grid = (triton.cdiv(num_tokens, tile.block_tokens) * head_blocks,)
    with torch.cuda.device_of(query):
        rope_kernel[grid](
            positions,
            cos_sin_cache,
            query,
            key,
            query_out,
            key_out,
            num_tokens,
            cos_sin_cache.shape[0],
            positions.stride(0),
            *query.stride()[:2],
            *key.stride()[:2],
            *query_out.stride()[:2],
            *key_out.stride()[:2],
            **meta_parameters(
                tile,
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                head_size=head_size,
                rotary_dim=cos_sin_cache.shape[1],
                is_neox_style=is_neox_style,
                mrope_section=mrope,
                mrope_interleaved=mrope_interleaved,
                in_place=in_place,
            ),
            num_warps=tile.num_warps,
        )
