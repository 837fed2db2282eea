"""The compiled union selection against the whole union and against NumPy's path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib._core import union_selection
from uqlib._core.union_selection import union_order_statistic
from uqlib_kernels.union import union_select

# The first call of a kernel compiles it, which no per-example deadline allows for.
relaxed = settings(deadline=None, max_examples=60)

DRAWS = {
    "tie-free": lambda rng, size: rng.normal(size=size),
    "ties": lambda rng, size: rng.integers(-3, 3, size=size).astype(float),
    "all equal": lambda rng, size: np.ones(size),
    "signed zeros": lambda rng, size: rng.choice([-0.0, 0.0, 1.0], size=size),
    "infinite": lambda rng, size: rng.choice([-np.inf, np.inf, 0.0, 1.0], size=size),
    "cancelling": lambda rng, size: rng.choice([0.1, 1e16, -1e16], size=size),
    "two heaps": lambda rng, size: (
        rng.choice([-1e6, 1e6], size=size) + rng.normal(size=size)
    ),
    "heavy tails": lambda rng, size: rng.standard_cauchy(size=size) ** 3,
}


def whole_union(bases, lists, rank, scales=None):
    """The order statistic of all sums, written out and sorted."""
    with np.errstate(invalid="ignore", over="ignore"):
        sums = []
        for k, values in enumerate(lists):
            product = np.broadcast_to(values, (len(bases), values.size))
            if scales is not None:
                product = scales[:, [k]] * values
                product = np.where(np.isnan(product), values, product)
            sums.append(bases[:, [k]] + product)
    sums = np.concatenate(sums, axis=1)
    return np.sort(np.where(np.isnan(sums), np.inf, sums), axis=1)[:, rank - 1] + 0.0


def same_bits(a, b):
    np.testing.assert_array_equal(a.view(np.uint64), b.view(np.uint64))


def select(bases, lists, rank, scales=None):
    stops = np.cumsum([values.size for values in lists])
    return union_select(bases, np.concatenate(lists), stops, rank, scales)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", DRAWS)
@relaxed
@given(
    seed=st.integers(0, 2**32 - 1),
    n_lists=st.integers(1, 7),
    longest=st.sampled_from([1, 4, 30, 300]),
    share=st.floats(0, 1),
)
def test_equals_the_whole_union_and_numpy_bit_for_bit(
    kind, scaled, seed, n_lists, longest, share
):
    rng = np.random.default_rng(seed)
    draw = DRAWS[kind]
    sizes = rng.integers(0, longest + 1, size=n_lists)
    sizes[0] += 1
    lists = [np.sort(draw(rng, size)) for size in sizes]
    bases = draw(rng, (5, n_lists))
    scales = np.abs(draw(rng, (5, n_lists))) if scaled else None
    rank = 1 + round(share * (sizes.sum() - 1))
    expected = whole_union(bases, lists, rank, scales)
    same_bits(select(bases, lists, rank, scales), expected)
    # So few sums are left to NumPy.
    same_bits(union_order_statistic(bases, lists, rank, scales), expected)


@pytest.mark.parametrize("kind", ["tie-free", "ties", "two heaps", "heavy tails"])
@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0, 1e4])
def test_long_lists_equal_the_numpy_path(monkeypatch, kind, spread):
    rng = np.random.default_rng(0)
    lists = [np.sort(DRAWS[kind](rng, size)) for size in (900, 1000, 40, 1)]
    bases = rng.normal(size=(300, 1)) + spread * rng.normal(size=(300, 4))
    scales = rng.uniform(0, 2, size=bases.shape)
    monkeypatch.setattr(union_selection, "compiled_kernels", lambda *_: None)
    for rank in (1, 2, 195, 971, 1746, 1941):
        for factors in (None, scales):
            same_bits(
                select(bases, lists, rank, factors),
                union_order_statistic(bases, lists, rank, factors),
            )


def test_large_problems_reach_the_kernel(monkeypatch):
    rng = np.random.default_rng(1)
    lists = [np.sort(rng.normal(size=200)) for _ in range(10)]
    bases = rng.normal(size=(2000, 10))
    asked = []

    def spy(name, size, *rest):
        asked.append(name)
        return compiled(name, size, *rest)

    compiled = union_selection.compiled_kernels
    monkeypatch.setattr(union_selection, "compiled_kernels", spy)
    result = union_order_statistic(bases, lists, 1800)
    assert asked == ["union"]
    assert compiled("union", bases.size * union_selection._SUMS_PER_LIST) is not None
    same_bits(result, whole_union(bases, lists, 1800))


def test_every_rank_of_lists_that_do_not_overlap():
    lists = [np.arange(100.0), np.arange(50.0), np.zeros(0)]
    bases = np.array([[0.0, 1000.0, 5.0], [1000.0, 0.0, 5.0], [0.0, 0.0, 5.0]])
    for rank in range(1, 151):
        same_bits(select(bases, lists, rank), whole_union(bases, lists, rank))


def test_any_layout_and_dtype():
    rng = np.random.default_rng(2)
    lists = [np.sort(rng.normal(size=40)) for _ in range(3)]
    bases = np.asfortranarray(rng.normal(size=(50, 6)))[:, ::2]
    bases.flags.writeable = False
    same_bits(select(bases, lists, 90), whole_union(bases, lists, 90))
    coarse = bases.astype(np.float32)
    same_bits(
        select(coarse, lists, 90), whole_union(coarse.astype(np.float64), lists, 90)
    )


def test_no_rows_give_no_values():
    assert select(np.empty((0, 2)), [np.ones(3)] * 2, 1).shape == (0,)


@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_out_of_range_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank={rank} must be between 1 and 6"):
        select(np.zeros((1, 2)), [np.ones(3)] * 2, rank)


@pytest.mark.parametrize(
    ("bases", "stops", "scales"),
    [
        (np.zeros((1, 3)), [3, 6], None),
        (np.zeros(2), [3, 6], None),
        (np.zeros((1, 2)), [3, 5], None),
        (np.zeros((1, 2)), [6, 3], None),
        (np.zeros((1, 2)), [3, 6], np.ones((2, 2))),
    ],
    ids=["columns", "one axis", "end", "decreasing", "scales"],
)
def test_shapes_that_do_not_fit_are_refused(bases, stops, scales):
    with pytest.raises(ValueError, match="must have one column for each of the 2"):
        union_select(bases, np.ones(6), np.array(stops), 1, scales)
