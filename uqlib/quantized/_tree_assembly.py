"""From the trees as a library holds them to a `TreeEnsemble`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._tree_inputs import TreeInputs
from uqlib.quantized._trees import (
    MAX_THRESHOLDS,
    BinColumns,
    Bins,
    Ints,
    TreeEnsemble,
    UnsupportedTreesError,
)


class CategorySplit(NamedTuple):
    """Which categories go left (0) and right (1), and where all others go."""

    table: NDArray[np.uint8]
    missing: int


@dataclass(frozen=True, eq=False)
class SourceTree:
    """A tree with nodes in any order, the root first.

    Parameters
    ----------
    left, right : ndarray of shape (n_nodes,)
        Children; negative in both for a leaf.
    feature : ndarray of shape (n_nodes,)
        Feature of each split.
    threshold : ndarray of shape (n_nodes,)
        A row goes left if its value is up to this one; in the width of the comparison.
    missing : ndarray of shape (n_nodes,)
        RIGHT, LEFT, ... of each split.
    value : ndarray of shape (n_nodes, leaf_width)
        Read at leaves.
    output : int
        Output to which the tree adds.
    categories : dict of int to CategorySplit
        The nodes that split categories.
    """

    left: NDArray[Any]
    right: NDArray[Any]
    feature: NDArray[Any]
    threshold: FloatArray
    missing: NDArray[Any]
    value: FloatArray
    output: int = 0
    categories: dict[int, CategorySplit] = field(default_factory=dict)


class _Order(NamedTuple):
    """Nodes in preorder, leaves from left to right, and children in these numbers."""

    nodes: NDArray[np.int64]
    leaves: NDArray[np.int64]
    left: Ints
    right: Ints


def assemble(
    trees: Sequence[SourceTree],
    *,
    baseline: FloatArray,
    link: str,
    source: str,
    inputs: TreeInputs,
    source_nbytes: int,
    classes: NDArray[Any] | None = None,
    divisor: int = 1,
    link_scale: float = 1.0,
) -> TreeEnsemble:
    """Return the trees with their thresholds as bins.

    Parameters
    ----------
    trees : sequence of SourceTree
        In the order in which they are added.
    baseline, link, source, inputs, source_nbytes, classes, divisor, link_scale
        See `TreeEnsemble`.

    Returns
    -------
    TreeEnsemble
        With exact leaves.
    """
    orders = [_preorder(tree) for tree in trees]
    columns, node_column, node_bin = _columns(trees, orders, inputs.dtype)
    return TreeEnsemble(
        columns=columns,
        node_start=starts([len(order.nodes) for order in orders]),
        leaf_start=starts([len(order.leaves) for order in orders]),
        node_column=node_column,
        node_bin=node_bin,
        left=_joined([order.left for order in orders]),
        right=_joined([order.right for order in orders]),
        leaf_value=_leaves(trees, orders, baseline),
        tree_output=np.array([tree.output for tree in trees], dtype=np.int32),
        baseline=baseline,
        divisor=divisor,
        link=link,
        link_scale=link_scale,
        source=source,
        inputs=inputs,
        classes=classes,
        source_nbytes=source_nbytes,
    )


def starts(counts: Any) -> Ints:
    """Return where runs of the given lengths begin, and where the last one ends.

    Parameters
    ----------
    counts : array-like of shape (n_runs,)
        Lengths.

    Returns
    -------
    ndarray of shape (n_runs + 1,)
        int32.
    """
    total = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return total.astype(np.int32)


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32)


def _leaves(
    trees: Sequence[SourceTree], orders: list[_Order], baseline: FloatArray
) -> FloatArray:
    parts = [tree.value[o.leaves] for tree, o in zip(trees, orders, strict=True)]
    if not parts:
        return np.empty((0, 1), dtype=baseline.dtype)
    return np.concatenate(parts).astype(baseline.dtype, copy=False)


def _preorder(tree: SourceTree) -> _Order:
    left, right = tree.left.tolist(), tree.right.tolist()
    order: list[int] = []
    leaves: list[int] = []
    children: list[list[int]] = [[], []]
    waiting = [(0, -1, 0)]  # node, its parent in the new order, which child it is
    while waiting:
        node, parent, side = waiting.pop()
        is_leaf = left[node] < 0
        number = ~len(leaves) if is_leaf else len(order)
        if parent >= 0:
            children[side][parent] = number
        if is_leaf:
            leaves.append(node)
            continue
        order.append(node)
        children[0].append(0)
        children[1].append(0)
        waiting += [(right[node], number, 1), (left[node], number, 0)]
    child = [np.array(side, dtype=np.int32) for side in children]
    return _Order(np.array(order, np.int64), np.array(leaves, np.int64), *child)


def _columns(
    trees: Sequence[SourceTree], orders: list[_Order], dtype: str
) -> tuple[BinColumns, Ints, Bins]:
    """Return the columns, and column and bin of every node."""
    pairs = list(zip(trees, orders, strict=True))
    feature = _all([tree.feature[order.nodes] for tree, order in pairs])
    missing = _all([tree.missing[order.nodes] for tree, order in pairs])
    threshold = np.concatenate(
        [np.empty(0, dtype), *(tree.threshold[order.nodes] for tree, order in pairs)]
    ).astype(dtype)
    table_key, tables = _distinct_tables(pairs, missing)
    found, node_column = np.unique(
        np.stack([feature, table_key, missing]), axis=1, return_inverse=True
    )
    node_column = node_column.reshape(-1)
    numbers, node_bin = _distinct_thresholds(
        threshold, node_column, found[1] > 0, dtype
    )
    columns = BinColumns(
        feature=found[0].astype(np.int32),
        missing=found[2].astype(np.uint8),
        threshold_start=starts([part.size for part in numbers]),
        thresholds=np.concatenate([np.empty(0, dtype), *numbers]),
        table_start=starts([tables[key].size for key in found[1]]),
        tables=np.concatenate([tables[0], *(tables[key] for key in found[1])]),
    )
    return columns, node_column.astype(np.int32), node_bin.astype(columns.bin_dtype)


def _all(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0), *parts]).astype(np.int64)


def _distinct_tables(
    pairs: list[tuple[SourceTree, _Order]], missing: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Return the table of every node as its place in a list that starts with none.

    The directions of nodes that split categories are written into `missing`.
    """
    keys = np.zeros(missing.size, dtype=np.int64)
    known: dict[bytes, int] = {b"": 0}
    first = 0
    for tree, order in pairs:
        for place, node in enumerate(order.nodes.tolist() if tree.categories else ()):
            if node in tree.categories:
                table, direction = tree.categories[node]
                keys[first + place] = known.setdefault(table.tobytes(), len(known))
                missing[first + place] = direction
        first += order.nodes.size
    return keys, [np.frombuffer(table, dtype=np.uint8) for table in known]


