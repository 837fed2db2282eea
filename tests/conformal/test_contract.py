"""The public functions by name and signature, each against a few lines of its own.

The oracles use rational numbers, loops and scikit-learn, and nothing of uqlib.
"""

import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from uqlib import conformal as cp

INF = math.inf
LEVELS = (0.05, 0.35, 0.5, 0.55, 0.8, 0.9, 0.95)
few_rows = pytest.mark.filterwarnings(
    "ignore::uqlib.exceptions.InfiniteIntervalWarning"
)

PARAMETERS = {
    "conformal_quantile": "scores confidence_level",
    "weighted_conformal_quantile": "scores weights test_weights confidence_level",
    "split_interval": "y_pred offsets",
    "cross_conformal_interval": (
        "y_oof y_train fold y_fold_pred confidence_level method=plus y_pred=None"
    ),
    "cqr_offsets": "y y_interval confidence_level symmetric=True",
    "lac_scores": "proba y",
    "aps_scores": "proba y u=None",
    "raps_scores": "proba y k_reg=1 penalty=0.01 u=None",
    "topk_scores": "proba y u=None",
    "lac_sets": "proba threshold",
    "aps_sets": "proba threshold u=None",
    "raps_sets": "proba threshold k_reg=1 penalty=0.01 u=None",
    "topk_sets": "proba threshold u=None",
    "predictive_p_values": "residuals y_pred y scale=1 u=1",
    "predictive_quantiles": "residuals y_pred quantiles scale=1",
    "predictive_crps": "residuals y_pred y scale=1",
    "venn_abers": "score_cal y_cal score_test",
    "aci_thresholds": "calibration_scores scores confidence_level gamma",
    "group_quantiles": "scores groups confidence_level",
}


def _drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _kth(values, rank):
    """The rank-th smallest; rank 0 is -inf, and one past the last is +inf."""
    return [-INF, *sorted(map(float, values)), INF][rank]


def _rank(n, level):
    return max(1, math.ceil((n + 1) * Fraction(str(level))))


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_defaults(name):
    parameters = inspect.signature(getattr(cp, name)).parameters.values()
    written = [
        p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters
    ]
    assert " ".join(written) == PARAMETERS[name]
    assert name in cp.__all__


# ------------------------------------------------------------------- thresholds


@few_rows
@pytest.mark.parametrize("n", [0, 1, 2, 9, 19, 20, 99])
def test_conformal_quantile(n):
    scores = np.round(_drawn(n, n), 1)  # with ties
    for level in LEVELS:
        assert cp.conformal_quantile(scores, level) == _kth(scores, _rank(n, level))
        assert cp.conformal_quantile(
            scores=scores, confidence_level=level
        ) == cp.conformal_quantile(list(scores), Fraction(str(level)))


@few_rows
@pytest.mark.parametrize("seed", range(6))
def test_weighted_conformal_quantile(seed):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=12), 1)
    weights = rng.integers(0, 4, size=12) / 4
    test_weights = np.array([0.0, 0.25, 1.0, 3.0])
    for level in LEVELS:
        expected = []
        for new in test_weights:
            total = sum(map(Fraction, weights)) + Fraction(new)
            needed, threshold = Fraction(str(level)) * total, INF
            for t in sorted(scores, reverse=True):
                if sum(map(Fraction, weights[scores <= t])) >= needed:
                    threshold = t
            expected.append(threshold)
        result = cp.weighted_conformal_quantile(scores, weights, test_weights, level)
        np.testing.assert_array_equal(result, expected)


@few_rows
def test_group_quantiles():
    scores, groups = _drawn(0, 40), np.array(list("cabbcaab") * 5)
    for level in LEVELS:
        labels, thresholds = cp.group_quantiles(scores, groups, level)
        assert list(labels) == ["a", "b", "c"]
        for label, threshold in zip(labels, thresholds, strict=True):
            own = scores[groups == label]
            assert threshold == _kth(own, _rank(own.size, level))


@pytest.mark.parametrize("gamma", [0.0, 0.005, 0.125, 0.7])
@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_aci_thresholds(level, gamma):
    calibration, scores = _drawn(1, 15), 3 * _drawn(2, 300)
    alpha = 1 - Fraction(str(level))
    current, expected = alpha, []
    for score in scores:
        rank = _rank(15, 1 - current) if current < 1 else 0
        expected.append(_kth(calibration, rank if current > 0 else 16))
        current += Fraction(str(gamma)) * (alpha - (score > expected[-1]))
    result = cp.aci_thresholds(calibration, scores, level, gamma)
    assert result.shape == (300,)
    np.testing.assert_array_equal(result, expected)


