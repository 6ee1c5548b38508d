"""What every backend must rotate, and where in memory it lies: one list for native, interpreter and GPU.

Every tensor of a call lies in the middle of a larger buffer. What surrounds it is a sentinel: read by mistake it spoils
the result, written by mistake it is seen to have changed.
"""

from dataclasses import dataclass, field

import torch

from benchmarks.oracle import oracle
from benchmarks.presets import PRESETS
from benchmarks.workload import Workload
from ropekern import compute_cos_sin_cache

FOREIGN = 30000.0  # fits float16; rotated or mixed in it is far outside every tolerance
FOREIGN_POSITION = 2**30
TABLE_ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}  # of a cosine below 1

CHUNKED = {"rope_theta": 1e6, "mrope_section": (16, 24, 24)}
INTERLEAVED = {"rope_theta": 5e6, "mrope_section": (24, 20, 20), "mrope_interleaved": True}
LLAMA3 = dict(PRESETS["meta-llama/Llama-3.1-8B"].rope_parameters)

ORIGINAL = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
YARN = {"rope_type": "yarn", **ORIGINAL}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + i / 100 for i in range(32)],
    "long_factor": [2.0 + i / 10 for i in range(32)],
    "original_max_position_embeddings": 2048,
}


@dataclass(frozen=True)
class Case:
    """A workload and what it leaves open: the reason to test it comes first."""

    why: str
    num_tokens: int = 5
    heads: tuple[int, int] = (4, 2)
    head_size: int = 64
    rotary_dim: int = 0  # 0: head_size
    rope: dict = field(default_factory=lambda: {"rope_theta": 1e4})
    is_neox_style: bool = True
    dtype: torch.dtype = torch.float16
    table_dtype: torch.dtype = torch.float32
    table_rows: int = 1024
    position_dtype: torch.dtype = torch.int64
    is_text: bool = False  # one-dimensional positions in spite of an mrope_section
    has_key: bool = True
    layout: str = "contiguous"

    @property
    def workload(self):
        return Workload(
            self.num_tokens,
            *self.heads,
            self.head_size,
            self.rotary_dim or self.head_size,
            self.rope,
            self.is_neox_style,
            self.dtype,
            self.table_rows,
        )


CASES = {
    "neox": Case("plainest of all"),
    "gptj": Case("adjacent channels pair", is_neox_style=False),
    "float32": Case("far positions, exact", dtype=torch.float32, table_rows=32768),
    "bfloat16": Case("what models use", dtype=torch.bfloat16),
    "head 80": Case("partial, 16 pairs", head_size=80, rotary_dim=32),
    "head 96": Case("48 pairs: padded", head_size=96, dtype=torch.bfloat16),
    "head 112": Case("56 adjacent pairs", head_size=112, is_neox_style=False),
    "head 120": Case("60 misaligned pairs", head_size=120),
    "head 128": Case("10 pairs only", head_size=128, rotary_dim=20),
    "head 192": Case("96 pairs, packed", head_size=192, layout="packed"),
    "head 256": Case("long unrotated tail", head_size=256, rotary_dim=64, is_neox_style=False),
    "chunked": Case("Qwen2-VL's axes", head_size=128, rope=CHUNKED, layout="packed"),
    "interleaved": Case("Qwen3-VL's axes", head_size=128, rope=INTERLEAVED, dtype=torch.bfloat16),
    "interleaved gptj": Case("layout isn't pairing", head_size=128, rope=INTERLEAVED, is_neox_style=False),
    "glm": Case(
        "chunked, partial, adjacent",
        head_size=128,
        rotary_dim=64,
        rope={"rope_theta": 1e4, "mrope_section": (8, 12, 12)},
        is_neox_style=False,
    ),
    "empty axis": Case("no t channels", rope={"rope_theta": 1e4, "mrope_section": (0, 12, 20)}),
    "text": Case("section, 1-D positions", head_size=128, rope=INTERLEAVED, is_text=True),
    "llama3": Case("slowed low frequencies", head_size=128, rope=LLAMA3, table_rows=32768),
    "linear": Case("positions divided", rope={"rope_type": "linear", **ORIGINAL}, table_rows=8192),
    "dynamic": Case("larger theta", rope={"rope_type": "dynamic", **ORIGINAL}, table_rows=8192),
    "yarn": Case("ramp, scaled cos and sin", rope=YARN, table_rows=8192),
    "yarn mrope": Case("both at once", head_size=128, rope={**CHUNKED, **YARN}, table_rows=8192),
    "longrope": Case("a factor a channel", rope=LONGROPE, table_rows=8192),
    "longrope short": Case("within the original length", rope=LONGROPE, table_rows=2048),
    "int32": Case("narrow positions", position_dtype=torch.int32),
    "int32 mrope": Case("three narrow rows", head_size=128, rope=CHUNKED, position_dtype=torch.int32),
    "float16 table": Case("model-dtype table", table_dtype=torch.float16),
    "bfloat16 table": Case("coarsest table", rope=CHUNKED, head_size=128, dtype=torch.bfloat16,
                           table_dtype=torch.bfloat16),
    "no token": Case("empty batch", num_tokens=0),
    "one token": Case("single decode step", num_tokens=1, head_size=128, rope=CHUNKED),
    "one head": Case("no head loop", heads=(1, 1)),
    "no key": Case("query rotates alone", has_key=False),
    "one head no key": Case("smallest possible call", heads=(1, 1), has_key=False),
    "odd heads": Case("head blocks overhang", heads=(5, 3), num_tokens=3),
    "many kv heads": Case("more k than q", heads=(1, 6)),
    "packed": Case("slices of qkv", heads=(6, 2), layout="packed"),
    "latent": Case("different head strides", heads=(4, 1), layout="latent"),
    "transposed": Case("heads outermost", layout="transposed"),
    "misaligned": Case("no 16-byte address", layout="misaligned"),
}  # fmt: skip


