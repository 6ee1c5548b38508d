"""The cheap launch on a driver that records: what is launched, and when it steps aside. On a GPU: test_gpu.py."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from ropekern.backends import triton as backend  # noqa: E402  it needs Triton
from ropekern.backends import triton_launch  # noqa: E402

# as in a launch in place, then out of place, of 5 tokens: name -> kind, in the kernel's order
TENSORS = {"positions": "*i64", "cos_sin_cache": "*fp32", "q": "*bf16", "k": "*bf16"}
OUTPUTS = {"q_out": "*bf16", "k_out": "*bf16"}
SCRATCH = 2  # addresses that Triton adds at the end
FUNCTION, STREAM, PROGRAMS, DEVICE = 1 << 40, 1 << 41, 70_000, 3


class Record(ctypes.Structure):
    _fields_ = (
        ("parameters", ctypes.c_uint64 * 32), ("stream", ctypes.c_uint64), ("function", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("shared", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32), ("attribute_id", ctypes.c_uint32), ("attribute_value", ctypes.c_uint32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc")
    header = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    if compiler is None or not (header / "cuda.h").is_file():
        pytest.skip("needs a C compiler and Triton's copy of cuda.h")
    path = tmp_path_factory.mktemp("fake") / "libfake.so"
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{header}", str(source), "-o", str(path)], check=True)
    loaded = ctypes.CDLL(str(path))
    loaded.fake_last.restype = ctypes.POINTER(Record)
    return loaded


@pytest.fixture
def cuda(library, monkeypatch):
    hooks = SimpleNamespace(launch_enter_hook=SimpleNamespace(calls=[]), launch_exit_hook=SimpleNamespace(calls=[]))
    state = SimpleNamespace(device=DEVICE, hooks=hooks, library=library)
    active = SimpleNamespace(get_current_stream=lambda device: STREAM + device)
    monkeypatch.setattr(triton_launch, "_cuda", lambda: library)
    monkeypatch.setattr(triton_launch, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(triton_launch, "knobs", SimpleNamespace(runtime=hooks))
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: state.device, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", lambda device: setattr(state, "device", device), raising=False)
    return state


def compiled(cuda, *, in_place=True, pdl=True, error=0, **changes):
    """A kernel like those that Triton compiles, its `rest`, and what its parameters must be after the tensors."""
    names = backend.rope_kernel.arg_names
    sizes = [name for name in names[6:] if not name[0].isupper()]
    kinds = dict(TENSORS) | (dict.fromkeys(OUTPUTS, "constexpr") if in_place else OUTPUTS)
    rest, wanted = [], []
    for index, name in enumerate(sizes):
        if in_place and "_out_" in name:
            kinds[name], value = "constexpr", None
        elif name == "q_stride_head":  # a size of 1 becomes a constant, one past 31 bits a wide integer
            kinds[name], value = "constexpr", 1
        else:
            kinds[name], value = ("i64", 2**33 + index) if name == "k_stride_token" else ("i32", 1000 + index)
            wanted.append(value)
        rest.append(value)
    constants = [name for name in names if name[0].isupper()]
    kinds |= dict.fromkeys(constants, "constexpr")
    widths = [8 if kind[0] == "*" or kind == "i64" else 4 for kind in kinds.values() if kind != "constexpr"]
    widths = changes.pop("widths", widths + [8] * SCRATCH)
    cuda.library.fake_set((ctypes.c_int * len(widths))(*widths), len(widths), error)
    metadata = {
        "num_warps": 1, "num_ctas": 1, "launch_cooperative_grid": False, "shared": 0, "global_scratch_size": 0,
        "profile_scratch_size": 0, "launch_pdl": pdl,
    }  # fmt: skip
    kernel = SimpleNamespace(
        src=SimpleNamespace(signature=kinds), function=FUNCTION, metadata=SimpleNamespace(**metadata | changes)
    )
    return kernel, (*rest, *range(len(constants))), wanted


def tensors(count=6):
    return [torch.zeros(64) for _ in range(count)]


def repeat_in_place(repeat, p, q, k, t):
    return repeat(p, q, k, q, k, t)


@pytest.mark.parametrize("pdl", [True, False])
def test_in_place(cuda, pdl, monkeypatch):
    kernel, rest, wanted = compiled(cuda, pdl=pdl, shared=128)
    repeat, made = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest), []
    block = triton_launch._Block
    monkeypatch.setattr(triton_launch, "_Block", lambda *arguments: made.append(block(*arguments)) or made[-1])
    for _ in range(3):
        p, q, k, t = tensors(4)
        assert repeat_in_place(repeat, p, q, k, t)
        last = cuda.library.fake_last().contents
        addresses = [x.data_ptr() for x in (p, t, q, k)]
        assert list(last.parameters)[: 4 + len(wanted) + SCRATCH] == [*addresses, *wanted, *[0] * SCRATCH]
        assert (list(last.grid), list(last.block)) == ([PROGRAMS, 1, 1], [32, 1, 1])
        assert (last.stream, last.function, last.shared) == (STREAM + DEVICE, FUNCTION, 128)
        assert (last.attributes, last.attribute_id, last.attribute_value) == ((1, 6, 1) if pdl else (0, 0, 0))
    assert len(made) == 1, "later calls use the first one's block"


@pytest.mark.parametrize("has_key", [True, False])
def test_out_of_place(cuda, has_key):
    kernel, rest, wanted = compiled(cuda, in_place=False)
    repeat = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest)
    p, q, k, query_out, key_out, t = tensors()
    if not has_key:
        k = key_out = None
    assert repeat(p, q, k, query_out, key_out, t)
    tensors_in_order = (p, t, q, q if k is None else k, query_out, query_out if key_out is None else key_out)
    parameters = list(cuda.library.fake_last().contents.parameters)
    assert parameters[: 6 + len(wanted)] == [*(x.data_ptr() for x in tensors_in_order), *wanted]


def test_negative_strides_keep_their_width(cuda):
    kernel, rest, wanted = compiled(cuda)
    rest = (-5, *rest[1:])
    repeat = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest)
    assert repeat_in_place(repeat, *tensors(4))
    assert list(cuda.library.fake_last().contents.parameters)[4:6] == [2**32 - 5, wanted[1]]


@pytest.mark.parametrize("which", range(4))
def test_other_alignments_go_the_ordinary_way(cuda, which):
    kernel, rest, _ = compiled(cuda)
    repeat = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest)
    given = tensors(4)
    assert repeat_in_place(repeat, *given)
    given[which] = torch.zeros(65)[1:]
    assert not repeat_in_place(repeat, *given)


def test_it_steps_aside(cuda):
    kernel, rest, _ = compiled(cuda)
    repeat = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest)
    p, q, k, t = tensors(4)
    cuda.library.fake_last().contents.function = 0
    assert not repeat_in_place(repeat, p, q, q, t)
    for hook in ("launch_enter_hook", "launch_exit_hook"):
        before = getattr(cuda.hooks, hook)
        setattr(cuda.hooks, hook, SimpleNamespace(calls=[print]))
        assert not repeat_in_place(repeat, p, q, k, t)
        setattr(cuda.hooks, hook, before)
    assert cuda.library.fake_last().contents.function == 0, "nothing was launched"
    assert repeat_in_place(repeat, p, q, k, t)


def test_the_device_of_the_tensors_counts(cuda):
    kernel, rest, _ = compiled(cuda)
    repeat = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest)
    cuda.device = DEVICE + 1
    assert repeat_in_place(repeat, *tensors(4))
    assert cuda.library.fake_last().contents.stream == STREAM + DEVICE
    assert cuda.device == DEVICE + 1, "the current device is what it was"


def test_errors(cuda):
    kernel, rest, _ = compiled(cuda, error=201)
    repeat = triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest)
    assert not repeat_in_place(repeat, *tensors(4)), "a thread without a context goes the ordinary way"
    compiled(cuda, error=719)
    with pytest.raises(RuntimeError, match="the launch failed, or a kernel before it: CUDA error 719"):
        repeat_in_place(repeat, *tensors(4))


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": [8] * 4},
        {"widths": [8] * 32},
        {"num_ctas": 2},
        {"launch_cooperative_grid": True},
        {"global_scratch_size": 16},
        {"profile_scratch_size": 16},
    ],
    ids=str,
)
def test_unlike_kernels_go_the_ordinary_way(cuda, changes):
    kernel, rest, _ = compiled(cuda, **changes)
    assert triton_launch.make_repeat(kernel, PROGRAMS, DEVICE, rest) is None


def test_unknown_version_goes_the_ordinary_way(cuda):
    _, rest, _ = compiled(cuda)
    assert triton_launch.make_repeat(SimpleNamespace(), PROGRAMS, DEVICE, rest) is None
