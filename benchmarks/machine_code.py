"""What the compiler made of a kernel, read from its cubin and PTX: no GPU is needed."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ACCESS = re.compile(r"(ld|st)\.global(?:\.\w+(?:::\w+)?)*?(?:\.v(\d))?\.[bsuf](\d+)\s+(.*?);")
_UNPACK = re.compile(r"mov\.b32\s+\{%rs\d+, %rs\d+\}, (%r\d+);|cvt\.f32\.\w+\s+%\w+, (%rs\d+);")


@dataclass(frozen=True, slots=True)
class MachineCode:
    """Static metrics of a compiled kernel; fewer is better in all of them."""

    registers: int
    """Registers of a thread."""
    spill_bytes: int
    """Bytes of a thread's stack; the kernels have no arrays, so all of it is spilled registers."""
    narrow_accesses: int
    """Loads and stores of query and key that move less than 16 bytes a thread."""

    @classmethod
    def of(cls, compiled: Any) -> "MachineCode":
        """Of a triton CompiledKernel whose query and key are 16-bit and whose other tensors are not."""
        usage = _resource_usage(compiled.asm["cubin"])
        return cls(int(usage["REG"]), int(usage["STACK"]), narrow_accesses(compiled.asm["ptx"]))


def narrow_accesses(ptx: str) -> int:
    """Accesses to 16-bit tensors in global memory that move less than 16 bytes a thread.

    Every store is to query or key. A load is theirs if what it loads is taken apart into, or is, 16-bit numbers:
    positions and the float32 table never are.
    """
    sixteen_bit = {register for match in _UNPACK.finditer(ptx) for register in match.groups() if register}
    narrow = 0
    for operation, vector, bits, operands in _ACCESS.findall(ptx):
        if operation == "ld" and not sixteen_bit & set(re.findall(r"%r\w*", operands.split("[")[0])):
            continue
        narrow += int(vector or 1) * int(bits) < 128
    return narrow


def _resource_usage(cubin: bytes) -> dict[str, str]:
    import triton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"(\w+):(\d+)", text))
