"""What the hardware does with the bytes of a workload: an in-place elementwise kernel over them, by the same clock.

At full rotary that is torch's `neg_` over query and key's bytes in one piece. At partial rotary a kernel reads and
writes the same part of each head, since memory is slower where it is taken in pieces; torch's own strided `neg_` takes
longer than that.
"""

import statistics
from collections.abc import Callable

import torch

from benchmarks import timing
from benchmarks.workload import Workload, make_inputs

try:
    import triton
    import triton.language as tl
except ImportError:  # asv imports this module in environments that have torch and numpy alone
    triton = None

_SAMPLES = 10


def floor_sampler(workload: Workload, device: timing.Device, place: torch.device | str) -> timing.Sampler:
    """A sampler of the floor of a workload, cold: seconds of the elementwise kernel over query and key's rotary bytes,
    scaled to all bytes that any implementation must move (those, the table's elements and the positions).

    Args:
        workload: sizes and dtype.
        device: the clock's device.
        place: torch device that the tensors live on.
    """
    heads = workload.num_tokens * (workload.num_heads + workload.num_kv_heads)
    (inputs,) = make_inputs(workload, 1, place)
    scale = workload.bytes_moved(inputs.positions) / (2 * workload.buffer_bytes)

    def make_calls(count: int) -> list[Callable[[], None]]:
        pool = torch.randn(count, heads, workload.head_size, dtype=workload.dtype, device=place)
        if workload.rotary_dim == workload.head_size:
            return [_call(x.neg_) for x in pool]
        if triton is None or not pool.is_cuda:
            return [_call(x[:, : workload.rotary_dim].neg_) for x in pool]
        return [_negate_part(x, workload.rotary_dim) for x in pool]

    sample = timing.prepare_device(make_calls, workload.buffer_bytes, device)
    return lambda: sample() * scale


def floor_us(workload: Workload, device: timing.Device, place: torch.device | str) -> float | None:
    """The floor of a workload in microseconds, median; None where memory or a throttled GPU denies it: the rows of the
    providers go on without a share.
    """
    try:
        sample = floor_sampler(workload, device, place)
        return statistics.median(sample() for _ in range(_SAMPLES)) * 1e6
    except (RuntimeError, timing.MeasuringError):
        return None


def _call(function: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        function()

    return call


def _negate_part(x: torch.Tensor, width: int) -> Callable[[], None]:
    columns = triton.next_power_of_2(width)
    rows = max(1, 1024 // columns)  # of those tried (512, 1024, 2048 elements) the fastest on an H100, by 2 %
    grid = (triton.cdiv(x.shape[0], rows),)
    return _call(lambda: _negate_part_kernel[grid](x, x.shape[0], x.stride(0), width, rows, columns, num_warps=1))


if triton is not None:

    @triton.jit
    def _negate_part_kernel(
        x, num_rows, stride_row, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr
    ):
        o_r = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        o_c = tl.arange(0, BLOCK_WIDTH)
        mask = (o_r < num_rows)[:, None] & (o_c < WIDTH)[None, :]
        p_x = x + o_r[:, None] * stride_row + o_c[None, :]
        tl.store(p_x, -tl.load(p_x, mask=mask), mask=mask)
