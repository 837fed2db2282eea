r"""Predictions of tree ensembles, computed on small integers and equal to the last bit.

Every feature that the trees look at becomes a column of small integers, its bins, which
loses nothing (`BinArrays` says how). Then

    raw[i] = (baseline + sum_t leaf_t(bins of row i)) / divisor ,

with the trees added in their order, in the type of the baseline and without fused
multiplications, so that all kernels here give the same bits. Which one runs depends on
the instructions that there are, on the trees and on the number of rows:

- *bit vectors*: all nodes of a tree are evaluated for 64 rows at once, six nodes at a
  time, whose bits number an entry of a table that says where a row goes on; for trees
  of at most 64 leaves;
- *trees in lanes*: for few rows the trees lie side by side in a vector, and each node
  clears the leaves that a row can no longer reach;
- *complete trees*: the upper levels of a tree are padded to a complete one, which 64
  rows pass at once before each walks on; for deep trees;
- *portable*: rows walk down in plain loops, for every machine and every tree.
"""

from importlib import import_module
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels import registry
from uqlib_kernels._threads import in_parts
from uqlib_kernels._tree_arrays import BinArrays, TreeArrays

__all__ = ["BinArrays", "CompiledTrees", "TreeArrays"]

_BLOCK = 512  # rows of a block; threads work on whole ones

BIT_VECTORS, LANES, COMPLETE, PORTABLE = (
    f"trees: {name}" for name in ("bit vectors", "in lanes", "complete", "portable")
)
_CLASSES = {
    BIT_VECTORS: ("_tree_bits", "BitVectorTrees"),
    LANES: ("_tree_lanes", "LaneTrees"),
    COMPLETE: ("_tree_complete", "CompleteTrees"),
    PORTABLE: ("_tree_portable", "PortableTrees"),
}
# For few rows and for many, best first, and up to how many rows the former is faster.
_FEW = (LANES, COMPLETE)
_MANY = (BIT_VECTORS, COMPLETE)
_FEW_ROWS = {
    (LANES, BIT_VECTORS): 7,
    (LANES, COMPLETE): 40,
    (COMPLETE, BIT_VECTORS): 2,
}
# Work of a node that a row visits and of a bin, in the unit of `_threads`.
_NODE_WORK = {BIT_VECTORS: 3, COMPLETE: 250, PORTABLE: 450}
_BIN_WORK = 250


