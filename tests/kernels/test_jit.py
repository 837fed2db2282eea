"""Kernels compile with or without a place to cache the machine code."""

import pytest

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


@pytest.mark.parametrize("value", [1, 2.5])
def test_compiles(value):
    assert _jit.row_jit(add_one)(value) == value + 1
