"""Venn-ABERS pairs: isotonic refits in fractions, the theorem by enumeration, edges."""

import re
from fractions import Fraction
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression

from uqlib._core import venn_abers as module
from uqlib._core.venn_abers import mean_pairs, merge_pairs
from uqlib.conformal import venn_abers


def isotonic_value(rows, at):
    """The isotonic fit of (score, label) rows at one of their scores, as a fraction."""
    blocks = []  # [largest score, ones, rows], means increasing
    for score in sorted({score for score, _ in rows}):
        labels = [label for s, label in rows if s == score]
        blocks.append([score, sum(labels), len(labels)])
        while len(blocks) > 1 and (
            Fraction(*blocks[-2][1:]) >= Fraction(*blocks[-1][1:])
        ):
            last = blocks.pop()
            before = blocks[-1]
            blocks[-1] = [last[0], before[1] + last[1], before[2] + last[2]]
    return next(Fraction(ones, n) for top, ones, n in blocks if at <= top)


def refits(score_cal, y_cal, score_test):
    """p0 and p1 by their definition: one refit for each new score and label."""
    rows = [(s, int(label)) for s, label in zip(score_cal, y_cal, strict=True)]
    pairs = [
        [float(isotonic_value([*rows, (s, c)], s)) for c in (0, 1)] for s in score_test
    ]
    return np.array(pairs).reshape(-1, 2)


# Few distinct scores, so that most of them tie.
rows = st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=14)
EVERYWHERE = np.arange(-1.0, 10.0, 0.5)  # on, between, below and above the scores


@given(rows)
def test_equals_the_refits_bitwise(rows):
    score, y = [s for s, _ in rows], [label for _, label in rows]
    expected = refits(score, y, EVERYWHERE)
    np.testing.assert_array_equal(venn_abers(score, y, EVERYWHERE), expected)


@pytest.mark.parametrize("n_distinct", [5, 40, 10**6])
def test_equals_isotonic_regression_of_scikit_learn(n_distinct):
    rng = np.random.default_rng(n_distinct)
    score = rng.integers(n_distinct, size=200) / n_distinct
    y = rng.uniform(size=200) < score**2
    new = np.concatenate([rng.choice(score, 15), rng.uniform(-0.1, 1.1, size=15)])
    expected = [
        [
            IsotonicRegression()
            .fit(np.append(score, s), np.append(y, c).astype(float))
            .predict([s])[0]
            for c in (0, 1)
        ]
        for s in new
    ]
    np.testing.assert_allclose(venn_abers(score, y, new), expected, atol=1e-9)


@given(rows.filter(bool))
def test_one_of_the_two_is_perfectly_calibrated(rows):
    """Theorem 1: a row drawn from a bag, the others calibrate, its label chooses.

    Given p_Y, the frequency of Y = 1 in the bag is p_Y, exactly.
    """
    chosen = []
    for i, (score, label) in enumerate(rows):
        others = rows[:i] + rows[i + 1 :]
        pair = venn_abers([s for s, _ in others], [c for _, c in others], [score])[0]
        chosen.append((pair[int(label)], label))
    for p in {p for p, _ in chosen}:
        labels = [label for other, label in chosen if other == p]
        assert p == sum(labels) / len(labels)


@given(rows, st.randoms(use_true_random=False))
def test_invariances(rows, random):
    score = np.array([s for s, _ in rows], dtype=float)
    y = np.array([label for _, label in rows], dtype=int)
    pairs = venn_abers(score, y, EVERYWHERE)
    order = random.sample(range(len(rows)), len(rows))
    np.testing.assert_array_equal(venn_abers(score[order], y[order], EVERYWHERE), pairs)
    transformed = venn_abers(np.exp(score) - 7, y, np.exp(EVERYWHERE) - 7)
    np.testing.assert_array_equal(transformed, pairs)
    # The mirror image: scores reversed, labels exchanged.
    mirrored = venn_abers(-score, 1 - y, -EVERYWHERE)
    np.testing.assert_allclose(1 - mirrored[:, ::-1], pairs, atol=1e-15)


@given(rows)
def test_pairs_are_ordered_and_rise_with_the_score(rows):
    pairs = venn_abers([s for s, _ in rows], [y for _, y in rows], EVERYWHERE)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (pairs[:, 0] >= 0).all()
    assert (pairs[:, 1] <= 1).all()
    assert (np.diff(pairs, axis=0) >= 0).all()