class CompiledTrees:
    r"""Trees that predict raw values with the fastest kernel for them.

    .. math:: raw_i = \Bigl(b + \sum_t v_t(x_i)\Bigr) / m

    with the baseline :math:`b`, the leaf :math:`v_t(x_i)` that row :math:`x_i` reaches
    in tree :math:`t`, and the divisor :math:`m`.

    Parameters
    ----------
    trees : TreeArrays
        The trees; their arrays are not copied and must not change.
    columns : BinArrays
        What the bins of the trees are.
    level : {"amx", "vnni", "portable"}, default=None
        Instructions that may be used; None takes `registry.isa`.

    Attributes
    ----------
    level : str
        Instructions that may be used.

    Raises
    ------
    ValueError
        If the machine does not have that level, or no kernel takes such trees.

    See Also
    --------
    uqlib_kernels.registry.isa : The level of this process.

    Notes
    -----
    A kernel's own form of the trees is made when it first runs, once for all threads.
    Rows are shared among threads where there are enough of them, see
    `numba.set_num_threads`; neither their number nor the level changes a bit of the
    result. Of the kernels, the one of trees in lanes follows [1]_.

    References
    ----------
    .. [1] Lucchese et al. (2015). "QuickScorer: a Fast Algorithm to Rank Documents with
       Additive Ensembles of Regression Trees". SIGIR. doi:10.1145/2766462.2767733

    Examples
    --------
    A tree that gives 10 up to 0.5 and 20 above:

    >>> import numpy as np
    >>> from uqlib_kernels.trees import BinArrays, CompiledTrees, TreeArrays
    >>> ints = lambda *values: np.array(values, dtype=np.int32)
    >>> tree = TreeArrays(
    ...     ints(0, 1), ints(0, 2), ints(0), np.zeros(1, np.uint8), ints(-1), ints(-2),
    ...     np.array([[10.0], [20.0]]), ints(0), np.zeros(1), 1)
    >>> column = BinArrays(ints(0), np.zeros(1, np.uint8), ints(0, 1), np.array([0.5]),
    ...     ints(0, 0), np.empty(0, np.uint8))
    >>> CompiledTrees(tree, column).raw(np.array([[0.5], [0.7]])).ravel()
    array([10., 20.])
    """

    def __init__(
        self, trees: TreeArrays, columns: BinArrays, level: str | None = None
    ) -> None:
        self._trees, self._columns = trees, columns
        self.level = _checked(level)
        if not self.takes(trees, columns):
            raise ValueError(
                f"trees has {trees.node_bin.size} nodes on {columns.feature.size} "
                "columns, more than any kernel takes: split it in several."
            )
        self._few, self._many = self._first(_FEW), self._first(_MANY)
        self._few_rows = _FEW_ROWS.get((self._few, self._many), 0)
        self._row_work = _row_work(trees, columns, self._many)
        self._n_outputs = int(trees.baseline.size)
        self._dtype = trees.baseline.dtype
        self._made: dict[str, Any] = {}
        self._lock = Lock()

    @staticmethod
    def takes(trees: TreeArrays, columns: BinArrays) -> bool:
        """Return whether there is a kernel: up to 2^31 nodes and 8192 columns.

        Parameters
        ----------
        trees : TreeArrays
            The trees.
        columns : BinArrays
            What the bins of the trees are.

        Returns
        -------
        bool
            False where no kernel can take them.
        """
        return _class(PORTABLE).takes(trees, columns) is True

    def raw(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the raw values of rows.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_features)
            Features as numbers, float32 or float64 and of any strides; NaN where they
            are missing. Categories are their codes. Nothing is written to it.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            In the type of the baseline.
        """
        n_samples = len(values)
        out = np.empty((n_samples, self._n_outputs), self._dtype)
        name = self._few if n_samples <= self._few_rows else self._many
        try:
            kernel = self._made[name]
        except KeyError:
            kernel = self._make(name)
        if n_samples <= _BLOCK:
            if n_samples:
                kernel.fill(values, 0, n_samples, out)
            return out
        in_parts(
            lambda start, stop: kernel.fill(values, start, stop, out),
            n_samples,
            n_samples * self._row_work,
            multiple=_BLOCK,
        )
        return out

    def kernel(self, n_samples: int) -> str:
        """Return the name of the kernel that runs for a number of rows.

        Parameters
        ----------
        n_samples : int
            Number of rows.

        Returns
        -------
        {"trees: bit vectors", "trees: in lanes", "trees: complete", "trees: portable"}
            See the module.
        """
        return self._few if n_samples <= self._few_rows else self._many

    def _first(self, names: tuple[str, ...]) -> str:
        """Return the first kernel that takes these trees."""
        if self.level != "portable":
            for name in names:
                if _class(name).takes(self._trees, self._columns) is True:
                    return name
        return PORTABLE

    def _make(self, name: str) -> Any:
        with self._lock:
            if name not in self._made:
                self._made[name] = _class(name)(self._trees, self._columns)
            return self._made[name]

    def __reduce__(self) -> tuple[Any, ...]:
        # What kernels make of the trees is made anew where it arrives.
        return CompiledTrees, (self._trees, self._columns, self.level)


def _row_work(trees: TreeArrays, columns: BinArrays, name: str) -> float:
    """Return the work of a row among many: bit vectors visit all nodes, others paths.

    A path is taken to be as long as in a balanced tree.
    """
    n_leaves = np.diff(trees.leaf_start)
    paths = np.log2(np.maximum(1, n_leaves)).sum()
    n_nodes = trees.node_bin.size if name == BIT_VECTORS else paths
    return float(_NODE_WORK[name] * n_nodes + _BIN_WORK * columns.feature.size)


def _class(name: str) -> Any:
    # Imported when needed: a portable process never sees a vector instruction.
    module, kind = _CLASSES[name]
    return getattr(import_module(f"uqlib_kernels.{module}"), kind)


def _checked(level: str | None) -> str:
    if level is None:
        return registry.isa()
    if level not in registry.available_isas():
        raise ValueError(
            f"level={level!r} must be one of {list(registry.available_isas())}, which "
            "this machine has, or None for the best of them."
        )
    return level
