"""Set kernels against plain NumPy: bitwise, whatever the shape of a row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib_kernels import sets as set_kernels
from uqlib_kernels.sets import label_masses, mass_sets, top_sets


def rounded(proba):
    return (proba.astype(np.float64) + 1.0) - 1.0


def score_matrix(proba, u, k_reg, penalty):
    """Scores by a full sort of each row."""
    order = np.argsort(-proba.astype(np.float64), axis=1, kind="stable")
    own = np.take_along_axis(rounded(proba), order, axis=1)
    before = np.cumsum(own, axis=1) - own
    excess = np.maximum(0.0, np.arange(1, proba.shape[1] + 1) - k_reg)
    scores = np.empty_like(own)
    ranked = before + u[:, None] * own + penalty * excess
    np.put_along_axis(scores, order, ranked, axis=1)
    return scores


def ranks(proba):
    order = np.argsort(-proba.astype(np.float64), axis=1, kind="stable")
    return np.argsort(order, axis=1)


def rows_of(kind, n_samples, n_classes, rng):
    if kind == "equal":  # one bucket holds the whole row
        return np.full((n_samples, n_classes), 1 / n_classes)
    if kind == "counts":  # ties and zeros
        return rng.multinomial(9, np.full(n_classes, 1 / n_classes), n_samples) / 9
    if kind == "one_hot":
        return np.eye(n_classes)[rng.integers(0, n_classes, n_samples)]
    # Up to scale 300 most probabilities are below 2^-54, many of them subnormal or 0.
    logits = float(kind) * rng.normal(size=(n_samples, n_classes))
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    return proba / proba.sum(axis=1, keepdims=True)


KINDS = ["equal", "counts", "one_hot", "0.01", "1", "10", "300"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [1, 2, 3, 33, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_full_sort(kind, n_classes, dtype):
    rng = np.random.default_rng(n_classes)
    proba = rows_of(kind, 60, n_classes, rng).astype(dtype)
    original, rows = proba.copy(), np.arange(60)
    labels = rng.integers(0, n_classes, 60)
    before, n_before = label_masses(proba, labels)
    np.testing.assert_array_equal(n_before, ranks(proba)[rows, labels])
    for u in (np.ones(60), np.zeros(60), rng.random(60)):
        for k_reg, penalty in ((0, 0.0), (2, 0.01), (0, 3.0)):
            scores = score_matrix(proba, u, k_reg, penalty)
            own = rounded(proba)[rows, labels]
            alone = before + u * own + penalty * np.maximum(0.0, n_before + 1 - k_reg)
            np.testing.assert_array_equal(alone, scores[rows, labels])
            threshold = scores[rows, labels].copy()
            threshold[:20] = rng.random(20)
            threshold[20:24] = [np.inf, -np.inf, 1.0, 0.0]
            inside = mass_sets(proba, threshold, u, k_reg, penalty)
            np.testing.assert_array_equal(inside, scores <= threshold[:, None])
    size = rng.integers(-1, n_classes + 2, 60)
    np.testing.assert_array_equal(top_sets(proba, size), ranks(proba) < size[:, None])
    np.testing.assert_array_equal(proba, original)


# Powers of two and their neighbors: the edges of the buckets, and those of the range.
edges = st.integers(-60, -1).map(lambda e: 2.0**e)
values = st.one_of(
    edges,
    edges.map(lambda v: np.nextafter(v, 0.0)),
    edges.map(lambda v: np.nextafter(v, 1.0)),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-310, 1e-16]),
    st.floats(0, 0.5),
)


@given(st.lists(values, min_size=1, max_size=40), st.floats(0, 1), st.integers(0, 39))
def test_at_the_edges_of_the_buckets(row, u, label):
    total = sum(row)
    proba = np.array([row]) / max(1.0, total)  # sums need only stay below 2
    scores = score_matrix(proba, np.array([u]), 1, 1e-3)
    threshold = scores[:, label % len(row)]
    inside = mass_sets(proba, threshold, np.array([u]), 1, 1e-3)
    np.testing.assert_array_equal(inside, scores <= threshold[:, None])


def test_a_probability_may_be_a_little_above_one():
    proba = np.array([[1.0005, 0.0, 0.0], [1.0, 0.0005, 0.0]])
    scores = score_matrix(proba, np.ones(2), 0, 0.0)
    for t in np.unique(scores):
        inside = mass_sets(proba, np.full(2, t), np.ones(2))
        np.testing.assert_array_equal(inside, scores <= t)


def test_rows_are_cut_into_blocks_anywhere(monkeypatch):
    proba = rows_of("1", 50, 7, np.random.default_rng(0))
    threshold, u = np.full(50, 0.8), np.ones(50)
    whole = mass_sets(proba, threshold, u)
    monkeypatch.setattr(set_kernels, "_BLOCK_BYTES", 3 * 7 * 8)
    np.testing.assert_array_equal(mass_sets(proba, threshold, u), whole)


def test_layouts_do_not_matter():
    proba = rows_of("1", 40, 12, np.random.default_rng(0))
    threshold, u = np.full(40, 0.8), np.ones(40)
    whole, labels = mass_sets(proba, threshold, u), np.arange(40) % 12
    for other in (np.asfortranarray(proba), np.repeat(proba, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(mass_sets(other, threshold, u), whole)
        np.testing.assert_array_equal(
            label_masses(other, labels)[0], label_masses(proba, labels)[0]
        )
    proba.flags.writeable = False
    np.testing.assert_array_equal(mass_sets(proba, threshold, u), whole)


def test_no_rows():
    assert mass_sets(np.empty((0, 3)), np.empty(0), np.empty(0)).shape == (0, 3)
    assert label_masses(np.empty((0, 3)), np.empty(0, dtype=np.intp))[0].size == 0


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((2, 2), dtype=int)])
def test_other_arrays_are_refused(bad):
    with pytest.raises(TypeError, match="2-D array of float32 or float64"):
        mass_sets(bad, np.ones(len(bad)), np.ones(len(bad)))
