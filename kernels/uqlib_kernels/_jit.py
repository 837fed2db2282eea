"""The one way row kernels are compiled: cached where possible, never fast-math."""

from collections.abc import Callable
from threading import RLock
from typing import Any, TypeVar

from numba import config, njit

__all__ = ["only_form", "row_jit"]

_compiling = RLock()

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# No fast-math: it lets the compiler assume that infinities never occur, and an
# infinite bound is a legal answer here. error_model="numpy" divides as IEEE does
# instead of testing for zero and raising; nogil lets callers run rows in threads.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}


def row_jit(function: Kernel) -> Kernel:
    """Compile `function` on first call, keeping the machine code on disk if possible.

    Numba decides at decoration where the cache goes: `NUMBA_CACHE_DIR`, else
    `__pycache__` beside the source, else the user's cache directory. With none of
    them writable (a read-only installation run by a user without a home) it raises
    RuntimeError; the kernel is then compiled once a process instead.

    Parameters
    ----------
    function : callable
        A function in Numba's nopython subset.

    Returns
    -------
    callable
        The dispatcher; nothing is compiled before its first call.

    Examples
    --------
    >>> from uqlib_kernels._jit import row_jit
    >>> row_jit(lambda x: x + 1)(1)
    2
    """
    compiled: Any
    try:
        compiled = njit(function, cache=True, **_OPTIONS)
    except RuntimeError:
        compiled = njit(function, **_OPTIONS)
    return compiled


def only_form(kernel: Any, arguments: tuple[Any, ...]) -> Any:
    """Compile a kernel for one form of its arguments, and for no other from then on.

    Parameters
    ----------
    kernel : dispatcher
        Of `row_jit`.
    arguments : tuple of Numba's types
        What it is called with is converted to, as an array in C order to one of any
        strides.

    Returns
    -------
    dispatcher
        `kernel`.
    """
    if getattr(config, "DISABLE_JIT", 0):  # it is a function of Python
        return kernel
    with _compiling:  # one thread after the other: the first ends all compilation
        if tuple(arguments) not in kernel.overloads:
            kernel.compile(arguments)
            kernel.disable_compile()
    return kernel
