"""Label scores and sets: the definitions, the bitwise contract, every edge."""

from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core._rows import both_paths
from uqlib._core import kernels, label_ranking
from uqlib._core.label_checks import nine_digits
from uqlib.conformal import (
    aps_scores,
    aps_sets,
    lac_scores,
    lac_sets,
    margin_scores,
    margin_sets,
    raps_scores,
    raps_sets,
    saps_scores,
    saps_sets,
    topk_scores,
    topk_sets,
)

RNG = np.random.default_rng(5)
DETERMINISTIC = {"lac": (lac_scores, lac_sets), "margin": (margin_scores, margin_sets)}
RANDOMIZED = {
    "aps": (aps_scores, aps_sets),
    "raps": (raps_scores, raps_sets),
    "saps": (saps_scores, saps_sets),
    "topk": (topk_scores, topk_sets),
}
ALL = {**DETERMINISTIC, **RANDOMIZED}


@contextmanager
def routed(path):
    """Send everything through the compiled kernels, or nothing."""
    size = 0 if path == "kernels" else 2**62
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            label_ranking,
            "compiled_kernels",
            lambda name, n: kernels.compiled_kernels(name, n, size),
        )
        yield


@pytest.fixture
def path(request):
    with routed(request.param):
        yield request.param


on_both_paths = pytest.mark.parametrize("path", both_paths.args[1], indirect=True)


def softmax_rows(n_samples, n_classes, scale=1.0, seed=0):
    logits = scale * np.random.default_rng(seed).normal(size=(n_samples, n_classes))
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    return proba / proba.sum(axis=1, keepdims=True)


def exact_scores(name, p, u=1, k_reg=1, penalty=0.01, rank_weight=0.2):
    """Scores of all labels of one row from the definition, in rational numbers."""
    p, u = [Fraction(float(v)) for v in p], Fraction(float(u))
    scores = []
    for y, own in enumerate(p):
        first = [j for j in range(len(p)) if (-p[j], j) < (-own, y)]
        others = [v for j, v in enumerate(p) if j != y]
        before, rank = sum(p[j] for j in first), len(first) + 1
        scores.append(
            {
                "lac": lambda own=own: 1 - own,
                "margin": lambda own=own, o=others: max(o, default=0) - own,
                "aps": lambda b=before, own=own: b + u * own,
                "raps": lambda b=before, own=own, r=rank: (
                    b + u * own + Fraction(penalty) * max(0, r - k_reg)
                ),
                "topk": lambda r=rank: r - 1 + u,
                "saps": lambda r=rank: (
                    u * max(p)
                    if r == 1
                    else max(p) + (r - 2 + u) * Fraction(rank_weight)
                ),
            }[name]()
        )
    return scores


def all_scores(function, proba, **parameters):
    """Scores of all labels, one column at a time."""
    n_samples, n_classes = np.shape(proba)
    columns = [
        function(proba, np.full(n_samples, y), **parameters) for y in range(n_classes)
    ]
    return np.column_stack(columns)


@on_both_paths
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n_classes", [1, 2, 5, 40])
def test_scores_follow_their_definition(name, n_classes, path):
    proba = softmax_rows(12, n_classes, seed=n_classes)
    proba[::3] = RNG.multinomial(6, np.full(n_classes, 1 / n_classes), size=4) / 6
    draws = [None] if name in DETERMINISTIC else [None, RNG.random(12)]
    for u in draws:
        extra = {} if u is None else {"u": u}
        shares = np.ones(12) if u is None else u
        expected = [
            exact_scores(name, p, share) for p, share in zip(proba, shares, strict=True)
        ]
        scores = all_scores(ALL[name][0], proba, **extra)
        np.testing.assert_allclose(scores, np.array(expected, float), atol=1e-14)


# Few distinct values, zeros, and everything in between; rows of weights that are
# divided by their sum, so that ties remain ties.
weights = st.one_of(st.integers(0, 3).map(float), st.floats(0, 1, width=32))


