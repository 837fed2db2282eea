"""Kernels compile with or without a place to cache the machine code."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from numba import types

from uqlib_kernels import _jit


def add_one(x):
    return x + 1


def test_compiles_without_a_cache_location(monkeypatch):
    options = []

    def njit(function, **given):
        options.append(given)
        if given.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return function

    monkeypatch.setattr(_jit, "njit", njit)
    assert _jit.row_jit(add_one)(1) == 2
    assert [given.get("cache", False) for given in options] == [True, False]
    assert not any(given["fastmath"] for given in options)


def test_a_function_of_python_needs_no_form(monkeypatch):
    monkeypatch.setattr(_jit.config, "DISABLE_JIT", 1)
    kernel = _jit.row_jit(add_one)
    assert _jit.only_form(kernel, (types.float64,))(1) == 2


@pytest.mark.parametrize("value", [1, 2.5])
def test_compiles(value):
    assert _jit.row_jit(add_one)(value) == value + 1


def test_threads_that_need_a_kernel_at_once_all_get_it():
    kernel, n_threads = _jit.row_jit(lambda x: x + 2), 4
    start = Barrier(n_threads)

    def use(value):
        start.wait()
        return _jit.only_form(kernel, (types.float64,))(value)

    with ThreadPoolExecutor(n_threads) as pool:
        assert list(pool.map(use, range(n_threads))) == [2.0, 3.0, 4.0, 5.0]
    assert kernel.signatures == [(types.float64,)]
