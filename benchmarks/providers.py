"""What is measured side by side: a provider turns a workload and its inputs into a zero-argument callable."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import rivals, subject
from benchmarks.workload import Inputs, Workload

MakeCall = Callable[[Workload, Inputs], subject.Call]


@dataclass(frozen=True, slots=True)
class Provider:
    """Rotates query and key in place. `note` says what its time leaves out or includes beside that, if anything."""

    make_call: MakeCall
    note: str = ""


def _backend(name: str) -> MakeCall:
    return lambda workload, inputs: subject.apply_in_place(name, workload, inputs)


BACKENDS = ("native", "triton", "flashinfer")
"""The package's own: what the asv suite measures."""

PROVIDERS: dict[str, Provider] = {
    "native": Provider(_backend("native")),
    "triton": Provider(_backend("triton")),
    "flashinfer": Provider(_backend("flashinfer"), "for mRoPE behind a gather of the rows, which is timed"),
    "torch.compile": Provider(rivals.torch_compile, "of the native backend"),
    "vllm-like": Provider(rivals.vllm_mrope, "vLLM's mRoPE path rebuilt: gather, two copies, one program a token"),
    "liger": Provider(rivals.liger, "cos and sin gathered beforehand, not timed"),
}
