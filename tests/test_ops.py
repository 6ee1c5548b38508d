"""Arguments are checked once, in ops: an error names the argument, what came and what was wanted."""

import sys
from types import ModuleType

import pytest
import torch

from ropekern import UnsupportedError, apply_rope, apply_rope_, compute_cos_sin_cache, get_rope


def arguments(**changes):
    """Four tokens, two heads and one of 64 channels, a table of 16 rows."""
    good = {
        "positions": torch.arange(4),
        "query": torch.randn(4, 2, 64, dtype=torch.float16),
        "key": torch.randn(4, 1, 64, dtype=torch.float16),
        "cos_sin_cache": compute_cos_sin_cache(64, 16),
    }
    return good | changes


def half(*shape):
    return torch.zeros(shape, dtype=torch.float16)


THREE = torch.zeros(3, 4, dtype=torch.int64)

# what is changed, the exception, words of its message: the argument, what came, what was wanted
WRONG = [
    ({"query": half(4, 128)}, ValueError, ["query", "(4, 128)", "[num_tokens, num_heads, head_size]"]),
    ({"query": half(4, 2, 64).double()}, TypeError, ["query", "float64", "bfloat16"]),
    ({"query": half(4, 64, 2).mT}, ValueError, ["query", "(128, 1, 2)", "stride 1"]),
    ({"key": half(3, 1, 64)}, ValueError, ["key", "(3, 1, 64)", "[4, *, 64]"]),
    ({"key": half(4, 1, 32)}, ValueError, ["key", "(4, 1, 32)", "[4, *, 64]"]),
    ({"key": half(4, 64)}, ValueError, ["key", "(4, 64)", "[4, *, 64]"]),
    ({"key": half(4, 1, 64).bfloat16()}, TypeError, ["key", "bfloat16", "float16"]),
    ({"key": half(4, 1, 64).to("meta")}, ValueError, ["key", "meta", "cpu"]),
    ({"positions": torch.arange(4.0)}, TypeError, ["positions", "float32", "int32 or int64"]),
    ({"positions": torch.arange(5)}, ValueError, ["positions", "(5,)", "num_tokens 4"]),
    ({"positions": THREE[:2]}, ValueError, ["positions", "(2, 4)", "[3, num_tokens]"]),
    ({"positions": torch.arange(4).to("meta")}, ValueError, ["positions", "meta", "cpu"]),
    ({"positions": torch.zeros(8, dtype=torch.int64)[::2]}, ValueError, ["positions", "(2,)", "stride 1"]),
    ({"positions": torch.arange(13, 17)}, ValueError, ["positions", "13 .. 16", "0 .. 15"]),
    ({"positions": torch.arange(-1, 3)}, ValueError, ["positions", "-1 .. 2", "0 .. 15"]),
    ({"positions": THREE}, ValueError, ["mrope_section", "None", "(3, 4)"]),
    ({"cos_sin_cache": torch.zeros(64)}, ValueError, ["cos_sin_cache", "(64,)", "[max_position, rotary_dim]"]),
    ({"cos_sin_cache": torch.zeros(16, 128)[:, :64]}, ValueError, ["cos_sin_cache", "(128, 1)", "contiguous"]),
    ({"cos_sin_cache": torch.zeros(16, 66)}, ValueError, ["rotary_dim", "66", "2 .. head_size 64"]),
    ({"cos_sin_cache": torch.zeros(16, 63)}, ValueError, ["rotary_dim", "63", "even"]),
    ({"cos_sin_cache": torch.zeros(16, 0)}, ValueError, ["rotary_dim", "got 0", "2 .. head_size 64"]),
    ({"cos_sin_cache": torch.zeros(16, 64).bfloat16()}, TypeError, ["cos_sin_cache", "bfloat16", "float16"]),
    ({"mrope_section": (16, 24, 24)}, ValueError, ["mrope_section", "(16, 24, 24)", "rotary_dim // 2 = 32"]),
    ({"mrope_section": (16, 16)}, ValueError, ["mrope_section", "(16, 16)", "three counts"]),
    ({"mrope_section": (40, -4, -4)}, ValueError, ["mrope_section", "(40, -4, -4)", "three counts"]),
    (
        {"positions": THREE, "mrope_section": (2, 20, 10), "mrope_interleaved": True},
        ValueError,
        ["mrope_section", "(2, 20, 10)", "cannot be interleaved", "(11, 11, 10)"],
    ),
    ({"backend": "cuda"}, ValueError, ["backend", "'cuda'", "native", "triton", "flashinfer"]),
]


