"""Calibration of probabilities: loops in fractions, closed forms, identities."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from uqlib._core.calibration_error import adaptive_calibration_error
from uqlib.metrics._calibration import calibration_bins, expected_calibration_error
from uqlib.metrics._calibration_smooth import smooth_calibration_error

METRICS = [expected_calibration_error, smooth_calibration_error]
metrics = pytest.mark.parametrize("metric", METRICS)
STRATEGIES = ["uniform", "quantile"]
strategies = pytest.mark.parametrize("strategy", STRATEGIES)
kinds = pytest.mark.parametrize("kind", ["top_label", "class_wise"])
NORMS = ["l1", "l2", "max"]


@st.composite
def problems(draw, max_rows=25):
    """Labels, coarse probabilities in whole parts (many ties), integer weights."""
    n, n_classes = draw(st.integers(1, max_rows)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = rng.integers(0, 4, size=(n, n_classes))
    parts[:, 0] += parts.sum(axis=1) == 0
    weight = rng.integers(0, 4, size=n)
    weight[0] += 1
    return rng.integers(0, n_classes, size=n), parts, weight


def smooth_problem(n=60, n_classes=3, seed=0):
    """Without ties; labels are drawn from the probabilities, so that gaps differ."""
    rng = np.random.default_rng([seed, n])
    proba = rng.dirichlet(np.ones(n_classes), size=n)
    y = np.array([rng.choice(n_classes, p=row) for row in proba])
    return y, proba, rng.exponential(size=n)


def events_by_loops(y, parts, kind):
    """(class or None, probability, outcome) of each row, in fractions."""
    n_classes, events = parts.shape[1], []
    for label, row in zip(y.tolist(), parts.tolist(), strict=True):
        proba = [Fraction(part, sum(row)) for part in row]
        if kind == "top_label":
            top = [k for k in range(n_classes) if proba[k] == max(proba)]
            events.append([(None, max(proba), Fraction(label in top, len(top)))])
        else:
            events.append(
                [(k, proba[k], Fraction(label == k)) for k in range(len(row))]
            )
    return events


def bins_by_loops(rows, n_bins, strategy):
    """Ranges of (probability, outcome, weight): {range: [w, w p, w outcome]}."""
    rows = sorted((p, hit, w) for p, hit, w in rows if w)
    total, filled = sum(w for _, _, w in rows), {}
    for p, hit, w in rows:
        if strategy == "uniform":
            # The floating-point number decides on which side of an edge it lies.
            r = next(r for r in range(n_bins) if float(p) < (r + 1) / n_bins or p == 1)
            r = n_bins - 1 if p == 1 else r
        else:
            below = sum(v for q, _, v in rows if q < p)
            at = sum(v for q, _, v in rows if q == p)
            r = int(n_bins * Fraction(2 * below + at, 2 * total))
        cell = filled.setdefault(r, [0, 0, 0])
        for position, term in enumerate([w, w * p, w * hit]):
            cell[position] += term
    return filled


def error_by_loops(y, parts, weight, kind, n_bins, strategy, norm):
    events = events_by_loops(y, parts, kind)
    gaps = []
    for k in range(len(events[0])):
        rows = [(*row[k][1:], int(w)) for row, w in zip(events, weight, strict=True)]
        filled = bins_by_loops(rows, n_bins, strategy)
        total = sum(cell[0] for cell in filled.values()) * len(events[0])
        gaps += [
            (abs(hits - conf) / w, Fraction(w, total))
            for w, conf, hits in filled.values()
        ]
    if norm == "max":
        return float(max(gap for gap, _ in gaps))
    if norm == "l2":
        return float(sum(share * gap**2 for gap, share in gaps)) ** 0.5
    return float(sum(share * gap for gap, share in gaps))


def as_proba(parts):
    return parts / parts.sum(axis=1, keepdims=True)


# ------------------------------------------------------------------------- bins


@strategies
@given(problems(), st.integers(1, 30), st.booleans())
def test_bins_equal_the_loops(strategy, problem, n_bins, top):
    y, parts, weight = problem
    events = events_by_loops(y, parts, "top_label" if top else "class_wise")
    k = 0 if top else 1
    rows = [(*row[k][1:], int(w)) for row, w in zip(events, weight, strict=True)]
    expected = [c for _, c in sorted(bins_by_loops(rows, n_bins, strategy).items())]
    bins = calibration_bins(
        y,
        as_proba(parts),
        n_bins=n_bins,
        strategy=strategy,
        pos_label=None if top else 1,
        labels=range(parts.shape[1]),
        sample_weight=weight,
    )
    assert bins.weight.tolist() == [w for w, _, _ in expected]
    confidence = [float(conf / w) for w, conf, _ in expected]
    assert bins.confidence == pytest.approx(confidence, rel=1e-12)
    accuracy = [float(Fraction(hits) / w) for w, _, hits in expected]
    assert bins.accuracy == pytest.approx(accuracy, rel=1e-12)
    assert bins.edges.shape == (len(expected), 2)
    assert np.all(np.diff(bins.edges[:, 0]) > 0)
    slack = 1e-12
    assert np.all(bins.edges[:, 0] <= bins.confidence + slack)
    assert np.all(bins.confidence <= bins.edges[:, 1] + slack)


@strategies
@pytest.mark.parametrize("n_bins", [1, 4, 10])
def test_bins_equal_those_of_sklearn_without_ties(strategy, n_bins):
    y, proba, _ = smooth_problem(n=200, n_classes=2)
    bins = calibration_bins(
        y, proba[:, 1], n_bins=n_bins, strategy=strategy, pos_label=1
    )
    accuracy, confidence = calibration_curve(
        y, proba[:, 1], n_bins=n_bins, strategy=strategy
    )
    assert bins.accuracy == pytest.approx(accuracy, rel=1e-12)
    assert bins.confidence == pytest.approx(confidence, rel=1e-12)
    if strategy == "quantile":
        assert np.all(bins.weight == 200 / n_bins)


def test_ranges_are_closed_below_and_the_last_one_above():
    # Every k / 10 begins a range, the literal 0.3 too; 1.0 is in the last range.
    p = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    y = [1] * 10 + [0]
    bins = calibration_bins(y, p, n_bins=10, pos_label=1)
    assert bins.weight.tolist() == [1] * 9 + [2]
    assert bins.accuracy.tolist() == [1] * 9 + [0.5]
    assert bins.edges.tolist() == [[k / 10, (k + 1) / 10] for k in range(10)]


def test_a_certain_answer_shares_the_last_range():
    # A range of its own for the probability 1 would give 0.25 |0.5 - 1| + ... instead.
    y, p = [1, 0, 1, 1], [1.0, 1.0, 0.95, 0.91]
    error = expected_calibration_error(y, p, kind="class_wise", n_bins=10)
    assert error == pytest.approx(abs(0.75 - np.mean(p)), rel=1e-12)


def test_ranges_without_rows_are_left_out():
    bins = calibration_bins([0, 1], [0.05, 0.95], n_bins=10, pos_label=1)
    assert bins.edges.tolist() == [[0.0, 0.1], [0.9, 1.0]]
    assert bins.confidence.tolist() == [0.05, 0.95]
    one = calibration_bins([1], [0.5], labels=[0, 1], pos_label=0, strategy="quantile")
    assert one.edges.tolist() == [[0.5, 0.5]]
    assert (one.confidence, one.accuracy, one.weight) == (0.5, 0.0, 1.0)


def test_ties_stay_together_where_most_of_them_lie():
    # Five of eight rows tie: the middle of their weight is past the half.
    p, y = [0.1, 0.2, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9], [0, 0, 0, 1, 1, 1, 1, 0]
    bins = calibration_bins(y, p, n_bins=2, strategy="quantile", pos_label=1)
    assert bins.weight.tolist() == [3, 5]
    assert bins.accuracy.tolist() == [0.0, 0.8]
    assert bins.edges.tolist() == [[0.1, 0.9], [0.9, 0.9]]


def test_pos_label_chooses_the_column():
    y, proba, _ = smooth_problem()
    names = np.array(["c", "a", "b"])
    for k, name in enumerate(names):
        found = calibration_bins(names[y], proba, labels=names, pos_label=name)
        binary = calibration_bins(y == k, proba[:, k], pos_label=True)
        for a, b in zip(found, binary, strict=True):
            assert np.array_equal(a, b)


# ----------------------------------------------------------- expected calibration


@kinds
@strategies
@pytest.mark.parametrize("norm", NORMS)
@given(problems(), st.integers(1, 30))
def test_error_equals_the_loops(kind, strategy, norm, problem, n_bins):
    y, parts, weight = problem
    expected = error_by_loops(y, parts, weight, kind, n_bins, strategy, norm)
    found = expected_calibration_error(
        y,
        as_proba(parts),
        kind=kind,
        n_bins=n_bins,
        norm=norm,
        strategy=strategy,
        labels=range(parts.shape[1]),
        sample_weight=weight,
    )
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert type(found) is float


@kinds
@strategies
@given(problems(), st.integers(1, 30))
def test_norms_are_in_order(kind, strategy, problem, n_bins):
    y, parts, _ = problem
    l1, l2, largest = (
        expected_calibration_error(
            y,
            as_proba(parts),
            kind=kind,
            n_bins=n_bins,
            norm=norm,
            strategy=strategy,
            labels=range(parts.shape[1]),
        )
        for norm in NORMS
    )
    assert 0 <= l1 <= l2 + 1e-14
    assert l2 <= largest + 1e-14
    assert largest <= 1


@kinds
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 4))
def test_a_finer_partition_has_a_larger_error(kind, seed, n_bins, factor):
    y, proba, weight = smooth_problem(seed=seed)
    coarse, fine = (
        expected_calibration_error(
            y, proba, kind=kind, n_bins=bins, labels=range(3), sample_weight=weight
        )
        for bins in (n_bins, factor * n_bins)
    )
    assert coarse <= fine + 1e-14


@given(st.integers(0, 2**32 - 1), st.integers(1, 15))
def test_top_label_error_of_two_classes_is_the_smaller(seed, n_bins):
    # Its ranges merge each range of the second class with its mirror image.
    y, proba, _ = smooth_problem(n_classes=2, seed=seed)
    both, p = [0, 1], proba[:, 1]
    top = expected_calibration_error(y, p, n_bins=2 * n_bins, labels=both)
    second = expected_calibration_error(
        y, p, kind="class_wise", n_bins=2 * n_bins, labels=both
    )
    assert top <= second + 1e-14


def test_one_range_is_the_bias():
    y, proba, weight = smooth_problem()
    accuracy = np.average(proba.argmax(axis=1) == y, weights=weight)
    confidence = np.average(proba.max(axis=1), weights=weight)
    found = expected_calibration_error(y, proba, n_bins=1, sample_weight=weight)
    assert found == pytest.approx(abs(accuracy - confidence), rel=1e-12)


def test_equals_the_adaptive_error_where_ranges_can_be_equal():
    y, proba, _ = smooth_problem(n=60)
    for n_bins in (1, 5, 10, 60):
        found = expected_calibration_error(
            y, proba, kind="class_wise", n_bins=n_bins, strategy="quantile"
        )
        expected = adaptive_calibration_error(y, proba, n_bins=n_bins)
        assert found == pytest.approx(expected, rel=1e-12)


# --------------------------------------------------------------- shared identities


@kinds
@metrics
def test_perfect_probabilities_have_no_error(metric, kind):
    # Ten rows of each law, with exactly as many labels of each class.
    laws = np.array([[5, 3, 2], [1, 8, 1], [0, 0, 10], [4, 3, 3]])
    y = np.concatenate([np.repeat(np.arange(3), law) for law in laws])
    proba = np.repeat(laws / 10, 10, axis=0)
    assert metric(y, proba, kind=kind) == pytest.approx(0, abs=1e-15)
    assert metric((y + 1) % 3, proba, kind=kind) > 0.2
    if metric is expected_calibration_error:
        for n_bins in (1, 3, 100):
            for strategy in STRATEGIES:
                found = metric(y, proba, kind=kind, n_bins=n_bins, strategy=strategy)
                assert found == pytest.approx(0, abs=1e-15)


@kinds
@metrics
def test_certain_answers(metric, kind):
    y, identity = np.array([0, 1, 2, 1]), np.eye(3)
    assert metric(y, identity[y], kind=kind) == pytest.approx(0, abs=1e-15)
    wrong = metric(y, identity[(y + 1) % 3], kind=kind)
    if metric is expected_calibration_error:
        assert wrong == pytest.approx(1 if kind == "top_label" else 2 / 3)
    elif kind == "top_label":
        assert wrong == pytest.approx(1)


@kinds
@metrics
@given(problems())
def test_the_order_of_rows_does_not_matter(metric, kind, problem):
    y, parts, weight = problem
    proba, labels = as_proba(parts), range(parts.shape[1])
    order = np.random.default_rng(0).permutation(len(y))
    for options in (
        [{"strategy": s} for s in STRATEGIES]
        if metric is expected_calibration_error
        else [{"bandwidth": 0.1}]
    ):
        expected = metric(
            y, proba, kind=kind, labels=labels, sample_weight=weight, **options
        )
        found = metric(
            y[order],
            proba[order],
            kind=kind,
            labels=labels,
            sample_weight=weight[order],
            **options,
        )
        assert found == expected  # to the last bit, ties and all


@kinds
@metrics
@given(problems())
def test_integer_weights_are_repeated_rows(metric, kind, problem):
    y, parts, weight = problem
    proba, labels = as_proba(parts), range(parts.shape[1])
    rows = np.repeat(np.arange(len(y)), weight)
    for strategy in STRATEGIES:
        options = {"kind": kind, "labels": labels}
        if metric is expected_calibration_error:
            options |= {"strategy": strategy, "n_bins": 4}
        expected = metric(y[rows], proba[rows], **options)
        for scale in (1, 0.1, 1e-200):
            found = metric(y, proba, sample_weight=scale * weight, **options)
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@kinds
@metrics
def test_classes_may_be_exchanged(metric, kind):
    y, proba, weight = smooth_problem()
    order = [2, 0, 1]
    expected = metric(y, proba, kind=kind, sample_weight=weight)
    found = metric(y, proba[:, order], kind=kind, labels=order, sample_weight=weight)
    assert found == pytest.approx(expected, rel=1e-12)


@kinds
@metrics
def test_two_classes_may_be_exchanged(metric, kind):
    y, proba, _ = smooth_problem(n_classes=2)
    p = proba[:, 1]
    expected = metric(y, p, kind=kind)
    assert metric(1 - y, 1 - p, kind=kind) == pytest.approx(expected, rel=1e-10)
    # Both columns have the same error, so that their mean is that of one.
    both = metric(y, np.column_stack([1 - p, p]), kind=kind)
    assert both == pytest.approx(expected, rel=1e-10)


@metrics
def test_labels_that_tie_for_the_top_share_the_outcome(metric):
    y = [0, 1, 2, 2]
    proba = [[0.5, 0.5, 0.0]] * 2 + [[0.0, 0.5, 0.5]] * 2
    assert metric(y, proba) == pytest.approx(0, abs=1e-15)
    assert metric([2, 2, 0, 0], proba, labels=[0, 1, 2]) == pytest.approx(0.5)
    assert metric([0, 1], [0.5, 0.5]) == pytest.approx(0, abs=1e-15)


@metrics
def test_rows_of_weight_zero_have_no_say(metric):
    y, proba, weight = smooth_problem()
    weight[:30] = 0
    expected = metric(y[30:], proba[30:], sample_weight=weight[30:])
    assert metric(y, proba, sample_weight=weight) == expected


@metrics
def test_kinds_of_input(metric, df_module):
    y, proba, weight = smooth_problem()
    proba = proba.astype(np.float32)
    exact = proba.astype(np.float64)
    expected = metric(y, exact, sample_weight=weight)
    frame = df_module.make_dataframe({str(k): exact[:, k] for k in range(3)})
    names = np.array(["a", "b", "c"])
    found = [
        metric(y, proba, sample_weight=weight),
        metric(
            df_module.make_series(names[y]),
            frame,
            sample_weight=df_module.make_series(weight),
        ),
        metric(y.tolist(), exact.tolist(), sample_weight=weight.tolist()),
        metric(y, np.repeat(exact, 2, axis=0)[::2], sample_weight=weight),
        metric(y, np.asfortranarray(exact), sample_weight=weight),
    ]
    assert found == pytest.approx([expected] * 5, rel=1e-12)


@metrics
def test_the_input_is_not_changed(metric):
    arrays = smooth_problem()
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    y, proba, weight = arrays
    metric(y, proba, sample_weight=weight)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)


def test_a_row_that_sums_to_a_little_more_than_one():
    y, proba = [0, 1], [[1.0005, 0.0], [0.0, 1.0005]]
    for metric in METRICS:
        assert metric(y, proba) == pytest.approx(0, abs=1e-15)
    assert calibration_bins(y, proba).confidence.tolist() == [1.0]


# -------------------------------------------------------------------- bad input

BAD_INPUT = [
    ([0, 1], [0.5, 1.5], {}, "between 0 and 1, but row 1 holds 1.5. Decision"),
    ([0, 1], [np.nan, 0.5], {}, "between 0 and 1, but row 0 holds nan"),
    ([0, 1], [[0.5, 0.6], [0, 1]], {}, "but row 0 sums to 1.1"),
    ([0, 1], [[np.nan, 0.5], [0, 1]], {}, "row 0 contains NaN"),
    ([[0], [1]], [0.5, 0.5], {}, "y_true must have shape (n_samples,), got"),
    ([0.0, np.nan], [0.5, 0.5], {}, "y_true contains NaN"),
    ([0, 1], [0.5], {}, "y_proba has 1 rows but y_true has 2"),
    ([], [], {"labels": [0, 1]}, "y_true is empty"),
    ([1, 1], [0.5, 0.5], {}, "stands for 2 classes, but y_true holds 1. Pass"),
    ([0, 1], [0.5, 0.5], {"labels": [1, 1]}, "labels must be distinct, got [1, 1]"),
    ([0, 1], [0.5, 0.5], {"labels": [1, 2]}, "labels that labels lacks: [0]"),
    ([0, 1], [0.5, 0.5], {"sample_weight": [1]}, "must have shape (2,)"),
    ([0, 1], [0.5, 0.5], {"sample_weight": [0, 0]}, "at least one non-zero"),
    ([0, 1], [0.5, 0.5], {"sample_weight": [1, -1]}, "finite and non-negative"),
]


@pytest.mark.parametrize("function", [*METRICS, calibration_bins])
@pytest.mark.parametrize(("y", "proba", "options", "message"), BAD_INPUT)
def test_bad_input(function, y, proba, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(y, proba, **options)


BINNED = [expected_calibration_error, calibration_bins]


@pytest.mark.parametrize(
    ("functions", "options", "error", "message"),
    [
        (METRICS, {"kind": "classwise"}, ValueError, "kind='classwise' must be 'top_l"),
        (METRICS, {"kind": ["top_label"]}, ValueError, "kind=['top_label'] must be"),
        (BINNED, {"strategy": "width"}, ValueError, "strategy='width' must be 'unif"),
        (BINNED, {"strategy": None}, ValueError, "strategy=None must be 'uniform'"),
        (BINNED, {"n_bins": 0}, ValueError, "n_bins must be at least 1, got 0"),
        (BINNED, {"n_bins": 2.0}, TypeError, "n_bins must be an integer, at least"),
        (BINNED[:1], {"norm": 1}, ValueError, "norm=1 must be 'l1'"),
        (BINNED[:1], {"norm": "l3"}, ValueError, "norm='l3' must be 'l1'"),
        (BINNED[1:], {"pos_label": 7}, ValueError, "pos_label=7 must be one of the l"),
        (METRICS[1:], {"bandwidth": 1e-4}, ValueError, "at least 0.001, got 0.0001"),
        (METRICS[1:], {"bandwidth": np.nan}, ValueError, "finite and at least 0.001"),
        (METRICS[1:], {"bandwidth": np.inf}, ValueError, "finite and at least 0.001"),
        (METRICS[1:], {"bandwidth": "auto"}, TypeError, "a number or None, got 'auto'"),
        (METRICS[1:], {"bandwidth": True}, TypeError, "a number or None, got True"),
    ],
)
def test_bad_options(functions, options, error, message):
    for function in functions:
        with pytest.raises(error, match=re.escape(message)):
            function([0, 1], [0.5, 0.5], **options)
