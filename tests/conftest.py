"""Without a GPU, Triton's interpreter stands in for it; with one, kernels run for real and the interpreter is off."""

import os

import pytest

from benchmarks.gpu import reason_absent

NO_GPU = reason_absent()
if NO_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which no test file did yet


def pytest_collection_modifyitems(items):
    for item in items:
        if NO_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture
def interpreter():
    """Triton runs on CPU tensors."""
    if not NO_GPU:
        pytest.skip("Triton's interpreter is off on a machine with a GPU: test_gpu.py runs these cases")
