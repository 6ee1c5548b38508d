"""Providers over shapes: the engine of the seed benchmarks. Each row is checked and measured by two clocks."""

import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks import check, roofline, timing
from benchmarks.records import Record
from benchmarks.statistics import Summary, median_interval
from benchmarks.workload import Provider, Workload, make_inputs

BASELINE = "native"
_GRAPH_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Cell:
    """A shape with the words of its row."""

    benchmark: str
    workload: Workload
    model_name: str = ""
    tp_size: int = 1
    batch_size: int = 1
    seq_len: int = 0
    """0: num_tokens."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run measures."""

    place: str
    device: timing.Device | None
    """None: on the CPU, by wall time."""
    warmup_iter: int = 10
    benchmark_iter: int = 100
    seed: int = 0
    is_cold: bool = True
    """On a GPU: each call finds the L2 cache without its buffers; else it finds them there."""
    machine: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Times:
    """Samples in microseconds: of calls in a graph, and of single calls."""

    graph: list[float]
    single: list[float]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a workload asks of any provider."""

    bytes_moved: int
    floor_us: float | None

    @classmethod
    def of(cls, workload: Workload, settings: Settings) -> "Bounds":
        """Measured once for all providers; no floor on a CPU, nor with a hot cache."""
        (inputs,) = make_inputs(workload, 1, settings.place, settings.seed)
        moved = workload.bytes_moved(inputs.positions)
        if settings.device is None or not settings.is_cold:
            return cls(moved, None)
        return cls(moved, roofline.floor_us(workload, settings.device, settings.place))


def run(
    cells: Sequence[Cell], providers: Mapping[str, Provider], settings: Settings, earlier: Collection[Record] = ()
) -> Iterator[Record]:
    """Records as they are measured: for each cell the baseline first, then the others.

    Args:
        cells: what to measure.
        providers: name -> provider.
        settings: how.
        earlier: records of a run that was interrupted; what they hold is not measured again.
    """
    found = {record.key: record for record in earlier}
    order = sorted(providers, key=lambda name: name != BASELINE)
    for cell in cells:
        bounds: Bounds | None = None
        baseline: Record | None = None
        for name in order:
            blank = _blank(cell, name, settings)
            record = found.get(blank.key)
            if record is None:
                bounds = bounds or Bounds.of(cell.workload, settings)
                record = _measure(cell, providers[name], blank, settings, bounds, baseline)
                yield record
            if name == BASELINE:
                baseline = record


def measure(provider: Provider, name: str, workload: Workload, settings: Settings) -> Times:
    """Check a provider, then sample both clocks.

    Raises:
        Exception: whatever the provider raises; CheckError if its result is wrong.
    """
    make_calls = check.checked_calls(name, provider, workload, settings.place, settings.seed)
    (call,) = make_calls(1)
    if settings.device is None:
        graph, single = timing.prepare_cpu(call), timing.prepare_cpu(call, calls=1)
    else:
        graph = timing.prepare_device(make_calls, workload.buffer_bytes, settings.device, cold=settings.is_cold)
        single = timing.prepare_single(call, settings.device, cold=settings.is_cold)
    for _ in range(settings.warmup_iter):
        single()
    return Times(
        [graph() * 1e6 for _ in range(_GRAPH_SAMPLES)], [single() * 1e6 for _ in range(settings.benchmark_iter)]
    )


def _measure(
    cell: Cell, provider: Provider, blank: Record, settings: Settings, bounds: Bounds, baseline: Record | None
) -> Record:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    blank = replace(blank, note=provider.note, machine=settings.machine, commit=settings.commit, time=now)
    try:
        times = measure(provider, blank.provider, cell.workload, settings)
    except Exception as error:  # this provider's row says why; the others go on
        return replace(blank, status=check.reason(error))
    us, (low, high), single = statistics.median(times.graph), median_interval(times.graph), Summary.of(times.single)
    record = replace(
        blank,
        status="ok",
        us=us,
        us_low=low,
        us_high=high,
        mean_us=single.mean,
        median_us=single.median,
        p99_us=single.p99,
        min_us=single.min,
        max_us=single.max,
        gbps=bounds.bytes_moved / us * 1e-3,
        share_of_roofline=None if bounds.floor_us is None else bounds.floor_us / us,
    )
    if blank.provider == BASELINE:
        return replace(record, speedup=1.0, speedup_low=1.0, speedup_high=1.0)
    if baseline is None or baseline.us is None or baseline.us_low is None or baseline.us_high is None:
        return record
    least, most = baseline.us_low / high, baseline.us_high / low
    return replace(record, speedup=baseline.us / us, speedup_low=least, speedup_high=most)


def _blank(cell: Cell, provider: str, settings: Settings) -> Record:
    w = cell.workload
    return Record(
        benchmark=cell.benchmark,
        model_name=cell.model_name,
        tp_size=cell.tp_size,
        batch_size=cell.batch_size,
        seq_len=cell.seq_len or w.num_tokens,
        num_tokens=w.num_tokens,
        num_heads=w.num_heads,
        num_kv_heads=w.num_kv_heads,
        head_size=w.head_size,
        rotary_dim=w.rotary_dim,
        is_neox_style=w.is_neox_style,
        rope_parameters=str({key: list(v) if isinstance(v, tuple) else v for key, v in w.rope_parameters.items()}),
        max_position=w.table_rows,
        dtype=str(w.dtype),
        positions=w.positions,
        layout="slices of qkv" if w.is_packed else "contiguous",
        output="in place" if w.in_place else "new tensors",
        cache="" if settings.device is None else "cold" if settings.is_cold else "hot",
        seed=settings.seed,
        provider=provider,
        status="",
    )


def shape_of(cell: Cell, settings: Settings) -> tuple[object, ...]:
    """The shape that a cell's records have."""
    return _blank(cell, "", settings).shape


def place_of(device: str | None = None) -> str:
    """Where to measure: the device named, else the GPU, else the CPU.

    Raises:
        ValueError: the device is not here.
    """
    from benchmarks import gpu

    reason = gpu.reason_absent()
    if device is None:
        return "cpu" if reason else "cuda"
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be a torch device such as cuda:0 or cpu, got {device!r}") from error
    if kind.type == "cuda" and (reason or (kind.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device {device!r} is not here: {reason or f'{torch.cuda.device_count()} GPUs'}")
    return device
