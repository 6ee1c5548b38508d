"""The tables of docs: every provider on the shapes that other projects publish, and how near each is to the hardware.

A row's floor is what an in-place elementwise kernel takes over the same bytes in the same run, scaled to the bytes the
row must move: share_of_roofline is that floor over the row's time.
"""

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from benchmarks import check, timing
from benchmarks.presets import shard
from benchmarks.providers import PROVIDERS
from benchmarks.workload import Workload, make_inputs

SAMPLES = 10

_SEED_ROPE = Workload(1, 32, 32, 128, 32, {"rope_theta": 1e4})  # vLLM's benchmark_rope.py: partial rotary, no kv groups
_LLAMA = Workload.of(shard("meta-llama/Llama-3.1-8B"), 1)

# Title of a table -> its workload at one token, and its token counts
TABLES: dict[str, tuple[Workload, tuple[int, ...]]] = {
    "RoPE, 32 / 8 heads, head 128, NeoX": (_LLAMA, (1, 16, 128, 512, 1024, 4096, 8192, 32768, 65536, 131072)),
    "RoPE, 32 / 32 heads, rotary 32 of 128, NeoX": (_SEED_ROPE, (1, 16, 128, 1024, 8192, 32768, 65536)),
    "RoPE, 32 / 8 heads, head 128, GPT-J": (replace(_LLAMA, is_neox_style=False), (1, 128, 1024, 8192, 65536)),
    "mRoPE, Qwen2-VL-7B, 28 / 4 heads, chunked": (
        Workload.of(shard("Qwen/Qwen2-VL-7B-Instruct"), 1),
        (1, 16, 128, 512, 1024, 8192, 32768, 131072),
    ),
    "mRoPE, Qwen2.5-VL-72B at tp 8, 8 / 1 heads, chunked": (
        Workload.of(shard("Qwen/Qwen2.5-VL-72B-Instruct", 8), 1),
        (1, 16, 128, 1024, 4096, 32768, 131072),
    ),
    "mRoPE, Qwen3-VL-8B, 32 / 8 heads, interleaved": (
        Workload.of(shard("Qwen/Qwen3-VL-8B-Instruct"), 1),
        (1, 16, 128, 1024, 8192, 131072),
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One provider on one shape: its fields are the CSV's columns. Times are None where `status` is not "ok"."""

    table: str
    num_tokens: int
    provider: str
    us: float | None
    us_min: float | None
    us_max: float | None
    share_of_roofline: float | None
    status: str


def measure(
    device: timing.Device, place: str, names: Sequence[str], tables: Iterable[str], largest: int
) -> Iterator[Row]:
    """Rows as they are measured, cold L2 cache.

    Args:
        device: the clock's device.
        place: torch device that the tensors live on.
        names: keys of PROVIDERS.
        tables: keys of TABLES.
        largest: token counts above this are left out.
    """
    for table in tables:
        shape, counts = TABLES[table]
        for num_tokens in (count for count in counts if count <= largest):
            workload = replace(shape, num_tokens=num_tokens)
            floor = _floor_seconds(workload, device, place)
            for name in names:
                yield _measure_row(table, workload, name, floor, device, place)


def _measure_row(table: str, workload: Workload, name: str, floor: float, device: timing.Device, place: str) -> Row:
    try:
        make_calls = check.checked_calls(name, PROVIDERS[name].make_call, workload, place)
        sample = timing.prepare_device(make_calls, workload.buffer_bytes, device)
        samples = [sample() * 1e6 for _ in range(SAMPLES)]
    except Exception as error:  # this provider's row says why; the others go on
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Row(table, workload.num_tokens, name, None, None, None, None, reason)
    us = statistics.median(samples)
    return Row(table, workload.num_tokens, name, us, min(samples), max(samples), floor * 1e6 / us, "ok")


def _floor_seconds(workload: Workload, device: timing.Device, place: str) -> float:
    """Time of an in-place elementwise kernel over query and key's rotary bytes, scaled to all bytes of the row."""
    elements = workload.buffer_bytes // workload.dtype.itemsize

    def make_calls(count: int) -> list[Callable[[], None]]:
        pool = torch.randn(count, elements, dtype=workload.dtype, device=place)
        return [lambda x=x: x.neg_() for x in pool]  # type: ignore[misc]

    sample = timing.prepare_device(make_calls, workload.buffer_bytes, device)
    seconds = statistics.median(sample() for _ in range(SAMPLES))
    (inputs,) = make_inputs(workload, 1, place)
    return seconds * workload.bytes_moved(inputs.positions) / (2 * workload.buffer_bytes)


def save(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Pass rows on, each written to a CSV file as it comes: an interrupted run keeps what it has."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row))
            file.flush()
            yield row


def markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A table for each shape: tokens down, providers across, the fastest in bold, "-" where there is no number."""
    lines: list[str] = []
    for table in dict.fromkeys(row.table for row in rows):
        cells: dict[int, dict[str, Row]] = {}
        for row in rows:
            if row.table == table:
                cells.setdefault(row.num_tokens, {})[row.provider] = row
        lines += [f"**{table}**, us", "", f"| tokens | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|"]
        for num_tokens, by_provider in cells.items():
            best = min((row.us for row in by_provider.values() if row.us is not None), default=None)
            texts = [_cell(by_provider.get(name), best) for name in names]
            lines.append(f"| {num_tokens} | {' | '.join(texts)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Row | None, best: float | None) -> str:
    if row is None or row.us is None:
        return "-"
    text = f"{row.us:.2f}" if row.us < 100 else f"{row.us:.0f}"
    return f"**{text}**" if row.us == best else text