def regions(case, layout):
    """(offset, shape, strides) of query and key inside one stretch of elements."""
    n, d, (q, k) = case.num_tokens, case.head_size, case.heads
    if layout == "packed":  # one qkv tensor
        row = (q + 2 * k) * d
        return (0, (n, q, d), (row, d, 1)), (q * d, (n, k, d), (row, d, 1))
    if layout == "latent":  # the last channels of longer heads, longer in query than in key, of one tensor
        row = q * (d + 64) + k * (d + 16)
        return (64, (n, q, d), (row, d + 64, 1)), (q * (d + 64) + 16, (n, k, d), (row, d + 16, 1))
    if layout == "transposed":
        return (0, (n, q, d), (d, n * d, 1)), (n * q * d, (n, k, d), (d, n * d, 1))
    skip = {"contiguous": 0, "misaligned": 1}[layout]
    return (skip, (n, q, d), (q * d + skip, d, 1)), (n * (q * d + skip) + 2 * skip, (n, k, d), (k * d + skip, d, 1))


class Buffer:
    """One allocation full of a sentinel, with tensors inside."""

    def __init__(self, places, dtype, device, sentinel):
        ends = [offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) + 1
                for offset, shape, stride in places]  # fmt: skip
        # A block of the kernel may overhang by some tokens and heads: all of that lies in the margin.
        margin = 64 + 32 * max(max(strides) for _, _, strides in places)
        margin += -margin % 64
        self.memory = torch.full((max(ends) + 2 * margin,), sentinel, dtype=dtype, device=device)
        self.tensors = [self.memory.as_strided(shape, stride, margin + offset) for offset, shape, stride in places]

    def freeze(self):
        """Remember the contents, now that the tensors are filled."""
        self.frozen = self.memory.clone()

    def assert_frozen(self, *, but=()):
        """Every bit is as it was, except in the tensors named."""
        now = self.memory.clone()
        for x in but:
            at = x.shape, x.stride(), x.storage_offset()
            now.as_strided(*at).copy_(self.frozen.as_strided(*at))
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[now.element_size()]
        assert torch.equal(now.view(integer), self.frozen.view(integer)), "memory changed that is not the result's"