@st.composite
def proba_and_more(draw):
    """Probabilities, a share u and a row of labels whose scores are thresholds."""
    n_classes = draw(st.integers(1, 12))
    rows = draw(
        st.lists(
            st.lists(weights, min_size=n_classes, max_size=n_classes),
            min_size=1,
            max_size=4,
        )
    )
    matrix = np.array(rows)
    matrix[matrix.sum(axis=1) < 1e-3, 0] = 1.0
    proba = matrix / matrix.sum(axis=1, keepdims=True)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    label = draw(st.integers(0, n_classes - 1))
    share = draw(st.sampled_from([0.0, 0.3, 1.0]) | st.floats(0, 1))
    return proba.astype(dtype), label, share


@both_paths
@pytest.mark.parametrize("name", ALL)
@given(example=proba_and_more(), shift=st.sampled_from([-1, 0, 1]))
def test_a_label_is_in_exactly_when_its_own_score_is_small_enough(
    name, path, example, shift
):
    proba, label, share = example
    score, sets = ALL[name]
    extra = {} if name in DETERMINISTIC else {"u": share}
    with routed(path):
        scores = all_scores(score, proba, **extra)
        threshold = scores[:, label]  # a tie in every row ...
        if shift:  # ... or the next float
            threshold = np.nextafter(threshold, shift * np.inf)
        inside = sets(proba, threshold, **extra)
    np.testing.assert_array_equal(inside, scores <= threshold[:, None])
    if shift >= 0:
        assert inside[:, label].all()
    assert inside.dtype == bool


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0, 60.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_paths_are_bitwise_equal_at_many_classes(name, scale, dtype, monkeypatch):
    pytest.importorskip("uqlib_kernels.sets")
    proba = softmax_rows(200, 1000, scale, seed=3).astype(dtype)
    score, sets = ALL[name]
    labels = RNG.integers(0, 1000, 200)
    extra = {} if name in DETERMINISTIC else {"u": RNG.random(200)}
    fast = score(proba, labels, **extra)
    inside = sets(proba, fast, **extra)
    monkeypatch.setattr(label_ranking, "compiled_kernels", lambda *_: None)
    np.testing.assert_array_equal(fast, score(proba, labels, **extra))
    np.testing.assert_array_equal(inside, sets(proba, fast, **extra))
    assert inside[np.arange(200), labels].all()


@on_both_paths
def test_masses_do_not_depend_on_the_order_of_the_classes(path):
    proba = softmax_rows(50, 300, 3.0)
    order = RNG.permutation(300)
    for name, (score, sets) in ALL.items():
        extra = {} if name in DETERMINISTIC else {"u": 0.37}
        labels = RNG.integers(0, 300, 50)
        place = np.argsort(order)[labels]
        scores = score(proba, labels, **extra)
        np.testing.assert_array_equal(scores, score(proba[:, order], place, **extra))
        inside = sets(proba, scores, **extra)
        moved = sets(proba[:, order], scores, **extra)
        np.testing.assert_array_equal(inside[:, order], moved)


@on_both_paths
@pytest.mark.parametrize("name", ALL)
def test_sets_grow_with_the_threshold_along_the_ranking(name, path):
    proba = softmax_rows(30, 25, 2.0)
    _, sets = ALL[name]
    ranking = np.argsort(-proba, axis=1, kind="stable")
    before = np.zeros(proba.shape, dtype=bool)
    for threshold in [-np.inf, -0.1, 0.0, 0.2, 0.7, 0.95, 1.0, 1.5, 3.0, 9.0, np.inf]:
        inside = sets(proba, threshold)
        assert (before <= inside).all()
        ranked = np.take_along_axis(inside, ranking, axis=1)
        assert (np.diff(ranked.astype(int), axis=1) <= 0).all()
        before = inside
    assert not sets(proba, -np.inf).any()
    assert sets(proba, np.inf).all()


def test_identities():
    proba, labels = softmax_rows(40, 6), RNG.integers(0, 6, 40)
    for score, _ in RANDOMIZED.values():
        np.testing.assert_array_equal(
            score(proba, labels), score(proba, labels, u=np.ones(40))
        )
        half = score(proba, labels, u=0.5)
        assert (half <= score(proba, labels)).all()
    np.testing.assert_array_equal(
        raps_scores(proba, labels, penalty=0.0), aps_scores(proba, labels)
    )
    np.testing.assert_array_equal(
        raps_scores(proba, labels, k_reg=6, penalty=9.0), aps_scores(proba, labels)
    )
    rank = topk_scores(proba, labels)
    np.testing.assert_array_equal(
        raps_scores(proba, labels, k_reg=2, penalty=0.25),
        aps_scores(proba, labels) + 0.25 * np.maximum(0, rank - 2),
    )
    assert set(rank) <= set(range(1, 7))
    for k in range(8):
        np.testing.assert_array_equal(
            topk_sets(proba, k).sum(axis=1), np.full(40, min(k, 6))
        )


