"""Rotary position embedding (RoPE) and multimodal RoPE (mRoPE) kernels behind one call."""

from ropekern import knobs as knobs
from ropekern import library as _library  # noqa: F401  registers torch.ops.ropekern
from ropekern.cache import compute_cos_sin_cache
from ropekern.compilation import KernelCase, compile_kernel
from ropekern.errors import UnsupportedError
from ropekern.ops import BACKENDS, apply_rope, apply_rope_
from ropekern.rotary import RotaryEmbedding, get_rope

__version__ = "0.1.0"

__all__ = [
    "BACKENDS",
    "KernelCase",
    "RotaryEmbedding",
    "UnsupportedError",
    "apply_rope",
    "apply_rope_",
    "compile_kernel",
    "compute_cos_sin_cache",
    "get_rope",
]
