"""RotaryEmbedding: what a model holds; get_rope: how it gets one."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ropekern.cache import compute_cos_sin_cache
from ropekern.checks import check_mrope_section
from ropekern.ops import apply_rope


class RotaryEmbedding(nn.Module):
    """Rotary embedding of a model: the table and how its channels pair and read positions.

    forward and its siblings return new tensors of the shapes they were given; `apply_rope_` with this module's
    `cos_sin_cache` is the in-place call. The table keeps its dtype under `.to(dtype)`, `.half()` and the like:
    float32 angles rounded to bfloat16 would cost accuracy that the caller did not ask to lose.

    Attributes:
        cos_sin_cache: `[max_position, rotary_dim]`, a buffer that is not saved.
    """

    cos_sin_cache: torch.Tensor

    def __init__(
        self,
        head_size: int,
        cos_sin_cache: torch.Tensor,
        is_neox_style: bool = True,
        mrope_section: tuple[int, int, int] | None = None,
        mrope_interleaved: bool = False,
    ) -> None:
        super().__init__()
        self.head_size = head_size
        self.is_neox_style = is_neox_style
        self.mrope_interleaved = mrope_interleaved
        self.mrope_section = mrope_section
        if mrope_section is not None:
            self.mrope_section = check_mrope_section(mrope_section, mrope_interleaved, cos_sin_cache.shape[-1])
        self.register_buffer("cos_sin_cache", cos_sin_cache, persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "RotaryEmbedding":
        table = self.cos_sin_cache
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.cos_sin_cache.dtype != table.dtype:
            self.cos_sin_cache = table.to(self.cos_sin_cache.device)
        return self

    def extra_repr(self) -> str:
        """What print(model) shows of this module."""
        max_position, rotary_dim = self.cos_sin_cache.shape
        text = f"head_size={self.head_size}, {rotary_dim=}, {max_position=}, is_neox_style={self.is_neox_style}"
        if self.mrope_section is None:
            return text
        return f"{text}, mrope_section={self.mrope_section}, mrope_interleaved={self.mrope_interleaved}"

    def forward(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rotated query and key by the default backend: Triton on CUDA tensors, else native.

        Args:
            positions: `[num_tokens]` or `[batch, seq]`; where the module has an mrope_section also `[3, num_tokens]`
                or `[3, batch, seq]` (t, h, w), and three rows always mean that there: give a text batch of three
                sequences as `[3, 3, seq]`. int32 or int64.
            query: positions' token shape followed by `num_heads * head_size` or by `num_heads, head_size`.
            key: likewise with num_kv_heads, or None.

        Returns:
            New tensors of the shapes of query and key.
        """
        return self._forward(positions, query, key, None)

    def forward_native(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As forward, by plain PyTorch."""
        return self._forward(positions, query, key, "native")

    def forward_triton(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As forward, by the Triton kernel."""
        return self._forward(positions, query, key, "triton")

    forward_cuda = forward_triton

    def forward_flashinfer(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As forward, by FlashInfer."""
        return self._forward(positions, query, key, "flashinfer")

    def _forward(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None, backend: str | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mrope = self.mrope_section is not None and positions.dim() >= 2 and positions.shape[0] == 3
        tokens = positions.shape[1:] if mrope else positions.shape
        query_out, key_out = apply_rope(
            positions.reshape(3, -1) if mrope else positions.reshape(-1),
            self._heads("query", query, tokens),
            None if key is None else self._heads("key", key, tokens),
            self.cos_sin_cache,
            is_neox_style=self.is_neox_style,
            mrope_section=self.mrope_section,
            mrope_interleaved=self.mrope_interleaved,
            backend=backend,
        )
        return query_out.view(query.shape), None if key is None or key_out is None else key_out.view(key.shape)

    def _heads(self, name: str, x: torch.Tensor, tokens: torch.Size) -> torch.Tensor:
        """x as [num_tokens, heads, head_size], without a copy where its strides allow."""
        rest = x.shape[len(tokens) :]
        flat = len(rest) == 1 and rest[0] % self.head_size == 0
        apart = len(rest) == 2 and rest[1] == self.head_size
        if x.shape[: len(tokens)] != tokens or not (flat or apart):
            wanted = f"{list(tokens)} (from positions) followed by heads * {self.head_size} or heads, {self.head_size}"
            raise ValueError(f"{name} must have the shape {wanted}, got {list(x.shape)}")
        if flat:
            x = x.unflatten(-1, (-1, self.head_size))
        return x.flatten(0, len(tokens) - 1)


def get_rope(
    head_size: int,
    max_position: int,
    is_neox_style: bool = True,
    rope_parameters: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    device: torch.device | str | None = None,
) -> RotaryEmbedding:
    """The rotary embedding of a model, from the entries of its Hugging Face config.

    Args:
        head_size: channels of a head.
        max_position: rows of the table; positions must be less.
        is_neox_style: the pairing, see apply_rope_.
        rope_parameters: Hugging Face `rope_parameters`: rope_type, rope_theta (default 10000), partial_rotary_factor
            (default 1), mrope_section and mrope_interleaved, and what the rope_type needs.
        dtype: of the table. float32 serves query and key of every dtype and is advised; otherwise the model's dtype.
        device: of the table.

    Raises:
        ValueError: rope_parameters is incomplete or impossible.
    """
    parameters = dict(rope_parameters or {})
    rotary_dim = int(head_size * parameters.get("partial_rotary_factor", 1.0))
    section = parameters.get("mrope_section")
    return RotaryEmbedding(
        head_size,
        compute_cos_sin_cache(rotary_dim, max_position, rope_parameters=parameters, dtype=dtype, device=device),
        is_neox_style,
        None if section is None else tuple(section),
        bool(parameters.get("mrope_interleaved", False)),
    )
