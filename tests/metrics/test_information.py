"""Uncertainty of ensembles: brute force over rows and members, and identities."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uqlib.metrics._information import (
    ensemble_disagreement,
    expected_entropy,
    mutual_information,
    predictive_entropy,
    variation_ratio,
)
from uqlib.metrics._information_variance import variance_decomposition

MEASURES = [
    predictive_entropy,
    expected_entropy,
    mutual_information,
    variation_ratio,
    ensemble_disagreement,
]
measures = pytest.mark.parametrize("measure", MEASURES)
of_members = pytest.mark.parametrize("measure", MEASURES[1:])
of_votes = pytest.mark.parametrize("measure", MEASURES[3:])
sizes = pytest.mark.parametrize("n_members", [2, 3, 10])
class_counts = pytest.mark.parametrize("n_classes", [2, 5])


def case(n_members=5, n_classes=4, n=40, seed=0):
    """Return probabilities of members; some of them are exactly 0, some agree."""
    rng = np.random.default_rng([seed, n_members, n_classes])
    probas = rng.dirichlet(np.full(n_classes, 0.7), size=(n_members, n))
    probas[:, ::5] = np.eye(n_classes)[rng.integers(n_classes, size=(n_members, n))][
        :, ::5
    ]
    probas[:, 1::5] = probas[:1, 1::5]
    return probas


def same(a, b):
    return np.allclose(a, b, rtol=1e-12, atol=1e-14)


def weights_of(draw_lists):
    """Rows of positive integers as probabilities, shape (n_members, 1, n_classes)."""
    array = np.array(draw_lists, dtype=float)[:, None, :]
    return array / array.sum(axis=2, keepdims=True)


probabilities = st.integers(2, 4).flatmap(
    lambda k: st.lists(
        st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(any),
        min_size=2,
        max_size=5,
    )
)


# -------------------------------------------------------------------- entropy


@sizes
@class_counts
def test_entropies_are_those_of_scipy(n_members, n_classes):
    probas = case(n_members, n_classes)
    total = stats.entropy(probas.mean(axis=0), axis=1)
    aleatoric = stats.entropy(probas, axis=2).mean(axis=0)
    assert same(predictive_entropy(probas), total)
    assert same(predictive_entropy(probas[0]), stats.entropy(probas[0], axis=1))
    assert same(expected_entropy(probas), aleatoric)
    assert same(mutual_information(probas), total - aleatoric)


@sizes
def test_mutual_information_is_the_mean_divergence_from_the_mean(n_members):
    probas = case(n_members)
    mean = probas.mean(axis=0)
    expected = [stats.entropy(proba, mean, axis=1) for proba in probas]
    assert same(mutual_information(probas), np.mean(expected, axis=0))


@given(probabilities)
def test_entropy_has_two_parts(weights):
    probas = weights_of(weights)
    total, aleatoric = predictive_entropy(probas), expected_entropy(probas)
    epistemic = mutual_information(probas)
    assert same(total, aleatoric + epistemic)
    n_members, _, n_classes = probas.shape
    assert 0 <= aleatoric[0] <= total[0] + 1e-14
    assert total[0] <= np.log(n_classes) + 1e-14
    assert 0 <= epistemic[0] <= np.log(min(n_members, n_classes)) + 1e-14
    agree = bool(np.all(probas == probas[0]))
    assert agree == (epistemic[0] == 0)


@given(
    weights=st.lists(st.integers(0, 99), min_size=2, max_size=6).filter(any),
    n_members=st.integers(1, 12),
)
def test_members_that_agree_share_no_information(weights, n_members):
    probas = weights_of([weights] * n_members)
    assert mutual_information(probas)[0] == 0.0
    assert same(predictive_entropy(probas), expected_entropy(probas))


def test_mutual_information_of_members_that_nearly_agree():
    """Of p + d and p - d it is sum d_k^2 / (2 p_k); entropies would cancel."""
    p = np.array([0.2, 0.3, 0.5])
    for size in (1e-3, 1e-6, 1e-9, 1e-12):
        d = size * np.array([1.0, 1.0, -2.0])
        probas = np.stack([p + d, p - d])[:, None]
        d = (probas[0, 0] - probas[1, 0]) / 2  # what the rounding left of it
        expected = 0.5 * np.sum(d**2 / p)
        value = mutual_information(probas)[0]
        assert value == pytest.approx(expected, rel=max(1e-10, 1e2 * size**2))


@pytest.mark.parametrize("t", [9e-4, 0.999e-3, 1.001e-3, 1.1e-3, 1e-2])
def test_the_series_and_the_direct_form_meet(t):
    p = 0.5
    probas = np.array(
        [[[p * (1 + t), 1 - p * (1 + t)]], [[p * (1 - t), 1 - p + p * t]]]
    )
    # With g(t) = (1 + t) log(1 + t) - t, the four terms are p g(t) and p g(-t), twice.
    expected = sum(t**j / (j * (j - 1)) for j in range(2, 20, 2))
    assert mutual_information(probas)[0] == pytest.approx(expected, rel=1e-11)


def test_entropies_by_hand():
    certain, uniform = [[1.0, 0.0]], [[0.5, 0.5]]
    assert predictive_entropy(certain)[0] == 0.0
    assert predictive_entropy(uniform)[0] == pytest.approx(np.log(2))
    opposed = [certain, [[0.0, 1.0]]]
    assert predictive_entropy(opposed)[0] == pytest.approx(np.log(2))
    assert expected_entropy(opposed)[0] == 0.0
    assert mutual_information(opposed)[0] == pytest.approx(np.log(2))
    assert expected_entropy([uniform, uniform])[0] == pytest.approx(np.log(2))
    assert mutual_information([uniform, uniform])[0] == 0.0


def test_probabilities_close_to_zero():
    tiny = 5e-324
    probas = np.array([[[1.0, tiny, 0.0]], [[1.0, 0.0, 0.0]], [[1.0, 0.0, tiny]]])
    for measure in MEASURES[:3]:
        assert 0 <= measure(probas)[0] < 1e-300


def test_a_row_that_sums_to_more_than_one_has_no_negative_entropy():
    probas = np.array([[[1.0005, 0.0]], [[1.0, 0.0]]])
    assert predictive_entropy(probas[0])[0] == 0.0
    assert expected_entropy(probas)[0] == 0.0
    assert mutual_information(probas)[0] >= 0.0


# ---------------------------------------------------------------------- votes


@of_votes
@sizes
def test_votes_are_counted(measure, n_members):
    probas = case(n_members)
    for i, labels in enumerate(probas.argmax(axis=2).T.tolist()):
        if measure is variation_ratio:
            share = max(labels.count(label) for label in labels) / n_members
            expected = 1 - share
        else:
            pairs = list(itertools.combinations(labels, 2))
            expected = np.mean([a != b for a, b in pairs])
        assert same(measure(probas[:, i : i + 1]), expected)
        assert same(measure(probas)[i], expected)


def test_votes_in_equal_parts_where_classes_tie():
    """The expectation over members that draw among their largest classes."""
    tied, sure = [[0.4, 0.4, 0.2]], [[0.0, 1.0, 0.0]]
    # Votes (1/2, 1/2, 0) + (0, 1, 0): the largest party has 3/2 of 2.
    assert variation_ratio([tied, sure])[0] == 0.25
    assert ensemble_disagreement([tied, sure])[0] == 0.5
    assert ensemble_disagreement([tied, tied])[0] == 0.5
    third = [[1 / 3, 1 / 3, 1 / 3]]
    assert same(variation_ratio([third]), 2 / 3)
    assert same(ensemble_disagreement([third, sure]), 2 / 3)


@given(probabilities)
def test_votes_are_within_their_range(weights):
    probas = weights_of(weights)
    n_classes = probas.shape[2]
    ratio, disagreement = variation_ratio(probas)[0], ensemble_disagreement(probas)[0]
    assert 0 <= ratio <= 1 - 1 / n_classes + 1e-12
    assert 0 <= disagreement <= 1


@pytest.mark.parametrize("n_members", [2, 3])
def test_the_mean_disagreement_of_drawn_members_is_that_of_their_law(n_members):
    probability = np.array([0.5, 0.3, 0.2])
    draws = np.array(list(itertools.product(range(3), repeat=n_members)))
    weight = probability[draws].prod(axis=1)
    labels = np.eye(3)[draws].transpose(1, 0, 2)
    value = weight @ ensemble_disagreement(labels)
    assert same(value, 1 - np.sum(probability**2))


@of_votes
def test_one_hot_rows_stand_for_labels(measure):
    probas = case()
    labels = np.eye(4)[probas.argmax(axis=2)]
    assert same(measure(probas), measure(labels))


# ------------------------------------------------------------------- variance


@pytest.mark.parametrize("n_members", [1, 2, 7])
def test_variance_is_that_of_the_mixture(n_members):
    rng = np.random.default_rng(n_members)
    means, stds = rng.normal(size=(n_members, 9)), rng.exponential(size=(n_members, 9))
    parts = variance_decomposition(means, stds)
    # E Y^2 - (E Y)^2 of the mixture.
    second = (means**2 + stds**2).mean(axis=0)
    assert same(parts.total, second - means.mean(axis=0) ** 2)
    assert same(parts.aleatoric, (stds**2).mean(axis=0))
    assert same(parts.epistemic, means.var(axis=0))
    assert same(parts.total, parts.aleatoric + parts.epistemic)
    assert list(parts) == ["aleatoric", "epistemic", "total"]


@given(value=st.floats(-1e9, 1e9), n_members=st.integers(1, 12))
def test_means_that_agree_have_no_epistemic_variance(value, n_members):
    parts = variance_decomposition(np.full((n_members, 1), value), [[2.0]] * n_members)
    assert parts.epistemic[0] == 0.0
    assert parts.aleatoric[0] == parts.total[0] == 4.0


def test_variance_is_in_squared_units_and_free_of_shifts():
    rng = np.random.default_rng(0)
    means = np.round(64 * rng.normal(size=(4, 9))) / 64
    stds = rng.exponential(size=(4, 9))
    parts = variance_decomposition(means, stds)
    moved = variance_decomposition(4 * (means + 1024), 4 * stds)
    for name, part in parts.items():
        assert same(moved[name], 16 * part)


def test_infinite_spreads():
    parts = variance_decomposition(
        [[0.0, 0.0], [1.0, 2.0]], [[np.inf, 1.0], [1.0, 0.0]]
    )
    assert parts.aleatoric.tolist() == [np.inf, 0.5]
    assert parts.epistemic.tolist() == [0.25, 1.0]
    assert parts.total.tolist() == [np.inf, 1.5]


def test_variance_takes_frames_and_no_rows(df_module):
    rng = np.random.default_rng(0)
    means, stds = rng.normal(size=(3, 2)), rng.exponential(size=(3, 2))
    frames = [
        df_module.make_dataframe({f"row {i}": a[:, i].copy() for i in range(2)})
        for a in (means, stds)
    ]
    assert np.array_equal(
        variance_decomposition(*frames).total, variance_decomposition(means, stds).total
    )
    empty = variance_decomposition(np.empty((3, 0)), np.empty((3, 0)))
    assert all(part.shape == (0,) for part in empty.values())


# --------------------------------------------------------------- invariances


@measures
def test_members_rows_and_classes_in_any_order(measure):
    probas = case()
    rng = np.random.default_rng(1)
    expected = measure(probas)
    members, rows, classes = (rng.permutation(size) for size in probas.shape)
    assert same(measure(probas[members]), expected)
    assert same(measure(probas[:, rows]), expected[rows])
    assert same(measure(probas[:, :, classes]), expected)


@measures
def test_a_class_that_no_member_expects_changes_nothing(measure):
    probas = case()
    wider = np.concatenate([probas, np.zeros((*probas.shape[:2], 1))], axis=2)
    assert same(measure(wider), measure(probas))


@pytest.mark.parametrize("measure", MEASURES[:4])
def test_every_member_twice_changes_nothing(measure):
    probas = case()
    assert same(measure(np.concatenate([probas, probas])), measure(probas))


@measures
def test_uncertainty_grows_from_agreement_to_conflict(measure):
    """Larger is more uncertain, in all of them."""
    agree = [[[0.9, 0.1]], [[0.9, 0.1]], [[0.9, 0.1]]]
    conflict = [[[0.9, 0.1]], [[0.4, 0.6]], [[0.5, 0.5]]]
    assert measure(conflict)[0] > measure(agree)[0]


@measures
def test_one_class_is_certain(measure):
    assert np.array_equal(measure(np.ones((3, 4, 1))), np.zeros(4))


@pytest.mark.parametrize("measure", [expected_entropy, predictive_entropy])
def test_one_member_is_a_model(measure):
    probas = case()[:1]
    assert same(measure(probas), predictive_entropy(probas[0]))
    assert np.array_equal(mutual_information(probas), np.zeros(40))
    assert np.array_equal(variation_ratio(probas), np.zeros(40))


# ----------------------------------------------------------------- containers


@measures
def test_lists_of_members_float32_and_strides(measure):
    probas = case().astype("f")
    exact = measure(probas.astype(float))
    assert exact.dtype == np.float64
    assert np.array_equal(measure(probas), exact)
    assert np.array_equal(measure(list(probas)), exact)
    assert np.array_equal(measure(probas.tolist()), exact)
    assert same(measure(np.asfortranarray(probas)), exact)
    assert same(measure(np.repeat(probas, 2, axis=2)[:, :, ::2]), exact)


@measures
def test_frames_of_members(measure, df_module):
    probas = case()
    frames = [
        df_module.make_dataframe({f"c{k}": p[:, k].copy() for k in range(4)})
        for p in probas
    ]
    assert np.array_equal(measure(frames), measure(probas))
    if measure is predictive_entropy:
        assert np.array_equal(measure(frames[0]), measure(probas[0]))


@measures
def test_the_input_is_not_changed(measure):
    probas = case()
    before = probas.copy()
    probas.setflags(write=False)
    measure(probas)
    assert np.array_equal(probas, before)


@measures
def test_no_rows(measure):
    assert measure(np.empty((3, 0, 2))).shape == (0,)
    assert predictive_entropy(np.empty((0, 2))).shape == (0,)


# ------------------------------------------------------------------ bad input


def refuses(message, measure, *args):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measure(*args)


@of_members
@pytest.mark.parametrize("shape", [(2,), (3, 2), (1, 1, 3, 2)])
def test_arrays_that_hold_no_members(measure, shape):
    message = (
        "y_probas must have shape (n_members, n_samples, n_classes), got shape "
        f"{shape}. Stack the probabilities of members with np.stack; of two classes "
        "pass both columns."
    )
    refuses(message, measure, np.full(shape, 0.5))


@pytest.mark.parametrize("shape", [(2,), (1, 1, 3, 2)])
def test_an_entropy_of_something_else(shape):
    message = (
        "y_proba must have shape (n_samples, n_classes) or (n_members, n_samples, "
        f"n_classes), got shape {shape}. Stack the probabilities of members with "
        "np.stack; of two classes pass both columns."
    )
    refuses(message, predictive_entropy, np.full(shape, 0.5))


@measures
def test_no_members(measure):
    name = "y_proba" if measure is predictive_entropy else "y_probas"
    message = f"{name} holds no member: at least one is needed."
    refuses(message, measure, np.empty((0, 3, 2)))


@measures
@pytest.mark.parametrize("row", [[0.5, np.nan], [0.5, 0.6], [-0.5, 1.5]], ids=str)
def test_the_member_whose_row_is_none(measure, row):
    name = "y_proba" if measure is predictive_entropy else "y_probas"
    start = rf"^{name}\[1\] must hold probabilities, .* but row 2 "
    probas = np.full((2, 3, 2), 0.5)
    probas[1, 2] = row
    with pytest.raises(ValueError, match=start):
        measure(probas)


@measures
def test_no_classes(measure):
    with pytest.raises(ValueError, match=r"at least one column, got shape \(3, 0\)"):
        measure(np.empty((2, 3, 0)))


def test_one_member_has_no_pairs():
    message = (
        "y_probas must hold at least 2 members, got 1: there are no pairs. For one "
        "model use predictive_entropy."
    )
    refuses(message, ensemble_disagreement, np.full((1, 3, 2), 0.5))


def test_gaussian_members_of_wrong_shapes():
    for shape in [(3,), (0, 3), (1, 2, 3)]:
        message = (
            "y_means must have shape (n_members, n_samples) with at least one member, "
            f"got shape {shape}. Stack the predictions with np.stack."
        )
        refuses(message, variance_decomposition, np.zeros(shape), np.zeros(shape))
    message = (
        "y_stds must have the shape of y_means, (2, 3), got (3,). For members without "
        "a spread of their own pass np.zeros_like(y_means)."
    )
    refuses(message, variance_decomposition, np.zeros((2, 3)), np.zeros(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_means_that_are_not_finite(bad):
    message = (
        "y_means contains NaN or infinity: no variance is defined. Remove those rows "
        "or check the members."
    )
    refuses(message, variance_decomposition, [[0.0, bad]], [[1.0, 1.0]])


def test_spreads_that_are_none():
    message = (
        "y_stds contains NaN. Remove or impute those rows; infinite values are legal, "
        "NaN is not."
    )
    refuses(message, variance_decomposition, [[0.0, 1.0]], [[1.0, np.nan]])
    message = (
        "y_stds must hold standard deviations, at least 0, got -1.0. Take the square "
        "root of variances."
    )
    refuses(message, variance_decomposition, [[0.0, 1.0]], [[1.0, -1.0]])
