"""The one door to the package under measurement. It knows how older commits spelled what it calls.

Measured commits all go through here, so a signature that changes in `ropekern` is bridged in this file, never in the
benchmarks: their history would break.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.workload import Call, Inputs, Workload

Apply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]


def assert_installed() -> None:
    """Raise unless the `ropekern` that is imported belongs to this interpreter's own environment.

    A process that measures a commit and imports the working tree instead would call every commit the same.
    """
    import ropekern

    location = Path(ropekern.__file__ or "").resolve()
    if not location.is_relative_to(Path(sys.prefix).resolve()):
        raise RuntimeError(f"ropekern was imported from {location}, wanted the one installed in {sys.prefix}")


def cos_sin_cache(workload: Workload, device: torch.device) -> torch.Tensor:
    """The package's table for a workload, float32: one for all token counts, kept for the life of the process."""
    return _cos_sin_cache(replace(workload, num_tokens=0, in_place=True), device)


@cache
def _cos_sin_cache(workload: Workload, device: torch.device) -> torch.Tensor:
    import ropekern

    return ropekern.compute_cos_sin_cache(
        workload.rotary_dim, workload.table_rows, rope_parameters=workload.rope_parameters, device=device
    )


def bind(backend: str, workload: Workload) -> Apply:
    """A function of positions, query, key and table that rotates in place with one backend of the package."""
    import ropekern

    apply, keywords = ropekern.apply_rope_, _keywords(backend, workload)
    return lambda positions, query, key, table: apply(positions, query, key, table, **keywords)


def _keywords(backend: str, workload: Workload) -> dict[str, Any]:
    return {
        "is_neox_style": workload.is_neox_style,
        "mrope_section": workload.mrope_section,
        "mrope_interleaved": workload.mrope_interleaved,
        "backend": backend,
    }


def make_call(backend: str, workload: Workload, inputs: Inputs) -> Call:
    """A call that rotates inputs with one backend of the package. New tensors are kept until its next run: so the calls
    of a graph do not write to one and the same memory.
    """
    import ropekern

    table = cos_sin_cache(workload, inputs.query.device)
    positions, query, key = inputs.positions, inputs.query, inputs.key
    if workload.in_place:
        rotate = bind(backend, workload)
        return lambda: rotate(positions, query, key, table)
    keywords = _keywords(backend, workload)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        query_out, key_out = ropekern.apply_rope(positions, query, key, table, **keywords)
        assert key_out is not None
        kept[:] = [(query_out, key_out)]
        return kept[0]

    return call


def without_overlap(call: Call) -> Call:
    """The call with programmatic dependent launch turned off, where the commit has it."""
    import ropekern

    knobs = getattr(ropekern, "knobs", None)
    if knobs is None:
        return call

    def alone() -> tuple[torch.Tensor, torch.Tensor] | None:
        before = knobs.programmatic_dependent_launch
        knobs.programmatic_dependent_launch = False
        try:
            return call()
        finally:
            knobs.programmatic_dependent_launch = before

    return alone


def compile_kernel(workload: Workload, target: int) -> Any | None:
    """The compiled Triton kernel of a workload for a compute capability; None where the commit cannot say.

    Raises:
        UnsupportedError: Triton is not installed.
    """
    import ropekern

    if not hasattr(ropekern, "compile_kernel"):
        return None
    case = ropekern.KernelCase(
        num_tokens=workload.num_tokens,
        num_heads=workload.num_heads,
        num_kv_heads=workload.num_kv_heads,
        head_size=workload.head_size,
        rotary_dim=workload.rotary_dim,
        is_neox_style=workload.is_neox_style,
        mrope_section=workload.mrope_section,
        mrope_interleaved=workload.mrope_interleaved,
        dtype=workload.dtype,
    )
    return ropekern.compile_kernel(case, target)
