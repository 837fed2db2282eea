"""Lazy access to the compiled kernels; NumPy is the reference and the fall-back."""

from importlib import import_module
from types import ModuleType

# Below this many elements NumPy answers before compiled code is even imported.
KERNEL_MIN_SIZE = 2**17


def row_kernels(size: int) -> ModuleType | None:
    """Return `uqlib_kernels.rows` for large problems, None where NumPy serves.

    Parameters
    ----------
    size : int
        Number of elements of the quantile matrix.

    Returns
    -------
    module or None
        None also where the compiled package cannot be imported: the result is the
        same, only slower.
    """
    return compiled_kernels("rows", size)


def compiled_kernels(
    name: str, size: int, min_size: int | None = None
) -> ModuleType | None:
    """Return a module of `uqlib_kernels` for large problems, None where NumPy serves.

    Parameters
    ----------
    name : str
        The public module of `uqlib_kernels`.
    size : int
        Number of elementary steps of the problem.
    min_size : int, default=None
        Below it NumPy answers before compiled code is even imported; None takes
        `KERNEL_MIN_SIZE`.

    Returns
    -------
    module or None
        None also where the compiled package cannot be imported: the result is the
        same, only slower.
    """
    if size < (KERNEL_MIN_SIZE if min_size is None else min_size):
        return None
    try:
        return import_module(f"uqlib_kernels.{name}")
    except ImportError:
        return None
