"""Ensembles of trees and rows on which kernels must repeat the reference bit by bit."""

import numpy as np
from hypothesis import strategies as st

from uqlib.quantized._tree_assembly import CategorySplit, SourceTree, assemble
from uqlib.quantized._tree_bins import bins_of
from uqlib.quantized._tree_inputs import TreeInputs
from uqlib.quantized._tree_reference import raw_from_bins
from uqlib_kernels._tree_arrays import BinArrays, TreeArrays

ROW_COUNTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 1000)


def arrays(ensemble):
    """Return an ensemble as kernels take it."""
    columns = ensemble.columns
    trees = TreeArrays(*(getattr(ensemble, name) for name in TreeArrays._fields))
    return trees, BinArrays(*(getattr(columns, name) for name in BinArrays._fields))


def expected(ensemble, values):
    """Return what the reference predicts."""
    return raw_from_bins(ensemble, bins_of(ensemble.columns, values))


def assert_same(found, wanted):
    """Assert equality of type, shape and every bit but the sign of zero."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted)


def assert_repeats(kernel, ensemble, values, counts=ROW_COUNTS):
    """Assert that a kernel repeats the reference, for several numbers of rows."""
    before = values.copy()
    wanted = expected(ensemble, values)
    for count in counts:
        assert_same(kernel.raw(values[:count]), wanted[:count])
    np.testing.assert_array_equal(values, before)


def assert_any_layout(kernel, ensemble, values):
    """Assert that strides and flags do not matter, nor which rows are asked for."""
    wanted = expected(ensemble, values)
    frozen = values.copy()
    frozen.flags.writeable = False
    wide = np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)
    reversed_rows = np.ascontiguousarray(values[::-1])[::-1]
    for form in (frozen, np.asfortranarray(values), wide[::2, ::3], reversed_rows):
        for count in (1, 7, len(values)):
            assert_same(kernel.raw(form[:count]), wanted[:count])
    for form in (values, np.asfortranarray(values)):
        for start, stop in ((0, 0), (2, 3), (5, 100), (len(values) - 70, len(values))):
            out = np.full(wanted.shape, 7, dtype=wanted.dtype)
            kernel.fill(form, start, stop, out)
            assert_same(out[start:stop], wanted[start:stop])
            assert (out[:start] == 7).all()
            assert (out[stop:] == 7).all()


def random_tree(rng, pool, options):
    """Return a tree of up to `max_leaves` leaves, grown at random leaves."""
    n_leaves = int(rng.integers(1, options["max_leaves"] + 1))
    left, right, open_leaves = [-1], [-1], [0]
    while len(open_leaves) < n_leaves:
        at = int(rng.integers(len(open_leaves)))
        # Mostly the last leaf, now and then: chains are as deep as trees can be.
        at = -1 if options["chains"] else at
        node = open_leaves.pop(at)
        left[node], right[node] = len(left), len(left) + 1
        open_leaves += [len(left), len(left) + 1]
        left += [-1, -1]
        right += [-1, -1]
    size = len(left)
    threshold = rng.choice(pool, size)
    categories = {}
    for node in range(size if options["categories"] else 0):
        if left[node] >= 0 and rng.random() < 0.3:
            table = rng.integers(2, size=options["categories"], dtype=np.uint8)
            categories[node] = CategorySplit(table, int(rng.integers(2)))
    return SourceTree(
        left=np.array(left),
        right=np.array(right),
        feature=rng.integers(options["n_features"], size=size),
        threshold=threshold,
        missing=rng.choice(options["missing"], size),
        value=rng.standard_normal((size, options["width"])).astype(options["adds"]),
        output=int(rng.integers(options["n_outputs"])),
        categories=categories,
    )


def random_ensemble(seed, **changes):
    """Return an ensemble and rows that lie on, beside and far from its thresholds."""
    options = {
        "n_trees": 5,
        "max_leaves": 31,
        "n_features": 4,
        "n_thresholds": 20,
        "width": 1,
        "n_outputs": 1,
        "compares": "float64",
        "adds": "float64",
        "missing": (0,),
        "categories": 0,
        "divisor": 1,
        "chains": False,
    } | changes
    rng = np.random.default_rng(seed)
    compares = np.dtype(options["compares"])
    pool = rng.standard_normal(options["n_thresholds"]).astype(compares)
    pool[: min(3, len(pool))] = [0.0, np.inf, -1.0][: len(pool)]
    trees = [random_tree(rng, pool, options) for _ in range(options["n_trees"])]
    n_outputs = max(options["n_outputs"], options["width"])
    ensemble = assemble(
        trees,
        baseline=rng.standard_normal(n_outputs).astype(options["adds"]),
        link="identity",
        source="forest",
        inputs=TreeInputs(
            "sklearn", "Model", options["n_features"], dtype=compares.name
        ),
        source_nbytes=0,
        divisor=options["divisor"],
    )
    return ensemble, awkward_rows(rng, pool, (1000, options["n_features"]))


def awkward_rows(rng, pool, shape):
    """Return values on thresholds, beside them, missing, infinite, and zero."""
    values = rng.choice(pool, shape)
    aside = rng.choice(np.array([-9e30, 9e30], dtype=values.dtype), shape)
    beside = (rng.random(shape) < 0.3) & np.isfinite(values)
    values = np.where(beside, np.nextafter(values, aside), values)
    others = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.0, 2.7, -0.5, -1.0, 1e30, 70.0]
    where = rng.random(shape) < 0.3
    values[where] = rng.choice(np.array(others, dtype=values.dtype), where.sum())
    return values


# In which types values are compared and leaves are added: gradient boosting, forests,
# XGBoost. A kernel is compiled for each.
WIDTHS = (("float64", "float64"), ("float32", "float64"), ("float32", "float32"))


@st.composite
def ensembles(draw, max_leaves=100, max_trees=70, widths=WIDTHS):
    """Draw what `random_ensemble` returns."""
    width = draw(st.sampled_from([1, 1, 3]))
    compares, adds = draw(st.sampled_from(widths))
    return random_ensemble(
        draw(st.integers(0, 2**32 - 1)),
        n_trees=draw(st.integers(0, max_trees)),
        max_leaves=draw(st.integers(1, max_leaves)),
        n_features=draw(st.integers(1, 9)),
        n_thresholds=draw(st.sampled_from([1, 15, 16, 17, 40])),
        width=width,
        n_outputs=width if width > 1 else draw(st.sampled_from([1, 1, 4])),
        compares=compares,
        adds=adds,
        missing=draw(st.sampled_from([(0,), (0, 1), (2,), (3, 4), (0, 1, 2, 3, 4)])),
        categories=draw(st.sampled_from([0, 0, 5])),
        divisor=draw(st.sampled_from([1, 7])),
        chains=draw(st.booleans()),
    )
