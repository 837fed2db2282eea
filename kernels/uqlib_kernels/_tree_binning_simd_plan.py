"""How columns of bins are made, laid out for the searches with vector instructions."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import (
    LEFT,
    RIGHT,
    ZERO,
    ZERO_LEFT,
    ZERO_RIGHT,
    BinArrays,
)

__all__ = [
    "BUCKET",
    "FIELDS",
    "PIVOTS",
    "SMALL",
    "BinPlan",
    "aligned_bytes",
    "bin_plan",
]

FIELDS = 12
BUCKET = 16  # entries of a bucket
PIVOTS = 32  # entries of a table of keys
SMALL = 31  # thresholds that fit in one table


class BinPlan(NamedTuple):
    """How columns of bins are made, for `bin_block`.

    Attributes
    ----------
    fields : ndarray of shape (1 + n_searches + n_targets + n_tables, 12)
        int64. The first row holds these three counts, the bytes of a threshold and the
        number of columns. Then come

        - searches, by feature: feature, kind of keys, number of levels, number of
          thresholds, first target, number of targets, then where keys, thresholds and
          the buckets of up to four levels begin in `data`. Bit 0 of the kind says that
          there are more than 31 thresholds, bit 1 that different numbers may have equal
          keys;
        - targets of searches: column, bin of missing values, whether the search gives
          another one, whether 0 is missing too;
        - columns with a table: column, feature, where the table begins, its size, bin
          of all other values.
    data : ndarray of shape (n_bytes,)
        uint8: keys, thresholds, buckets and tables, aligned to 64 bytes.
    """

    fields: NDArray[np.int64]
    data: NDArray[np.uint8]


def bin_plan(columns: BinArrays) -> BinPlan:
    """Return how columns are made; equal thresholds of a feature share their search.

    Parameters
    ----------
    columns : BinArrays
        At most 65535 thresholds a column.

    Returns
    -------
    BinPlan
        For numbers in the type of the thresholds.
    """
    searches: dict[tuple[int, bytes], list[int]] = {}
    with_table = []
    for column, feature in enumerate(columns.feature.tolist()):
        if _part(columns.table_start, columns.tables, column).size:
            with_table.append(column)
            continue
        numbers = _part(columns.threshold_start, columns.thresholds, column)
        searches.setdefault((feature, numbers.tobytes()), []).append(column)
    parts: list[NDArray[Any]] = []
    found: list[tuple[list[int], int]] = []
    targets: list[list[int]] = []
    for (feature, _), members in sorted(searches.items(), key=lambda item: item[0][0]):
        numbers = _part(columns.threshold_start, columns.thresholds, members[0])
        levels, (kind, keys) = _levels(numbers), _keys(numbers)
        row = [feature, kind, len(levels), numbers.size, len(targets), len(members)]
        found.append((row, len(parts)))
        parts += [keys, numbers, *levels, *[numbers[:0]] * (4 - len(levels))]
        targets += [_target(column, columns, numbers) for column in members]
    first_table = len(parts)
    parts += [_part(columns.table_start, columns.tables, c) for c in with_table]
    data, places = aligned_bytes(parts)
    tables = [
        _table_row(column, columns, place)
        for column, place in zip(with_table, places[first_table:], strict=True)
    ]
    size = columns.thresholds.dtype.itemsize
    rows = [
        [len(found), len(targets), len(tables), size, columns.feature.size],
        *(row + places[first : first + 6] for row, first in found),
        *targets,
        *tables,
    ]
    fields = np.zeros((len(rows), FIELDS), dtype=np.int64)
    for field, row in zip(fields, rows, strict=True):
        field[: len(row)] = row
    return BinPlan(fields, data)


def aligned_bytes(parts: list[NDArray[Any]]) -> tuple[NDArray[np.uint8], list[int]]:
    """Return arrays as one of bytes, each part beginning at a multiple of 64.

    Parameters
    ----------
    parts : list of ndarray
        C-contiguous.

    Returns
    -------
    data : ndarray of shape (n_bytes,)
        uint8, aligned to 64 bytes.
    places : list of int
        Where each part begins.
    """
    sizes = [-(-part.nbytes // 64) * 64 for part in parts]
    stops = np.cumsum([0, *sizes]).tolist()
    room = np.zeros(stops[-1] + 64, dtype=np.uint8)
    first = -room.ctypes.data % 64
    data = room[first : first + stops[-1]]
    for part, place in zip(parts, stops, strict=False):
        data[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
    return data, stops[:-1]


def _part(starts: NDArray[np.int32], values: NDArray[Any], column: int) -> NDArray[Any]:
    return values[starts[column] : starts[column + 1]]


def _levels(thresholds: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the buckets of every level, the top first."""
    levels: list[NDArray[Any]] = []
    entries = thresholds
    while True:
        n_buckets = entries.size // BUCKET + 1
        level = np.full(n_buckets * BUCKET, np.inf, dtype=thresholds.dtype)
        level[: entries.size] = entries
        levels.insert(0, level)
        if n_buckets == 1:
            return levels
        entries = level[BUCKET - 1 : -1 : BUCKET]


def _keys(thresholds: NDArray[Any]) -> tuple[int, NDArray[np.float32]]:
    """Return the kind of the keys of thresholds, and their tables."""
    if thresholds.size >= 8 * PIVOTS:  # not for bins of 8 bits
        return 0, np.empty(0, dtype=np.float32)
    keys = _rounded_up(thresholds)
    is_large, is_inexact = thresholds.size > SMALL, bool((keys != thresholds).any())
    table = np.full(8 * PIVOTS, np.inf, dtype=np.float32)
    table[: keys.size] = keys
    if is_large:  # pivots first, then what lies between them
        table = np.roll(table.reshape(PIVOTS, 8).T, 1, axis=0).reshape(-1)
    return int(is_large) + 2 * int(is_inexact), table


def _rounded_up(thresholds: NDArray[Any]) -> NDArray[np.float32]:
    """Return the smallest numbers in single precision that are not below."""
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
        above = np.nextafter(nearest, np.float32(np.inf), dtype=np.float32)
    return np.where(nearest < thresholds, above, nearest)


def _target(column: int, columns: BinArrays, thresholds: NDArray[Any]) -> list[int]:
    kind = int(columns.missing[column])
    zero = int(np.searchsorted(thresholds, thresholds.dtype.type(0), side="left"))
    bins = {RIGHT: thresholds.size, ZERO_RIGHT: thresholds.size, ZERO: zero}
    missing = bins.get(kind, 0)
    return [column, missing, int(missing > 0), int(kind in (ZERO_LEFT, ZERO_RIGHT))]


def _table_row(column: int, columns: BinArrays, place: int) -> list[int]:
    size = _part(columns.table_start, columns.tables, column).size
    other = 0 if columns.missing[column] == LEFT else 1
    return [column, int(columns.feature[column]), place, size, other]
