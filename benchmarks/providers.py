"""What is measured side by side: a provider turns a workload and its inputs into a zero-argument callable."""

from collections.abc import Callable

from benchmarks import subject
from benchmarks.workload import Inputs, Workload

Call = Callable[[], None]


def native(workload: Workload, inputs: Inputs) -> Call:
    """The package's plain PyTorch backend, in place."""
    return subject.apply_in_place("native", workload, inputs)


def triton(workload: Workload, inputs: Inputs) -> Call:
    """The package's Triton backend, in place."""
    return subject.apply_in_place("triton", workload, inputs)


def flashinfer(workload: Workload, inputs: Inputs) -> Call:
    """FlashInfer through the package, in place; for mRoPE the gather of the rows is part of the call."""
    return subject.apply_in_place("flashinfer", workload, inputs)


PROVIDERS: dict[str, Callable[[Workload, Inputs], Call]] = {
    "native": native,
    "triton": triton,
    "flashinfer": flashinfer,
}
