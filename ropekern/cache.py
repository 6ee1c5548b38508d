"""The cos_sin_cache table, and which of its rows each channel reads."""

import torch

from ropekern.frequencies import RopeParameters, inverse_frequencies, rope_type_of


def compute_cos_sin_cache(
    rotary_dim: int,
    max_position: int,
    rope_theta: float = 10000.0,
    *,
    rope_parameters: RopeParameters | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The table that every backend reads: row p holds the cosines, then the sines, of position p.

    Angles are float32 products of position and inverse frequency, as in Hugging Face transformers and vLLM. Their
    cosines and sines are taken in float64 and rounded once, so that the table has the same bits on every device:
    float32 library functions differ between devices, and for large angles by more than a unit in the last place.

    Args:
        rotary_dim: channels that rotate, even and positive.
        max_position: number of rows; valid positions are 0 .. max_position - 1.
        rope_theta: base of the frequencies; used for rope_type "default" where rope_parameters names none.
        rope_parameters: Hugging Face `rope_parameters` (rope_type, factor, ...); None means rope_type "default".
        dtype: of the table. float32 is advised: bfloat16 costs 2e-3 in each cosine.
        device: of the table.

    Returns:
        `[max_position, rotary_dim]` of dtype, contiguous.

    Raises:
        ValueError: a size is out of range or rope_parameters is incomplete.
    """
    if rotary_dim <= 0 or rotary_dim % 2:
        raise ValueError(f"rotary_dim must be even and positive, got {rotary_dim}")
    if max_position <= 0:
        raise ValueError(f"max_position must be positive, got {max_position}")
    parameters = dict(rope_parameters or {})
    if rope_type_of(parameters) == "default":  # the other types belong to a model, which says its rope_theta
        parameters.setdefault("rope_theta", rope_theta)
    inv_freq, scaling = inverse_frequencies(rotary_dim, parameters, max_position)
    positions = torch.arange(max_position, dtype=torch.float32, device=device)
    angles = torch.outer(positions, inv_freq.to(positions.device)).double()
    table = torch.empty(max_position, rotary_dim, dtype=dtype, device=positions.device)
    table[:, : rotary_dim // 2] = angles.cos() * scaling
    table[:, rotary_dim // 2 :] = angles.sin() * scaling
    return table


def mrope_axes(
    mrope_section: tuple[int, int, int], mrope_interleaved: bool, device: torch.device | str | None = None
) -> torch.Tensor:
    """Which position axis (0 = t, 1 = h, 2 = w) each of the rotary_dim // 2 channels reads, int64.

    Chunked (Qwen2-VL, Qwen2.5-VL, GLM-4.1V): t channels, then h, then w. Interleaved (Qwen3-VL): t h w t h w ...
    until h and w have their number, t in the rest. This is the axis layout; it is independent of the pairing
    (NeoX or GPT-J), which says which two channels rotate together.
    """
    t, h, w = mrope_section
    channel = torch.arange(t + h + w, device=device)
    if mrope_interleaved:
        reads_h = (channel % 3 == 1) & (channel < 3 * h)
        reads_w = (channel % 3 == 2) & (channel < 3 * w)
    else:
        reads_h = (channel >= t) & (channel < t + h)
        reads_w = channel >= t + h
    return reads_h + 2 * reads_w


_AXES: dict[tuple[object, ...], torch.Tensor] = {}


def _axes_on(section: tuple[int, int, int], interleaved: bool, device: torch.device) -> torch.Tensor:
    """The axes of both halves of a table row, kept per device."""
    key = (section, interleaved, device)
    if key in _AXES:
        return _AXES[key]
    axes = mrope_axes(section, interleaved, device).repeat(2)
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        _AXES[key] = axes  # made inside a capture it would lie in memory that the graph reuses
    return axes


def gather_cos_sin(
    positions: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    mrope_section: tuple[int, int, int] | None,
    mrope_interleaved: bool,
) -> torch.Tensor:
    """The table row of each token, `[num_tokens, rotary_dim]`, cosines then sines, in the dtype of the table.

    Args:
        positions: `[num_tokens]`, or `[3, num_tokens]` (t, h, w) with an mrope_section: then each channel's element
            comes from the row of the axis that it reads.
        cos_sin_cache: `[max_position, rotary_dim]`.
        mrope_section: channels of t, h, w; read only where positions has three rows.
        mrope_interleaved: the axis layout, see mrope_axes.
    """
    if positions.dim() == 1 or mrope_section is None:
        return cos_sin_cache[positions]
    axes = _axes_on(mrope_section, mrope_interleaved, positions.device)
    return cos_sin_cache.gather(0, positions.long().T.index_select(1, axes))
