"""Work in parts: every item once, in as many threads as Numba's setting says."""

import os
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._public import ROOT
from uqlib_kernels import _threads
from uqlib_kernels._threads import SERIAL_WORK, in_parts, n_threads


@pytest.fixture
def four_threads(monkeypatch):
    """As on a machine with four threads, whatever this one has."""
    monkeypatch.setattr(numba, "get_num_threads", lambda: 4)


def parts_of(n_items, work, multiple=1):
    """The ranges that were handed out, in order."""
    parts = []
    in_parts(lambda *part: parts.append(part), n_items, work, multiple=multiple)
    return sorted(parts)


# ---------------------------------------------------------------------------
# Parts.


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("multiple", [1, 2, 32])
@pytest.mark.parametrize("n_items", [0, 1, 2, 3, 4, 5, 31, 32, 33, 64, 100, 1000])
def test_every_item_once(n_items, multiple):
    parts = parts_of(n_items, 100 * SERIAL_WORK, multiple)
    items = [i for start, stop in parts for i in range(start, stop)]
    assert items == list(range(n_items))
    assert len(parts) == max(1, min(4, -(-n_items // multiple)))
    assert all(start % multiple == 0 for start, _ in parts)
    if n_items >= 4 * multiple:
        blocks = [-(-(stop - start) // multiple) for start, stop in parts]
        assert max(blocks) - min(blocks) <= 1


@given(
    st.integers(0, 10_000),
    st.floats(0, 1e12),
    st.integers(1, 100),
)
def test_every_item_once_for_any_work(n_items, work, multiple):
    parts = parts_of(n_items, work, multiple)
    cuts = [0, *(stop for _, stop in parts)]
    assert [start for start, _ in parts] == cuts[:-1]
    assert cuts[-1] == n_items
    assert all(cut % multiple == 0 for cut in cuts[:-1])


@pytest.mark.usefixtures("four_threads")
def test_small_work_stays_in_this_thread():
    here = []
    in_parts(
        lambda *part: here.append((part, threading.get_ident())), 50, SERIAL_WORK - 1
    )
    assert here == [((0, 50), threading.get_ident())]


@pytest.mark.usefixtures("four_threads")
def test_large_work_does_not():
    # A part waits until all four have begun: they run at the same time.
    barrier = threading.Barrier(4, timeout=60)
    _use_pool_of(3)
    try:
        in_parts(lambda *_: barrier.wait(), 4, 100 * SERIAL_WORK)
    finally:
        _threads._pool.clear()


def _use_pool_of(size):
    pool = _threads.ThreadPoolExecutor(size, "test", _threads._begin_worker)
    _threads._pool[:] = [pool]


# ---------------------------------------------------------------------------
# How many.


@pytest.mark.usefixtures("four_threads")
def test_threads_grow_with_the_work():
    assert n_threads(0) == n_threads(SERIAL_WORK - 1) == 1
    assert n_threads(SERIAL_WORK) == 2
    assert n_threads(2 * SERIAL_WORK) == 3
    assert n_threads(1e18) == 4


@pytest.mark.skipif(
    numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread here"
)
def test_obeys_numba():
    before = numba.get_num_threads()
    try:
        for count in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(count)
            assert n_threads(1e18) == count
    finally:
        numba.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_workers_do_not_wait_for_one_another():
    # One worker: it would wait for itself if its kernel handed parts to the pool.
    _use_pool_of(1)
    found = []

    def outer(start, stop):
        for i in range(start, stop):
            in_parts(lambda a, b, i=i: found.append((i, a, b)), 1, 1e18)
        assert threading.current_thread() is threading.main_thread() or (
            n_threads(1e18) == 1
        )

    try:
        in_parts(outer, 8, 1e18)
    finally:
        _threads._pool.clear()
    assert sorted(found) == [(i, 0, 1) for i in range(8)]


# ---------------------------------------------------------------------------
# Errors.


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("failing", range(4))
def test_errors_of_a_part_come_out_after_all_have_ended(failing):
    ended = []

    def kernel(start, stop):
        try:
            if start == failing:
                raise ZeroDivisionError(f"part {start}")
        finally:
            ended.append(start)

    with pytest.raises(ZeroDivisionError, match=f"part {failing}"):
        in_parts(kernel, 4, 1e18)
    assert sorted(ended) == [0, 1, 2, 3]
    assert parts_of(4, 1e18) == [(0, 1), (1, 2), (2, 3), (3, 4)]  # still in order


# ---------------------------------------------------------------------------
# Processes.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_works_in_a_forked_child():
    script = """
import os
import sys
import warnings
import numba
from uqlib_kernels import _threads

numba.get_num_threads = lambda: 4
found = []
_threads.in_parts(lambda a, b: found.append(b - a), 100, 1e18)
assert sum(found) == 100 and len(found) == 4
warnings.simplefilter("ignore")  # some versions of Python warn of forks
child = os.fork()
if child == 0:
    found.clear()
    _threads.in_parts(lambda a, b: found.append(b - a), 100, 1e18)
    os._exit(0 if sum(found) == 100 and len(found) == 4 else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    run(script)


def test_numba_s_variable_is_obeyed():
    script = """
from uqlib_kernels._threads import n_threads
assert n_threads(1e18) == 1
"""
    run(script, NUMBA_NUM_THREADS="1")


def run(script, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "kernels")} | variables
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_parts_write_into_arrays_of_the_caller():
    out = np.zeros(1000)

    def kernel(start, stop):
        out[start:stop] += np.arange(start, stop)

    in_parts(kernel, 1000, 1e18, multiple=7)
    np.testing.assert_array_equal(out, np.arange(1000))