@pytest.mark.parametrize(("changes", "exception", "words"), WRONG, ids=lambda x: "-".join(x) if type(x) is dict else "")
@pytest.mark.parametrize("function", [apply_rope, apply_rope_])
def test_wrong_argument(function, changes, exception, words):
    with pytest.raises(exception) as error:
        function(**arguments(**changes))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_right_arguments():
    """The table above changes arguments that are right; so are these neighbours of its lines."""
    apply_rope_(**arguments())
    apply_rope_(**arguments(positions=torch.arange(12, 16, dtype=torch.int32), key=None))
    apply_rope_(**arguments(cos_sin_cache=torch.ones(16, 2).half()))
    apply_rope_(**arguments(positions=THREE, mrope_section=[12, 10, 10], mrope_interleaved=True))
    apply_rope_(**arguments(positions=THREE, mrope_section=(2, 20, 10)))


TABLES = [
    ({"rotary_dim": 63}, ["rotary_dim", "63", "even"]),
    ({"rotary_dim": 0}, ["rotary_dim", "0", "positive"]),
    ({"max_position": 0}, ["max_position", "0", "positive"]),
    ({"rope_parameters": {"mrope_interleave": True}}, ["mrope_interleave is unknown", "mrope_interleaved"]),
    ({"rope_parameters": {"rope_type": "ntk"}}, ["rope_type", "'ntk'", "llama3"]),
    ({"rope_parameters": {"type": "yarn", "factor": 4.0}}, ["'yarn'", "needs", "original_max_position_embeddings"]),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.5}}, ["factor", "at least 1", "0.5"]),
    (
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0],
                "long_factor": [1.0],
                "original_max_position_embeddings": 16,
            }
        },
        ["short_factor", "32 numbers", "got 1"],
    ),
    ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, ["llama3", "low_freq_factor", "high_freq_factor"]),
    (
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
            }
        },
        ["low_freq_factor", "4.0", "1.0"],
    ),
]


@pytest.mark.parametrize(("changes", "words"), TABLES, ids=range(len(TABLES)))
def test_wrong_table(changes, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are the match
        compute_cos_sin_cache(**{"rotary_dim": 64, "max_position": 16} | changes)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_wrong_section_is_refused_when_the_module_is_made():
    with pytest.raises(ValueError, match="mrope_section"):
        get_rope(64, 16, rope_parameters={"mrope_section": [16, 24, 24]})


def test_unsupported_is_not_implemented():
    """asv shows a NotImplementedError as n/a."""
    assert issubclass(UnsupportedError, NotImplementedError)


@pytest.mark.parametrize(
    ("module", "reason"),
    [(None, "cannot be imported"), (ModuleType("flashinfer.rope"), "query.device is cpu, wanted a CUDA device")],
    ids=["absent", "cpu"],
)
def test_flashinfer_unsupported(module, reason, monkeypatch):
    if module is not None:
        module.apply_rope_with_cos_sin_cache_inplace = None
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setitem(sys.modules, "flashinfer.rope", module)
    with pytest.raises(UnsupportedError, match=rf"flashinfer.*{reason}"):
        apply_rope_(**arguments(backend="flashinfer"))


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch):
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    import ropekern.backends.triton  # noqa: F401 - before the patch: the kernels are what interpret says when imported

    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(UnsupportedError, match=r"triton.*query.device is cpu, wanted a CUDA device"):
        apply_rope_(**arguments(backend="triton"))


