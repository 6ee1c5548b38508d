"""A predecessor that lets its dependents start at once and writes its output late: what a kernel under programmatic
dependent launch must wait for.
"""  # fmt: skip

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait, globaltimer

LATE = 200_000  # nanoseconds


@triton.jit
def late_copy_kernel(source, target, size, LATE: tl.constexpr, BLOCK: tl.constexpr):
    gdc_launch_dependents()
    end = globaltimer() + LATE
    while globaltimer() < end:
        pass
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + o, tl.load(source + o, mask=o < size), mask=o < size)


def late_copy_(target: torch.Tensor, source: torch.Tensor) -> None:
    """target.copy_(source) of contiguous tensors, by one program for each 16384 elements."""
    size = target.numel()
    late_copy_kernel[(triton.cdiv(size, 16384),)](source, target, size, LATE=LATE, BLOCK=16384)


@triton.jit
def dependent_copy_kernel(source, target, size, WAIT: tl.constexpr, BLOCK: tl.constexpr):
    if WAIT:
        gdc_wait()
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + o, tl.load(source + o, mask=o < size), mask=o < size)


def dependent_copy_(target: torch.Tensor, source: torch.Tensor, *, wait: bool) -> None:
    """target.copy_(source) by a dependent that waits for its predecessor, or wrongly does not."""
    size = target.numel()
    grid = (triton.cdiv(size, 16384),)
    dependent_copy_kernel[grid](source, target, size, WAIT=wait, BLOCK=16384, launch_pdl=True)
