"""The clocks. Each `prepare_*` returns a sampler: a callable that takes one sample, in seconds per call.

Device clock: GPU work is asynchronous, so many calls stand in one CUDA graph; one sample is one replay between two
CUDA events, divided by the calls. No host launch can enter. Cold and hot L2 are two different numbers: cold, each use
of a buffer is at least twice the L2 cache away from its last one; hot, one buffer is used over and over.
Host clock: what the CPU pays to issue one eager call. CPU clock: wall time of a call that runs on the CPU.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch

Call = Callable[[], object]
Sampler = Callable[[], float]

SAMPLE_SECONDS = 2e-3
"""GPU work aimed at in one replay. The start of a graph costs some microseconds that belong to no call: 0.2 % of this.
Calls of a microsecond are estimated too long, by that start, and get about half of it.
"""

_AGREEMENT = 0.005
_WINDOW = 5
_MAX_HOST_WINDOWS = 5  # a busy host may never agree with itself
_MAX_WINDOWS = 20


class MeasuringError(RuntimeError):
    """The conditions that make a number mean something do not hold."""


class Device(Protocol):
    """What the device clock needs of a GPU; tests give it one whose true times are known."""

    l2_bytes: int

    def capture(self, calls: Sequence[Call]) -> Any:
        """Run each call once, then record all of them, in order, for replays."""

    def replay(self, graph: Any, *, cold: bool) -> float:
        """Seconds of GPU time of one replay. Cold: twice the L2 cache is rewritten before it, outside the time.
        Hot: another replay runs just before it.
        """


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many calls stand in a graph, and over how many buffers they rotate."""

    calls: int
    buffers: int


def plan_rotation(
    call_seconds: float, call_bytes: int, l2_bytes: int, *, cold: bool, sample_seconds: float = SAMPLE_SECONDS
) -> Rotation:
    """Calls enough for sample_seconds; cold, over as many buffers as fill the L2 cache twice or one for each call."""
    calls = max(1, math.ceil(sample_seconds / call_seconds))
    if not cold:
        return Rotation(calls, 1)
    buffers = min(calls, math.ceil(2 * l2_bytes / call_bytes))
    return Rotation(math.ceil(calls / buffers) * buffers, buffers)


def assert_cold(calls: Sequence[Call], call_bytes: int, l2_bytes: int) -> None:
    """Raise MeasuringError if a replay comes back to a buffer before twice the L2 cache went by.

    A buffer used once a replay is cold by what CudaDevice.replay rewrites between replays.
    """
    last_use: dict[Call, int] = {}
    for index, call in enumerate(calls):
        distance = (index - last_use.get(call, -math.inf)) * call_bytes
        if distance < 2 * l2_bytes:
            raise MeasuringError(f"a buffer is used again after {distance} bytes, wanted 2 x L2 = {2 * l2_bytes}")
        last_use[call] = index


