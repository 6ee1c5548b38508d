"""The cheap launch: a compiled kernel's own launcher, given addresses, instead of Triton's JIT.

The JIT looks at each argument of each call to find the kernel that was compiled for its like. Here the caller knows
that nothing but addresses has changed. The launcher is an inner interface of Triton: `_bind` knows its two forms, of
3.6 and of 3.7; where it looks different there is no cheap launch, and the ordinary one goes on.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from triton import knobs
from triton.runtime import driver

_ALIGNED = 15  # addresses are multiples of 16, as in the call that the kernel was compiled for


def make_repeat(kernel: Any, programs: int, device: int, rest: tuple[object, ...]) -> Callable[..., bool] | None:
    """What launches a kernel again; None where this version of Triton has no such launcher.

    Args:
        kernel: triton.compiler.CompiledKernel, what a JIT launch returns.
        programs: size of the grid's one dimension.
        device: index of the CUDA device that the kernel is loaded on.
        rest: arguments after the six tensors.

    Returns:
        A function of positions, query, key, query_out, key_out and cos_sin_cache. It returns False, and has done
        nothing, where an address is not a multiple of 16, query and key begin at one address, another device is
        current or somebody listens to launches.
    """
    launch = _bind(kernel, programs)
    if launch is None:
        return None
    stream_of, current_device = driver.active.get_current_stream, torch._C._cuda_getDevice
    entering, leaving = knobs.runtime.launch_enter_hook.calls, knobs.runtime.launch_exit_hook.calls

    def repeat(
        positions: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor | None,
        query_out: torch.Tensor,
        key_out: torch.Tensor | None,
        cos_sin_cache: torch.Tensor,
    ) -> bool:
        p, t, q = positions.data_ptr(), cos_sin_cache.data_ptr(), query.data_ptr()
        k = q if key is None else key.data_ptr()
        if (p | t | q | k) & _ALIGNED or (q == k and key is not None):
            return False
        if current_device() != device or entering or leaving:
            return False
        if query_out is query:
            launch(stream_of(device), (p, t, q, k, None, None, *rest))
        else:
            y = query_out.data_ptr()
            launch(stream_of(device), (p, t, q, k, y, y if key_out is None else key_out.data_ptr(), *rest))
        return True

    return repeat


def _bind(kernel: Any, programs: int) -> Callable[[int, tuple[object, ...]], None] | None:
    """A function of stream and arguments that launches the kernel; None where its launcher is of no known form."""
    try:
        launcher, function, metadata = kernel.run, kernel.function, kernel.packed_metadata
        launch, options = launcher.launch, (launcher.launch_cooperative_grid, launcher.launch_pdl)
        if launcher.global_scratch_size or launcher.profile_scratch_size:
            return None
        form = list(inspect.signature(type(launcher).__call__).parameters)[5:]
    except AttributeError:
        return None
    unheard = (None, None, None)  # launch metadata and the hooks that would get it
    if form == ["function", "args"]:  # 3.6
        before = (function, *options, None, None, metadata, *unheard)
        return lambda stream, arguments: launch(programs, 1, 1, stream, *before, *arguments)
    if form == [
        "function",
        "kernel_metadata",
        "launch_metadata",
        "launch_enter_hook",
        "launch_exit_hook",
        "args",
    ]:  # 3.7
        kinds = (launcher.arg_annotations, launcher.kernel_signature)
        unscratched = (function, *options, metadata, *unheard, None, None)
        return lambda stream, arguments: launch(programs, 1, 1, stream, *unscratched, *kinds, arguments)
    return None
