"""Compiled kernels behind uqlib: NumPy arrays in, NumPy arrays out.

Nothing here imports `uqlib`. Importing this package imports Numba, which is why
`uqlib` imports it only where a kernel is about to run; no kernel is compiled before
its first call.
"""

from uqlib_kernels import (
    online,
    predictive,
    rank_bounds,
    rank_law,
    rows,
    sets,
    union,
    venn_abers,
)

__all__ = [
    "online",
    "predictive",
    "rank_bounds",
    "rank_law",
    "rows",
    "sets",
    "union",
    "venn_abers",
]
