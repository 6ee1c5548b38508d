"""Is there an NVIDIA GPU? Answered without torch, so that a row that cannot run here costs next to nothing."""

import ctypes
from functools import cache

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@cache
def reason_no_driver() -> str | None:
    """Why there can be no GPU, without asking the driver, which takes tenths of a second; None where there may be."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded)"
    return None


@cache
def reason_absent() -> str | None:
    """Why GPU rows do not apply to this machine; None where they do.

    A driver that is there but broken is no reason: then the rows run and fail aloud.
    """
    if reason := reason_no_driver():
        return reason
    driver = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value == 0):
        return "no CUDA device on this machine"
    return None
