"""vLLM's benchmark_mrope.py and benchmark_rope.py as functions: their signatures and return values, honest clocks.

The statistics are those of single cold calls, as the seeds mean them; host time is in none of them.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import torch

from benchmarks import models, sweep
from benchmarks.presets import Preset
from benchmarks.presets import shard as shard_of
from benchmarks.providers import PROVIDERS
from benchmarks.records import MROPE_HEADER, STATISTICS
from benchmarks.shapes import MROPE_SHARDS
from benchmarks.statistics import Summary
from benchmarks.workload import Workload

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

Statistics = dict[str, float]
"""mean, median, p99, min and max; seconds."""


class _Writer(Protocol):
    def writerow(self, row: Iterable[Any], /) -> object: ...


def generate_test_data(
    num_tokens: int,
    num_q_heads: int,
    num_kv_heads: int,
    head_size: int,
    max_position_embeddings: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions `[3, num_tokens]` below a quarter of the maximum, query `[num_tokens, num_q_heads * head_size]` and key
    `[num_tokens, num_kv_heads * head_size]`, normal.
    """  # fmt: skip
    positions = torch.randint(0, max(1, max_position_embeddings // 4), (3, num_tokens), device=device)
    query = torch.randn(num_tokens, num_q_heads * head_size, dtype=dtype, device=device)
    key = torch.randn(num_tokens, num_kv_heads * head_size, dtype=dtype, device=device)
    return positions, query, key


def benchmark_mrope(
    model_name: str,
    num_tokens: int,
    head_dim: int,
    tp_size: int,
    num_heads: int,
    num_kv_heads: int,
    max_position: int = 8192,
    is_neox_style: bool = True,
    rope_parameters: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    warmup_iter: int = 10,
    benchmark_iter: int = 100,
    csv_writer: _Writer | None = None,
) -> tuple[Statistics, Statistics]:
    """Native and Triton on one shape.

    Args:
        model_name: for the row of the CSV.
        num_tokens: of the call.
        head_dim: channels of a head.
        tp_size: for the row of the CSV.
        num_heads: of one rank.
        num_kv_heads: of one rank.
        max_position: the model's; positions are drawn below a quarter of it.
        is_neox_style: the pairing.
        rope_parameters: Hugging Face's; without an mrope_section positions are one-dimensional.
        dtype: of query and key.
        seed: of the inputs.
        warmup_iter: single calls before the statistics.
        benchmark_iter: single calls in the statistics.
        csv_writer: gets a row under records.MROPE_HEADER.

    Returns:
        Statistics of native and of Triton, seconds.

    Raises:
        UnsupportedError: there is no GPU and Triton's interpreter is off.
    """
    parameters = dict(rope_parameters or {"rope_type": "default", "rope_theta": 10000.0})
    rotary_dim = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    workload = Workload(
        num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim, parameters, is_neox_style, dtype,
        table_rows=max_position, position_limit=max(1, max_position // 4),
    )  # fmt: skip
    settings = settings_for(sweep.place_of(), warmup_iter, benchmark_iter, seed)
    found = []
    for name in ("native", "triton"):
        times = sweep.measure(PROVIDERS[name], name, workload, settings)
        found.append(_statistics(times.single))
    native, triton = found
    if csv_writer is not None:
        row = [
            model_name, tp_size, num_tokens, num_heads, num_kv_heads, head_dim, max_position, is_neox_style,
            str(parameters), str(dtype), *native.values(), *triton.values(), native["mean"] / triton["mean"],
        ]  # fmt: skip
        assert len(row) == len(MROPE_HEADER)
        csv_writer.writerow(row)
    return native, triton


def get_benchmark(
    head_size: int, rotary_dim: int, is_neox_style: bool, device: str
) -> Callable[[int, int, int, str], tuple[float, float, float]]:
    """A function of batch_size, seq_len, num_heads and provider that gives microseconds: the median of single cold
    calls, their least and their most. As many kv heads as heads. The seed's provider "torch" is native.

    Raises:
        ValueError: rotary_dim or device is wrong.
    """
    if rotary_dim % 2 or not 0 < rotary_dim <= head_size:
        raise ValueError(f"rotary_dim must be even and in 2 .. head_size {head_size}, got {rotary_dim}")
    settings = settings_for(sweep.place_of(device))

    def benchmark(batch_size: int, seq_len: int, num_heads: int, provider: str) -> tuple[float, float, float]:
        provider = "native" if provider == "torch" else provider
        if provider not in PROVIDERS:
            raise ValueError(f"provider must be among {', '.join(PROVIDERS)}, got {provider!r}")
        workload = rope_workload(batch_size * seq_len, num_heads, num_heads, head_size, rotary_dim, is_neox_style)
        single = sweep.measure(PROVIDERS[provider], provider, workload, settings).single
        summary = Summary.of(single)
        return summary.median, summary.min, summary.max

    return benchmark


def rope_workload(
    num_tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    rotary_dim: int,
    is_neox_style: bool,
    dtype: torch.dtype = torch.bfloat16,
) -> Workload:
    """A shape of benchmark_rope.py: theta 10000, positions below 8192."""
    parameters = {"rope_type": "default", "rope_theta": 10000.0}
    return Workload(
        num_tokens, num_heads, num_kv_heads, head_size, rotary_dim, parameters, is_neox_style, dtype, table_rows=8192
    )


def mrope_cells(
    model_names: Sequence[str],
    tp_sizes: Sequence[int] | None,
    num_tokens: Sequence[int],
    dtype: torch.dtype,
    *,
    positions: str = "uniform",
    is_packed: bool = False,
    in_place: bool = True,
    trust_remote_code: bool = False,
) -> list[sweep.Cell]:
    """What `python -m benchmarks mrope` measures.

    Args:
        model_names: see models.find; none, or an empty one, means the models of MROPE_SHARDS.
        tp_sizes: None means MROPE_SHARDS' own for those, and 1 for named models.
        num_tokens: of the workloads.
        dtype: of query and key.
        positions: one of workload.POSITIONS.
        is_packed: query and key are slices of one qkv tensor.
        in_place: else into new tensors.
        trust_remote_code: see models.find.

    Raises:
        ValueError: a model or a size is wrong.
    """
    named = [name for name in model_names if name]
    shards = {name: tuple(tp_sizes or (1,)) for name in named} or {
        name: tuple(tp_sizes or sizes) for name, sizes in MROPE_SHARDS.items()
    }
    cells = []
    for name, sizes in shards.items():
        preset = models.find(name, trust_remote_code=trust_remote_code)
        for tp_size in sizes:
            for count in num_tokens:
                workload = _shard_workload(preset, tp_size, count, dtype, positions, is_packed)
                workload = replace(workload, in_place=in_place)
                cells.append(sweep.Cell("mrope", workload, model_name=name, tp_size=tp_size))
    return cells


def rope_cells(
    batch_sizes: Sequence[int],
    seq_lens: Sequence[int],
    num_heads: Sequence[int],
    num_kv_heads: Sequence[int] | None,
    head_sizes: Sequence[int],
    rotary_dims: Sequence[int],
    is_neox_style: bool,
    dtype: torch.dtype,
    *,
    is_packed: bool = False,
    in_place: bool = True,
) -> list[sweep.Cell]:
    """What `python -m benchmarks rope` measures: every combination; num_kv_heads None means as many as heads.

    Raises:
        ValueError: a size is wrong.
    """
    cells = []
    for head_size, rotary_dim in itertools.product(head_sizes, rotary_dims):
        if rotary_dim % 2 or not 0 < rotary_dim <= head_size:
            raise ValueError(f"--rotary-dim must be even and in 2 .. head size {head_size}, got {rotary_dim}")
        for heads in num_heads:
            for kv_heads in num_kv_heads or (heads,):
                for batch_size, seq_len in itertools.product(batch_sizes, seq_lens):
                    tokens = batch_size * seq_len
                    workload = rope_workload(tokens, heads, kv_heads, head_size, rotary_dim, is_neox_style, dtype)
                    workload = replace(workload, is_packed=is_packed, in_place=in_place)
                    cells.append(sweep.Cell("rope", workload, batch_size=batch_size, seq_len=seq_len))
    return cells


def _shard_workload(
    preset: Preset, tp_size: int, num_tokens: int, dtype: torch.dtype, positions: str, is_packed: bool
) -> Workload:
    workload = Workload.of(shard_of(preset, tp_size), num_tokens, dtype=dtype, is_packed=is_packed)
    limit = max(1, preset.max_position // 4)  # vLLM's table is four times as long as what it reads
    return replace(workload, table_rows=preset.max_position, positions=positions, position_limit=limit)


def settings_for(
    place: str, warmup_iter: int = 10, benchmark_iter: int = 100, seed: int = 0, *, is_cold: bool = True
) -> sweep.Settings:
    """Settings on a GPU with its clock, or on the CPU; with what a row says of the machine."""
    from benchmarks import environment, timing

    device = None if torch.device(place).type == "cpu" else timing.CudaDevice(place)
    return sweep.Settings(
        place,
        device,
        warmup_iter,
        benchmark_iter,
        seed,
        is_cold=is_cold,
        machine=environment.line(),
        commit=environment.commit(),
    )


def _statistics(microseconds: Sequence[float]) -> Statistics:
    summary = asdict(Summary.of(microseconds))
    return {name: summary[name] * 1e-6 for name in STATISTICS}