# -------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    "offsets", [2.5, -0.5, [0.5, 3.0], [[0.5, 3.0], [1.0, INF], [0.0, 0.25]]]
)
def test_split_interval(offsets):
    y_pred = np.array([1.0, -2.0, 0.5])
    ends = np.broadcast_to(offsets, (3, 2))
    expected = []
    for point, (lower, upper) in zip(y_pred, ends, strict=True):
        expected.append(sorted([point - lower, point + upper]))
    result = cp.split_interval(y_pred, offsets)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
    if np.min(offsets) >= 0:  # a target on the bound is inside
        assert (result[:, 0] <= np.min(expected, axis=1)).all()
        assert (result[:, 1] >= np.max(expected, axis=1)).all()


@few_rows
@pytest.mark.parametrize("method", ["plus", "minmax", "base"])
@pytest.mark.parametrize(("n", "n_folds"), [(1, 1), (9, 3), (24, 5), (20, 20)])
def test_cross_conformal_interval(method, n, n_folds):
    y_train, y_oof = 2 * _drawn(3, n), _drawn(4, n)
    fold, y_fold_pred = np.arange(n) % n_folds, _drawn(5, 7, n_folds)
    y_pred = y_fold_pred.mean(axis=1)
    residuals = [abs(a - b) for a, b in zip(y_train, y_oof, strict=True)]
    for level in LEVELS:
        k, expected = _rank(n, level), []
        for row, point in zip(y_fold_pred, y_pred, strict=True):
            own, r = [row[j] for j in fold], _kth(residuals, k)
            upper = _kth([m + s for m, s in zip(own, residuals, strict=True)], k)
            lower = -_kth([s - m for m, s in zip(own, residuals, strict=True)], k)
            pair = {
                "plus": [lower, upper],
                "minmax": [min(row) - r, max(row) + r],
                "base": [point - r, point + r],
            }[method]
            expected.append(sorted(pair))
        result = cp.cross_conformal_interval(
            y_oof, y_train, fold, y_fold_pred, level, method=method, y_pred=y_pred
        )
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


@few_rows
@pytest.mark.parametrize("n", [1, 7, 39])
def test_cqr_offsets(n):
    y, middle = 2 * _drawn(6, n), _drawn(7, n)
    interval = np.column_stack([middle - 0.5, middle + 0.8])
    below, above = interval[:, 0] - y, y - interval[:, 1]
    for level in LEVELS:
        both = _kth([max(p) for p in zip(below, above, strict=True)], _rank(n, level))
        assert cp.cqr_offsets(y, interval, level) == (both, both)
        k = _rank(n, 1 - (1 - Fraction(str(level))) / 2)
        result = cp.cqr_offsets(y, interval, level, symmetric=False)
        assert result == (_kth(below, k), _kth(above, k))


# ------------------------------------------------------------ scores and sets

K_REG, PENALTY = 2, 0.125


