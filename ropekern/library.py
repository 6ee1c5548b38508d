"""torch.ops.ropekern: the same calls as operators, for torch.compile, fake tensors and the gradients of kernels.

Eager calls without a gradient do not come here: the dispatcher costs more than a small launch.
"""

from typing import Any

import torch

from ropekern import ops
from ropekern.errors import UnsupportedError

_LAYOUT = "bool is_neox_style, int[]? mrope_section, bool mrope_interleaved, str? backend"

torch.library.define(
    "ropekern::apply_rope_",
    f"(Tensor positions, Tensor(a!) query, Tensor(b!)? key, Tensor cos_sin_cache, {_LAYOUT}) -> ()",
)
torch.library.define(
    "ropekern::apply_rope",
    f"(Tensor positions, Tensor query, Tensor? key, Tensor cos_sin_cache, {_LAYOUT}, bool inverse) -> (Tensor, Tensor)",
)


@torch.library.impl("ropekern::apply_rope_", "CompositeExplicitAutograd")
def _apply_rope_(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor, *layout: Any
) -> None:
    if torch.is_grad_enabled() and ops.requires_grad(query, key, cos_sin_cache):
        raise UnsupportedError(
            "torch.ops.ropekern.apply_rope_ gives no gradient, which a tensor requires: use apply_rope"
        )
    ops.rotate_(positions, query, key, cos_sin_cache, layout)


@torch.library.impl("ropekern::apply_rope", "CompositeExplicitAutograd")
def _apply_rope(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    *layout, inverse = rest
    query_out, key_out = ops.rotated(positions, query, key, cos_sin_cache, tuple(layout), inverse)
    return query_out, query.new_empty(0) if key_out is None else key_out


@torch.library.register_fake("ropekern::apply_rope_")
def _fake_apply_rope_(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor, *layout: Any
) -> None:
    ops.check_shapes(positions, query, key, cos_sin_cache, layout)


@torch.library.register_fake("ropekern::apply_rope")
def _fake_apply_rope(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None, cos_sin_cache: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    ops.check_shapes(positions, query, key, cos_sin_cache, rest[:-1])
    return query.new_empty(query.shape), query.new_empty(0) if key is None else key.new_empty(key.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001  torch names them
    positions, _, key, cos_sin_cache, *layout, inverse = inputs
    if ctx.needs_input_grad[3]:
        raise UnsupportedError("cos_sin_cache requires a gradient, which torch.ops.ropekern.apply_rope does not give")
    ctx.save_for_backward(positions, cos_sin_cache)
    ctx.has_key, ctx.layout, ctx.inverse = key is not None, layout, inverse


def _backward(ctx: Any, query_grad: torch.Tensor, key_grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """A rotation is orthogonal: its gradient is the rotation the other way."""
    positions, cos_sin_cache = ctx.saved_tensors
    # Gradients may be expanded (that of a sum is), and have any strides.
    query_grad, key_grad = (x if x.stride(-1) == 1 else x.contiguous() for x in (query_grad, key_grad))
    query_in, key_in = torch.ops.ropekern.apply_rope(
        positions, query_grad, key_grad if ctx.has_key else None, cos_sin_cache, *ctx.layout, not ctx.inverse
    )
    return None, query_in, key_in if ctx.has_key else None, None, *[None] * (len(ctx.layout) + 1)


torch.library.register_autograd("ropekern::apply_rope", _backward, setup_context=_setup_context)
