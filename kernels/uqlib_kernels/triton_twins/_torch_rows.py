"""Rows of quantiles and of probabilities, each as its definition says; see the package.

A program takes a row, in a block of a power of two of its columns.
"""

# Triton reads the bodies of kernels, and their annotations but for constants must be
# absent.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl

from uqlib_kernels.triton_twins._torch_maps import row_index

__all__ = ["isotonic_kernel", "mass_kernel", "sort_kernel"]


@triton.jit
def sort_kernel(q, out, found_nan, n_levels, BLOCK: tl.constexpr):
    """Write each value at its rank: how many are smaller, or equal and before it."""
    row = row_index(tl.program_id(0), n_levels)
    k = tl.arange(0, BLOCK)
    value = tl.load(q + row + k, mask=k < n_levels, other=0.0)
    rank = tl.zeros((BLOCK,), tl.int32)
    for j in range(n_levels):
        other = tl.load(q + row + j)
        rank += ((other < value) | ((other == value) & (j < k))).to(tl.int32)
    tl.store(out + row + rank, value, mask=k < n_levels)
    tl.store(found_nan + 0 * k, 1, mask=value != value)


@triton.jit
def isotonic_kernel(q, weight, out, n_levels, BLOCK: tl.constexpr):
    """Pool the first two neighbors that decrease, until none do."""
    row = row_index(tl.program_id(0), n_levels)
    k = tl.arange(0, BLOCK)
    inside = k < n_levels
    given = tl.load(q + row + k, mask=inside, other=0.0).to(tl.float64)
    level_weight = tl.load(weight + k, mask=inside, other=0.0)
    value, pool = tl.where(inside, given, float("inf")), k
    # `pool` is the first level of the pool of a level; `second` begins the later one.
    before = tl.gather(value, tl.maximum(k - 1, 0), axis=0)
    second = tl.min(tl.where(value < before, k, BLOCK), axis=0)
    while second < BLOCK:
        first = tl.sum(tl.where(k == second - 1, pool, 0), axis=0)
        both = (pool == first) | (pool == second)
        total = tl.sum(tl.where(both, level_weight * given, 0.0), axis=0)
        mean = total / tl.sum(tl.where(both, level_weight, 0.0), axis=0)
        value, pool = tl.where(both, mean, value), tl.where(both, first, pool)
        before = tl.gather(value, tl.maximum(k - 1, 0), axis=0)
        second = tl.min(tl.where(value < before, k, BLOCK), axis=0)
    tl.store(out + row + k, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def mass_kernel(
    proba,
    threshold,
    u,
    penalty,
    sets,
    k_reg,
    n_classes,
    BLOCK: tl.constexpr,
):
    """Score each label by the masses of all that are ranked before it."""
    i = tl.program_id(0)
    row = row_index(i, n_classes)
    label = tl.arange(0, BLOCK)
    own = tl.load(proba + row + label, mask=label < n_classes, other=0.0).to(tl.float64)
    mass = tl.zeros((BLOCK,), tl.float64)
    rank = tl.zeros((BLOCK,), tl.int32) + 1
    for j in range(n_classes):
        other = tl.load(proba + row + j).to(tl.float64)
        is_before = (other > own) | ((other == own) & (j < label))
        mass += tl.where(is_before, (other + 1.0) - 1.0, 0.0)
        rank += is_before.to(tl.int32)
    excess = tl.maximum(rank - k_reg, 0).to(tl.float64)
    score = mass + tl.load(u + i) * ((own + 1.0) - 1.0) + tl.load(penalty) * excess
    inside = (score <= tl.load(threshold + i)).to(tl.int8)
    tl.store(sets + row + label, inside, mask=label < n_classes)