def test_hardly_any_rows():
    np.testing.assert_array_equal(venn_abers([], [], [0.0, 1.0]), [[0, 1], [0, 1]])
    one = venn_abers([1.0], [1], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(one, [[0, 1], [0.5, 1], [0.5, 1]])
    zero = venn_abers([1.0], [0], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(zero, [[0, 0.5], [0, 0.5], [0, 1]])
    assert venn_abers([1.0, 2.0], [0, 1], []).shape == (0, 2)


@pytest.mark.parametrize("n_ones", [0, 3, 8])
def test_constant_scores_give_frequencies(n_ones):
    y = np.arange(8) < n_ones
    expected = [[n_ones / 9, (n_ones + 1) / 9]]
    np.testing.assert_array_equal(venn_abers(np.zeros(8), y, [0.0]), expected)


def test_one_class_counts_the_rows_on_the_safe_side():
    new = np.arange(-0.5, 8)
    pairs = venn_abers(np.arange(8), np.zeros(8), new)
    at_least = np.array([np.sum(np.arange(8) >= s) for s in new])
    np.testing.assert_array_equal(pairs[:, 0], 0)
    np.testing.assert_array_equal(pairs[:, 1], 1 / (1 + at_least))


def test_kinds_of_input(df_module):
    rng = np.random.default_rng(0)
    score = rng.integers(0, 30, size=60).astype(np.float32)
    y = rng.integers(0, 2, size=60)
    expected = venn_abers(score, y, EVERYWHERE)
    assert expected.dtype == np.float64
    strided = np.repeat(score, 2)[::2]
    series = df_module.make_series(score), df_module.make_series(y)
    for cal, labels in [
        (score.tolist(), y.tolist()),
        (strided, y.astype(bool)),
        (score.astype(float), y.astype(float)),
        series,
    ]:
        before = np.array(cal)
        np.testing.assert_array_equal(venn_abers(cal, labels, EVERYWHERE), expected)
        np.testing.assert_array_equal(np.array(cal), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0]], [0], [0.0]), "score_cal must be 1-D, got an array of shape (1, 1)"),
        (([0.0], [[0]], [0.0]), "y_cal must be 1-D, got an array of shape (1, 1)"),
        (([0.0], [0], 0.0), "score_test must be 1-D, got an array of shape ()"),
        (([np.nan], [0], [0.0]), "score_cal contains NaN or infinity. Pass finite"),
        (([0.0], [0], [np.inf]), "score_test contains NaN or infinity. Pass finite"),
        (([0.0], [2], [0.0]), "labels 0 and 1 alone, got 2 as well. Pass (y == "),
        (([0.0], [np.nan], [0.0]), "y_cal must hold the labels 0 and 1 alone, got nan"),
        (([0.0], ["a"], [0.0]), "y_cal must hold the labels 0 and 1 alone, got 'a'"),
        (([0.0, 1.0], [0], [0.0]), "y_cal has 1 rows but score_cal has 2"),
        (([], [0], [0.0]), "y_cal has 1 rows but score_cal has 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        venn_abers(*arguments)


@pytest.mark.parametrize("n_distinct", [50, 5000, 10**9])
def test_compiled_and_reference_agree_bitwise(monkeypatch, n_distinct):
    rng = np.random.default_rng(n_distinct)
    score = rng.integers(n_distinct, size=5000) / n_distinct
    y, new = rng.uniform(size=5000) < score, rng.uniform(size=300)
    monkeypatch.setattr(module, "_KERNEL_MIN_GROUPS", 1)
    compiled = venn_abers(score, y, new)
    monkeypatch.setattr(module, "compiled_kernels", lambda *_: None)
    np.testing.assert_array_equal(compiled, venn_abers(score, y, new))


# ------------------------------------------------------------------------ merging

probabilities = st.floats(0.001, 0.999)
pairs_of_folds = st.lists(
    st.tuples(probabilities, probabilities).map(sorted), min_size=1, max_size=5
).map(lambda pairs: np.array(pairs).reshape(-1, 1, 1, 2))
merges = pytest.mark.parametrize("merge", ["log", "brier"])

LOSS = {
    "log": lambda p, c: -log(p if c else 1 - p),
    "brier": lambda p, c: (p - c) ** 2,
}


def worst_regret(p, pairs, merge):
    """The larger of the regrets of the labels 0 and 1, summed over the folds."""
    loss = LOSS[merge]
    return max(
        sum(loss(p, c) - loss(pair[c], c) for pair in pairs.reshape(-1, 2))
        for c in (0, 1)
    )


@merges
@given(pairs_of_folds)
def test_merging_is_minimax(merge, pairs):
    p = merge_pairs(pairs, merge).item()
    best = minimize_scalar(
        worst_regret, bounds=(0, 1), args=(pairs, merge), options={"xatol": 1e-10}
    )
    assert worst_regret(p, pairs, merge) <= best.fun + 1e-6
    assert p == pytest.approx(best.x, abs=1e-5)


@given(pairs_of_folds)
def test_merging_equals_the_formulas(pairs):
    p0, p1 = pairs[:, 0, 0].T
    up, down = np.prod(p1) ** (1 / p1.size), np.prod(1 - p0) ** (1 / p1.size)
    assert merge_pairs(pairs, "log").item() == pytest.approx(up / (down + up))
    brier = np.mean(p1 + p0**2 / 2 - p1**2 / 2)
    assert merge_pairs(pairs, "brier").item() == pytest.approx(brier)
    single = pairs[:1]
    assert merge_pairs(single, "log").item() == pytest.approx(
        p1[0] / (1 - p0[0] + p1[0])
    )
    np.testing.assert_array_equal(mean_pairs(single, "log"), single[0])


@merges
@given(pairs_of_folds)
def test_the_mean_pair_holds_the_merged_probability(merge, pairs):
    lower, upper = mean_pairs(pairs, merge)[0, 0]
    assert lower - 1e-12 <= merge_pairs(pairs, merge).item() <= upper + 1e-12
    assert pairs[..., 0].min() - 1e-12 <= lower
    assert upper <= pairs[..., 1].max() + 1e-12


@merges
@given(pairs_of_folds)
def test_the_other_class_has_the_other_probability(merge, pairs):
    mirrored = 1 - pairs[..., ::-1]
    expected = 1 - merge_pairs(pairs, merge)
    np.testing.assert_allclose(merge_pairs(mirrored, merge), expected, atol=1e-12)
    expected = 1 - mean_pairs(pairs, merge)[..., ::-1]
    np.testing.assert_allclose(mean_pairs(mirrored, merge), expected, atol=1e-12)


@merges
def test_merging_certain_ends(merge):
    pairs = np.array([[0.0, 1.0], [0.0, 0.25], [0.5, 1.0]]).reshape(3, 1, 1, 2)
    assert 0 < merge_pairs(pairs, merge).item() < 1
    lower, upper = mean_pairs(pairs, merge)[0, 0]
    expected = (0, 1) if merge == "log" else (0.5 / 3, 0.75)
    assert (lower, upper) == pytest.approx(expected)
