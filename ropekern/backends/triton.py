"""One Triton launch does it all: table rows are gathered inside from positions, q and k are rotated together.

The heads of q and k count as one axis, cut into rows of HEADS heads of one token. A program is one warp that holds ROWS
neighbouring rows: its lanes lie along rows and channels, 16 bytes each, and its registers along the heads of a row, so
that a lane uses its cos and sin for HEADS heads without a word to the other lanes. Head blocks of a token are
neighbours in the grid: its table row comes from device memory once, and from the L2 cache after that.
Arithmetic is float32 whatever the tensors hold; offsets are 64-bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ropekern import knobs
from ropekern.backends.triton_launch import make_repeat
from ropekern.errors import UnsupportedError


@triton.jit
def rotate(x1, x2, cos, sin):
    return x1 * cos - x2 * sin, x2 * cos + x1 * sin


@triton.jit
def load_table_row(cos_sin_cache, b_row, max_position, m_row, o_c, ROTARY_DIM: tl.constexpr):
    """cos and sin of the rows b_row. A position outside the table poisons its token with NaN instead of reading foreign
    memory. The table outlives this call, q and k do not: evict_last keeps it in the L2 cache while they stream by.
    """
    mask = m_row & (o_c < ROTARY_DIM // 2) & (b_row.to(tl.uint64) < max_position)
    p_cos = cos_sin_cache + b_row.to(tl.int64) * ROTARY_DIM + o_c
    b_cos = tl.load(p_cos, mask=mask, eviction_policy="evict_last")
    b_sin = tl.load(p_cos + ROTARY_DIM // 2, mask=mask, other=float("nan"), eviction_policy="evict_last")
    return b_cos.to(tl.float32), b_sin.to(tl.float32)


@triton.jit
def load_cos_sin(
    positions,  # [num_tokens] or [3, num_tokens]
    cos_sin_cache,  # [max_position, ROTARY_DIM]
    positions_stride_axis,
    max_position,
    o_t,  # [ROWS] token offsets
    m_t,
    ROTARY_DIM: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    MROPE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    SECTION_T: tl.constexpr,
    SECTION_H: tl.constexpr,
    SECTION_W: tl.constexpr,
):
    o_c = tl.arange(0, BLOCK_HALF)[None, :]
    m_row = m_t[:, None]
    b_row = tl.load(positions + o_t, mask=m_t, other=0)[:, None]
    if MROPE:
        p_h = positions + positions_stride_axis  # one step after the other: twice the stride may not fit 32 bits
        b_row_h = tl.load(p_h + o_t, mask=m_t, other=0)[:, None]
        b_row_w = tl.load(p_h + positions_stride_axis + o_t, mask=m_t, other=0)[:, None]
    if MROPE and not INTERLEAVED:
        b_row = tl.where(o_c < SECTION_T, b_row, tl.where(o_c < SECTION_T + SECTION_H, b_row_h, b_row_w))
    b_cos, b_sin = load_table_row(cos_sin_cache, b_row, max_position, m_row, o_c, ROTARY_DIM)
    if MROPE and INTERLEAVED:
        # All three rows in wide loads, then a choice: a load for each channel would be eight times as many.
        b_cos_h, b_sin_h = load_table_row(cos_sin_cache, b_row_h, max_position, m_row, o_c, ROTARY_DIM)
        b_cos_w, b_sin_w = load_table_row(cos_sin_cache, b_row_w, max_position, m_row, o_c, ROTARY_DIM)
        o_u = o_c.to(tl.uint32)  # an unsigned test for divisibility is two instructions
        reads_h = ((o_u + 2) % 3 == 0) & (o_c < 3 * SECTION_H)
        reads_w = ((o_u + 1) % 3 == 0) & (o_c < 3 * SECTION_W)
        b_cos = tl.where(reads_h, b_cos_h, tl.where(reads_w, b_cos_w, b_cos))
        b_sin = tl.where(reads_h, b_sin_h, tl.where(reads_w, b_sin_w, b_sin))
    return b_cos, b_sin


@triton.jit
def head_pointer(
    q, k, q_stride_token, q_stride_head, k_stride_token, k_stride_head, o_t, o_h, NUM_Q_HEADS: tl.constexpr
):
    """Where head o_h of token o_t begins: the heads of k follow those of q."""
    is_q = o_h < NUM_Q_HEADS
    stride_token = tl.where(is_q, q_stride_token, k_stride_token)
    stride_head = tl.where(is_q, q_stride_head, k_stride_head)
    head = tl.where(is_q, o_h, o_h - NUM_Q_HEADS)
    return tl.where(is_q, q, k) + o_t.to(tl.int64) * stride_token + head.to(tl.int64) * stride_head


@triton.jit
def load_pairs(p_x, m_x, ROWS: tl.constexpr, ROTARY_DIM: tl.constexpr, IS_NEOX: tl.constexpr, BLOCK_HALF: tl.constexpr):
    """The two members of each pair, [ROWS, BLOCK_HALF] each."""
    HALF: tl.constexpr = ROTARY_DIM // 2
    if IS_NEOX:
        o_c = tl.arange(0, BLOCK_HALF)[None, :]
        mask = m_x[:, None] & (o_c < HALF)
        p_x = p_x[:, None] + o_c
        b_x1 = tl.load(p_x, mask=mask)
        b_x2 = tl.load(p_x + HALF, mask=mask)
    else:
        o_c = tl.arange(0, 2 * BLOCK_HALF)[None, :]
        b_x = tl.load(p_x[:, None] + o_c, mask=m_x[:, None] & (o_c < ROTARY_DIM))
        b_x1, b_x2 = tl.split(tl.reshape(b_x, [ROWS, BLOCK_HALF, 2]))
    return b_x1, b_x2


@triton.jit
def store_pairs(
    p_y, b_y1, b_y2, m_x, ROWS: tl.constexpr, ROTARY_DIM: tl.constexpr, IS_NEOX: tl.constexpr, BLOCK_HALF: tl.constexpr
):
    HALF: tl.constexpr = ROTARY_DIM // 2
    b_y1 = b_y1.to(p_y.dtype.element_ty)
    b_y2 = b_y2.to(p_y.dtype.element_ty)
    if IS_NEOX:
        o_c = tl.arange(0, BLOCK_HALF)[None, :]
        mask = m_x[:, None] & (o_c < HALF)
        p_y = p_y[:, None] + o_c
        tl.store(p_y, b_y1, mask=mask)
        tl.store(p_y + HALF, b_y2, mask=mask)
    else:
        o_c = tl.arange(0, 2 * BLOCK_HALF)[None, :]
        b_y = tl.reshape(tl.join(b_y1, b_y2), [ROWS, 2 * BLOCK_HALF])
        tl.store(p_y[:, None] + o_c, b_y, mask=m_x[:, None] & (o_c < ROTARY_DIM))


@triton.jit
def prefetch(pointers):
    """Ask for the lines of these addresses in the L2 cache, where every multiprocessor sees one and the same memory:
    what a predecessor still writes to them is seen by the load that comes later.
    """
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; // $0", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["num_tokens", "max_position", "positions_stride_axis"])
def rope_kernel(
    # tensors
    positions,  # [num_tokens] or [3, num_tokens]
    cos_sin_cache,  # [max_position, ROTARY_DIM]
    q,  # [num_tokens, NUM_Q_HEADS, HEAD_SIZE]
    k,  # [num_tokens, NUM_K_HEADS, HEAD_SIZE]
    q_out,  # None, as k_out and their strides: in place
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
    INVERSE: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,  # programmatic dependent launch
):
    NUM_HEADS: tl.constexpr = NUM_Q_HEADS + NUM_K_HEADS
    ROWS_PER_TOKEN: tl.constexpr = (NUM_HEADS + HEADS - 1) // HEADS
    o_r = tl.program_id(0) % ROWS_PER_TOKEN * ROWS + tl.arange(0, ROWS)
    o_t = tl.program_id(0) // ROWS_PER_TOKEN * ROWS + o_r // ROWS_PER_TOKEN
    o_h = o_r % ROWS_PER_TOKEN * HEADS
    m_t = o_t < num_tokens

    if PDL:
        # Nothing is read before the wait, since predecessors may still write it. Dependents wait in the same way, so
        # they may start at once.
        LINES: tl.constexpr = ROTARY_DIM * q.dtype.element_ty.primitive_bitwidth // 1024  # of 128 bytes, in a head
        o_l = tl.minimum(o_t, num_tokens - 1)  # a prefetch has no mask, and must not leave the tensors
        if PREFETCH and (HEADS == 1 or LINES > 0):  # part of a line is not worth fetching twice, but for latency
            p_x = head_pointer(
                q, k, q_stride_token, q_stride_head, k_stride_token, k_stride_head, o_l, o_h, NUM_Q_HEADS
            )
            prefetch(p_x)
            if LINES > 1:
                prefetch(p_x + ROTARY_DIM // 2)
        if PREFETCH:
            prefetch(positions + o_l)
            if MROPE:
                prefetch(positions + positions_stride_axis + o_l)
                prefetch(positions + positions_stride_axis + positions_stride_axis + o_l)
        gdc_wait()
        gdc_launch_dependents()

    pairs = ()
    for i in tl.static_range(HEADS):
        m_x = m_t & (o_h + i < NUM_HEADS)
        p_x = head_pointer(
            q, k, q_stride_token, q_stride_head, k_stride_token, k_stride_head, o_t, o_h + i, NUM_Q_HEADS
        )
        pairs = pairs + load_pairs(p_x, m_x, ROWS, ROTARY_DIM, IS_NEOX, BLOCK_HALF)
    # The compiler would put off most of these loads until the table's arrive. A barrier of one warp costs nothing.
    tl.debug_barrier()
    b_cos, b_sin = load_cos_sin(
        positions, cos_sin_cache, positions_stride_axis, max_position, o_t, m_t,
        ROTARY_DIM, BLOCK_HALF, MROPE, INTERLEAVED, SECTION_T, SECTION_H, SECTION_W,
    )  # fmt: skip
    if INVERSE:
        b_sin = -b_sin
    for i in tl.static_range(HEADS):
        m_x = m_t & (o_h + i < NUM_HEADS)
        p_x = head_pointer(
            q, k, q_stride_token, q_stride_head, k_stride_token, k_stride_head, o_t, o_h + i, NUM_Q_HEADS
        )
        b_y1, b_y2 = rotate(pairs[2 * i].to(tl.float32), pairs[2 * i + 1].to(tl.float32), b_cos, b_sin)
        if q_out is None:
            store_pairs(p_x, b_y1, b_y2, m_x, ROWS, ROTARY_DIM, IS_NEOX, BLOCK_HALF)
        else:
            p_y = head_pointer(
                q_out, k_out, q_out_stride_token, q_out_stride_head, k_out_stride_token, k_out_stride_head, o_t,
                o_h + i, NUM_Q_HEADS,
            )  # fmt: skip
            store_pairs(p_y, b_y1, b_y2, m_x, ROWS, ROTARY_DIM, IS_NEOX, BLOCK_HALF)
            for start in range(ROTARY_DIM, HEAD_SIZE, 2 * BLOCK_HALF):  # a loop: the tail may be longer than registers
                o_c = start + tl.arange(0, 2 * BLOCK_HALF)[None, :]
                mask = m_x[:, None] & (o_c < HEAD_SIZE)
                tl.store(p_y[:, None] + o_c, tl.load(p_x[:, None] + o_c, mask=mask), mask=mask)


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