def _proba(seed, n_samples=40, n_classes=5):
    """Rows in eighths, so that ties and zeros abound and sums are exact."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(8, np.full(n_classes, 1 / n_classes), n_samples) / 8


def _label_score(name, row, label, u):
    """The definition: labels in order of probability, ties by index, ranks from 1."""
    order = sorted(range(len(row)), key=lambda j: (-row[j], j))
    rank = order.index(label) + 1
    before = sum(row[j] for j in order[: rank - 1])
    return {
        "lac": 1 - row[label],
        "aps": before + u * row[label],
        "raps": before + u * row[label] + PENALTY * max(0, rank - K_REG),
        "topk": rank - 1 + u,
    }[name]


CALLS = [("lac", False)] + [(n, u) for n in ("aps", "raps", "topk") for u in (0, 1)]


@pytest.mark.parametrize(("name", "randomized"), CALLS)
def test_label_scores_and_sets(name, randomized):
    proba, rng = _proba(8), np.random.default_rng(9)
    n_samples, n_classes = proba.shape
    u = rng.integers(0, 5, size=n_samples) / 4 if randomized else np.ones(n_samples)
    keywords = {"u": u} if randomized else {}
    if name == "raps":
        keywords.update(k_reg=K_REG, penalty=PENALTY)
    scores, sets = getattr(cp, f"{name}_scores"), getattr(cp, f"{name}_sets")
    table = np.array(
        [
            [_label_score(name, row, y, share) for y in range(n_classes)]
            for row, share in zip(proba.tolist(), u.tolist(), strict=True)
        ]
    )
    ours = [scores(proba, np.full(n_samples, y), **keywords) for y in range(n_classes)]
    np.testing.assert_allclose(np.column_stack(ours), table, rtol=1e-12, atol=1e-12)
    # A label is in the set exactly when its own score is at most the threshold, with
    # the ties of thresholds that are scores.
    for threshold in [-INF, *np.unique(np.column_stack(ours)), INF]:
        result = sets(proba, threshold, **keywords)
        assert result.dtype == bool
        np.testing.assert_array_equal(result, np.column_stack(ours) <= threshold)
    own = np.column_stack(ours)[:, 0]
    np.testing.assert_array_equal(
        sets(proba, own, **keywords), np.column_stack(ours) <= own[:, None]
    )


def test_a_float_u_and_rows_that_are_no_eighths():
    proba = np.random.default_rng(0).dirichlet(np.full(30, 0.2), 50).astype(np.float32)
    labels = np.arange(50) % 30
    for name in ("aps", "raps", "topk"):
        scores, sets = getattr(cp, f"{name}_scores"), getattr(cp, f"{name}_sets")
        own = scores(proba, labels, u=0.3)
        inside = sets(proba, own, u=0.3)
        assert inside[np.arange(50), labels].all()
        beyond = sets(proba, np.nextafter(own, -INF), u=0.3)
        assert not beyond[np.arange(50), labels].any()


# --------------------------------------------------------- predictive systems


@few_rows
@pytest.mark.parametrize("scale", [1, 0.5, np.linspace(0.5, 4, 30)])
def test_predictive_system(scale):
    residuals, y_pred, y = np.round(_drawn(10, 25), 1), _drawn(11, 30), _drawn(12, 30)
    scales = np.broadcast_to(scale, 30)
    y[:5] = y_pred[:5] + scales[:5] * residuals[:5]
    z = (y - y_pred) / scales
    not_above = [sum(r <= t for r in residuals) for t in z]
    expected = [(count + 1) / 26 for count in not_above]
    result = cp.predictive_p_values(residuals, y_pred, y, scale=scale)
    np.testing.assert_allclose(result, expected, rtol=1e-12)

    quantiles = [0.02, 0.1, 0.5, 0.75, 0.98]
    result = cp.predictive_quantiles(residuals, y_pred, quantiles, scale=scale)
    for column, level in zip(result.T, quantiles, strict=True):
        share = 26 * Fraction(str(level))
        # Away from the median outwards: P(y < q) <= level below, P(y <= q) >= above.
        rank = math.floor(share) if level < 0.5 else math.ceil(share)
        if level != 0.5:
            expected = y_pred + scales * _kth(residuals, rank)
            np.testing.assert_allclose(column, expected, rtol=1e-12, atol=1e-12)

    # CRPS = E|Y - y| - E|Y - Y'| / 2 of the law of y_pred + scale R, by enumeration.
    expected = []
    for point, sigma, target in zip(y_pred, scales, y, strict=True):
        atoms = point + sigma * residuals
        spread = np.abs(atoms[:, None] - atoms).mean() / 2
        expected.append(np.abs(atoms - target).mean() - spread)
    result = cp.predictive_crps(residuals, y_pred, y, scale=scale)
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


def test_crps_of_a_scale_by_hand():
    # Atoms -10, 0, 10 and 20 around 0, y = 0: E|Y| = 10, E|Y - Y'| = 200 / 16.
    assert cp.predictive_crps([-1, 0, 1, 2], [0.0], [0.0], scale=10) == 10 - 6.25


@pytest.mark.parametrize("seed", range(5))
def test_venn_abers(seed):
    rng = np.random.default_rng(seed)
    score_cal = np.round(rng.normal(size=30), 1)
    y_cal = (rng.random(30) < 1 / (1 + np.exp(-score_cal))).astype(int)
    score_test = np.round(np.append(rng.normal(size=10), [-9, 9, *score_cal[:3]]), 1)
    result = cp.venn_abers(score_cal, y_cal, score_test)
    for s, pair in zip(score_test, result, strict=True):
        for label in (0, 1):
            fit = IsotonicRegression().fit([*score_cal, s], [*y_cal, label])
            assert pair[label] == pytest.approx(fit.predict([s])[0], abs=1e-12)
