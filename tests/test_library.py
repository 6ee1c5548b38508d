"""The operators behind torch.compile, fake tensors and gradients: native and, in Triton's interpreter, the kernel."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ropekern import UnsupportedError, apply_rope, apply_rope_, get_rope
from tests.cases import CASES, Call, Case, assert_same_bits

pytestmark = [
    pytest.mark.usefixtures("interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's compiler, about itself
]

BACKENDS = ["native", "triton"]
NAMES = ["neox", "gptj", "chunked", "interleaved", "glm", "no key"]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def layout(call, backend):
    return (*call.keywords.values(), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name, backend):
    """Schema, fake tensors, autograd registration and dynamic shapes, by torch's own judge."""
    call = Call(CASES[name])
    arguments = (*call.arguments, *layout(call, backend))
    torch.library.opcheck(torch.ops.ropekern.apply_rope_.default, arguments)
    torch.library.opcheck(torch.ops.ropekern.apply_rope.default, (*arguments, False))
    positions, query, key, table = call.arguments
    wanting = (positions, query.float().requires_grad_(), key if key is None else key.float().requires_grad_(), table)
    torch.library.opcheck(torch.ops.ropekern.apply_rope.default, (*wanting, *layout(call, backend), True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_compiled(name, backend):
    """One full graph, whatever the number of tokens: the bits of the eager call."""

    def function(positions, query, key, table):
        rotated = apply_rope(positions, query, key, table, **call.keywords, backend=backend)
        apply_rope_(positions, query, key, table, **call.keywords, backend=backend)
        return rotated

    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_tokens in (5, 7, 2):
        call = Call(Case(**{**vars(CASES[name]), "num_tokens": num_tokens}))
        eager = Call(call.case)
        query, key = compiled(*call.arguments)
        wanted, wanted_key = apply_rope(*eager.arguments, **call.keywords, backend=backend)
        apply_rope_(*eager.arguments, **call.keywords, backend=backend)
        assert_same_bits((query, wanted), (key, wanted_key), (call.query, eager.query), (call.key, eager.key))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_compiled_module():
    rope = get_rope(64, 128, rope_parameters={"rope_theta": 1e4, "mrope_section": (8, 12, 12)})
    positions, query, key = torch.randint(0, 128, (3, 2, 5)), torch.randn(2, 5, 256), torch.randn(2, 5, 128)
    for forward in (rope.forward, rope.forward_triton):
        compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
        assert_same_bits(*zip(compiled(positions, query, key), forward(positions, query, key), strict=True))


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_fake_tensors(backend):
    """Shapes without data: nothing is read, not even a position."""
    with FakeTensorMode():
        positions, table = torch.empty(5, dtype=torch.int64), torch.empty(16, 64)
        query, key = torch.empty(5, 4, 64).half(), torch.empty(5, 2, 64).half()
        rotated, rotated_key = apply_rope(positions, query, key, table, backend=backend)
        assert (rotated.shape, rotated.dtype, rotated_key.shape) == (query.shape, query.dtype, key.shape)
        assert apply_rope(positions, query, None, table, backend=backend)[1] is None
        apply_rope_(positions, query, key, table, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_gradient(name, backend):
    """The map is linear: finite differences are exact with any step, so float32 and a large step serve."""
    call = Call(Case(**{**vars(CASES[name]), "num_tokens": 2, "heads": (1, 1), "dtype": torch.float32}))
    tensors = [x.detach().clone().requires_grad_() for x in (call.query, call.key) if x is not None]

    def function(query, key=None):
        rotated = apply_rope(call.positions, query, key, call.table, **call.keywords, backend=backend)
        return tuple(x for x in rotated if x is not None)

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        with pytest.warns(UserWarning, match="double precision"):
            assert check(function, tensors, eps=0.5, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_in_bfloat16(name):
    """The kernel's gradient in a model's dtype is native's, whose autograd knows no inverse rotation."""
    call = Call(Case(**{**vars(CASES[name]), "dtype": torch.bfloat16}))
    gradients = []
    for backend in BACKENDS:
        tensors = [None if x is None else x.detach().clone().requires_grad_() for x in (call.query, call.key)]
        rotated = apply_rope(call.positions, *tensors, call.table, **call.keywords, backend=backend)
        torch.manual_seed(0)
        pairs = [(y, torch.randn_like(y)) for y in rotated if y is not None]
        torch.autograd.backward(*zip(*pairs, strict=True))
        gradients.append([x.grad for x in tensors if x is not None])
    for native, triton in zip(*gradients, strict=True):
        # native's autograd rounds each of two products, the interpreter truncates the one result
        assert torch.allclose(native.float(), triton.float(), rtol=2.0**-6, atol=2.0**-6)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensor_subclass(backend):
    call, plain = Call(CASES["chunked"]), Call(CASES["chunked"])
    apply_rope_(*plain.arguments, **plain.keywords, backend=backend)
    positions, query, key, table = call.arguments
    query, key = query.as_subclass(Subclass), key.as_subclass(Subclass)
    rotated = apply_rope(positions, query, key, table, **call.keywords, backend=backend)
    apply_rope_(positions, query, key, table, **call.keywords, backend=backend)
    for came in (rotated, (query, key)):
        pairs = zip(came, (plain.query, plain.key), strict=True)
        assert_same_bits(*((x.as_subclass(torch.Tensor), y) for x, y in pairs))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["query", "key", "table"])
def test_operator_in_place_refuses_a_gradient(name, backend):
    call = Call(Case("", 3, dtype=torch.float32))
    tensors = dict(zip(("positions", "query", "key", "table"), call.arguments, strict=True))
    tensors[name] = (tensors[name].clone().requires_grad_() * 1).as_subclass(Subclass)
    with pytest.raises(UnsupportedError, match="gives no gradient, which a tensor requires"):
        torch.ops.ropekern.apply_rope_(*tensors.values(), *layout(call, backend))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": (6,)}, "positions must be"),
        ({"table": (64,)}, "cos_sin_cache must be contiguous"),
        ({"key": (5, 2, 32)}, "key must be"),
        ({"backend": "nonsense"}, "backend must be None or one of"),
    ],
)
def test_fake_tensors_are_checked(changes, words):
    shapes = {"positions": (5,), "query": (5, 4, 64), "key": (5, 2, 64), "table": (16, 64)}
    backend = changes.get("backend")
    with FakeTensorMode():
        shapes |= {name: shape for name, shape in changes.items() if name in shapes}
        positions, *others = (torch.empty(shape) for shape in shapes.values())
        for function in (apply_rope, apply_rope_):
            with pytest.raises(ValueError, match=words):
                function(positions.long(), *others, backend=backend)


def test_compiled_gradient():
    call = Call(Case("", 5, dtype=torch.float32))
    results = []
    for function in (apply_rope, torch.compile(apply_rope, fullgraph=True, backend="aot_eager")):
        query = call.query.detach().clone().requires_grad_()
        rotated, _ = function(call.positions, query, None, call.table, backend="triton")
        rotated.square().sum().backward()
        results.append(query.grad)
    assert_same_bits(tuple(results))
