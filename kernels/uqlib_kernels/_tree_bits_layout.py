r"""Trees of few leaves laid out so that their nodes are looked up six at a time.

Let b_j be 1 if a row goes right at node j. Six nodes make a *group*: their bits form a
number below 64 for every row. A *piece* is a connected part of a tree within a group.
Which way a row leaves its piece is a function of the bits, so a table of 64 bytes tells
the *state* after it: a leaf, or the piece in which the row goes on. A row in the state
"piece p" takes its new state from the table of p; every other row keeps its own. With
pieces ordered from the root down, one pass over all of them ends in a leaf:

    state = table_root[bits of group 0]
    for the pieces p after the root, with group g(p):
        state = table_p[bits of group g(p)] where state == p .

A group may hold several pieces: they are disjoint, so a row is in at most one of them.

Six bits, since a permutation of the bytes of one vector register looks up 64 entries
for 64 rows in one instruction. Bits of nodes that a row does not meet are computed in
vain; no step depends on the data.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import TreeArrays
from uqlib_kernels._tree_binning_simd_plan import aligned_bytes
from uqlib_kernels._tree_bits_columns import MAX_BIN

__all__ = [
    "BLOCK",
    "CHUNK",
    "GROUP",
    "MAX_LEAVES",
    "MAX_PIECES",
    "Program",
    "tree_program",
]

BLOCK = 512  # rows of a block
GROUP = 6  # nodes whose bits are looked up together
MAX_LEAVES = 64
MAX_PIECES = 3  # of a group
CHUNK = 32  # trees whose leaves are found before any of them is added
_TABLE = 64
_HEAD = 64  # bytes of a group before its tables
_NO_PIECE = 255

Piece = list[int]  # nodes, the root first; the place in a group is the bit
Group = list[Piece]


def grouped(left: list[int], right: list[int]) -> list[Group]:
    """Return the nodes of a tree in groups of pieces.

    A group takes the largest subtree that waits, and of it small branches first: what
    is left over are then few large subtrees, whose pieces fill groups, rather than many
    single nodes, which take a table each. What room is left goes to subtrees that fit
    as a whole, the largest first.

    Parameters
    ----------
    left, right : list of int
        Children, negative for leaves; parents come before their children.

    Returns
    -------
    list of list of list of int
        Groups of pieces of nodes, so that a piece comes after that of its parent.
        Groups of few pieces come first where that allows it.
    """
    size = _sizes(left, right)
    waiting = [0] if left else []
    groups: list[Group] = []
    while waiting:
        group: Group = []
        room = GROUP
        while room and waiting and len(group) < MAX_PIECES:
            fitting = [node for node in waiting if size[node] <= room]
            among = fitting if group and fitting else waiting
            root = max(among, key=size.__getitem__)
            waiting.remove(root)
            piece, rest = _piece(root, left, right, size, room)
            room -= len(piece)
            waiting += rest
            group.append(piece)
        groups.append(group)
    return _few_pieces_first(groups, left, right)


def _sizes(left: list[int], right: list[int]) -> list[int]:
    """Return the number of nodes below and at every node."""
    size = [1] * len(left)
    for node in range(len(left) - 1, -1, -1):
        for child in (left[node], right[node]):
            if child >= 0:
                size[node] += size[child]
    return size


def _piece(
    root: int, left: list[int], right: list[int], size: list[int], room: int
) -> tuple[Piece, list[int]]:
    """Return up to `room` nodes from a root down, and those that hang below them."""
    piece: Piece = []
    open_nodes = [root]
    while open_nodes and len(piece) < room:
        node = min(open_nodes, key=size.__getitem__)
        open_nodes.remove(node)
        piece.append(node)
        open_nodes += [c for c in (left[node], right[node]) if c >= 0]
    return piece, open_nodes


def _few_pieces_first(
    groups: list[Group], left: list[int], right: list[int]
) -> list[Group]:
    home = {n: g for g, group in enumerate(groups) for piece in group for n in piece}
    parent = {c: n for n in home for c in (left[n], right[n]) if c >= 0}
    needs = [
        {home[parent[piece[0]]] for piece in group if piece[0] in parent} - {g}
        for g, group in enumerate(groups)
    ]
    order: list[int] = []
    rest = list(range(len(groups)))
    while rest:
        ready = [g for g in rest if needs[g].issubset(order)]
        order.append(min(ready, key=lambda g: len(groups[g])))
        rest.remove(order[-1])
    return [groups[g] for g in order]


def _table(
    piece: Piece,
    bit: dict[int, int],
    left: list[int],
    right: list[int],
    state_of: dict[int, int],
) -> NDArray[np.uint8]:
    """Return the state after a piece for all numbers of its group.

    `bit` tells the bit of each node of the piece, `state_of` the states of the pieces
    that begin at other nodes.
    """
    numbers = np.arange(_TABLE)
    states = np.empty(_TABLE, dtype=np.uint8)
    waiting = [(piece[0], np.ones(_TABLE, dtype=bool))]
    while waiting:
        node, here = waiting.pop()
        if node in bit:
            goes_right = (numbers >> bit[node] & 1).astype(bool)
            waiting.append((left[node], here & ~goes_right))
            waiting.append((right[node], here & goes_right))
        else:
            states[here] = state_of[node] if node >= 0 else ~node
    return states


class Program(NamedTuple):
    """Trees as the kernel reads them.

    Attributes
    ----------
    forms : ndarray of shape (n_chunks + n_trees, 4)
        int32. Of each chunk output, number of trees, row of the first tree here, and
        where the leaves begin in `code`. Then, in the order in which trees are walked,
        the place of the tree in its chunk and its number of groups of one, two and
        three pieces.
    code : ndarray of shape (n_bytes,)
        uint8: groups in the order in which trees are walked, then leaves in the order
        in which trees are added. A group has six pairs of the offset of a column and a
        bin repeated four times, then the states of three pieces repeated four times, 4
        bytes of nothing, and a table of 64 bytes for each piece. The leaves of a tree
        are the low and then the high halves of 32 values, in single precision just the
        values; there are two such tables if there are more than 32 leaves.
    n_chunks : int
        Number of chunks.
    n_tables : int
        1 if no tree has more than 32 leaves, else 2.
    """

    forms: NDArray[np.int32]
    code: NDArray[np.uint8]
    n_chunks: int
    n_tables: int


def tree_program(
    trees: TreeArrays, node_column: NDArray[np.int64], node_bin: NDArray[np.int64]
) -> Program:
    """Return trees as the kernel reads them.

    Parameters
    ----------
    trees : TreeArrays
        Of at most 64 leaves, with leaves of width 1.
    node_column, node_bin : ndarray of shape (n_nodes,)
        Of every node, from `with_small_bins`.

    Returns
    -------
    Program
        With chunks of one output each, outputs in their order.
    """
    n_tables = 1 if np.diff(trees.leaf_start).max(initial=0) <= MAX_LEAVES // 2 else 2
    chunks: list[list[int]] = []
    walked: list[list[int]] = []
    groups: list[NDArray[Any]] = []
    leaves: list[NDArray[Any]] = []
    for output, chunk in _chunks(trees):
        chunks.append([output, len(chunk), len(walked), len(leaves)])
        leaves += [_leaves(trees, tree, n_tables) for tree in chunk]
        walks = [_walk(trees, tree, node_column, node_bin) for tree in chunk]
        # Walks of the same form follow one another, so that the ends of loops over
        # their groups are predicted.
        for place in sorted(range(len(chunk)), key=lambda k: walks[k][0]):
            walked.append([place, *walks[place][0]])
            groups.append(walks[place][1])
    code, places = aligned_bytes([*groups, *leaves])
    for chunk in chunks:
        chunk[2] += len(chunks)
        chunk[3] = places[len(groups) + chunk[3]]
    forms = np.array(chunks + walked, dtype=np.int32).reshape(-1, 4)
    return Program(forms, code, len(chunks), n_tables)


def _chunks(trees: TreeArrays) -> Iterator[tuple[int, list[int]]]:
    """Yield outputs and some trees that add to them."""
    for output in range(trees.baseline.size):
        members = np.flatnonzero(trees.tree_output == output).tolist()
        for first in range(0, len(members), CHUNK):
            yield output, members[first : first + CHUNK]


def _leaves(trees: TreeArrays, tree: int, tables: int) -> NDArray[Any]:
    """Return the leaves of a tree as tables of 32-bit halves."""
    start, stop = trees.leaf_start[tree : tree + 2]
    dtype = trees.baseline.dtype
    values = np.zeros((tables, MAX_LEAVES // 2), dtype=dtype)
    values.reshape(-1)[: stop - start] = trees.leaf_value[start:stop, 0]
    halves = values.view(np.uint32).reshape(tables, MAX_LEAVES // 2, -1)
    return np.ascontiguousarray(np.moveaxis(halves, 2, 1))


def _walk(
    trees: TreeArrays,
    tree: int,
    node_column: NDArray[np.int64],
    node_bin: NDArray[np.int64],
) -> tuple[tuple[int, ...], NDArray[np.uint8]]:
    """Return the numbers of groups of one, two and three pieces, and the groups."""
    start, stop = trees.node_start[tree : tree + 2]
    left, right = trees.left[start:stop].tolist(), trees.right[start:stop].tolist()
    groups = grouped(left, right) or [[[]]]
    pieces = [piece for group in groups for piece in group if piece]
    state_of = {piece[0]: MAX_LEAVES + n for n, piece in enumerate(pieces)}
    # A group after one of more pieces gets as many, of which some are in no state.
    counts = np.maximum.accumulate([len(group) for group in groups])
    parts = []
    for group, n_pieces in zip(groups, counts.tolist(), strict=True):
        nodes = [node for piece in group for node in piece]
        at = start + np.array(nodes, dtype=np.int64)
        roots = [state_of[piece[0]] for piece in group if piece]
        parts.append(_head(node_column[at], node_bin[at], roots))
        tables = np.zeros((n_pieces, _TABLE), dtype=np.uint8)
        for table, piece in zip(tables, group, strict=False):
            if piece:
                bit = {node: nodes.index(node) for node in piece}
                table[:] = _table(piece, bit, left, right, state_of)
        parts.append(tables.reshape(-1))
    numbers = tuple(int((counts == n).sum()) for n in range(1, MAX_PIECES + 1))
    return numbers, np.concatenate(parts)


def _head(
    columns: NDArray[np.int64], bins: NDArray[np.int64], states: list[int]
) -> NDArray[np.uint8]:
    """Return the bytes of a group before its tables."""
    head = np.zeros((_HEAD // 4, 4), dtype=np.uint8)
    pairs = head[: 2 * GROUP].reshape(GROUP, 2, 4)
    offsets = (BLOCK * columns).astype(np.int32)
    pairs[: bins.size, 0] = offsets.view(np.uint8).reshape(-1, 4)
    pairs[: bins.size, 1] = bins[:, None]
    pairs[bins.size :, 1] = MAX_BIN  # no bin is above it
    pieces = head[2 * GROUP : 2 * GROUP + MAX_PIECES]
    pieces[:] = _NO_PIECE
    pieces[: len(states)] = np.array(states, dtype=np.uint8)[:, None]
    return head.reshape(-1)
