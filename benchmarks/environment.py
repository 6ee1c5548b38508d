"""What a number must be read with: GPU, driver, versions, and which providers work here."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks import gpu, timing
from benchmarks.check import check
from benchmarks.presets import PRESETS, shard
from benchmarks.providers import BACKENDS, PROVIDERS
from benchmarks.workload import Workload


def versions() -> dict[str, str]:
    """Name -> version of what decides the numbers; "absent" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in ("ropekern", "torch", "triton", "flashinfer-python", "liger-kernel", "asv", "asv_runner"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {"cuda": torch.version.cuda or "absent"}


def device() -> dict[str, str]:
    """The GPU, its driver and its L2 cache; why there is none where there is none."""
    if reason := gpu.reason_absent():
        return {"gpu": f"none: {reason}"}
    properties = torch.cuda.get_device_properties(0)
    found = {"gpu": properties.name, "l2 cache": f"{properties.L2_cache_size / 2**20:.0f} MiB"}
    try:
        import pynvml

        place = torch.device("cuda", 0)
        handle = timing.nvml_handle(place)
        clocks = {"SM": pynvml.NVML_CLOCK_SM, "memory": pynvml.NVML_CLOCK_MEM}
        now = [f"{name} {pynvml.nvmlDeviceGetClockInfo(handle, kind)} MHz" for name, kind in clocks.items()]
        return found | {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "clocks now": ", ".join(now),
            "temperature": f"{pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)} C",
            "throttled": ", ".join(timing.throttle_reasons(place)) or "no",
        }
    except Exception as error:  # NVML has many ways not to be there; none of them concerns a measurement
        return found | {"driver": f"unknown: {error}"}


def line() -> str:
    """The GPU, its driver and the versions that decide the numbers, in one line."""
    found = device() | versions()
    if gpu.reason_absent():
        found |= {"gpu": f"CPU {platform.processor() or platform.machine()}", "driver": "absent"}
    names = ("gpu", "driver", "cuda", "torch", "triton", "flashinfer-python", "liger-kernel")
    return ", ".join(found[name] if name == "gpu" else f"{name} {found.get(name, 'absent')}" for name in names)


def commit() -> str:
    """The commit of the working tree, with "+" where it has changed since; empty outside a git repository."""
    root = Path(__file__).resolve().parent.parent
    words = []
    for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        words.append(done.stdout.strip())
    return words[0] + ("+" if words[1] else "")


def providers() -> dict[str, str]:
    """Provider -> "ok" where it agrees with the oracle on a small mRoPE call here, else the reason why not."""
    place = "cpu" if gpu.reason_absent() else "cuda"
    workload = Workload.of(shard(next(iter(PRESETS))), num_tokens=16)
    found = {}
    for name, provider in PROVIDERS.items():
        if place == "cpu" and name not in BACKENDS:
            found[name] = "measured on a GPU only"
            continue
        try:
            check(name, provider, workload, place)
            found[name] = f"ok on {place}"
        except Exception as error:  # whatever it is, it is why this provider does not work here
            found[name] = f"{type(error).__name__}: {error}"
    return found