def prepare_device(
    make_calls: Callable[[int], Sequence[Call]],
    call_bytes: int,
    device: Device,
    *,
    cold: bool = True,
    sample_seconds: float = SAMPLE_SECONDS,
) -> Sampler:
    """A sampler of GPU seconds per call, captured and warm.

    Args:
        make_calls: given a count, as many calls, each on buffers of its own.
        call_bytes: bytes of a call's buffers.
        device: a CudaDevice, or its stand-in.
        cold: cold L2 cache, else hot.
        sample_seconds: GPU work aimed at in one replay.

    Raises:
        MeasuringError: make_calls does not give calls enough of their own, or the GPU is throttled.
    """
    (first,) = make_calls(1)
    trial = [first] * 4
    graph = device.capture(trial)
    estimate = min(device.replay(graph, cold=False) for _ in range(3)) / len(trial)
    rotation = plan_rotation(estimate, call_bytes, device.l2_bytes, cold=cold, sample_seconds=sample_seconds)
    calls = list(make_calls(rotation.buffers)) * (rotation.calls // rotation.buffers)
    if cold:
        assert_cold(calls, call_bytes, device.l2_bytes)
    graph = device.capture(calls)

    def sample() -> float:
        return device.replay(graph, cold=cold) / len(calls)

    _warm_up(sample)
    return sample


def prepare_single(call: Call, device: Device, *, cold: bool = True) -> Sampler:
    """A sampler of GPU seconds of one single call, its graph's start included: some microseconds that a model does not
    pay. What vLLM's benchmarks mean by a sample, without the host's part of it.
    """
    graph = device.capture([call])

    def sample() -> float:
        return device.replay(graph, cold=cold)

    return sample


def prepare_host(call: Call, synchronize: Call, calls: int = 50) -> Sampler:
    """A sampler of host seconds per eager call: calls are issued without waiting for the device.

    The call should be so small that the device keeps up; one token is.
    """

    def sample() -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds = time.perf_counter() - start
        synchronize()
        return seconds / calls

    _warm_up(sample, _MAX_HOST_WINDOWS)
    return sample


def prepare_cpu(call: Call, calls: int | None = None) -> Sampler:
    """A sampler of wall seconds per call on the CPU. The caller fixes the number of threads.

    Args:
        call: what to time.
        calls: of a sample; None is as many as take ten milliseconds.
    """
    call()
    start = time.perf_counter()
    call()
    calls = calls or max(1, math.ceil(10e-3 / (time.perf_counter() - start)))

    def sample() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    sample()
    return sample


def _warm_up(sample: Sampler, most: int = _MAX_WINDOWS) -> None:
    """Sample until the medians of two windows agree: GPU clocks ramp for longer on some days."""
    before = math.inf
    for _ in range(most):
        now = statistics.median(sample() for _ in range(_WINDOW))
        if abs(now - before) <= _AGREEMENT * now:
            return
        before = now


class CudaDevice:
    """The GPU that tensors of `device` live on."""

    def __init__(self, device: torch.device | str = "cuda") -> None:
        self.device = torch.device(device)
        self.l2_bytes: int = torch.cuda.get_device_properties(self.device).L2_cache_size
        self._foreign = torch.ones(2 * self.l2_bytes // 4, device=self.device)
        self._start = torch.cuda.Event(enable_timing=True)
        self._stop = torch.cuda.Event(enable_timing=True)

    def capture(self, calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
        """Record the calls; each runs once before, since compiling and loading a kernel is not allowed meanwhile."""
        torch.cuda.synchronize(self.device)  # the calls' inputs were filled on another stream than theirs
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            for call in dict.fromkeys(calls):
                call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        graph.replay()
        torch.cuda.synchronize(self.device)
        return graph

    def replay(self, graph: torch.cuda.CUDAGraph, *, cold: bool) -> float:
        """Seconds between two events round a replay. What runs before it keeps the GPU busy while it is enqueued."""
        for _ in range(_MAX_WINDOWS):
            if cold:
                self._foreign.neg_()
                self._foreign.neg_()
            else:
                graph.replay()
            self._start.record()
            graph.replay()
            self._stop.record()
            self._stop.synchronize()
            if not (reasons := throttle_reasons(self.device)):
                return float(self._start.elapsed_time(self._stop)) * 1e-3
            time.sleep(0.5)
        raise MeasuringError(f"the GPU is throttled: {', '.join(reasons)}")


def throttle_reasons(device: torch.device) -> list[str]:
    """Why the GPU runs slower than it could because of heat or power supply; empty too where NVML cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return []
    names = ("HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "SwThermalSlowdown")
    bits = {name: getattr(pynvml, f"nvmlClocksThrottleReason{name}", 0) for name in names}
    try:
        now = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(nvml_handle(device))
    except pynvml.NVMLError:
        return []
    return [name for name, bit in bits.items() if now & bit]


@cache
def nvml_handle(device: torch.device) -> Any:
    """NVML's handle of a CUDA device, made once: every sample asks it whether the GPU is throttled."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