@on_both_paths
def test_ties_are_ranked_by_index(path):
    proba = [[0.25, 0.25, 0.25, 0.25]]
    assert all_scores(aps_scores, proba).tolist() == [[0.25, 0.5, 0.75, 1.0]]
    assert all_scores(topk_scores, proba).tolist() == [[1, 2, 3, 4]]
    assert all_scores(margin_scores, proba).tolist() == [[0, 0, 0, 0]]
    assert aps_sets(proba, 0.5).tolist() == [[True, True, False, False]]


@on_both_paths
def test_zero_probabilities_share_the_score_of_the_last_positive_one(path):
    # Some libraries give huge or wrong sets here. Mass 1 is reached with them all.
    proba = [[0.5, 0.0, 0.5, -0.0], [1.0, 0.0, 0.0, 0.0]]
    assert all_scores(aps_scores, proba).tolist() == [[0.5, 1, 1, 1], [1, 1, 1, 1]]
    below_one = np.nextafter(1.0, 0.0)
    expected = [[True, False, False, False], [False] * 4]
    assert aps_sets(proba, below_one).tolist() == expected
    assert aps_sets(proba, 1.0).all()
    # A penalty parts them, and so does the rank.
    raps = all_scores(raps_scores, proba, k_reg=2, penalty=0.5)
    assert raps.tolist() == [[0.5, 1.5, 1.0, 2.0], [1.0, 1.0, 1.5, 2.0]]
    assert topk_sets(proba, 2).tolist() == [
        [True, False, True, False],
        [True, True, False, False],
    ]


def test_dtypes_and_layouts_do_not_matter():
    proba = softmax_rows(60, 9).astype(np.float32)
    labels = RNG.integers(0, 9, 60)
    wide = proba.astype(np.float64)
    strided = np.asfortranarray(np.repeat(wide, 2, axis=0))[::2]
    for score, sets in ALL.values():
        scores = score(wide, labels)
        for other in (proba, strided, wide.tolist()):
            np.testing.assert_array_equal(score(other, labels.tolist()), scores)
            np.testing.assert_array_equal(sets(other, scores), sets(wide, scores))


def test_one_hot_integers_no_rows_and_one_class():
    one_hot = np.eye(3, dtype=int)
    assert all_scores(aps_scores, one_hot).tolist() == [[1, 1, 1]] * 3
    for score, sets in ALL.values():
        assert score(np.empty((0, 3)), np.empty(0, dtype=int)).shape == (0,)
        assert sets(np.empty((0, 3)), 0.5).shape == (0, 3)
        assert sets([[1.0]], 1.0).tolist() == [[True]]
    assert margin_scores([[1.0]], [0]) == -1.0  # no label is better than it


def test_inputs_are_left_alone():
    proba, labels = softmax_rows(20, 5), RNG.integers(0, 5, 20)
    kept, u = proba.copy(), RNG.random(20)
    threshold = np.full(20, 0.5)
    for name, (score, sets) in ALL.items():
        extra = {} if name in DETERMINISTIC else {"u": u}
        score(proba, labels, **extra)
        sets(proba, threshold, **extra)[:] = True
    np.testing.assert_array_equal(proba, kept)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_probabilities_of_low_precision_sum_to_one(dtype):
    proba = softmax_rows(300, 1000, 2.0).astype(dtype)
    assert np.abs(proba.sum(axis=1, dtype=float) - 1).max() > 0
    lac_scores(proba, np.zeros(300, dtype=int))


