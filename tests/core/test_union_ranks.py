"""Order statistics of a union of sorted, shifted lists against the whole union."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core import union_selection
from uqlib._core.union_selection import union_order_statistic

DRAWS = {
    "tie-free": lambda rng, size: rng.normal(size=size),
    "ties": lambda rng, size: rng.integers(-3, 3, size=size).astype(float),
    "infinite": lambda rng, size: rng.choice([-np.inf, np.inf, 0.0, 1.0], size=size),
    # Sums that are equal only after rounding.
    "cancelling": lambda rng, size: rng.choice([0.1, 1e16, -1e16], size=size),
}


def whole_union(bases, shifts, rank):
    """The order statistic of all sums, opposite infinities counted as +inf."""
    with np.errstate(invalid="ignore"):
        sums = np.concatenate(
            [bases[:, [k]] + values for k, values in enumerate(shifts)], axis=1
        )
    return np.sort(np.where(np.isnan(sums), np.inf, sums), axis=1)[:, rank - 1]


@pytest.mark.parametrize("kind", DRAWS)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_lists=st.integers(1, 7),
    longest=st.sampled_from([1, 4, 30, 300]),
    share=st.floats(0, 1),
)
def test_equals_the_whole_union(kind, seed, n_lists, longest, share):
    rng = np.random.default_rng(seed)
    draw = DRAWS[kind]
    sizes = rng.integers(0, longest + 1, size=n_lists)
    sizes[0] += 1
    shifts = [np.sort(draw(rng, size)) for size in sizes]
    bases = draw(rng, (5, n_lists))
    rank = 1 + round(share * (sizes.sum() - 1))
    np.testing.assert_array_equal(
        union_order_statistic(bases, shifts, rank), whole_union(bases, shifts, rank)
    )


def test_every_rank_of_lists_that_do_not_overlap():
    shifts = [np.arange(100.0), np.arange(50.0), np.zeros(0)]
    bases = np.array([[0.0, 1000.0, 5.0], [1000.0, 0.0, 5.0], [0.0, 0.0, 5.0]])
    for rank in range(1, 151):
        np.testing.assert_array_equal(
            union_order_statistic(bases, shifts, rank), whole_union(bases, shifts, rank)
        )


def test_blocks_of_rows_leave_no_seam(monkeypatch):
    rng = np.random.default_rng(0)
    shifts = [np.sort(rng.normal(size=40)) for _ in range(3)]
    bases = rng.normal(size=(101, 3))
    whole = union_order_statistic(bases, shifts, 90)
    monkeypatch.setattr(union_selection, "_BLOCK", 50)
    np.testing.assert_array_equal(union_order_statistic(bases, shifts, 90), whole)


def test_no_rows_give_no_values():
    assert union_order_statistic(np.empty((0, 2)), [np.ones(3)] * 2, 1).shape == (0,)
