"""A real model block: GPU time of a Qwen2-VL attention layer of transformers, and how much of it is rotary embedding.

The layer has random weights and the model's own sizes. It is measured as transformers wrote it, with this package in
place of its apply_rotary_pos_emb, and with nothing there: what is beyond the last is the rotary part. cos and sin, like
positions and table, are made once for all layers, outside the clock.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import subject, timing
from benchmarks.presets import shard
from benchmarks.workload import Workload

MODEL = "Qwen/Qwen2-VL-7B-Instruct"
SAMPLES = 10

_Rotary = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Block:
    """Microseconds of the layer, median."""

    num_tokens: int
    theirs: float
    ours: float
    without: float

    @property
    def shares(self) -> tuple[float, float]:
        """The rotary part of theirs and of ours."""
        return 1 - self.without / self.theirs, 1 - self.without / self.ours


def measure(
    device: timing.Device, place: str, counts: Sequence[int], *, backend: str = "triton", num_heads: int = 0
) -> Iterator[Block]:
    """Blocks as they are measured.

    Args:
        device: the clock's device.
        place: torch device that the tensors live on.
        counts: numbers of tokens, one sequence each.
        backend: of the package.
        num_heads: fewer heads than the model has, for a machine that is small.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers.models.qwen2_vl import modeling_qwen2_vl as modeling
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

    preset = shard(MODEL).preset
    heads = num_heads or preset.num_heads
    config = Qwen2VLTextConfig(
        hidden_size=heads * preset.head_size,
        num_attention_heads=heads,
        num_key_value_heads=min(heads, preset.num_kv_heads),
        max_position_embeddings=preset.max_position,
        rope_parameters={**preset.rope_parameters, "mrope_section": list(preset.rope_parameters["mrope_section"])},
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    layer = modeling.Qwen2VLAttention(config, layer_idx=0).to(place, torch.bfloat16).eval()
    embedding = modeling.Qwen2VLRotaryEmbedding(config).to(place)
    theirs = modeling.apply_rotary_pos_emb
    try:
        for num_tokens in counts:
            workload = Workload(
                num_tokens,
                heads,
                config.num_key_value_heads,
                preset.head_size,
                preset.rotary_dim,
                preset.rope_parameters,
            )
            positions = torch.randint(0, workload.table_rows, (3, 1, num_tokens), device=place)
            pool = torch.randn(1, 1, config.hidden_size, dtype=torch.bfloat16, device=place)
            table = subject.cos_sin_cache(workload, pool.device)
            arguments = {
                theirs: embedding(pool, positions),
                _ours(subject.bind(backend, workload)): (positions.flatten(1), table),
                _nothing: (None, None),
            }
            times = [
                _median_us(layer, modeling, rotary, embeddings, num_tokens, device, place)
                for rotary, embeddings in arguments.items()
            ]
            yield Block(num_tokens, *times)
    finally:
        modeling.apply_rotary_pos_emb = theirs


def _ours(apply: subject.Apply) -> _Rotary:
    def rotary(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> Any:
        apply(positions, q.transpose(1, 2).flatten(0, 1), k.transpose(1, 2).flatten(0, 1), table)  # views
        return q, k

    return rotary


def _nothing(q: torch.Tensor, k: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    return q, k


def _median_us(
    layer: torch.nn.Module,
    modeling: Any,
    rotary: _Rotary,
    embeddings: tuple[Any, Any],
    num_tokens: int,
    device: timing.Device,
    place: str,
) -> float:
    hidden_size = int(layer.config.hidden_size)  # type: ignore[arg-type, union-attr]

    def make_calls(count: int) -> list[Callable[[], object]]:
        def make_call(hidden: torch.Tensor) -> Callable[[], object]:
            def call() -> None:
                modeling.apply_rotary_pos_emb = rotary
                with torch.no_grad():
                    layer(hidden, position_embeddings=embeddings)

            return call

        pool = torch.randn(count, 1, num_tokens, hidden_size, dtype=torch.bfloat16, device=place)
        return [make_call(hidden) for hidden in pool]

    sample = timing.prepare_device(make_calls, 2 * num_tokens * hidden_size, device)
    return statistics.median(sample() for _ in range(SAMPLES)) * 1e6


def table(blocks: Sequence[Block]) -> str:
    """Markdown."""
    lines = [
        "| tokens | transformers, us | rotary part | ropekern, us | rotary part |",
        "| --- | --- | --- | --- | --- |",
    ]
    for block in blocks:
        before, after = block.shares
        lines.append(f"| {block.num_tokens} | {block.theirs:.1f} | {before:.1%} | {block.ours:.1f} | {after:.1%} |")
    return "\n".join(lines)
