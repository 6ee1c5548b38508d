"""A workload: the sizes of one call, the inputs it is measured on, and the bytes it must move."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.presets import Shard

TABLE_ROWS = 32768
"""Positions are drawn below this, so that every model's table is equally large a part of the L2 cache."""

POSITIONS = ("uniform", "text", "image", "video")
"""uniform: each number drawn by itself, as vLLM's benchmarks do. text: a running sequence, t = h = w. image: after a
quarter of text a raster, t standing still, h its line, w its column. video: the same, four frames one after the other.
"""

_ALIGNMENT = 256  # bytes; what torch's allocator gives every tensor, and so what each buffer of a rotation gets


@dataclass(frozen=True, slots=True)
class Workload:
    """One call of apply_rope_ in a model: sizes per rank, dtype, pairing, axis layout, memory layout."""

    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    rope_parameters: Mapping[str, Any] = field(hash=False)
    is_neox_style: bool = True
    dtype: torch.dtype = torch.bfloat16
    table_rows: int = TABLE_ROWS
    is_packed: bool = False
    """Query and key are slices of one qkv tensor, as in real models, instead of contiguous."""
    in_place: bool = True
    """Query and key are overwritten; else new tensors are made."""
    positions: str = "uniform"
    """One of POSITIONS."""
    position_limit: int = 0
    """Uniform positions are drawn below this; 0: below table_rows."""

    @classmethod
    def of(
        cls, shard: Shard, num_tokens: int, *, dtype: torch.dtype = torch.bfloat16, is_packed: bool = False
    ) -> "Workload":
        """The workload of one rank of a model."""
        preset = shard.preset
        return cls(
            num_tokens=num_tokens,
            num_heads=shard.num_heads,
            num_kv_heads=shard.num_kv_heads,
            head_size=preset.head_size,
            rotary_dim=preset.rotary_dim,
            rope_parameters=preset.rope_parameters,
            is_neox_style=preset.is_neox_style,
            dtype=dtype,
            table_rows=min(preset.max_position, TABLE_ROWS),
            is_packed=is_packed,
        )

    @property
    def mrope_section(self) -> tuple[int, int, int] | None:
        """Channels of t, h, w; None for one-dimensional positions."""
        section = self.rope_parameters.get("mrope_section")
        return None if section is None else (section[0], section[1], section[2])

    @property
    def mrope_interleaved(self) -> bool:
        """The axis layout."""
        return bool(self.rope_parameters.get("mrope_interleaved", False))

    @property
    def position_axes(self) -> int:
        """Rows of positions: 3 for mRoPE, else 1."""
        return 1 if self.mrope_section is None else 3

    @property
    def buffer_bytes(self) -> int:
        """Bytes of query and key that one call touches: what a rotation must push out of the L2 cache."""
        return self.num_tokens * (self.num_heads + self.num_kv_heads) * self.rotary_dim * self.dtype.itemsize

    def bytes_moved(self, positions: torch.Tensor) -> int:
        """Bytes that any implementation must move: rotary parts read and written once, the distinct table elements
        and the positions read once.
        """  # fmt: skip
        channels = (self.rotary_dim // 2,) if self.mrope_section is None else self.mrope_section
        rows = positions.reshape(self.position_axes, -1)
        table = sum(2 * n * axis.unique().numel() for n, axis in zip(channels, rows, strict=True))
        return int(2 * self.buffer_bytes + 4 * table + positions.numel() * positions.element_size())


@dataclass(frozen=True, slots=True)
class Inputs:
    """Tensors of one call: positions, query, key as in ropekern.apply_rope_."""

    positions: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor


Call = Callable[[], tuple[torch.Tensor, torch.Tensor] | None]
"""Rotates its inputs in place and returns None, or leaves them as they are and returns new query and key."""

MakeCall = Callable[[Workload, Inputs], Call]


@dataclass(frozen=True, slots=True)
class Provider:
    """A way to rotate query and key."""

    make_call: MakeCall
    note: str = ""
    """What its time leaves out or includes, if anything."""
    roundings: int = 0
    """How often it rounds to query's dtype before the result, such as a table of that dtype: half a unit in the last
    place of the head's largest channel is forgiven for each.
    """


def make_inputs(workload: Workload, count: int, device: torch.device | str, seed: int = 0) -> list[Inputs]:
    """Inputs for `count` calls, each with memory of its own: normal query and key, uniform positions.

    The same seed gives the same inputs to every implementation.
    """
    w = workload
    generator = torch.Generator(device).manual_seed(seed)
    heads = {"query": w.num_heads, "key": w.num_kv_heads}
    heads = {"qkv": w.num_heads + 2 * w.num_kv_heads} if w.is_packed else heads
    pools = {}
    for name, num_heads in heads.items():
        pool = torch.empty(
            count, _padded(w.num_tokens * num_heads * w.head_size, w.dtype), dtype=w.dtype, device=device
        )
        pool.normal_(generator=generator)
        pools[name] = pool[:, : w.num_tokens * num_heads * w.head_size].view(
            count, w.num_tokens, num_heads, w.head_size
        )
    if w.is_packed:
        pools["query"], pools["key"], _ = pools["qkv"].split((w.num_heads, w.num_kv_heads, w.num_kv_heads), dim=2)
    shape = (3, w.num_tokens) if w.position_axes == 3 else (w.num_tokens,)
    size = w.position_axes * w.num_tokens
    limit = w.position_limit or w.table_rows
    positions = torch.randint(0, limit, (count, _padded(size, torch.int64)), device=device, generator=generator)
    if w.positions != "uniform":
        running = _sequence(w).to(device)
        starts = positions[:, :1] % max(1, limit - int(running.max()))  # each call elsewhere in the table
        positions[:, :size] = (running.flatten() + starts) % limit
    return [Inputs(positions[i, :size].view(shape), pools["query"][i], pools["key"][i]) for i in range(count)]


def _sequence(workload: Workload) -> torch.Tensor:
    """`[position_axes, num_tokens]` positions of one sequence from 0 on, as a multimodal model numbers its tokens."""
    text = torch.arange(workload.num_tokens)
    if workload.positions not in POSITIONS:
        raise ValueError(f"positions must be one of {POSITIONS}, got {workload.positions!r}")
    if workload.positions == "text" or workload.position_axes == 1:
        return text.expand(workload.position_axes, -1)
    words = workload.num_tokens // 4
    frames = 4 if workload.positions == "video" else 1
    pixel = torch.arange(workload.num_tokens - words)
    frame = -(-len(pixel) // frames) or 1
    width = max(1, math.isqrt(frame))
    raster = torch.stack((pixel // frame, pixel % frame // width, pixel % frame % width))
    return torch.cat((text[:words].expand(3, -1), words + raster), dim=1)


def _padded(elements: int, dtype: torch.dtype) -> int:
    step = _ALIGNMENT // dtype.itemsize
    return -(-elements // step) * step
