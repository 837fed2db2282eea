"""The compiled trees behind a quantized ensemble, and which kernel runs.

All that knows `uqlib_kernels.trees` is here, and it is imported inside functions: with
it comes Numba.
"""

from importlib import import_module
from typing import Any

from uqlib.quantized._layer_kernels import REFERENCE
from uqlib.quantized._trees import TreeEnsemble

_MANY_ROWS = 10_000  # of which a report speaks


def compiled_trees(
    ensemble: TreeEnsemble, backend: str, level: str | None = None
) -> Any | None:
    """Return the compiled trees that repeat the raw values of an ensemble.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    backend : {"auto", "numba", "reference"}
        Who computes.
    level : str, default=None
        Instructions of the compiled code; None takes the best.

    Returns
    -------
    CompiledTrees or None
        None where NumPy computes: for "reference", for more trees than the kernels
        take, and for "auto" where the compiled package cannot be imported. The result
        is the same.
    """
    if backend == REFERENCE:
        return None
    try:
        kernels = import_module("uqlib_kernels.trees")
    except ImportError:
        if backend == "auto":
            return None
        raise
    trees, columns = (
        kind(*(getattr(source, name) for name in kind._fields))
        for kind, source in (
            (kernels.TreeArrays, ensemble),
            (kernels.BinArrays, ensemble.columns),
        )
    )
    if not kernels.CompiledTrees.takes(trees, columns):
        return None
    return kernels.CompiledTrees(trees, columns, level)


def operation(ensemble: TreeEnsemble, backend: str) -> str:
    """Return the name of what predicts many rows.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    backend : {"auto", "numba", "reference"}
        Who computes.

    Returns
    -------
    str
        As "trees: bit vectors"; "reference" for NumPy.
    """
    compiled = compiled_trees(ensemble, backend)
    return REFERENCE if compiled is None else str(compiled.kernel(_MANY_ROWS))
