"""Where the error of a rotation comes from: the angles, the table's dtype, the result's dtype, and the kernel.

Each part is the largest difference between two results of the same inputs, of which one has that step and the other has
not; of the largest input, which is a rotation's largest result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks import check
from benchmarks.oracle import oracle
from benchmarks.workload import Provider, Workload, make_inputs


@dataclass(frozen=True, slots=True)
class Error:
    """Largest errors, of the largest input."""

    provider: str
    angles: float
    """float32 angles instead of exact ones, as models were trained: the same for every provider."""
    cast: float
    """The exact result of those angles, rounded to the dtype of query: no provider can do better."""
    kernel: float
    """What the provider's result is off beyond that rounding."""
    total: float
    """The provider's result against exact angles."""
    status: str = "ok"


def measure(workload: Workload, providers: Mapping[str, Provider], place: str, seed: int = 0) -> Iterator[Error]:
    """Errors as they are found.

    Args:
        workload: shape, variant and dtype.
        providers: name -> provider.
        place: torch device.
        seed: of the inputs.
    """
    (inputs,) = make_inputs(workload, 1, place, seed)
    exact, trained = (
        oracle(workload, inputs.positions, inputs.query, dtype) for dtype in (torch.float64, torch.float32)
    )
    scale = float(inputs.query.double().abs().max())
    angles, cast = _largest(trained - exact), _largest(trained.to(workload.dtype).double() - trained)
    for name, provider in providers.items():
        (inputs,) = make_inputs(workload, 1, place, seed)  # the same again: a provider may rotate in place
        try:
            after = check.rotate(provider, workload, inputs)[0].double()
        except Exception as error:  # why this provider has no number
            nothing = float("nan")
            yield Error(name, nothing, nothing, nothing, nothing, check.reason(error))
            continue
        yield Error(
            name,
            angles=angles / scale,
            cast=cast / scale,
            kernel=max(0.0, _largest(after - trained) - cast) / scale,
            total=_largest(after - exact) / scale,
        )


def table_error(workload: Workload, place: str, dtype: torch.dtype, seed: int = 0) -> float:
    """What a table of a coarser dtype costs, of the largest input: native in float32, with that table and without."""
    from benchmarks import subject

    workload = replace(workload, dtype=torch.float32)
    results = []
    for table_dtype in (torch.float32, dtype):
        (inputs,) = make_inputs(workload, 1, place, seed)
        table = subject.cos_sin_cache(workload, inputs.query.device).to(table_dtype).float()
        subject.bind("native", workload)(inputs.positions, inputs.query, inputs.key, table)
        results.append(inputs.query.double())
    return _largest(results[0] - results[1]) / float(results[0].abs().max())


def table(errors: Sequence[Error]) -> str:
    """Markdown."""
    lines = ["| provider | angles | cast | kernel | total |", "| --- " * 5 + "|"]
    for error in errors:
        if error.status == "ok":
            numbers = (error.angles, error.cast, error.kernel, error.total)
            lines.append(f"| {error.provider} | {' | '.join(f'{x:.1e}' for x in numbers)} |")
        else:
            lines.append(f"| {error.provider} | {error.status} |  |  |  |")
    return "\n".join(lines)


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())
