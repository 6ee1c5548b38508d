"""The cheap launch: a compiled kernel, given addresses, straight to the CUDA driver instead of through Triton.

Triton's JIT looks at each argument of each call to find the kernel that was compiled for its like, and its launcher
takes every constant of the kernel along. Here the caller knows that nothing but addresses has changed: four or six
numbers are written into a parameter block that is ready otherwise. The driver's interface is public and stable; of
Triton only the function's handle, its signature and the order of its parameters are needed, and the driver is asked
whether they are so. Where anything is otherwise there is no cheap launch, and the ordinary one goes on.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from triton import knobs
from triton.runtime import driver

_ALIGNED = 15  # addresses are multiples of 16, as in the call that the kernel was compiled for
_WIDTHS = {"i32": 4, "i64": 8}
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
_INVALID_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT: a thread that has not used CUDA yet


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = (("id", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("value", ctypes.c_uint64 * 8))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *(
            (name, ctypes.c_uint32)
            for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")
        ),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint32),
    )


class _Block:
    """A launch that is ready but for addresses and stream. One thread at a time may hold it."""

    __slots__ = ("attribute", "config", "config_reference", "pointers", "slots", "slots_reference")

    def __init__(self, programs: int, metadata: Any, values: list[int]) -> None:
        self.slots = (ctypes.c_uint64 * len(values))(*values)
        start = ctypes.addressof(self.slots)
        self.pointers = (ctypes.c_void_p * len(values))(*(start + 8 * i for i in range(len(values))))
        self.attribute = _Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0)
        self.attribute.value[0] = 1
        threads, shared, pdl = 32 * metadata.num_warps, metadata.shared, int(metadata.launch_pdl)
        self.config = _Config(programs, 1, 1, threads, 1, 1, shared, None, ctypes.pointer(self.attribute), pdl)
        self.config_reference, self.slots_reference = ctypes.byref(self.config), ctypes.byref(self.pointers)


@cache
def _cuda() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def make_repeat(kernel: Any, programs: int, device: int, rest: tuple[object, ...]) -> Callable[..., bool] | None:
    """What launches a kernel again; None where only the ordinary launch can.

    Args:
        kernel: triton.compiler.CompiledKernel, what a JIT launch returns.
        programs: size of the grid's one dimension.
        device: index of the CUDA device that the kernel is loaded on.
        rest: arguments after the six tensors.

    Returns:
        A function of positions, query, key, query_out, key_out and cos_sin_cache. It returns False, and has done
        nothing, where an address is not a multiple of 16, query and key begin at one address, the thread has not used
        CUDA yet or somebody listens to launches.
    """
    try:
        values = _parameters(kernel, rest)
        if values is None:
            return None
        function, metadata = ctypes.c_void_p(kernel.function), kernel.metadata
        stream_of, launch = driver.active.get_current_stream, _cuda().cuLaunchKernelEx
        current_device, set_device = torch._C._cuda_getDevice, torch._C._cuda_setDevice
        runtime = knobs.runtime
        _ = runtime.launch_enter_hook.calls, runtime.launch_exit_hook.calls
    except (AttributeError, OSError):
        return None
    free: list[_Block] = []  # a list's pop and append are atomic: no thread gets a block that another one fills

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
        if runtime.launch_enter_hook.calls or runtime.launch_exit_hook.calls:
            return False
        try:
            block = free.pop()
        except IndexError:
            block = _Block(programs, metadata, values)
        slots = block.slots
        slots[0], slots[1], slots[2], slots[3] = p, t, q, k
        if query_out is not query:
            y = query_out.data_ptr()
            slots[4], slots[5] = y, y if key_out is None else key_out.data_ptr()
        block.config.stream = stream_of(device)
        current = current_device()
        if current == device:
            error = launch(block.config_reference, function, block.slots_reference, None)
        else:
            set_device(device)
            error = launch(block.config_reference, function, block.slots_reference, None)
            set_device(current)
        free.append(block)
        if error == _INVALID_CONTEXT:
            return False
        if error:
            raise RuntimeError(f"the launch failed, or a kernel before it: CUDA error {error}")
        return True

    return repeat


def _parameters(kernel: Any, rest: tuple[object, ...]) -> list[int] | None:
    """Values of the kernel's parameters, zeros for addresses; None where the driver knows others."""
    metadata = kernel.metadata
    plain = metadata.num_ctas == 1 and not metadata.launch_cooperative_grid
    if not plain or metadata.global_scratch_size or metadata.profile_scratch_size:
        return None
    kinds = list(kernel.src.signature.values())
    arguments = [0] * (len(kinds) - len(rest)) + list(rest)
    values, widths = [], []
    for kind, argument in zip(kinds, arguments, strict=True):
        if kind == "constexpr":
            continue
        width = 8 if kind.startswith("*") else _WIDTHS.get(kind, 0)
        if not width or not isinstance(argument, int):
            return None
        values.append(argument & (1 << 8 * width) - 1)
        widths.append(width)
    found = _widths(kernel.function)
    if found[: len(widths)] != widths or any(width != 8 for width in found[len(widths) :]):
        return None
    return values + [0] * (len(found) - len(values))  # addresses of scratch memory that the kernel does not use


def _widths(function: int) -> list[int]:
    """Bytes of each parameter of a loaded kernel, from the driver."""
    offset, width, widths = ctypes.c_size_t(), ctypes.c_size_t(), list[int]()
    ask, handle = _cuda().cuFuncGetParamInfo, ctypes.c_void_p(function)
    while not ask(handle, ctypes.c_size_t(len(widths)), ctypes.byref(offset), ctypes.byref(width)):
        widths.append(width.value)
    return widths
