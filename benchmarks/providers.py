"""What is measured side by side: a provider turns a workload and its inputs into a zero-argument callable."""

from dataclasses import dataclass

from benchmarks import rivals, subject
from benchmarks.workload import MakeCall


@dataclass(frozen=True, slots=True)
class Provider:
    """A way to rotate query and key. `note` says what its time leaves out or includes, if anything."""

    make_call: MakeCall
    note: str = ""


def _backend(name: str) -> MakeCall:
    return lambda workload, inputs: subject.apply_in_place(name, workload, inputs)


BACKENDS = ("native", "triton", "flashinfer")
"""The package's own: what the asv suite measures."""

PROVIDERS: dict[str, Provider] = {
    "triton": Provider(_backend("triton")),
    "triton alone": Provider(
        lambda workload, inputs: subject.without_overlap(subject.apply_in_place("triton", workload, inputs)),
        "without programmatic dependent launch: no call overlaps the one before it",
    ),
    "triton out of place": Provider(
        lambda workload, inputs: subject.apply_out_of_place("triton", workload, inputs), "into new tensors"
    ),
    "flashinfer": Provider(_backend("flashinfer"), "for mRoPE behind a gather of the rows, which is timed"),
    "torch.compile": Provider(rivals.torch_compile, "of the native backend"),
    "vllm-like": Provider(rivals.vllm_mrope, "vLLM's mRoPE path rebuilt: gather, two copies, one program a token"),
    "liger": Provider(rivals.liger, "cos and sin gathered beforehand, not timed"),
    "native": Provider(_backend("native")),
}
