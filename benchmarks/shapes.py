"""The shapes that `python -m benchmarks performance` measures: what other projects publish, and vLLM's two grids."""

from dataclasses import replace

from benchmarks.presets import shard
from benchmarks.workload import Workload

Shapes = dict[str, tuple[Workload, tuple[int, ...]]]
"""Title -> its workload at one token, and its token counts."""


def _workload(name: str, tp_size: int = 1) -> Workload:
    return Workload.of(shard(name, tp_size), 1)


_LLAMA = _workload("meta-llama/Llama-3.1-8B")
_QWEN2 = _workload("Qwen/Qwen2-VL-7B-Instruct")
_QWEN3 = _workload("Qwen/Qwen3-VL-8B-Instruct")

# Titles that docs and comparisons name
NEOX = "RoPE, 32 / 8 heads, NeoX"
GPTJ = "RoPE, 32 / 8 heads, GPT-J"
PACKED = "RoPE, 32 / 8 heads, NeoX, slices of qkv"
CHUNKED = "mRoPE, 32 / 8 heads, chunked"
INTERLEAVED = "mRoPE, 32 / 8 heads, interleaved (Qwen3-VL-8B)"
PARTIAL = "RoPE, 32 / 32 heads, rotary 32 of 128, NeoX"

TABLES: Shapes = {
    NEOX: (_LLAMA, (1, 16, 128, 512, 1024, 4096, 8192, 32768, 65536, 131072)),
    PARTIAL: (
        Workload(1, 32, 32, 128, 32, {"rope_theta": 1e4}),
        (1, 16, 128, 1024, 8192, 32768, 65536),
    ),
    GPTJ: (replace(_LLAMA, is_neox_style=False), (1, 16, 128, 1024, 8192, 65536)),
    PACKED: (replace(_LLAMA, is_packed=True), (1, 1024, 8192, 65536)),
    CHUNKED: (replace(_QWEN3, rope_parameters=_QWEN2.rope_parameters), (1, 128, 1024, 8192, 65536, 131072)),
    INTERLEAVED: (_QWEN3, (1, 16, 128, 1024, 4096, 8192, 32768, 65536, 131072)),
    "mRoPE, 28 / 4 heads, chunked (Qwen2-VL-7B)": (_QWEN2, (1, 16, 128, 512, 1024, 4096, 8192, 32768, 131072)),
    "mRoPE, 8 / 1 heads, chunked (Qwen2.5-VL-72B at tp 8)": (
        _workload("Qwen/Qwen2.5-VL-72B-Instruct", 8),
        (1, 16, 128, 1024, 4096, 32768, 131072),
    ),
    "mRoPE, 32 / 2 heads, rotary 64 of 128, GPT-J (GLM-4.1V-9B)": (
        _workload("zai-org/GLM-4.1V-9B-Thinking"),
        (1, 128, 1024, 8192, 65536, 131072),
    ),
}

MROPE_SHARDS: dict[str, tuple[int, ...]] = {
    "Qwen/Qwen2-VL-2B-Instruct": (1,),
    "Qwen/Qwen2-VL-7B-Instruct": (1,),
    "Qwen/Qwen2-VL-72B-Instruct": (2, 4, 8),
    "Qwen/Qwen2.5-VL-3B-Instruct": (1, 2, 4, 8),
    "Qwen/Qwen2.5-VL-7B-Instruct": (1, 2, 4, 8),
    "Qwen/Qwen2.5-VL-72B-Instruct": (2, 4, 8),
}
"""What vLLM's benchmark_mrope.py measures with no model named: 16 pairs of model and tensor-parallel size."""

MROPE_NUM_TOKENS = tuple(2**i for i in range(18))

ROPE_BATCH_SIZES, ROPE_SEQ_LENS, ROPE_NUM_HEADS = (1, 4, 16, 64), (64, 128, 256, 512), (32, 48)
"""What its benchmark_rope.py measures."""

MROPE_GRID: Shapes = {
    f"benchmark_mrope: {name.removeprefix('Qwen/')} tp {tp_size}": (_workload(name, tp_size), MROPE_NUM_TOKENS)
    for name, tp_sizes in MROPE_SHARDS.items()
    for tp_size in tp_sizes
}
"""vLLM's benchmark_mrope.py with no model named: 16 shards x 18 token counts."""

ROPE_GRID: Shapes = {
    f"benchmark_rope: {heads} heads, {pairing}": (
        Workload(1, heads, heads, 128, 32, {"rope_theta": 1e4}, is_neox_style=pairing == "NeoX"),
        tuple(sorted(batch * seq for batch in ROPE_BATCH_SIZES for seq in ROPE_SEQ_LENS)),
    )
    for heads in ROPE_NUM_HEADS
    for pairing in ("NeoX", "GPT-J")
}
"""vLLM's benchmark_rope.py: 32 shapes (batch x sequence x heads), in both pairings."""

LLAMA_GRID: Shapes = {
    f"Llama-3.1: {size} tp {tp_size}": (_workload(f"meta-llama/Llama-3.1-{size}", tp_size), MROPE_NUM_TOKENS)
    for size, tp_size in (("8B", 1), ("70B", 8))
}
"""Full rotary without mRoPE."""

GRIDS: dict[str, Shapes] = {
    "benchmark_mrope.py's grid": MROPE_GRID,
    "benchmark_rope.py's grid": ROPE_GRID,
    "Llama-3.1 shapes": LLAMA_GRID,
}

HOST: Shapes = {
    "host cost, RoPE, 32 / 8 heads": (_LLAMA, (1,)),
    "host cost, mRoPE, 28 / 4 heads": (_QWEN2, (1,)),
}
"""What the host pays to issue one eager call, at one token."""

GRID_PROVIDERS = ("triton", "triton alone", "flashinfer", "torch.compile", "vllm-like")
"""What the grids are measured with: what is compared with the backends, and those."""
