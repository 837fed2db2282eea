"""Tree ensembles of every library in one form that computes on small integers.

All comparisons of an ensemble read `bin <= node_bin`, whatever the library compares:
every feature that is split on becomes a column of bins (see `_tree_bins`), so missing
values, sets of categories, `<` and the width of the floats are settled before a tree
is looked at. A prediction is

    raw = (baseline + sum of the leaves that a row reaches, in the order of the trees)
          / divisor,

and a link makes it a mean, a class or probabilities (see `_tree_links`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._tree_inputs import TreeInputs

Bins = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Ints = NDArray[np.int32]

# What a column does with missing values. ZERO reads them as 0, ZERO_RIGHT and ZERO_LEFT
# take 0 for a missing value too.
RIGHT, LEFT, ZERO, ZERO_RIGHT, ZERO_LEFT = range(5)

LINKS = ("identity", "exp", "square", "logistic", "softmax", "average")
SOURCES = (
    "hist_gradient_boosting",
    "gradient_boosting",
    "forest",
    "lightgbm",
    "xgboost",
)
MAX_THRESHOLDS = 65535  # of a column: bins are at most 16 bits


class UnsupportedTreesError(ValueError):
    """A model that cannot be told exactly as a `TreeEnsemble`; the message says why."""


@dataclass(frozen=True, eq=False)
class BinColumns:
    """Which columns of bins the trees look at and how they are made.

    A feature has one column for each way in which its missing values go, and one for
    each set of categories. Columns are ordered by feature, then by `missing`.

    Parameters
    ----------
    feature : ndarray of shape (n_columns,)
        Feature of each column, int32.
    missing : ndarray of shape (n_columns,)
        RIGHT, LEFT, ZERO, ZERO_RIGHT or ZERO_LEFT, uint8. In a column of categories
        RIGHT or LEFT, for all that its table does not hold.
    threshold_start : ndarray of shape (n_columns + 1,)
        Where the thresholds of each column begin, int32.
    thresholds : ndarray of shape (n_thresholds,)
        Increasing within a column; float32 where the model compares in single
        precision, else float64.
    table_start : ndarray of shape (n_columns + 1,)
        Where the table of each column begins, int32; empty for a column of numbers.
    tables : ndarray of shape (n_entries,)
        For each category 0 (goes left) or 1 (goes right), uint8.
    """

    feature: Ints
    missing: NDArray[np.uint8]
    threshold_start: Ints
    thresholds: FloatArray
    table_start: Ints
    tables: NDArray[np.uint8]

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        return int(self.feature.size)

    @property
    def bin_dtype(self) -> type[np.uint8] | type[np.uint16]:
        """Type of a bin: a column of m thresholds has the bins 0, ..., m."""
        counts = np.diff(self.threshold_start)
        return np.uint8 if counts.max(initial=0) <= 255 else np.uint16

    def numbers(self, column: int) -> FloatArray:
        """Return the thresholds of a column, of shape (n_thresholds,)."""
        start, stop = self.threshold_start[column : column + 2]
        return self.thresholds[start:stop]

    def table(self, column: int) -> NDArray[np.uint8]:
        """Return the table of a column, of shape (n_categories,); may be empty."""
        start, stop = self.table_start[column : column + 2]
        return self.tables[start:stop]


@dataclass(frozen=True, eq=False)
class LeafGrid:
    """Leaves as integers: offset + code scale, one scale and offset for each tree.

    Parameters
    ----------
    codes : ndarray of shape (n_leaves, leaf_width)
        uint8 or uint16.
    scale : ndarray of shape (n_trees,)
        At least 0, float32.
    offset : ndarray of shape (n_trees,)
        Smallest leaf of each tree, float64.
    """

    codes: Bins
    scale: NDArray[np.float32]
    offset: NDArray[np.float64]

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 * self.codes.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """Trees whose nodes compare bins.

    Nodes that split lie tree after tree, parents before children and left before right
    (preorder); leaves lie tree after tree from left to right. A child c >= 0 is node c
    of the same tree, a child c < 0 its leaf ~c. A tree without nodes is a single leaf.

    Parameters
    ----------
    columns : BinColumns
        What the bins are.
    node_start, leaf_start : ndarray of shape (n_trees + 1,)
        Where nodes and leaves of each tree begin, int32.
    node_column : ndarray of shape (n_nodes,)
        Column that a node looks at, int32.
    node_bin : ndarray of shape (n_nodes,)
        Rows with a bin up to this one go left; in the type of the bins.
    left, right : ndarray of shape (n_nodes,)
        Children, int32.
    leaf_value : ndarray of shape (n_leaves, leaf_width)
        In the type in which the library adds. A width above 1 adds to all outputs.
    tree_output : ndarray of shape (n_trees,)
        Output (class) to which a tree of width 1 adds, int32.
    baseline : ndarray of shape (n_outputs,)
        What the sum begins with; its type is the one in which is added.
    divisor : int
        The sum is divided by it: trees that are averaged.
    link : {"identity", "exp", "square", "logistic", "softmax", "average"}
        From raw values to predictions; "average" if the raw values are probabilities.
    link_scale : float
        Factor of the raw values inside the link "logistic".
    source : {"hist_gradient_boosting", "gradient_boosting", "forest", "lightgbm", \
            "xgboost"}
        Whose rounding and ties are followed.
    inputs : TreeInputs
        How X is read.
    classes : ndarray of shape (n_classes,) or None
        None for a regressor.
    source_nbytes : int
        Bytes that the library itself holds for prediction.
    leaf_grid : LeafGrid or None
        None if leaf_value is exact.
    """

    columns: BinColumns
    node_start: Ints
    leaf_start: Ints
    node_column: Ints
    node_bin: Bins
    left: Ints
    right: Ints
    leaf_value: FloatArray
    tree_output: Ints
    baseline: FloatArray
    divisor: int
    link: str
    link_scale: float
    source: str
    inputs: TreeInputs
    classes: NDArray[np.generic] | None
    source_nbytes: int
    leaf_grid: LeafGrid | None = None

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return int(self.tree_output.size)

    @property
    def n_outputs(self) -> int:
        """Number of raw values of a row."""
        return int(self.baseline.size)

    @property
    def leaf_width(self) -> int:
        """Number of values in a leaf."""
        return int(self.leaf_value.shape[1])

    @property
    def leaf_counts(self) -> Ints:
        """Leaves of each tree, of shape (n_trees,)."""
        counts: Ints = np.diff(self.leaf_start)
        return counts

    def depths(self) -> Ints:
        """Return the largest number of nodes from root to leaf of each tree.

        Returns
        -------
        ndarray of shape (n_trees,)
            0 for a single leaf, int32.
        """
        nodes = zip(self.node_start[:-1], self.node_start[1:], strict=True)
        return np.array(
            [_depth(self.left[a:b], self.right[a:b]) for a, b in nodes], dtype=np.int32
        )


def _depth(left: Ints, right: Ints) -> int:
    """Depth of a tree: parents come before their children."""
    level = np.ones(left.size, dtype=np.int64)
    for node, children in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        for child in children:
            if child >= 0:
                level[child] = level[node] + 1
    return int(level.max(initial=0))
