"""Lazy access to the compiled row kernels; NumPy is the reference and the fall-back."""

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
    if size < KERNEL_MIN_SIZE:
        return None
    try:
        from uqlib_kernels import rows
    except ImportError:
        return None
    return rows
