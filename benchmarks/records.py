"""Rows of the seed benchmarks' runs: the long CSV, a row for each provider and shape, and vLLM's own CSV formats."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks import stored


@dataclass(frozen=True, slots=True)
class Record:
    """One provider on one shape: its fields are the columns. Numbers are None where `status` is not "ok"."""

    benchmark: str
    model_name: str
    tp_size: int
    batch_size: int
    seq_len: int
    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    is_neox_style: bool
    rope_parameters: str
    max_position: int
    dtype: str
    positions: str
    layout: str
    output: str
    cache: str
    seed: int
    provider: str
    status: str
    us: float | None = None
    """Median GPU time of a call in a graph of many; with a cold L2 cache the number of the asv site. On a CPU wall
    time.
    """
    us_low: float | None = None
    us_high: float | None = None
    """The median lies between these with 95 % confidence."""
    mean_us: float | None = None
    median_us: float | None = None
    p99_us: float | None = None
    min_us: float | None = None
    max_us: float | None = None
    """Of single calls, one at a time: those hold the start of a graph, too. On a CPU of single calls."""
    gbps: float | None = None
    """10^9 bytes a second that any implementation must move, by `us`."""
    share_of_roofline: float | None = None
    """Time of an in-place elementwise kernel over the same bytes, over `us`."""
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    """`us` of native over this row's, and what the two intervals leave open."""
    note: str = ""
    machine: str = ""
    commit: str = ""
    time: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What was measured, apart from how it came out: what --resume does not measure again."""
        names = [field.name for field in fields(self)]
        return tuple(getattr(self, name) for name in names[: names.index("status")])

    @property
    def shape(self) -> tuple[object, ...]:
        """The key without the provider."""
        return self.key[:-1]


class Log:
    """A long CSV that grows row by row: each is on disk before the next is measured."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Open it; with resume, keep what it holds, otherwise put an older file aside.

        Raises:
            ValueError: the file cannot be written, or holds something else.
        """
        self.path = path
        self.records: list[Record] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and resume:
                self.records = read(path)
            elif path.exists():
                path.rename(_free_name(path))
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
        # Anew even where it is resumed: a killed run may have left half a line, to which the next would be added.
        write_csv(path, [field.name for field in fields(Record)], [_line(record) for record in self.records])

    def add(self, record: Record) -> None:
        """Append a row.

        Raises:
            ValueError: the disk is full or gone; the message holds the row, the file those before it.
        """
        self.records.append(record)
        line = _line(record)
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            row = ",".join(str(value) for value in line)
            raise ValueError(f"{self.path} cannot be written: {error}; the row that is not in it: {row}") from error


def _line(record: Record) -> list[object]:
    return ["" if value is None else value for value in asdict(record).values()]


def read(path: Path) -> list[Record]:
    """The rows of a long CSV; a last line that was cut off is left out, since its row is measured again.

    Raises:
        ValueError: the file has other columns.
    """
    names = [field.name for field in fields(Record)]
    kinds = {field.name: str(field.type) for field in fields(Record)}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != names:
            raise ValueError(f"{path} is not a long CSV of this benchmark: it begins with {header[:3]}")
        return [Record(**_parse(names, kinds, line)) for line in reader if len(line) == len(names) and line[-1]]


def _parse(names: Sequence[str], kinds: Mapping[str, str], line: Sequence[str]) -> dict[str, Any]:
    parsers: dict[str, Callable[[str], Any]] = {
        "<class 'int'>": int,
        "<class 'bool'>": lambda text: text == "True",
        "<class 'str'>": str,
        "float | None": lambda text: float(text) if text else None,
    }
    return {name: parsers[kinds[name]](text) for name, text in zip(names, line, strict=True)}


def _free_name(path: Path) -> Path:
    number = 1
    while (other := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return other


STATISTICS = ("mean", "median", "p99", "min", "max")

MROPE_HEADER = (
    "model_name", "tp_size", "num_tokens", "num_heads", "num_kv_heads", "head_dim", "max_position", "is_neox_style",
    "rope_parameters", "dtype", *(f"torch_{name}" for name in STATISTICS), *(f"triton_{name}" for name in STATISTICS),
    "speedup",
)  # fmt: skip
"""Of vLLM's benchmark_mrope.py: seconds of single calls, native as torch."""

ROPE_HEADER = ("batch_size", "seq_len", "num_heads", "PyTorch", "FlashInfer", "vLLM")
"""Of vLLM's benchmark_rope.py: microseconds, `us`; empty where a system is absent."""


def mrope_rows(records: Iterable[Record]) -> list[list[object]]:
    """vLLM's rows, seconds; empty where native or triton has no number, and left out where neither has."""
    rows: list[list[object]] = []
    for by_provider in by_shape(records).values():
        pair = [by_provider.get(name) for name in ("native", "triton")]
        means = [None if record is None else record.mean_us for record in pair]
        if means == [None, None]:
            continue
        first = next(iter(by_provider.values()))
        seconds = [
            "" if record is None or (us := getattr(record, f"{name}_us")) is None else us * 1e-6
            for record in pair
            for name in STATISTICS
        ]
        rows.append(
            [
                first.model_name, first.tp_size, first.num_tokens, first.num_heads, first.num_kv_heads, first.head_size,
                first.max_position, first.is_neox_style, first.rope_parameters, first.dtype, *seconds,
                means[0] / means[1] if means[0] and means[1] else "",
            ]
        )  # fmt: skip
    return rows


def rope_rows(records: Iterable[Record]) -> list[list[object]]:
    """vLLM's rows: batch, sequence, heads, then `us` of native, flashinfer and vllm; empty where there is none."""
    rows: list[list[object]] = []
    for by_provider in by_shape(records).values():
        first = next(iter(by_provider.values()))
        times = [by_provider[name].us if name in by_provider else None for name in ("native", "flashinfer", "vllm")]
        rows.append([first.batch_size, first.seq_len, first.num_heads, *("" if us is None else us for us in times)])
    return rows


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A whole file at once, lines ended as vLLM's script ends them. It goes through a temporary one: an interrupted run
    leaves the old file or the new one.

    Raises:
        ValueError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    try:
        stored.write(path, text.getvalue())
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def by_shape(records: Iterable[Record]) -> dict[tuple[object, ...], dict[str, Record]]:
    """Shape -> provider -> record, in the order of the records."""
    shapes: dict[tuple[object, ...], dict[str, Record]] = {}
    for record in records:
        shapes.setdefault(record.shape, {})[record.provider] = record
    return shapes