def _distinct_thresholds(
    threshold: FloatArray,
    node_column: NDArray[Any],
    is_table: NDArray[np.bool_],
    dtype: str,
) -> tuple[list[FloatArray], NDArray[np.int64]]:
    """Return the thresholds of every column and the place of every node's among them.

    Columns of categories have none: their bins are 0 and 1, and their nodes compare
    with 0.
    """
    node_bin = np.zeros(threshold.size, dtype=np.int64)
    numbers: list[FloatArray] = []
    by_column = np.argsort(node_column, kind="stable")
    stops = np.cumsum(np.bincount(node_column, minlength=is_table.size))
    for nodes, has_table in zip(
        np.split(by_column, stops[:-1]) if stops.size else [], is_table, strict=True
    ):
        if has_table:
            numbers.append(np.empty(0, dtype))
            continue
        distinct, node_bin[nodes] = np.unique(threshold[nodes], return_inverse=True)
        numbers.append(_checked_thresholds(distinct))
    return numbers, node_bin


def _checked_thresholds(distinct: FloatArray) -> FloatArray:
    if np.isnan(distinct).any():
        raise UnsupportedTreesError("a split compares with NaN")
    if distinct.size > MAX_THRESHOLDS:
        raise UnsupportedTreesError(
            f"a feature has {distinct.size} thresholds, more than the "
            f"{MAX_THRESHOLDS} that bins of 16 bits tell apart"
        )
    return distinct
