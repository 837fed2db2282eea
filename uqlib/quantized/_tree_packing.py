"""Integers and the shapes of trees in as few bits as they need.

The shape of a tree costs one bit for each node and each leaf: in preorder, 1 for a node
that splits and 0 for a leaf, which tells children and where the tree ends.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib.quantized._packing import pack_codes, packed_size, unpack_codes
from uqlib.quantized._tree_assembly import starts
from uqlib.quantized._trees import Ints, TreeEnsemble


def demand(holds: bool, message: str) -> None:
    """Raise a `ValueError` unless a condition holds.

    Parameters
    ----------
    holds : bool
        The condition.
    message : str
        What is wrong otherwise.
    """
    if not holds:
        raise ValueError(message)


def bits_of(values: NDArray[Any]) -> int:
    """Return the bits of a stored integer: 1 to 8, 16 or 32.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        At least 0.

    Returns
    -------
    int
        Enough for the largest.
    """
    bits = max(1, int(values.max(initial=0)).bit_length())
    return bits if bits <= 8 else 16 if bits <= 16 else 32


def packed(values: NDArray[Any]) -> NDArray[Any]:
    """Return integers in `bits_of` them.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        At least 0.

    Returns
    -------
    ndarray of shape (n_bytes,) or (n_values,)
        Bytes up to 8 bits, else uint16 or uint32.
    """
    bits = bits_of(values)
    if bits > 8:
        return np.asarray(values, dtype=f"uint{bits}")
    return np.asarray(pack_codes(values.astype(np.uint8)[None, :], bits)[0])


def unpacked(stored: NDArray[Any], bits: int, size: int) -> NDArray[np.int64]:
    """Return what `packed` was given.

    Parameters
    ----------
    stored : ndarray of shape (n_bytes,) or (size,)
        Of any origin.
    bits : int
        Bits of an integer.
    size : int
        Number of integers.

    Returns
    -------
    ndarray of shape (size,)
        int64.
    """
    demand(stored.dtype.kind == "u", "codes are not unsigned")
    whole = packed_size((1, size), bits) if bits <= 8 else size
    demand(stored.shape == (whole,), "codes are cut or too long")
    if bits <= 8:
        stored = unpack_codes(stored[None, :], bits, size)[0]
    return np.asarray(stored, dtype=np.int64)


def smallest(values: NDArray[Any]) -> NDArray[Any]:
    """Return integers in the smallest unsigned type that holds them.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        At least 0.

    Returns
    -------
    ndarray of shape (n_values,)
        uint8, uint16 or uint32.
    """
    return np.asarray(values, dtype=np.min_scalar_type(int(values.max(initial=0))))


def shape_bits(ensemble: TreeEnsemble) -> NDArray[np.uint8]:
    """Return 1 for nodes and 0 for leaves in preorder, tree after tree.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.

    Returns
    -------
    ndarray of shape (n_nodes + n_leaves,)
        uint8.
    """
    bits: list[int] = []
    for first, last in zip(
        ensemble.node_start[:-1], ensemble.node_start[1:], strict=True
    ):
        left = ensemble.left[first:last].tolist()
        right = ensemble.right[first:last].tolist()
        waiting = [0 if left else -1]
        while waiting:
            node = waiting.pop()
            bits.append(int(node >= 0))
            waiting += [right[node], left[node]] if node >= 0 else []
    return np.array(bits, dtype=np.uint8)


def shape_from_bits(
    stored: NDArray[np.uint8], n_nodes: int, n_trees: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """Return where nodes and leaves begin, and the children of all nodes.

    Parameters
    ----------
    stored : ndarray of shape (n_bytes,)
        What `shape_bits` gives as bits of bytes; of any origin.
    n_nodes, n_trees : int
        Numbers of nodes that split and of trees.

    Returns
    -------
    node_start, leaf_start : ndarray of shape (n_trees + 1,)
        int32.
    left, right : ndarray of shape (n_nodes,)
        int32.
    """
    n_bits = 2 * n_nodes + n_trees  # a tree has one leaf more than nodes
    demand(stored.shape == (-(-n_bits // 8),), "the shape of the trees is cut")
    bits = iter(np.unpackbits(stored, count=n_bits).tolist())
    left, right, node_counts = [], [], []
    for _ in range(n_trees):
        children = _next_tree(bits)
        left += children[0]
        right += children[1]
        node_counts.append(len(children[0]))
    demand(len(left) == n_nodes, "the shape of the trees is inconsistent")
    counts = np.array(node_counts, dtype=np.int64)
    child = [np.array(side, dtype=np.int32) for side in (left, right)]
    return starts(counts), starts(counts + 1), child[0], child[1]


def _next_tree(bits: Iterator[int]) -> tuple[list[int], list[int]]:
    """Read one tree: the next bit belongs to the open place that was left last."""
    children: tuple[list[int], list[int]] = ([], [])
    places, n_leaves = [(-1, 0)], 0  # a parent and which of its children
    while places:
        parent, side = places.pop()
        is_node = next(bits, None)
        demand(is_node is not None, "the shape of the trees is inconsistent")
        number = len(children[0]) if is_node else ~n_leaves
        if parent >= 0:
            children[side][parent] = number
        if is_node:
            children[0].append(0)
            children[1].append(0)
            places += [(number, 1), (number, 0)]
        else:
            n_leaves += 1
    return children
