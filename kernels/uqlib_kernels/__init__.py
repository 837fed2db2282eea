"""Compiled kernels behind uqlib: NumPy arrays in, NumPy arrays out.

Nothing here imports `uqlib`. Importing this package imports Numba, which is why
`uqlib` imports it only where a kernel is about to run; no kernel is compiled before
its first call.
"""

from uqlib_kernels import (
    cuda,
    mlp,
    online,
    ops,
    pack,
    predictive,
    rank_bounds,
    rank_law,
    registry,
    rows,
    sets,
    torch_ops,
    trees,
    triton_twins,
    union,
    venn_abers,
)

__all__ = [
    "cuda",
    "mlp",
    "online",
    "ops",
    "pack",
    "predictive",
    "rank_bounds",
    "rank_law",
    "registry",
    "rows",
    "sets",
    "torch_ops",
    "trees",
    "triton_twins",
    "union",
    "venn_abers",
]
