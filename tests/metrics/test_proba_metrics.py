"""Scores of class probabilities: brute force, scikit-learn, propriety."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from uqlib._core.proba_columns import label_columns, proba_columns
from uqlib.metrics._proba import brier_score, negative_log_likelihood

METRICS = [negative_log_likelihood, brier_score]
metrics = pytest.mark.parametrize("metric", METRICS)
weightings = pytest.mark.parametrize("weighted", [False, True])
class_counts = pytest.mark.parametrize("n_classes", [1, 2, 3, 7])


def case(n_classes=3, n=60, seed=0):
    """Return labels 0, 1, ..., each of which occurs, probabilities and weights."""
    rng = np.random.default_rng([seed, n_classes])
    y = rng.permutation(np.arange(n) % n_classes)
    return y, rng.dirichlet(np.ones(n_classes), size=n), rng.exponential(size=n)


def same(a, b):
    return a == pytest.approx(b, rel=1e-12, abs=1e-12)


def row_scores(metric, y, proba):
    """One row after the other, in words of the definitions."""
    if metric is negative_log_likelihood:
        return [-np.log(p[k]) for k, p in zip(y, proba, strict=True)]
    indicators = [[float(k == j) for j in range(len(proba[0]))] for k in y]
    return [
        sum((a - b) ** 2 for a, b in zip(indicator, p, strict=True))
        for indicator, p in zip(indicators, proba, strict=True)
    ]


# -------------------------------------------------------------------- oracles


@metrics
@weightings
@class_counts
def test_scores_row_by_row(metric, weighted, n_classes):
    y, proba, weight = case(n_classes)
    weight = weight if weighted else None
    value = metric(y, proba, sample_weight=weight)
    assert same(value, np.average(row_scores(metric, y, proba), weights=weight))
    assert type(value) is float


@weightings
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_likelihood_is_the_log_loss_of_sklearn(weighted, n_classes):
    y, proba, weight = case(n_classes)
    weight = weight if weighted else None
    expected = log_loss(y, proba, sample_weight=weight)
    assert same(negative_log_likelihood(y, proba, sample_weight=weight), expected)


@weightings
def test_brier_of_two_classes_is_twice_that_of_sklearn(weighted):
    y, proba, weight = case(2)
    weight = weight if weighted else None
    expected = 2 * brier_score_loss(y, proba[:, 1], sample_weight=weight)
    assert same(brier_score(y, proba, sample_weight=weight), expected)
    assert same(brier_score(y, proba[:, 1], sample_weight=weight), expected)


@metrics
def test_the_second_class_alone_is_enough_for_two(metric):
    y, proba, weight = case(2)
    value = metric(y, proba, sample_weight=weight)
    assert same(metric(y, proba[:, 1], sample_weight=weight), value)
    names = np.array(["no", "yes"])
    assert same(
        metric(names[y], proba[:, 1], labels=names, sample_weight=weight), value
    )


def test_by_hand():
    proba = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]
    likelihood = negative_log_likelihood([0, 1], proba, labels=[0, 1, 2])
    assert same(likelihood, np.log(2) / 2)
    assert brier_score([0, 1], proba, labels=[0, 1, 2]) == (0.25 + 2 * 0.0625) / 2


# ------------------------------------------------------------ range and limits


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_a_label_that_was_ruled_out(dtype):
    proba = np.array([[1.0, 0.0], [0.5, 0.5]], dtype=dtype)
    assert negative_log_likelihood([1, 0], proba) == np.inf
    assert brier_score([1, 0], proba) == (2 + 0.5) / 2
    # scikit-learn clips: its value stays finite.
    assert np.isfinite(log_loss([1, 0], proba))
    # Without weight it has no say.
    weighted = negative_log_likelihood([1, 0], proba, sample_weight=[0, 2])
    assert same(weighted, np.log(2))
    # A class of probability 0 that does not happen costs nothing.
    assert negative_log_likelihood([0, 1], [[1.0, 0.0], [0.0, 1.0]]) == 0.0


@metrics
@class_counts
def test_perfect_and_uniform_predictions(metric, n_classes):
    y, _, _ = case(n_classes)
    best = metric(y, np.eye(n_classes)[y])
    assert best == 0.0
    assert not np.signbit(best)
    uniform = metric(y, np.full((y.size, n_classes), 1 / n_classes))
    likelihood = metric is negative_log_likelihood
    assert same(uniform, np.log(n_classes) if likelihood else 1 - 1 / n_classes)


def test_the_largest_brier_score():
    y, _, _ = case(3)
    assert brier_score(y, np.eye(3)[(y + 1) % 3]) == 2.0


@metrics
def test_rows_that_sum_to_one_within_the_tolerance(metric):
    # A probability of 1.0005 is one that was rounded: it earns no more than 1 does.
    value = metric([0, 1], [[1.0005, 0.0], [0.0, 1.0]])
    assert 0 <= value < 1e-6


@metrics
@given(
    truth=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    other=st.lists(st.integers(1, 9), min_size=5, max_size=5),
)
def test_the_true_probabilities_alone_have_the_best_expectation(metric, truth, other):
    k = len(truth)
    p, q = np.array(truth) / sum(truth), np.array(other[:k]) / sum(other[:k])
    best = metric(np.arange(k), np.tile(p, (k, 1)), sample_weight=p)
    value = metric(np.arange(k), np.tile(q, (k, 1)), sample_weight=p)
    if metric is brier_score:
        assert same(value - best, np.sum((p - q) ** 2))
    else:
        assert same(value - best, np.sum(p * np.log(p / q)))


# --------------------------------------------------------------------- labels


@metrics
def test_columns_are_in_the_order_of_labels(metric):
    y, proba, _ = case(3)
    expected = metric(y, proba)
    order = [2, 0, 1]
    assert metric(y, proba[:, order], labels=order) == expected
    names = np.array(["a", "b", "c"])
    assert metric(names[y], proba[:, order], labels=names[order]) == expected
    # A class that does not occur has its column all the same.
    seen = y < 2
    value = metric(y[seen], proba[seen], labels=[0, 1, 2])
    assert same(value, np.mean(row_scores(metric, y[seen], proba[seen])))


@metrics
@pytest.mark.parametrize(
    "names", [[False, True], ["b", "a"], [3.5, -1.0], np.array([7, 2], dtype=object)]
)
def test_labels_of_any_type(metric, names):
    y, proba, _ = case(2)
    value = metric(np.array(names)[y], proba, labels=names)
    assert value == metric(y, proba)


def test_label_columns_are_those_of_a_search():
    columns = label_columns(["b", "a", "c", "b"], ["c", "b", "a"], 3)
    assert columns.tolist() == [1, 2, 0, 1]
    assert label_columns([5, 3, 5], None, 2).tolist() == [1, 0, 1]


def test_proba_columns_keep_float32_matrices():
    proba = np.array([[0.25, 0.75]], dtype="f")
    assert proba_columns(proba) is proba
    assert proba_columns([0.25, 1.0]).tolist() == [[0.75, 0.25], [0.0, 1.0]]


# ---------------------------------------------------------- shared identities


@metrics
def test_integer_weights_are_repeated_rows(metric):
    y, proba, _ = case(3)
    counts = np.random.default_rng(0).integers(0, 4, y.size)
    index = np.repeat(np.arange(y.size), counts)
    weighted = metric(y, proba, sample_weight=counts)
    assert same(weighted, metric(y[index], proba[index]))


@metrics
def test_the_order_of_rows_does_not_matter(metric):
    y, proba, weight = case(3)
    order = np.random.default_rng(1).permutation(y.size)
    value = metric(y, proba, sample_weight=weight)
    moved = metric(y[order], proba[order], sample_weight=weight[order])
    assert same(moved, value)


@metrics
def test_frames_and_lists_are_taken(metric, df_module):
    y, proba, weight = case(3)
    expected = metric(y, proba, sample_weight=weight)
    columns = {f"class {k}": proba[:, k].copy() for k in range(3)}
    frame = df_module.make_dataframe(columns)
    series, weights = df_module.make_series(y), df_module.make_series(weight)
    assert metric(series, frame, sample_weight=weights) == expected
    names = np.array(["a", "b", "c"])
    words = df_module.make_series(names[y].tolist())
    assert metric(words, frame, labels=names, sample_weight=weights) == expected
    lists = metric(y.tolist(), proba.tolist(), sample_weight=weight.tolist())
    assert lists == expected
    y, proba, _ = case(2)
    positive = df_module.make_series(proba[:, 1].copy())
    assert same(metric(df_module.make_series(y), positive), metric(y, proba))


@metrics
def test_float32_and_strides(metric):
    y, proba, _ = case(3)
    proba = proba.astype("f")
    exact = metric(y, proba.astype(float))
    assert metric(y, proba) == exact
    assert metric(y, np.asfortranarray(proba)) == exact
    assert metric(np.repeat(y, 2)[::2], np.repeat(proba, 2, axis=1)[:, ::2]) == exact


@metrics
def test_the_input_is_not_changed(metric):
    arrays = y, proba, weight = case(3)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    metric(y, proba, sample_weight=weight)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)


# ------------------------------------------------------------------ bad input

TWO = [[0.5, 0.5], [0.5, 0.5]]


def refuses(message, metric, *args, **kwargs):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metric(*args, **kwargs)


@metrics
def test_another_number_of_rows_and_none(metric):
    message = "y_proba has 2 rows but y_true has 3: pass arrays over the same rows."
    refuses(message, metric, [0, 1, 0], TWO)
    message = "y_true is empty: at least one row is needed."
    refuses(message, metric, [], np.empty((0, 2)))
    refuses(message, metric, [], [], labels=[0, 1])


@metrics
def test_labels_that_are_a_column(metric):
    message = (
        "y_true must have shape (n_samples,), got shape (2, 1). Flatten a column with "
        "y_true.ravel()."
    )
    refuses(message, metric, [[0], [1]], TWO)


@metrics
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([0.5, np.nan], "contains NaN or infinity. Remove such rows."),
        ([0.5, np.inf], "contains NaN or infinity. Remove such rows."),
        (
            [0.5, 0.4],
            "sums to 0.9. Divide rows by their sum: proba / proba.sum(axis=1, "
            "keepdims=True).",
        ),
    ],
    ids=str,
)
def test_rows_that_are_no_probabilities(metric, row, problem):
    message = (
        "y_proba must hold probabilities, finite, at least 0 and with rows that sum to "
        f"1 within 0.001, but row 1 {problem}"
    )
    refuses(message, metric, [0, 1], [[0.5, 0.5], row])


@metrics
@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
def test_a_positive_class_that_has_no_probability(metric, bad):
    message = (
        f"y_proba must hold probabilities between 0 and 1, but row 1 holds {bad!r}. "
        "Decision values become probabilities by calibration."
    )
    refuses(message, metric, [0, 1], [0.5, bad])


@metrics
@pytest.mark.parametrize("labels", [None, [0, 1], [0, 1, 2, 3]], ids=str)
def test_another_number_of_labels(metric, labels):
    origin = "y_true holds 2" if labels is None else f"labels has {len(labels)}"
    message = (
        f"y_proba stands for 3 classes, but {origin}. Pass labels= with one label for "
        "each column, in their order (1-D probabilities: both labels, the positive "
        "one last)."
    )
    refuses(message, metric, [0, 1], np.full((2, 3), 1 / 3), labels=labels)


@metrics
def test_labels_that_are_not_distinct_or_unknown(metric):
    message = "labels must be distinct, got [1, 1]."
    refuses(message, metric, [1, 1], TWO, labels=[1, 1])
    message = (
        "y_true holds labels that labels lacks: [2]. Pass labels= with one label for "
        "each column of y_proba, in their order."
    )
    refuses(message, metric, [0, 2], TWO, labels=[0, 1])


@metrics
def test_labels_that_are_missing(metric):
    message = "{} contains NaN, which is no label. Remove rows without a label."
    refuses(message.format("y_true"), metric, [0.0, np.nan], TWO)
    mixed = np.array([0.0, np.nan], dtype=object)
    refuses(message.format("y_true"), metric, mixed, TWO)
    refuses(message.format("labels"), metric, [0.0, 0.0], TWO, labels=[0.0, np.nan])
    start = r"^y_true must hold labels of one type, none of them missing: .*\. Remove"
    for y in (["a", None], np.array(["a", 1.0], dtype=object)):
        with pytest.raises(ValueError, match=start):
            metric(y, TWO)


@metrics
def test_missing_labels_of_pandas(metric):
    pd = pytest.importorskip("pandas")
    y = pd.Series(["a", None], dtype="string")
    with pytest.raises(ValueError, match=r"^y_true must hold labels of one type, none"):
        metric(y, TWO, labels=["a", "b"])


@metrics
@pytest.mark.parametrize("weight", [[1.0], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]])
def test_bad_weights(metric, weight):
    with pytest.raises(ValueError, match=r"^sample_weight must "):
        metric([0, 1], TWO, sample_weight=weight)
