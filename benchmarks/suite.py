"""The cells of the asv suite: its axes, and one sample of a cell.

asv starts a process for each cell and in it calls the benchmark once a sample. Inputs, check, graph and warm-up are
made at the first call and kept; each call takes one sample and adds it to a virtual clock, which is the timer that asv
reads. So asv stores what the project's own clock measured, whatever asv does round the call.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks import gpu
from benchmarks.presets import Shard, shard

if TYPE_CHECKING:
    from benchmarks.timing import Device, Sampler
    from benchmarks.workload import Call, Workload

Method = TypeVar("Method", bound=Callable[..., Any])

# Axes of asv parameters: appended to, never reordered. A label stands in every result file ever written.
ROPE_MODELS = ("Llama-3.1-8B tp1", "Llama-3.1-70B tp8")
MROPE_MODELS = ("Qwen2-VL-7B tp1", "Qwen2.5-VL-72B tp8", "Qwen3-VL-8B tp1", "GLM-4.1V-9B tp1")
NUM_TOKENS = (1, 128, 1024, 8192, 131072)
CPU_MODELS = ("Llama-3.1-8B tp1", "Qwen2-VL-7B tp1", "Qwen3-VL-8B tp1")
CPU_NUM_TOKENS = (1, 16, 128, 512)

SHARDS: dict[str, tuple[str, int]] = {
    "Llama-3.1-8B tp1": ("meta-llama/Llama-3.1-8B", 1),
    "Llama-3.1-70B tp8": ("meta-llama/Llama-3.1-70B", 8),
    "Qwen2-VL-7B tp1": ("Qwen/Qwen2-VL-7B-Instruct", 1),
    "Qwen2.5-VL-72B tp8": ("Qwen/Qwen2.5-VL-72B-Instruct", 8),
    "Qwen3-VL-8B tp1": ("Qwen/Qwen3-VL-8B-Instruct", 1),
    "GLM-4.1V-9B tp1": ("zai-org/GLM-4.1V-9B-Thinking", 1),
}


def model_shard(label: str) -> Shard:
    """The shard that a label of the model axes stands for."""
    return shard(*SHARDS[label])


class VirtualClock:
    """A clock that stands still but for what is added to it."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Let it advance."""
        self._seconds += seconds

    def __call__(self) -> float:
        """Seconds; the signature asv wants of a timer."""
        return self._seconds


CLOCK = VirtualClock()


class Clocked:
    """A class whose timed methods call `tick`: ten samples, as many calls of the method, by one process."""

    timer = CLOCK
    number = 1
    repeat = 10  # asv can never flag a change between two sets of exactly 6 samples
    rounds = 1
    warmup_time = 0
    timeout = 60


class _NotApplicable:
    """As asv's `skip_params`: every parameter is skipped where a reason stands, so a row is n/a and not failed."""

    def __init__(self, reason: Callable[[], str | None]) -> None:
        self._reason = reason

    def __contains__(self, params: object) -> bool:
        return self._reason() is not None


def on_gpu(method: Method) -> Method:
    """A benchmark that is n/a on a machine without a GPU; on one with a GPU its failure is an error, never n/a."""
    method.skip_params = _NotApplicable(gpu.reason_absent)  # type: ignore[attr-defined]
    return method


def with_driver(method: Method) -> Method:
    """A benchmark that is n/a without an NVIDIA driver; for rows that are quicker than asking it for its devices."""
    method.skip_params = _NotApplicable(gpu.reason_no_driver)  # type: ignore[attr-defined]
    return method


def on_cpu(method: Method) -> Method:
    """A benchmark that is n/a on a machine with a GPU, whose own rows say more."""
    method.skip_params = _NotApplicable(  # type: ignore[attr-defined]
        lambda: None if gpu.reason_absent() else "this machine has a GPU"
    )
    return method


def tick(sampler: "Sampler") -> None:
    """Take one sample and let CLOCK advance by it: the body of a timed benchmark."""
    CLOCK.add(sampler())


# torch is imported inside the functions below: a row that is n/a must not pay for it. Under asv's forkserver it is
# there already, since the modules beside this one import it when the suite is discovered.


@cache
def device_sampler(provider: str, label: str, num_tokens: int) -> "Sampler":
    """GPU seconds per call, cold L2 cache, of a provider that has just passed its check."""
    from benchmarks import timing

    workload, device = _workload(label, num_tokens), _device()
    make_calls = _checked(provider, workload, "cuda")
    return timing.prepare_device(make_calls, workload.buffer_bytes, device)


def floor_sampler(label: str, num_tokens: int) -> "Sampler":
    """GPU seconds that the bytes of a call take an in-place elementwise kernel, cold L2 cache."""
    from benchmarks import roofline

    return roofline.floor_sampler(_workload(label, num_tokens), _device(), "cuda")


@cache
def host_sampler(provider: str, label: str) -> "Sampler":
    """Host seconds per eager call at one token, of a provider that has just passed its check."""
    import torch

    from benchmarks import timing

    (call,) = _checked(provider, _workload(label, 1), "cuda")(1)
    return timing.prepare_host(call, torch.cuda.synchronize)


@cache
def cpu_sampler(provider: str, label: str, num_tokens: int) -> "Sampler":
    """CPU seconds per call, one thread, of a provider that has just passed its check."""
    import torch

    from benchmarks import timing

    torch.set_num_threads(1)  # of the check too: what is checked is what is timed
    (call,) = _checked(provider, _workload(label, num_tokens), "cpu")(1)
    return timing.prepare_cpu(call)


@cache
def _device() -> "Device":
    from benchmarks import timing

    return timing.CudaDevice()


def _workload(label: str, num_tokens: int) -> "Workload":
    from benchmarks.workload import Workload

    return Workload.of(model_shard(label), num_tokens)


def _checked(provider: str, workload: "Workload", device: str) -> "Callable[[int], list[Call]]":
    """The calls of a provider of the installed package, once it has agreed with the oracle in this process."""
    from benchmarks import check, subject
    from benchmarks.providers import PROVIDERS

    subject.assert_installed()
    return check.checked_calls(provider, PROVIDERS[provider], workload, device)
