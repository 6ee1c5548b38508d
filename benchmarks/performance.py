"""GPU time of every provider on the shapes of `shapes.py`, cold L2 cache, and how near each is to the hardware."""

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from benchmarks import check, roofline, timing
from benchmarks.providers import PROVIDERS
from benchmarks.shapes import Shapes
from benchmarks.workload import Workload, make_inputs

SAMPLES = 10
ONE_KERNEL = "neg_ of 8 elements"


@dataclass(frozen=True, slots=True)
class Row:
    """One provider on one shape: its fields are the CSV's columns. Numbers are None where `status` is not "ok"."""

    table: str
    num_tokens: int
    provider: str
    us: float | None
    us_min: float | None
    us_max: float | None
    traffic_mb: float
    """10^6 bytes that any implementation must move."""
    share_of_roofline: float | None
    """Time of an in-place elementwise kernel over the same bytes, over the row's; None too where it was not asked."""
    status: str
    machine: str
    """GPU, driver and versions, the same in all rows of a run."""


def measure(
    device: timing.Device,
    place: str,
    names: Sequence[str],
    shapes: Shapes,
    *,
    largest: int,
    machine: str = "",
    is_grid: bool = False,
) -> Iterator[Row]:
    """Rows as they are measured. What is equal (shards of two models, the same product of batch and sequence) is
    measured once and stands in every row that it belongs to.

    Args:
        device: the clock's device.
        place: torch device that the tensors live on.
        names: keys of PROVIDERS.
        shapes: title -> workload and token counts.
        largest: token counts above this are left out.
        machine: GPU and versions, for the rows.
        is_grid: many rows whose ratios matter: no floor, and a quarter of the calls in a sample.
    """
    measured: dict[Workload, list[Row]] = {}
    for table, (shape, counts) in shapes.items():
        for num_tokens in (count for count in counts if count <= largest):
            workload = replace(shape, num_tokens=num_tokens)
            if workload not in measured:
                (inputs,) = make_inputs(workload, 1, place)
                traffic = workload.bytes_moved(inputs.positions) / 1e6
                del inputs
                floor = None if is_grid else roofline.floor_us(workload, device, place)
                measured[workload] = []
                for name in names:
                    row = _measure_row(table, workload, name, traffic, floor, device, place, is_grid=is_grid)
                    measured[workload].append(replace(row, machine=machine))
                    yield measured[workload][-1]
            else:
                yield from (replace(row, table=table) for row in measured[workload])


def measure_host(names: Sequence[str], place: str, shapes: Shapes, *, machine: str = "") -> Iterator[Row]:
    """Rows of host time: an eager call at one token, argument checks included. For scale, one elementwise kernel.

    Args:
        names: keys of PROVIDERS.
        place: torch device that the tensors live on.
        shapes: title -> workload and token counts.
        machine: GPU and versions, for the rows.
    """
    synchronize = torch.cuda.synchronize if torch.device(place).type == "cuda" else lambda: None
    for table, (shape, counts) in shapes.items():
        for num_tokens in counts:
            workload = replace(shape, num_tokens=num_tokens)
            samplers: dict[str, timing.Sampler] = {}
            rows: dict[str, Row] = {}
            for name in (*names, ONE_KERNEL):
                try:
                    call: Callable[[], object] = torch.ones(8, device=place).neg_
                    if name != ONE_KERNEL:
                        (call,) = check.checked_calls(name, PROVIDERS[name], workload, place)(1)
                    samplers[name] = timing.prepare_host(call, synchronize)
                except Exception as error:  # this provider's row says why; the others go on
                    rows[name] = _failed(table, num_tokens, name, error)
            # In turns: a host's speed wanders by half within seconds, and must not tell one provider from another.
            rounds = [{name: sample() * 1e6 for name, sample in samplers.items()} for _ in range(SAMPLES)]
            for name in samplers:
                rows[name] = _ok(table, num_tokens, name, [samples[name] for samples in rounds])
            yield from (replace(rows[name], machine=machine) for name in (*names, ONE_KERNEL))


def _measure_row(
    table: str,
    workload: Workload,
    name: str,
    traffic: float,
    floor: float | None,
    device: timing.Device,
    place: str,
    *,
    is_grid: bool,
) -> Row:
    seconds = timing.SAMPLE_SECONDS / 4 if is_grid else timing.SAMPLE_SECONDS

    try:
        make_calls = check.checked_calls(name, PROVIDERS[name], workload, place)
        sample = timing.prepare_device(make_calls, workload.buffer_bytes, device, sample_seconds=seconds)
        samples = [sample() * 1e6 for _ in range(SAMPLES)]
    except Exception as error:  # this provider's row says why; the others go on
        return replace(_failed(table, workload.num_tokens, name, error), traffic_mb=traffic)
    row = _ok(table, workload.num_tokens, name, samples)
    share = None if floor is None or row.us is None else floor / row.us
    return replace(row, traffic_mb=traffic, share_of_roofline=share)


def _ok(table: str, num_tokens: int, name: str, us: list[float]) -> Row:
    return Row(table, num_tokens, name, statistics.median(us), min(us), max(us), 0.0, None, "ok", "")


def _failed(table: str, num_tokens: int, name: str, error: Exception) -> Row:
    return Row(table, num_tokens, name, None, None, None, 0.0, None, check.reason(error), "")


def save(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Pass rows on, each written to a CSV file as it comes: an interrupted run keeps what it has."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for row in rows:
            writer.writerow(asdict(row))
            file.flush()
            yield row


def load(path: Path) -> list[Row]:
    """The rows of a CSV file that `save` wrote.

    Raises:
        ValueError: the file has other columns.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        wanted = [field.name for field in fields(Row)]
        if reader.fieldnames != wanted:
            raise ValueError(f"{path} must have the columns {', '.join(wanted)}, got {reader.fieldnames}")
        return [
            Row(
                table=line["table"],
                num_tokens=int(line["num_tokens"]),
                provider=line["provider"],
                us=_number(line["us"]),
                us_min=_number(line["us_min"]),
                us_max=_number(line["us_max"]),
                traffic_mb=float(line["traffic_mb"]),
                share_of_roofline=_number(line["share_of_roofline"]),
                status=line["status"],
                machine=line["machine"],
            )
            for line in reader
        ]


def _number(text: str) -> float | None:
    return float(text) if text else None
