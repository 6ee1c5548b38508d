"""The gate in front of every clock: what does not agree with the oracle is never timed."""

from collections.abc import Callable

import torch

from benchmarks.oracle import oracle
from benchmarks.workload import Call, Inputs, Provider, Workload, make_inputs

# dtype -> (atol, rtol): one unit in the last place of the result, and float32 arithmetic below it
TOLERANCES = {
    torch.float32: (1e-5, 1e-6),
    torch.float16: (1e-5, 2.0**-10),
    torch.bfloat16: (1e-5, 2.0**-8),
}

_SEED = 20_000  # not the seed of the buffers that are timed
_CHUNK = 8192  # tokens at a time: complex128 takes eight times the memory of bfloat16


class CheckError(AssertionError):
    """A provider's result is not the oracle's."""


def compare(
    name: str,
    workload: Workload,
    positions: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    roundings: int = 0,
) -> None:
    """Raise CheckError unless `after` is the rotation of `before` within the tolerance of its dtype, and half a unit in
    the last place of a head's largest channel for each rounding besides the result's.
    """
    atol, rtol = TOLERANCES[after.dtype]
    forgiven = roundings * torch.finfo(after.dtype).eps / 2
    for start in range(0, before.shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        wanted = oracle(workload, positions[..., part], before[part], torch.float32)
        error = (after[part].double() - wanted).abs()
        allowed = atol + rtol * wanted.abs() + forgiven * before[part].double().abs().amax(dim=-1, keepdim=True)
        bad = ~(error <= allowed)  # so written that NaN is bad
        if bad.any():
            token, head, channel = (int(i) for i in bad.nonzero()[0])
            came, due = after[part][token, head, channel].item(), wanted[token, head, channel].item()
            raise CheckError(
                f"{name} differs from the float64 oracle in {int(bad.sum())} of {bad.numel()} elements, first at token "
                f"{start + token}, head {head}, channel {channel}: got {came:.6g}, wanted {due:.6g} "
                f"(atol {atol:g}, rtol {rtol:g})"
            )


def rotate(provider: Provider, workload: Workload, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a provider once: query and key as it returns them, or as it leaves them in place."""
    result = provider.make_call(workload, inputs)()
    return result if isinstance(result, tuple) else (inputs.query, inputs.key)


def reason(error: Exception) -> str:
    """Why a provider has no number, in one line: its row's status."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def check(
    name: str,
    provider: Provider,
    workload: Workload,
    device: torch.device | str,
) -> None:
    """Run a provider once on inputs of its own and compare query and key, in place or returned, with the oracle.

    Raises:
        CheckError: they differ.
        UnsupportedError: the provider cannot do this workload.
    """
    (inputs,) = make_inputs(workload, 1, device, _SEED)
    query, key = inputs.query.clone(), inputs.key.clone()
    for which, before, after in zip(("query", "key"), (query, key), rotate(provider, workload, inputs), strict=True):
        compare(f"{name} {which}", workload, inputs.positions, before, after, provider.roundings)


def checked_calls(
    name: str,
    provider: Provider,
    workload: Workload,
    device: torch.device | str,
    seed: int = 0,
) -> Callable[[int], list[Call]]:
    """Check a provider; then a function that gives as many of its calls as asked, each on inputs of its own.

    What a clock is given comes from here: nothing else is timed. Raises as `check`.
    """
    check(name, provider, workload, device)
    return lambda count: [provider.make_call(workload, inputs) for inputs in make_inputs(workload, count, device, seed)]
