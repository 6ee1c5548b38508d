"""The device clock against a device whose true times are known."""

import random
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest

from benchmarks import timing

MIB = 2**20
LAUNCH_GAP = 4e-6  # between the event and the first call of a graph
TICK = 0.5e-6  # of the event clock


class FakeDevice:
    """A GPU with an L2 cache of whole buffers, a launch gap, noise and a coarse event clock."""

    def __init__(self, l2_bytes: int = 50 * MIB) -> None:
        self.l2_bytes = l2_bytes
        self.cached: OrderedDict[object, int] = OrderedDict()
        self.random = random.Random(0)

    def touch(self, key: object, size: int) -> bool:
        hit = key in self.cached
        self.cached.pop(key, None)
        self.cached[key] = size
        while sum(self.cached.values()) > self.l2_bytes and len(self.cached) > 1:
            self.cached.popitem(last=False)
        return hit

    def capture(self, calls):
        for call in calls:
            call()
        return list(calls)

    def replay(self, graph, *, cold: bool) -> float:
        if cold:
            for _ in range(2):
                self.touch(object(), self.l2_bytes)
        else:
            for call in graph:
                call()
        seconds = LAUNCH_GAP + sum(call() for call in graph)
        seconds *= 1 + self.random.gauss(0, 1e-3)
        return round(seconds / TICK) * TICK


def make_calls(device: FakeDevice, cold_seconds: float, hot_seconds: float, size: int):
    def one(key: object):
        return lambda: hot_seconds if device.touch(key, size) else cold_seconds

    return lambda count: [one(object()) for _ in range(count)]


CASES = {
    "one token": (1.3e-6, 0.9e-6, 10_240),
    "seed's 128 tokens": (12.6e-6, 4e-6, 1_310_720),
    "about the cache": (53e-6, 40e-6, 40 * MIB),
    "larger than it": (667e-6, 667e-6, 1_300 * MIB),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cold", [True, False], ids=["cold", "hot"])
def test_device_clock_is_right_within_one_percent(name, cold):
    cold_seconds, hot_seconds, size = CASES[name]
    device = FakeDevice()
    sample = timing.prepare_device(make_calls(device, cold_seconds, hot_seconds, size), size, device, cold=cold)
    truth = cold_seconds if cold else hot_seconds
    for _ in range(5):
        assert sample() == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize("size", [64, 10_240, 1_310_720, 49 * MIB, 51 * MIB, 1_300 * MIB])
@pytest.mark.parametrize("seconds", [0.8e-6, 20e-6, 2e-3, 20e-3])
def test_a_cold_buffer_returns_after_twice_the_cache(size, seconds):
    l2 = 50 * MIB
    rotation = timing.plan_rotation(seconds, size, l2, cold=True)
    assert rotation.calls % rotation.buffers == 0
    assert rotation.calls * seconds >= timing.SAMPLE_SECONDS
    if rotation.calls > rotation.buffers:  # a buffer comes back within a replay: the rotation alone must do it
        assert rotation.buffers * size >= 2 * l2


def test_calls_that_share_a_buffer_are_refused():
    device = FakeDevice()
    (same,) = make_calls(device, 12e-6, 4e-6, MIB)(1)
    with pytest.raises(timing.MeasuringError, match="a buffer is used again after 1048576 bytes"):
        timing.prepare_device(lambda count: [same] * count, MIB, device)


def test_hot_uses_one_buffer():
    assert timing.plan_rotation(1e-6, 10_240, 50 * MIB, cold=False).buffers == 1


def test_host_and_cpu_clocks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += 7e-6

    def synchronize() -> None:
        now[0] += 1e-3  # waiting for the device is no part of the host's cost

    assert timing.prepare_host(call, synchronize)() == pytest.approx(7e-6)
    assert timing.prepare_cpu(call)() == pytest.approx(7e-6)


def test_warm_up_waits_for_agreement():
    clock = iter([10.0] * 5 + [5.0] * 5 + [4.0] * 5 + [4.0] * 5 + [99.0])
    timing._warm_up(lambda: next(clock))
    assert next(clock) == 99.0


def test_throttling_is_asked_of_one_handle(monkeypatch):
    asked = []
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlClocksThrottleReasonHwSlowdown=8,
        nvmlClocksThrottleReasonSwThermalSlowdown=32,
        nvmlInit=lambda: asked.append("init"),
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: {"GPU-abc": 32 + 1}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(timing.torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    timing.nvml_handle.cache_clear()
    device = timing.torch.device("cuda", 0)
    assert timing.throttle_reasons(device) == timing.throttle_reasons(device) == ["SwThermalSlowdown"]
    assert asked == ["init"]
    timing.nvml_handle.cache_clear()
