"""Run a kernel on parts of its work in threads.

Kernels release the interpreter's lock, so Python's own threads serve: they can be
started from any thread and any child process, which Numba's pools cannot, and no second
pool of spinning threads competes with those of torch and BLAS.

How many threads there are is Numba's setting: ``numba.set_num_threads``, the variable
``NUMBA_NUM_THREADS``, and with it joblib, which sets that variable in its processes.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numba

__all__ = ["SERIAL_WORK", "in_parts", "n_threads"]

# Handing work to a thread that sleeps costs some 100 microseconds: below this many
# products of bytes, which take three times as long, one thread does it all.
SERIAL_WORK = 2**27

_pool: list[ThreadPoolExecutor] = []
_this_thread = threading.local()


def n_threads(work: float) -> int:
    """Return the number of threads for some work.

    Parameters
    ----------
    work : float
        Products of bytes in vectors, or what takes as long.

    Returns
    -------
    int
        At least 1; exactly 1 in a thread that was started here, which would otherwise
        wait for itself.
    """
    if work < SERIAL_WORK or getattr(_this_thread, "is_worker", False):
        return 1
    return max(1, min(int(numba.get_num_threads()), int(work // SERIAL_WORK) + 1))


def in_parts(
    kernel: Callable[..., Any], n_items: int, work: float, *, multiple: int = 1
) -> None:
    """Call ``kernel(start, stop)`` for parts of the items, in threads where it pays.

    Parameters
    ----------
    kernel : callable (start, stop) -> None
        Works on the items start, ..., stop - 1; releases the lock.
    n_items : int
        Number of items.
    work : float
        Work of all items together, in the unit of `n_threads`.
    multiple : int, default=1
        Parts begin at multiples of it.

    Raises
    ------
    Exception
        Whatever a part raises, once all parts have ended.
    """
    parts = min(n_threads(work), max(1, -(-n_items // multiple)))
    if parts == 1:
        kernel(0, n_items)
        return
    blocks = -(-n_items // multiple)
    cuts = [min(n_items, multiple * (blocks * k // parts)) for k in range(parts + 1)]
    waiting = [
        _threads().submit(kernel, start, stop) for start, stop in pairwise(cuts[1:])
    ]
    try:
        kernel(cuts[0], cuts[1])
    finally:
        # They write into arrays of the caller: none may outlive the call.
        wait(waiting)
    for future in waiting:
        future.result()


def _threads() -> ThreadPoolExecutor:
    if not _pool:
        settings: Any = numba.config
        size = max(1, settings.NUMBA_NUM_THREADS - 1)
        _pool.append(ThreadPoolExecutor(size, "uqlib_kernels", _begin_worker))
    return _pool[0]


def _begin_worker() -> None:
    _this_thread.is_worker = True


# The threads of a pool do not live on in a forked child.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)
