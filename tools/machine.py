"""This machine for asv: one short name that carries the device, and constant fields, so that a series never splits."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from pathlib import Path

# The device everyone calls by one word; all other names keep their form factor and memory, which change the numbers.
SHORT = {"h100-80gb-hbm3": "h100"}
VENDOR_WORDS = {"nvidia", "tesla", "geforce", "r", "tm", "c", "cpu", "processor", "with"}


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs here; empty where there is none."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode == 0:
            return [line.strip() for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.TimeoutExpired):
        pass
    return driver_gpu_names()


def driver_gpu_names() -> list[str]:
    """The same from libcuda: a container may have the driver without nvidia-smi."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if not cuda.cuDeviceGet(ctypes.byref(device), index) and not cuda.cuDeviceGetName(name, 256, device):
            names.append(name.value.decode())
    return names


def cpu_name() -> str:
    """The CPU's model, or its architecture where the system does not tell."""
    try:
        match = re.search(r"^model name\s*: *(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        if match:
            return match[1].strip()
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or platform.machine()
    except OSError:
        return platform.machine()


def slug(device: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `h100`; `Intel(R) Xeon(R) CPU @ 2.20GHz` -> `intel-xeon-2.20ghz`."""
    words = [word for word in re.split(r"[^a-z0-9.]+", device.lower()) if word and word not in VENDOR_WORDS]
    name = "-".join(words)
    return SHORT.get(name, name)


def machine_name(gpus: list[str], cpu: str) -> str:
    """The GPU's name, else the CPU's: results of different devices never share a series."""
    return slug(gpus[0]) if gpus else f"cpu-{slug(cpu)}"


def machine_fields(name: str, gpus: list[str]) -> dict[str, str]:
    """What asv stores beside every result. Kernel, memory and host CPU of a GPU machine are left blank on purpose."""
    system, arch = platform.system().lower(), platform.machine()
    return {"machine": name, "os": system, "arch": arch, "cpu": "", "num_cpu": "", "ram": "", "gpu": (gpus or [""])[0]}