@pytest.mark.parametrize("is_neox_style", [True, False])
def test_native_gradient(is_neox_style):
    given = arguments(
        query=torch.randn(4, 2, 64).requires_grad_(),
        key=torch.randn(4, 1, 64).requires_grad_(),
        cos_sin_cache=compute_cos_sin_cache(8, 16),
        is_neox_style=is_neox_style,
    )

    def function(query, key):
        return apply_rope(**given | {"query": query, "key": key})

    # The map is linear: finite differences are exact with any step, so float32 and a large step serve.
    with pytest.warns(UserWarning, match="double precision"):
        assert torch.autograd.gradcheck(function, (given["query"], given["key"]), eps=0.5, atol=1e-4, nondet_tol=0.0)


def test_a_model_has_its_own_theta():
    """Only rope_type default has a default theta: a guessed one would be a wrong table without an error."""
    parameters = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    with pytest.raises(ValueError, match=r"needs \['rope_theta'\]"):
        compute_cos_sin_cache(64, 16, rope_parameters=parameters)


def test_older_key_type():
    """Raw Qwen2-VL configs say {"type": "mrope"}, which is rope_type default with a section."""
    parameters = {"type": "mrope", "rope_theta": 1e6}
    assert torch.equal(
        compute_cos_sin_cache(64, 16, rope_parameters=parameters), compute_cos_sin_cache(64, 16, rope_theta=1e6)
    )


def test_table_is_rounded_once():
    table = compute_cos_sin_cache(128, 4096)
    angles = torch.arange(4096.0)[:, None] * (1.0 / 10000.0 ** (torch.arange(0, 128, 2) / 128))
    assert torch.equal(table[:, :64], angles.double().cos().float())
    assert torch.equal(table[:, 64:], angles.double().sin().float())


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_no_query_head(backend):
    """A key alone: it must be rotated as it is beside a query."""
    key, table = torch.randn(3, 2, 64), compute_cos_sin_cache(64, 16)
    positions = torch.tensor([1, 5, 9])
    wanted, _ = apply_rope(positions, key, None, table, backend="native")
    _, rotated = apply_rope(positions, key[:, :0], key, table, backend=backend)
    assert torch.allclose(rotated, wanted, rtol=0, atol=1e-6)
    apply_rope_(positions, key[:, :0], key, table, backend=backend)
    assert torch.equal(key, rotated)


@pytest.mark.parametrize(
    ("function", "backend", "name"),
    [
        (apply_rope, "triton", "cos_sin_cache"),
        *((apply_rope, "flashinfer", name) for name in ("query", "key", "cos_sin_cache")),
        *((apply_rope_, backend, name) for backend in ("triton", "flashinfer") for name in ("query", "key")),
    ],
)
def test_a_gradient_is_never_lost_silently(function, backend, name):
    tensors = {"query": torch.randn(3, 2, 64), "key": torch.randn(3, 2, 64), "cos_sin_cache": torch.randn(16, 64)}
    tensors[name].requires_grad_()
    with pytest.raises(UnsupportedError, match=f"{name} requires a gradient"):
        function(torch.tensor([1, 2, 3]), **tensors, backend=backend)


def test_in_place_needs_memory_of_its_own():
    positions, table = torch.tensor([1, 2, 3]), compute_cos_sin_cache(64, 16)
    query = torch.randn(3, 2, 64)
    with pytest.raises(ValueError, match="key must not share memory with query"):
        apply_rope_(positions, query, query, table)
    with pytest.raises(ValueError, match=r"query must have memory of its own .* \(0, 64, 1\)"):
        apply_rope_(positions, query[:1].expand(3, 2, 64), None, table)
    expanded, _ = apply_rope(positions, query[:1].expand(3, 2, 64), None, table)  # out of place it may be read twice
    assert torch.equal(expanded, apply_rope(positions, query[:1].repeat(3, 1, 1), None, table)[0])


def test_compile_kernel_errors():
    from ropekern import KernelCase, compile_kernel

    with pytest.raises(TypeError, match=r"target must be .* got 'sm_90'"):
        compile_kernel(KernelCase(1, 8, 1, 128, 128), "sm_90")
    with pytest.raises(ValueError, match=r"rotary_dim must be .* got 256"):
        compile_kernel(KernelCase(1, 8, 1, 128, 256), 90)
