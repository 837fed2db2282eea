"""The operations of a GPU on emulated kernels: tensors and results are on the CPU.

Its library is the one that a GPU gets, binding included, compiled for the host; what
Python adds to operations (shapes for tracing, no gradient) is added here, too.
"""

import ctypes
import functools

import pytest
import torch

from tests.kernels.cuda._emulated import emulated_binding

NAMESPACE = "uqlib_kernels_emulated"
MULTIPROCESSORS = 132  # of an H100 or H200, by which kernels cut products
# The multiply-adds of a test: more take many seconds.
MOST_WORK = 5e7


@functools.cache
def operations():
    """The operations, with all that torch is told of those of a GPU."""
    from uqlib_kernels import _torch_ops, _torch_row_ops

    path = emulated_binding(torch)
    library = torch.library.Library(NAMESPACE, "DEF")
    operations.library = library  # operations go with it
    known = _torch_ops.PRODUCTS | _torch_row_ops.ROW_OPERATIONS
    _torch_ops.define(library, known, on_cpu=False)
    torch.ops.load_library(str(path))
    ctypes.CDLL(str(path)).uqlib_emulate(0, MULTIPROCESSORS)
    return getattr(torch.ops, NAMESPACE)


class Work:
    """The multiply-adds of a test so far, which an emulation takes long for."""

    def __init__(self):
        self.done = 0.0

    def add(self, x, weight):
        """Count a product; skip the rest of the test if all are too many."""
        self.done += x.numel() * weight.n_out
        if self.done > MOST_WORK:
            pytest.skip("too large for the emulation")


class NaNMemory:
    """While it is entered memory that torch hands out is NaN: no write is missed."""

    def __enter__(self):
        self.before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert torch.empty(3).isnan().all()

    def __exit__(self, *_):
        torch.use_deterministic_algorithms(self.before)
