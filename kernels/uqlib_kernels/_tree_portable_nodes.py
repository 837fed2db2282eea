r"""Nodes of 8 bytes, in which a leaf is its own child.

Every node, leaves included, has a place; the two children of a node lie side by side,
so that one step of a row is

    place = child(node) + (bin of the node's column > bin of the node) .

With a node as the number

    2^32 child + 2^16 (2^16 - 1 - bin of the node) + 8 column

and bins multiplied by 2^16, the sum of node and bin carries into the child exactly if
the row goes right, so that a step is two loads, an addition and a shift. Columns are
multiplied by 8 because rows lie in tiles of 8, all of whose bins in a column are side
by side.

A leaf compares with the largest bin and names itself as its child: rows that have
arrived stay, so all rows of a tree take the same number of steps and nothing branches.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import BinArrays, TreeArrays

__all__ = [
    "BIN_SHIFT",
    "CHILD_SHIFT",
    "MAX_COLUMNS",
    "TILE",
    "PackedNodes",
    "node_levels",
    "pack_nodes",
    "packs",
]

# Where bins and children begin in a node.
BIN_SHIFT, CHILD_SHIFT = 16, 32
TILE = 8  # rows of a tile
MAX_COLUMNS = (1 << BIN_SHIFT) // TILE
_TOP_BIN = (1 << (CHILD_SHIFT - BIN_SHIFT)) - 1


class PackedNodes(NamedTuple):
    """The nodes of all trees.

    Attributes
    ----------
    nodes : ndarray of shape (n_places,)
        uint64; bits as above.
    leaf_of : ndarray of shape (n_places,)
        Row of `leaf_value` of the leaf at a place, uint32; 0 at a node that splits.
    roots : ndarray of shape (n_trees,)
        Place of each root, int64.
    depths : ndarray of shape (n_trees,)
        Steps that reach every leaf, int64.
    """

    nodes: NDArray[np.uint64]
    leaf_of: NDArray[np.uint32]
    roots: NDArray[np.int64]
    depths: NDArray[np.int64]


def packs(trees: TreeArrays, columns: BinArrays) -> bool:
    """Return whether columns and places fit into the bits of a node."""
    n_places = 2 * trees.node_bin.size + trees.tree_output.size
    return columns.feature.size <= MAX_COLUMNS and n_places < 1 << 32


def pack_nodes(trees: TreeArrays) -> PackedNodes:
    """Return the nodes of trees.

    Node k of a tree has its children at the places 2 k + 1 and 2 k + 2 of the tree.
    Since nodes come in preorder, a walk to the left stays in a cache line.

    Parameters
    ----------
    trees : TreeArrays
        For which `packs` is true.

    Returns
    -------
    PackedNodes
        Holds copies.
    """
    n_trees, n_nodes = trees.tree_output.size, trees.node_bin.size
    roots = 2 * trees.node_start[:-1].astype(np.int64) + np.arange(n_trees)
    tree_of = np.repeat(np.arange(n_trees), np.diff(trees.node_start))
    pair = 2 * np.arange(n_nodes) + tree_of + 1
    bits = (_TOP_BIN - trees.node_bin.astype(np.uint64)) << np.uint64(BIN_SHIFT)
    bits |= TILE * trees.node_column.astype(np.uint64)
    bits |= pair.astype(np.uint64) << np.uint64(CHILD_SHIFT)

    n_places = 2 * n_nodes + n_trees
    nodes = np.arange(n_places, dtype=np.uint64) << np.uint64(CHILD_SHIFT)
    leaf_of = np.zeros(n_places, dtype=np.uint32)
    for side, child in enumerate((trees.left, trees.right)):
        splits = child >= 0
        place, tree = pair + side, tree_of
        nodes[place[splits]] = bits[child[splits] + trees.node_start[tree[splits]]]
        leaf_of[place[~splits]] = ~child[~splits] + trees.leaf_start[tree[~splits]]
    sizes = np.diff(trees.node_start)
    nodes[roots[sizes > 0]] = bits[trees.node_start[:-1][sizes > 0]]
    leaf_of[roots[sizes == 0]] = trees.leaf_start[:-1][sizes == 0]
    return PackedNodes(nodes, leaf_of, roots, _tree_depths(trees))


def node_levels(trees: TreeArrays) -> NDArray[np.int32]:
    """Return the number of nodes above each node, of shape (n_nodes,)."""
    level = np.zeros(trees.node_bin.size, dtype=np.int32)
    tree_of = np.repeat(np.arange(trees.tree_output.size), np.diff(trees.node_start))
    front = trees.node_start[:-1][np.diff(trees.node_start) > 0].astype(np.int64)
    depth = 0
    while front.size:
        level[front] = depth
        parts = [
            child[front] + trees.node_start[tree_of[front]]
            for child in (trees.left, trees.right)
        ]
        inner = [trees.left[front] >= 0, trees.right[front] >= 0]
        front = np.concatenate([p[i] for p, i in zip(parts, inner, strict=True)])
        depth += 1
    return level


def _tree_depths(trees: TreeArrays) -> NDArray[np.int64]:
    depths = np.zeros(trees.tree_output.size, dtype=np.int64)
    tree_of = np.repeat(np.arange(depths.size), np.diff(trees.node_start))
    np.maximum.at(depths, tree_of, node_levels(trees) + 1)
    return depths
