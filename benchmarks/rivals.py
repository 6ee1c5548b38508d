"""Providers beside the package's own backends. Each needs a library that may be absent; none is part of the asv suite.

All but torch.compile rotate query and key in place on the buffers they are given. What a library wants prepared
beforehand is prepared here, outside the clock, and the provider's note in `providers.py` says what was left out.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch

from benchmarks import subject
from benchmarks.workload import Call, Inputs, Workload

try:
    import triton
    import triton.language as tl
except ImportError:  # asv imports this module in environments that have torch and numpy alone
    triton = None


def torch_compile(workload: Workload, inputs: Inputs) -> Call:
    """torch.compile of the plain formula into new tensors, the form it does best; the number of tokens dynamic.

    One compilation serves all token counts of a shard (one token is compiled apart). The cache is reset for each new
    shard, and a run into the recompile limit is an error: torch would silently fall back to eager.
    """
    compiled = _compiled(replace(workload, num_tokens=0, is_packed=False, in_place=False))
    for tensor, dimension in ((inputs.positions, -1), (inputs.query, 0), (inputs.key, 0)):
        torch._dynamo.maybe_mark_dynamic(tensor, dimension % tensor.dim())
    table = subject.cos_sin_cache(workload, inputs.query.device)
    positions, query, key = inputs.positions, inputs.query, inputs.key
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        kept[:] = [compiled(positions, query, key, table)]  # until the next run: calls of a graph share no memory
        return kept[0]

    return call


@lru_cache(maxsize=1)
def _compiled(shard: Workload) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    import torch._dynamo.config as dynamo

    torch._dynamo.reset()
    dynamo.fail_on_recompile_limit_hit = True
    compiled: Callable[..., tuple[torch.Tensor, torch.Tensor]] = torch.compile(plain_formula(shard), fullgraph=True)
    return compiled


def plain_formula(workload: Workload) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Rotation into new tensors as one would write it for a compiler: positions, query, key, table -> query, key."""
    half, is_neox_style = workload.rotary_dim // 2, workload.is_neox_style
    section = workload.mrope_section
    axes = [] if section is None else [axis for axis, count in enumerate(section) for _ in range(count)]
    if section is not None and workload.mrope_interleaved:
        axes = [i % 3 if i < 3 * section[i % 3] else 0 for i in range(half)]

    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        cos, sin, turning = cos.unsqueeze(1), sin.unsqueeze(1), x[..., : 2 * half].float()
        if is_neox_style:
            x1, x2 = turning.chunk(2, dim=-1)
            turned = torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
        else:
            x1, x2 = turning[..., ::2], turning[..., 1::2]
            turned = torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(-2)
        return torch.cat((turned.to(x.dtype), x[..., 2 * half :]), dim=-1)

    def formula(
        positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, table: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if axes:
            channel = torch.arange(half, device=table.device)
            row = positions[torch.tensor(axes, device=table.device)].T  # of each token and channel
            cos, sin = table[row, channel], table[row, half + channel]
        else:
            cos, sin = table[positions].chunk(2, dim=-1)
        return rotate(query, cos, sin), rotate(key, cos, sin)

    return formula


def want_in_place(workload: Workload) -> None:
    """Raise NotImplementedError where new tensors are asked of what rotates in place only."""
    if not workload.in_place:
        raise NotImplementedError("it rotates in place only")


def vllm(workload: Workload, inputs: Inputs) -> Call:
    """vLLM's own rotary layer: its CUDA op for one-dimensional positions, its mRoPE path for three axes. Table and
    arithmetic have query's dtype.

    Raises:
        ImportError: vllm is not installed.
        NotImplementedError: new tensors are asked for.
    """
    want_in_place(workload)
    layer = _vllm_layer(replace(workload, num_tokens=0, is_packed=False), inputs.query.device)
    positions, query, key = inputs.positions, inputs.query, inputs.key
    flat_query, flat_key = query.flatten(1), key.flatten(1)

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        query_out, key_out = layer(positions, flat_query, flat_key)  # in place or not, as the layer likes
        return query_out.view(query.shape), key_out.view(key.shape)

    return call


@lru_cache(maxsize=1)
def _vllm_layer(shard: Workload, device: torch.device) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    parameters = {**shard.rope_parameters, "partial_rotary_factor": shard.rotary_dim / shard.head_size}
    if shard.mrope_section is not None:
        parameters["mrope_section"] = list(shard.mrope_section)
    with set_current_vllm_config(VllmConfig()):
        layer = get_rope(
            head_size=shard.head_size,
            max_position=shard.table_rows,
            is_neox_style=shard.is_neox_style,
            rope_parameters=parameters,
            dtype=shard.dtype,
        )
    forward: Callable[..., tuple[torch.Tensor, torch.Tensor]] = layer.to(device).forward_cuda
    return forward


def vllm_mrope(workload: Workload, inputs: Inputs) -> Call:
    """vLLM's whole mRoPE path, rebuilt from its description: gather the rows of all three axes, make contiguous copies
    of cos and sin, then a Triton kernel with one program a token. The table is float32, as for everyone here.

    Raises:
        NotImplementedError: Triton is absent, or the case is not mRoPE with NeoX pairing.
    """  # fmt: skip
    if triton is None:
        raise NotImplementedError("Triton is not installed")
    if workload.mrope_section is None or not workload.is_neox_style or workload.is_packed:
        raise NotImplementedError("this path is for contiguous mRoPE with NeoX pairing")
    want_in_place(workload)
    table = subject.cos_sin_cache(workload, inputs.query.device)
    w, (section_t, section_h, section_w) = workload, workload.mrope_section
    positions, query, key = inputs.positions, inputs.query, inputs.key

    def call() -> None:
        cos, sin = table[positions].chunk(2, dim=-1)
        _one_program_a_token[(w.num_tokens,)](
            query, key, cos.contiguous(), sin.contiguous(), w.num_tokens, w.num_heads, w.num_kv_heads, w.head_size,
            w.rotary_dim // 2, section_t, section_h, section_w, w.mrope_interleaved,
            triton.next_power_of_2(w.num_heads), triton.next_power_of_2(w.num_kv_heads),
            triton.next_power_of_2(w.rotary_dim // 2),
        )  # fmt: skip

    return call


def liger(workload: Workload, inputs: Inputs) -> Call:
    """Liger's kernels for training; cos and sin of each token are gathered beforehand.

    Raises:
        ImportError: liger-kernel is not installed.
        NotImplementedError: the pairing is GPT-J, the axes are interleaved, or q and k are not contiguous.
    """
    from liger_kernel.ops import LigerQwen2VLMRopeFunction, LigerRopeFunction

    if not workload.is_neox_style or workload.mrope_interleaved or workload.is_packed:
        raise NotImplementedError("Liger has contiguous NeoX pairing and chunked axes only")
    want_in_place(workload)
    table = subject.cos_sin_cache(workload, inputs.query.device)
    cos, sin = (torch.cat((half, half), dim=-1) for half in table[inputs.positions].chunk(2, dim=-1))
    query, key = inputs.query.unsqueeze(0).transpose(1, 2), inputs.key.unsqueeze(0).transpose(1, 2)
    section = workload.mrope_section

    def call() -> None:
        if section is None:
            LigerRopeFunction.apply(query, key, cos.unsqueeze(0), sin.unsqueeze(0))
        else:
            LigerQwen2VLMRopeFunction.apply(query, key, cos.unsqueeze(1), sin.unsqueeze(1), list(section))

    return call


if triton is not None:

    @triton.jit(do_not_specialize=["num_tokens"])
    def _one_program_a_token(
        q,  # [num_tokens, NUM_Q_HEADS, HEAD_SIZE]
        k,  # [num_tokens, NUM_K_HEADS, HEAD_SIZE]
        cos,  # [3, num_tokens, HALF]
        sin,  # [3, num_tokens, HALF]
        num_tokens,
        NUM_Q_HEADS: tl.constexpr,
        NUM_K_HEADS: tl.constexpr,
        HEAD_SIZE: tl.constexpr,
        HALF: tl.constexpr,
        SECTION_T: tl.constexpr,
        SECTION_H: tl.constexpr,
        SECTION_W: tl.constexpr,
        INTERLEAVED: tl.constexpr,
        BLOCK_Q_HEADS: tl.constexpr,
        BLOCK_K_HEADS: tl.constexpr,
        BLOCK_HALF: tl.constexpr,
    ):
        i_t = tl.program_id(0).to(tl.int64)
        o_c = tl.arange(0, BLOCK_HALF)
        if INTERLEAVED:
            reads_h = (o_c % 3 == 1) & (o_c < 3 * SECTION_H)
            reads_w = (o_c % 3 == 2) & (o_c < 3 * SECTION_W)
        else:
            reads_h = (o_c >= SECTION_T) & (o_c < SECTION_T + SECTION_H)
            reads_w = (o_c >= SECTION_T + SECTION_H) & (o_c < HALF)
        reads_t = (o_c < HALF) & ~reads_h & ~reads_w
        o_row = i_t * HALF + o_c
        axis = num_tokens.to(tl.int64) * HALF
        b_cos = tl.load(cos + o_row, mask=reads_t, other=0.0)
        b_cos += tl.load(cos + axis + o_row, mask=reads_h, other=0.0)
        b_cos += tl.load(cos + 2 * axis + o_row, mask=reads_w, other=0.0)
        b_sin = tl.load(sin + o_row, mask=reads_t, other=0.0)
        b_sin += tl.load(sin + axis + o_row, mask=reads_h, other=0.0)
        b_sin += tl.load(sin + 2 * axis + o_row, mask=reads_w, other=0.0)
        _rotate_heads(q, i_t, b_cos, b_sin, NUM_Q_HEADS, HEAD_SIZE, HALF, BLOCK_Q_HEADS, BLOCK_HALF)
        _rotate_heads(k, i_t, b_cos, b_sin, NUM_K_HEADS, HEAD_SIZE, HALF, BLOCK_K_HEADS, BLOCK_HALF)

    @triton.jit
    def _rotate_heads(
        x,
        i_t,
        b_cos,
        b_sin,
        NUM_HEADS: tl.constexpr,
        HEAD_SIZE: tl.constexpr,
        HALF: tl.constexpr,
        BLOCK_HEADS: tl.constexpr,
        BLOCK_HALF: tl.constexpr,
    ):
        o_h = tl.arange(0, BLOCK_HEADS)[:, None]
        o_c = tl.arange(0, BLOCK_HALF)[None, :]
        mask = (o_h < NUM_HEADS) & (o_c < HALF)
        p_x = x + i_t * (NUM_HEADS * HEAD_SIZE) + o_h * HEAD_SIZE + o_c
        b_x1 = tl.load(p_x, mask=mask).to(tl.float32)
        b_x2 = tl.load(p_x + HALF, mask=mask).to(tl.float32)
        tl.store(p_x, (b_x1 * b_cos - b_x2 * b_sin).to(x.dtype.element_ty), mask=mask)
        tl.store(p_x + HALF, (b_x2 * b_cos + b_x1 * b_sin).to(x.dtype.element_ty), mask=mask)