class Call:
    """The tensors of one call of a case, and what must come out."""

    def __init__(self, case, device="cpu", seed=0):
        self.case, w = case, case.workload
        generator = torch.Generator().manual_seed(seed)

        def normal(x):
            x.copy_(torch.randn(x.shape, generator=generator))

        inputs = Buffer(regions(case, case.layout), case.dtype, device, FOREIGN)
        elsewhere = "contiguous" if case.layout == "latent" else "latent"  # strides that are not the inputs'
        outputs = Buffer(regions(case, elsewhere), case.dtype, device, FOREIGN)
        axes = () if case.is_text or w.mrope_section is None else (3,)
        row = case.num_tokens + 5
        stride = (row, 1) if axes else (1,)
        positions = Buffer([(0, (*axes, case.num_tokens), stride)], case.position_dtype, device, FOREIGN_POSITION)
        shape = (case.table_rows, w.rotary_dim)
        table = Buffer([(0, shape, (w.rotary_dim, 1))], case.table_dtype, device, FOREIGN)

        (self.query, self.key), (self.query_out, self.key_out) = inputs.tensors, outputs.tensors
        (self.positions,), (self.table,) = positions.tensors, table.tensors
        normal(self.query)
        normal(self.key)
        if not case.has_key:
            self.key = self.key_out = None
        self.positions.copy_(torch.randint(0, case.table_rows, self.positions.shape, generator=generator))
        self.positions[..., -1:] = case.table_rows - 1
        self.table.copy_(compute_cos_sin_cache(w.rotary_dim, case.table_rows, rope_parameters=case.rope))
        self.inputs, self.outputs, self.fixed = inputs, outputs, (positions, table)
        self.before = [x.clone() for x in (self.query, self.key) if x is not None]
        for buffer in (inputs, outputs, *self.fixed):
            buffer.freeze()

    @property
    def arguments(self):
        return self.positions, self.query, self.key, self.table

    @property
    def keywords(self):
        w = self.case.workload
        return {
            "is_neox_style": w.is_neox_style,
            "mrope_section": w.mrope_section,
            "mrope_interleaved": w.mrope_interleaved,
        }

    def assert_rotated(self, tolerances, query, key):
        """query and key are what the inputs must become; tolerances: dtype -> (atol, rtol)."""
        assert (key is None) == (not self.case.has_key)
        for before, after in zip(self.before, (query, key), strict=False):
            assert after.shape == before.shape
            assert after.dtype == before.dtype
            assert_rotated(self.case, tolerances, self.positions, before, after)

    def assert_in_place(self, tolerances):
        """query and key hold the result and nothing else changed."""
        self.assert_rotated(tolerances, self.query, self.key)
        rotary_dim = self.case.workload.rotary_dim
        self.inputs.assert_frozen(but=[x[..., :rotary_dim] for x in (self.query, self.key) if x is not None])
        self.assert_fixed()

    def assert_out_of_place(self, tolerances, query, key):
        """query and key hold the result and the inputs are untouched."""
        self.assert_rotated(tolerances, query, key)
        self.inputs.assert_frozen()
        self.outputs.assert_frozen(but=[x for x in (self.query_out, self.key_out) if x is not None])
        self.assert_fixed()

    def assert_fixed(self):
        for buffer in self.fixed:
            buffer.assert_frozen()


def assert_rotated(case, tolerances, positions, before, after):
    """Within the tolerance of the dtype, plus what the rounding of the table costs; the tail to the bit."""
    w = case.workload
    atol, rtol = tolerances[case.dtype]
    wanted = oracle(w, positions, before, torch.float32)
    error = (after.double() - wanted).abs()
    pair = 2 * before.double().abs().amax(-1, keepdim=True)  # at least |x1| + |x2|
    allowed = atol + rtol * wanted.abs() + TABLE_ROUNDING[case.table_dtype] * pair
    excess = (error - allowed).nan_to_num(nan=float("inf"))  # so that NaN is bad
    assert not (excess > 0).any(), f"worst element is off by {error.flatten()[excess.argmax()]:.3g}"
    assert torch.equal(after[..., w.rotary_dim :], before[..., w.rotary_dim :]), "an unrotated channel changed"


def assert_same_bits(*pairs):
    for one, other in pairs:
        if one is not None:
            integer = {2: torch.int16, 4: torch.int32}[one.element_size()]
            assert torch.equal(one.contiguous().view(integer), other.contiguous().view(integer))