GOOD = np.full((4, 2), 0.5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], r"row 2 sums to 1\.1\. Divide rows by their sum"),
        ([0.5, 0.498], "row 2 sums to 0.998"),
        ([50.0, 50.0], "row 2 sums to 100"),
        ([1.5, -0.5], "row 2 contains .*-0.5.*, a negative value. Logits"),
        ([0.5, np.nan], "row 2 contains NaN or infinity. Remove such rows"),
        ([np.inf, -np.inf], "row 2 contains NaN or infinity"),
        ([0.5, np.inf], "row 2 contains NaN or infinity"),
    ],
)
def test_what_is_no_probability_is_named(row, message):
    proba = GOOD.copy()
    proba[2] = row
    for score, sets in ALL.values():
        with pytest.raises(ValueError, match=message):
            score(proba, np.zeros(4, dtype=int))
        with pytest.raises(ValueError, match=message):
            sets(proba, 0.5)


def test_a_bad_row_is_named_in_a_later_block():
    proba = softmax_rows(400, 1000)
    proba[333] *= 2
    with pytest.raises(ValueError, match="row 333 sums to 2"):
        aps_sets(proba, 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"proba": [0.5, 0.5]}, r"got shape \(2,\)"),
        ({"proba": np.empty((3, 0))}, "at least one column"),
        ({"y": [0, 1, 2, 0]}, "from 0 to 1, got 2 in row 2"),
        ({"y": [0, -1, 0, 0]}, "got -1 in row 1"),
        ({"y": [0, 1]}, r"must have shape \(4,\).* got shape \(2,\)"),
        ({"y": list("abab")}, r"column indices.*np.searchsorted\(classes, y\)"),
        ({"y": [0.0, 1.0, 0.0, 0.0]}, "values of type float64"),
        ({"u": 1.5}, r"u must lie in \[0, 1\], got 1.5"),
        ({"u": [0.5, np.nan, 0, 0]}, "u must lie in"),
        ({"u": [0.5, 0.5]}, "u must be a number or have shape"),
        ({"k_reg": -1}, "k_reg must be an integer.*got -1"),
        ({"k_reg": 1.5}, "k_reg must be an integer.*got 1.5"),
        ({"penalty": -0.1}, "penalty must be a finite number >= 0, got -0.1"),
        ({"penalty": np.nan}, "penalty must be a finite number"),
        ({"penalty": np.inf}, "penalty must be a finite number"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    given = {"proba": GOOD, "y": [0, 1, 0, 1], **arguments}
    with pytest.raises(ValueError, match=message):
        raps_scores(given.pop("proba"), given.pop("y"), **given)


def test_bad_thresholds_and_weights_are_named():
    for _, sets in ALL.values():
        with pytest.raises(ValueError, match="threshold contains NaN"):
            sets(GOOD, np.nan)
        with pytest.raises(ValueError, match=r"threshold must .*got shape \(4, 1\)"):
            sets(GOOD, np.zeros((4, 1)))
    with pytest.raises(ValueError, match="rank_weight must be a finite number >= 0"):
        saps_sets(GOOD, 1.0, rank_weight=-1)
    with pytest.raises(ValueError, match="rank_weight must be a finite number >= 0"):
        saps_scores(GOOD, [0, 0, 0, 0], rank_weight="heavy")


# ---------------------------------------------------------------- digits that count


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20))
def test_nine_digits_round_the_mantissa(values):
    values = np.array(values)
    values[np.abs(values) < 1e-300] = 0.0
    rounded = nine_digits(values)
    mantissa, exponent = np.frexp(np.abs(values))
    expected = np.ldexp(np.floor(np.ldexp(mantissa, 33) + 0.5), exponent - 33)
    np.testing.assert_array_equal(rounded, np.copysign(expected, values))
    np.testing.assert_array_equal(nine_digits(rounded), rounded)
    order = np.argsort(values)
    assert (np.diff(rounded[order]) >= 0).all()
    next_ones = nine_digits(np.nextafter(rounded, 1e308))
    np.testing.assert_array_equal(next_ones[rounded != 0], rounded[rounded != 0])


def test_nine_digits_at_the_ends():
    ends = np.array([0.0, 1.0, -np.inf, np.inf, 2.0**-1000])
    np.testing.assert_array_equal(nine_digits(ends), ends)
    low = np.array([0.1, 0.7], dtype=np.float32)
    assert nine_digits(low) is low
    ends.flags.writeable = False
    assert nine_digits(ends[::2]).flags.writeable
