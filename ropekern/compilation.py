"""Compile the Triton kernel for a GPU that need not be there: registers, spills and machine code without a launch."""

from dataclasses import dataclass
from typing import Any

import torch

from ropekern.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class KernelCase:
    """What decides how the Triton kernel is compiled. Tensors are taken as contiguous and 16-byte aligned.

    Sizes and keywords as in apply_rope_; mrope_section None means one-dimensional positions.
    """

    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    rotary_dim: int
    is_neox_style: bool = True
    mrope_section: tuple[int, int, int] | None = None
    mrope_interleaved: bool = False
    dtype: torch.dtype = torch.bfloat16
    cache_dtype: torch.dtype = torch.float32
    in_place: bool = True


def compile_kernel(case: KernelCase, target: int) -> Any:
    """The kernel that apply_rope_ (apply_rope where case.in_place is False) would launch for this case.

    It shares the tile choice and the constants with the launch. No GPU and no driver is needed.

    Args:
        case: sizes, dtypes and layout.
        target: compute capability as a number: 80 (A100), 90 (H100, H200), 100 (B200).

    Returns:
        triton.compiler.CompiledKernel: `asm["cubin"]`, `asm["ptx"]`, `metadata.num_warps`, ...

    Raises:
        UnsupportedError: Triton is not installed.
        TypeError, ValueError: target or case is wrong.
    """
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from ropekern.backends import triton as backend
        from ropekern.backends.triton_kernel import rope_kernel
    except ImportError as error:
        raise UnsupportedError(f"compile_kernel: Triton cannot be imported: {error}") from error
    if not isinstance(target, int):
        raise TypeError(f"target must be a compute capability such as 90, got {target!r}")
    if case.rotary_dim % 2 or not 0 < case.rotary_dim <= case.head_size:
        raise ValueError(f"case: rotary_dim must be even and in 2 .. head_size {case.head_size}, got {case.rotary_dim}")

    tile = backend.choose_tile(
        case.num_tokens, case.num_heads, case.num_kv_heads, case.rotary_dim, case.mrope_interleaved
    )
    constants = backend.meta_parameters(
        tile,
        num_heads=case.num_heads,
        num_kv_heads=case.num_kv_heads,
        head_size=case.head_size,
        rotary_dim=case.rotary_dim,
        is_neox_style=case.is_neox_style,
        mrope_section=case.mrope_section,
        mrope_interleaved=case.mrope_interleaved,
        pdl=target >= 90,
    )
    if case.in_place:
        constants |= dict.fromkeys(name for name in rope_kernel.arg_names if "_out" in name)
    pointer = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    strides = {"token": case.num_heads * case.head_size, "head": case.head_size}
    key_strides = {"token": case.num_kv_heads * case.head_size, "head": case.head_size}
    signature: dict[str, str] = {}
    divisible: dict[tuple[int], list[list[object]]] = {}
    for index, name in enumerate(rope_kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        if name in ("q", "k", "q_out", "k_out"):
            signature[name], multiple = pointer[case.dtype], True
        elif name == "cos_sin_cache":
            signature[name], multiple = pointer[case.cache_dtype], True
        elif name == "positions":
            signature[name], multiple = "*i64", True
        elif "_stride_" in name and name != "positions_stride_axis":
            owner, _, dimension = name.partition("_stride_")
            signature[name] = "i32"
            multiple = (key_strides if owner.startswith("k") else strides)[dimension] % 16 == 0
        else:  # not specialised by the launch either
            signature[name], multiple = "i32", False
        if multiple:
            divisible[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(rope_kernel, signature, constexprs=constants, attrs=divisible)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options={"num_warps": backend.NUM_WARPS})
