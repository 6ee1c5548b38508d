"""What is measured side by side: a provider turns a workload and its inputs into a zero-argument callable."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from benchmarks import rivals, subject
from benchmarks.workload import Call, Inputs, MakeCall, Provider, Workload


def _backend(name: str) -> MakeCall:
    return lambda workload, inputs: subject.make_call(name, workload, inputs)


BACKENDS = ("native", "triton", "flashinfer")
"""The package's own: what the asv suite measures."""

PROVIDERS: dict[str, Provider] = {
    "triton": Provider(_backend("triton")),
    "triton alone": Provider(
        lambda workload, inputs: subject.without_overlap(subject.make_call("triton", workload, inputs)),
        "without programmatic dependent launch: no call overlaps the one before it",
    ),
    "triton out of place": Provider(
        lambda workload, inputs: subject.make_call("triton", replace(workload, in_place=False), inputs),
        "into new tensors",
    ),
    "flashinfer": Provider(_backend("flashinfer"), "for mRoPE behind a gather of the rows, which is timed"),
    "torch.compile": Provider(rivals.torch_compile, "of the plain formula, into new tensors"),
    "vllm-like": Provider(rivals.vllm_mrope, "vLLM's mRoPE path rebuilt: gather, two copies, one program a token"),
    "vllm": Provider(rivals.vllm, "vLLM's own layer; its table has query's dtype", roundings=4),
    "liger": Provider(rivals.liger, "cos and sin gathered beforehand, not timed"),
    "native": Provider(_backend("native")),
}

SEED_PROVIDERS = ("native", "triton", "flashinfer", "torch.compile", "vllm", "vllm-like", "liger")
"""What the seed benchmarks measure unless they are told otherwise."""


def find(names: Sequence[str]) -> dict[str, Provider]:
    """Providers by name; `package.module:function` is a user's own, called as apply_rope_ is: positions, query, key and
    cos_sin_cache, then is_neox_style, mrope_section and mrope_interleaved by keyword, in place.

    Raises:
        ValueError: there is no such provider, module or function.
    """
    return {name: PROVIDERS[name] if name in PROVIDERS else _own(name) for name in names}


def _own(name: str) -> Provider:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"--provider must be among {', '.join(PROVIDERS)}, or package.module:function, got {name!r}")
    try:
        function = getattr(import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way
        raise ValueError(f"--provider {name} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ValueError(f"--provider {name} must be a function, got {type(function).__name__}")

    def make_call(workload: Workload, inputs: Inputs) -> Call:
        rivals.want_in_place(workload)
        table = subject.cos_sin_cache(workload, inputs.query.device)

        def call() -> None:
            function(
                inputs.positions,
                inputs.query,
                inputs.key,
                table,
                is_neox_style=workload.is_neox_style,
                mrope_section=workload.mrope_section,
                mrope_interleaved=workload.mrope_interleaved,
            )

        return call

    return Provider(make_call)
