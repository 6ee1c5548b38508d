"""What apply_rope_ and apply_rope remember between calls: a stand-in for a backend says when it is asked anew."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import forward_ad

from ropekern import UnsupportedError, apply_rope, apply_rope_, knobs, ops


class Backend:
    """Counts first calls and repeated ones; `willing` is what a repeat returns."""

    def __init__(self):
        self.first, self.repeated, self.willing = 0, 0, True

    def rope(self, *tensors, **keywords):
        self.first += 1
        self.keywords = keywords

        def repeat(*tensors):
            self.repeated += 1
            return self.willing

        return repeat


@pytest.fixture
def backend(monkeypatch):
    stand_in = Backend()
    monkeypatch.setattr(ops, "_repeats", {})
    monkeypatch.setattr(ops, "_backend", lambda name: SimpleNamespace(rope=stand_in.rope))
    return stand_in


SECTION = (8, 12, 12)


def given(**changes):
    good = {
        "positions": torch.zeros(3, 5, dtype=torch.int64),
        "query": torch.zeros(5, 4, 64).half(),
        "key": torch.zeros(5, 2, 64).half(),
        "cos_sin_cache": torch.zeros(16, 64),
        "mrope_section": SECTION,
        "backend": "triton",
    }
    return good | changes


def test_equal_geometry_is_checked_once(backend):
    for _ in range(3):
        apply_rope_(**given())
    assert (backend.first, backend.repeated) == (1, 2)
    apply_rope_(**given(mrope_section=list(SECTION)))
    assert (backend.first, backend.repeated) == (1, 3), "a list is the tuple"


wide = torch.zeros(5, 6, 64).half()
OTHERS = {
    "tokens": {
        "positions": torch.zeros(3, 4, dtype=torch.int64), "query": torch.zeros(4, 4, 64).half(),
        "key": torch.zeros(4, 2, 64).half(),
    },
    "one axis": {"positions": torch.zeros(5, dtype=torch.int64)},
    "position dtype": {"positions": torch.zeros(3, 5, dtype=torch.int32)},
    "position stride": {"positions": torch.zeros(3, 8, dtype=torch.int64)[:, :5]},
    "query heads": {"query": torch.zeros(5, 3, 64).half()},
    "query stride": {"query": wide[:, :4]},
    "dtypes": {"query": torch.zeros(5, 4, 64), "key": torch.zeros(5, 2, 64)},
    "key heads": {"key": torch.zeros(5, 1, 64).half()},
    "key stride": {"key": wide[:, 4:]},
    "no key": {"key": None},
    "table rows": {"cos_sin_cache": torch.zeros(17, 64)},
    "table dtype": {"cos_sin_cache": torch.zeros(16, 64).half()},
    "rotary": {"cos_sin_cache": torch.zeros(16, 32), "mrope_section": (4, 6, 6)},
    "pairing": {"is_neox_style": False},
    "section": {"mrope_section": (12, 10, 10)},
    "axis layout": {"mrope_section": (12, 10, 10), "mrope_interleaved": True},
    "backend": {"backend": "flashinfer"},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_geometry_is_checked_anew(name, backend):
    """One property at a time, and back again."""
    apply_rope_(**given())
    apply_rope_(**given(**OTHERS[name]))
    assert (backend.first, backend.repeated) == (2, 0)
    apply_rope_(**given())
    apply_rope_(**given(**OTHERS[name]))
    assert (backend.first, backend.repeated) == (2, 2)


def test_axis_layout_alone(backend):
    apply_rope_(**given(mrope_section=(12, 10, 10)))
    apply_rope_(**given(mrope_section=(12, 10, 10), mrope_interleaved=True))
    assert backend.first == 2


def test_out_of_place_and_the_other_way_are_geometries_of_their_own(backend):
    tensors = {name: x for name, x in given().items() if isinstance(x, torch.Tensor)}
    apply_rope_(**given())
    apply_rope(**given())
    for inverse in (False, True):
        ops.rotated(*tensors.values(), (True, SECTION, False, "triton"), inverse)
    assert (backend.first, backend.repeated) == (3, 1)
    assert backend.keywords["inverse"] is True


def test_the_knob_is_part_of_it(backend, monkeypatch):
    apply_rope_(**given())
    monkeypatch.setattr(knobs, "programmatic_dependent_launch", False)
    apply_rope_(**given())
    assert (backend.first, backend.repeated) == (2, 0)


def test_an_unwilling_repeat_is_not_made_again(backend):
    apply_rope_(**given())
    backend.willing = False
    apply_rope_(**given())
    assert (backend.first, backend.repeated) == (2, 1)
    backend.willing = True
    apply_rope_(**given())
    assert (backend.first, backend.repeated) == (2, 2)


def test_memory_is_bounded(backend, monkeypatch):
    monkeypatch.setattr(ops, "_MAX_GEOMETRIES", 3)
    for rows in range(1, 10):
        apply_rope_(**given(cos_sin_cache=torch.zeros(rows, 64)))
        assert len(ops._repeats) <= 3
    assert backend.first == 9


def test_wrong_arguments_leave_nothing(backend):
    for _ in range(2):
        with pytest.raises(ValueError, match="positions must be"):
            apply_rope_(**given(positions=torch.zeros(4, dtype=torch.int64)))
    assert not ops._repeats
    assert backend.first == 0


@pytest.mark.parametrize("name", ["triton", "native"])
@pytest.mark.usefixtures("interpreter")
def test_saved_tensors_are_known_to_have_changed(name):
    """In place on what another operation saved for its gradient: an error of autograd, never a wrong gradient."""
    weight = torch.ones(5, 4, 64, requires_grad=True)
    arguments = given(query=torch.randn(5, 4, 64), key=None, backend=name)
    for _ in range(2):  # also where the geometry is known
        product = weight * arguments["query"]
        apply_rope_(**arguments)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which forward_ad imports
@pytest.mark.usefixtures("interpreter")
def test_tangents_are_refused():
    for function in (apply_rope, apply_rope_):
        arguments = given(query=torch.randn(5, 4, 64), key=None)
        function(**arguments)  # a known geometry
        with forward_ad.dual_level():
            arguments["query"] = forward_ad.make_dual(arguments["query"], torch.randn(5, 4, 64))
            with pytest.raises(UnsupportedError, match="query has a tangent, only backend 'native'"):
                function(**arguments)
