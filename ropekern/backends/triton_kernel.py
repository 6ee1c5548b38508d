"""One Triton kernel does it all: table rows are gathered inside from positions, q and k are rotated together.

The heads of q and k count as one axis, cut into rows of HEADS heads of one token. A program is one warp that holds ROWS
neighbouring rows: its lanes lie along rows and channels, 16 bytes each, and its registers along the heads of a row, so
that a lane uses its cos and sin for HEADS heads without a word to the other lanes. Head blocks of a token are
neighbours in the grid: its table row comes from device memory once, and from the L2 cache after that.
Arithmetic is float32 whatever the tensors hold; offsets are 64-bit.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


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
