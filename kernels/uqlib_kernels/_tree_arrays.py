"""Tree ensembles as plain arrays: what every tree kernel is made from.

All comparisons read `bin <= node_bin`: a row goes left where it holds. Which numbers
become which bins is told by `BinArrays`, so missing values, sets of categories, `<` and
the width of the floats are settled before a tree is looked at. With bins known,

    raw = (baseline + sum of the leaves that a row reaches, in the order of the trees)
          / divisor .
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEFT",
    "RIGHT",
    "ZERO",
    "ZERO_LEFT",
    "ZERO_RIGHT",
    "BinArrays",
    "TreeArrays",
    "TreeKernel",
    "bin_dtype",
]

# What a column does with a missing value; see `BinArrays.missing`.
RIGHT, LEFT, ZERO, ZERO_RIGHT, ZERO_LEFT = range(5)


class TreeArrays(NamedTuple):
    """Trees whose nodes compare bins.

    Nodes that split lie tree after tree, parents before children and left before right
    (preorder); leaves lie tree after tree from left to right. A child c >= 0 is node c
    of the same tree, a child c < 0 its leaf ~c. A tree without nodes is a single leaf.

    Attributes
    ----------
    node_start, leaf_start : ndarray of shape (n_trees + 1,)
        Where nodes and leaves of each tree begin, int32.
    node_column : ndarray of shape (n_nodes,)
        Column of bins that a node looks at, int32.
    node_bin : ndarray of shape (n_nodes,)
        Rows with a bin up to this one go left; uint8 or uint16.
    left, right : ndarray of shape (n_nodes,)
        Children, int32.
    leaf_value : ndarray of shape (n_leaves, leaf_width)
        float32 or float64, finite or not. A width above 1 is `n_outputs` and adds to
        all outputs.
    tree_output : ndarray of shape (n_trees,)
        Output to which a tree of width 1 adds, int32.
    baseline : ndarray of shape (n_outputs,)
        What the sum begins with, float32 or float64; its type is the one in which is
        added.
    divisor : int
        The sum is divided by it if it is above 1: trees that are averaged.
    """

    node_start: NDArray[np.int32]
    leaf_start: NDArray[np.int32]
    node_column: NDArray[np.int32]
    node_bin: NDArray[Any]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    leaf_value: NDArray[Any]
    tree_output: NDArray[np.int32]
    baseline: NDArray[Any]
    divisor: int


class BinArrays(NamedTuple):
    """Which columns of bins the trees look at and how they are made.

    A column of m thresholds t_0 < ... < t_{m-1} has bin(x) = #{k : t_k < x}. A missing
    value (NaN) has the bin m or 0, as `missing` says. A column with a table has the bin
    table[trunc(x)] for the categories -1 < x < size of the table.

    Attributes
    ----------
    feature : ndarray of shape (n_columns,)
        Feature of each column, int32.
    missing : ndarray of shape (n_columns,)
        uint8. 0 (RIGHT): bin m; 1 (LEFT): bin 0; 2 (ZERO): as the number 0; 3
        (ZERO_RIGHT) and 4 (ZERO_LEFT): as 0 and 1, and the number 0 is missing too. In
        a column with a table 1 gives bin 0 to all that the table does not hold, and
        everything else bin 1.
    threshold_start : ndarray of shape (n_columns + 1,)
        Where the thresholds of each column begin, int32.
    thresholds : ndarray of shape (n_thresholds,)
        Increasing within a column, maybe infinite; float32 or float64.
    table_start : ndarray of shape (n_columns + 1,)
        Where the table of each column begins, int32; empty for a column of numbers.
    tables : ndarray of shape (n_entries,)
        For each category 0 (goes left) or 1 (goes right), uint8.
    """

    feature: NDArray[np.int32]
    missing: NDArray[np.uint8]
    threshold_start: NDArray[np.int32]
    thresholds: NDArray[Any]
    table_start: NDArray[np.int32]
    tables: NDArray[np.uint8]


def bin_dtype(columns: BinArrays) -> type[np.uint8] | type[np.uint16]:
    """Return the type of the bins: uint8 where no column has above 255 thresholds."""
    counts = np.diff(columns.threshold_start)
    return np.uint8 if counts.max(initial=0) <= 255 else np.uint16


class TreeKernel:
    """What all kernels of trees have; a subclass says which trees it `takes`.

    Attributes
    ----------
    n_outputs : int
        Raw values of a row.
    dtype : dtype
        In which is added.
    """

    n_outputs: int
    dtype: Any

    def raw(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the raw predictions of rows.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_features)
            float32 or float64, of any strides.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            In the type of the baseline.
        """
        out = np.empty((len(values), self.n_outputs), dtype=self.dtype)
        self.fill(values, 0, len(values), out)
        return out

    def fill(
        self, values: NDArray[Any], start: int, stop: int, out: NDArray[Any]
    ) -> None:
        """Write the raw predictions of the rows start, ..., stop - 1.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_features)
            float32 or float64, of any strides.
        start, stop : int
            Rows.
        out : ndarray of shape (n_samples, n_outputs)
            C-contiguous, in the type of the baseline.
        """
        raise NotImplementedError
