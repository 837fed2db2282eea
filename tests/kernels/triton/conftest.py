"""The twins, each as a function that Triton's interpreter runs."""

from functools import partial
from types import SimpleNamespace

import pytest

from tests.kernels.triton._worker import call, worker
from uqlib_kernels import triton_twins


@pytest.fixture(scope="session")
def twins():
    """Functions of `triton_twins`, interpreted in another process."""
    names = set(triton_twins.__all__) - {"ArrangedTensors"}
    with worker({"TRITON_INTERPRET": "1"}) as pool:
        yield SimpleNamespace(
            **{name: partial(call, pool, getattr(triton_twins, name)) for name in names}
        )
