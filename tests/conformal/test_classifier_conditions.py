"""ConformalClassifier by class, by group and under shift; the exact laws."""

import numpy as np
import pytest
from scipy.stats import beta, binom, kstest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier

from tests.conformal._proba import (
    calibrated,
    frozen,
    nine_digits,
    proba_rows,
    quietly,
    scores_of_every_label,
    threshold_by_hand,
)
from uqlib import InfiniteIntervalWarning
from uqlib.conformal import (
    ConformalClassifier,
    aps_scores,
    conformal_rank,
    weighted_conformal_quantile,
)

LEVELS = [0.3, 0.5, 0.8, 0.9, 0.95]
IRIS = load_iris(return_X_y=True)


# ------------------------------------------------------------ classes and groups


@pytest.mark.parametrize("nonconformity", ["lac", "aps", "topk"])
def test_classes_are_calibrated_by_their_own_rows(nonconformity):
    proba, labels = proba_rows(150)
    new, _ = proba_rows(60, seed=1)
    model = calibrated(
        proba,
        labels,
        nonconformity=nonconformity,
        class_conditional=True,
        confidence_level=0.8,
        allow_empty=True,
    )
    scores = scores_of_every_label(model, new)
    for k in range(3):
        own = model.scores_[labels == k]
        threshold = threshold_by_hand(own, 0.8)
        assert model.threshold_[k] == threshold
        np.testing.assert_array_equal(
            model.predict_set(new)[:, k], scores[:, k] <= threshold
        )


def test_a_class_without_or_with_few_rows_is_always_in_the_set():
    proba, labels = proba_rows(200, 4)
    keep = (labels != 2) & ((labels != 3) | (np.cumsum(labels == 3) <= 8))
    model = ConformalClassifier(frozen((0, 1, 2, 3)), class_conditional=True)
    with pytest.warns(InfiniteIntervalWarning) as caught:
        model.fit(proba[keep], labels[keep])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert message.startswith("2 of 4 classes have too few calibration rows")
    assert "at least 9 of each are needed" in message
    assert "always in the set: 2, 3." in message
    assert np.isposinf(model.threshold_[2:]).all()
    assert np.isfinite(model.threshold_[:2]).all()
    inside = model.predict_set(proba)  # warned once
    assert inside[:, 2:].all()
    assert not inside[:, :2].all()
    assert (model.predict_p_values(proba)[:, 2] == 1).all()
    with pytest.warns(InfiniteIntervalWarning, match="1 of 4 classes"):
        model.predict_set(proba, 0.5)


def test_an_absent_class_is_in_every_randomized_set():
    proba, labels = proba_rows(100)
    keep = labels != 1
    model = ConformalClassifier(
        frozen(), class_conditional=True, randomized=True, random_state=0
    )
    with pytest.warns(InfiniteIntervalWarning, match="1 of 3 classes.*at least 1 of"):
        model.fit(proba[keep], labels[keep])
    assert model.predict_set(proba)[:, 1].all()


@pytest.mark.parametrize("class_conditional", [False, True])
@pytest.mark.parametrize("randomized", [False, True])
def test_groups_are_calibrated_by_their_own_rows(class_conditional, randomized):
    proba, labels = proba_rows(300)
    new, _ = proba_rows(50, seed=1)
    old_groups, new_groups = np.arange(300) % 3, np.arange(50) % 3
    model = ConformalClassifier(
        frozen(),
        nonconformity="aps",
        class_conditional=class_conditional,
        randomized=randomized,
        allow_empty=True,
        random_state=0,
    ).fit(proba, labels, mondrian_groups=old_groups)
    p = model.predict_p_values(new, mondrian_groups=new_groups)
    inside = model.predict_set(new, mondrian_groups=new_groups)
    np.testing.assert_array_equal(inside, p > 0.1)
    shape = (3, 3) if class_conditional else (3,)
    assert model.threshold_.shape == shape
    assert model.groups_.tolist() == [0, 1, 2]
    if randomized:
        return
    scores = scores_of_every_label(model, new)
    for i, g in enumerate(new_groups):
        for k in range(3):
            keep = old_groups == g
            if class_conditional:
                keep &= labels == k
            threshold = threshold_by_hand(model.scores_[keep], 0.9)
            assert inside[i, k] == (scores[i, k] <= threshold)
            table = model.threshold_[g]
            assert (table[k] if class_conditional else table) == threshold


def test_group_by_a_column_equals_the_array():
    X, y = IRIS
    X = np.column_stack([X, np.arange(150) % 2])
    column = ConformalClassifier(
        LogisticRegression(max_iter=500), group_by=4, random_state=0
    ).fit(X, y)
    array = ConformalClassifier(LogisticRegression(max_iter=500), random_state=0)
    array.fit(X, y, mondrian_groups=X[:, 4])
    np.testing.assert_array_equal(
        column.predict_set(X), array.predict_set(X, mondrian_groups=X[:, 4])
    )


@pytest.mark.parametrize("class_conditional", [False, True])
def test_a_group_without_calibration_rows_gets_the_full_set(class_conditional):
    proba, labels = proba_rows(300)
    model = ConformalClassifier(frozen(), class_conditional=class_conditional)
    model.fit(proba, labels, mondrian_groups=np.arange(300) % 2)
    groups = np.where(np.arange(300) < 5, 7, 0)
    with pytest.warns(InfiniteIntervalWarning, match="1 groups had no calibration"):
        inside = model.predict_set(proba, mondrian_groups=groups)
    assert inside[:5].all()
    assert not inside[5:].all(axis=1).all()


@pytest.mark.parametrize("class_conditional", [False, True])
def test_likelihood_ratios_weigh_the_calibration_rows(class_conditional):
    proba, labels = proba_rows(200)
    new, _ = proba_rows(40, seed=1)
    rng = np.random.default_rng(2)
    old_ratio, new_ratio = rng.random(200), rng.random(40)
    model = ConformalClassifier(
        frozen(), class_conditional=class_conditional, allow_empty=True
    ).fit(proba, labels, likelihood_ratio=old_ratio)
    assert not hasattr(model, "threshold_")
    inside = model.predict_set(new, likelihood_ratio=new_ratio)
    scores = scores_of_every_label(model, new)
    for k in range(3):
        keep = labels == k if class_conditional else np.ones(200, dtype=bool)
        threshold = weighted_conformal_quantile(
            model.scores_[keep], old_ratio[keep], new_ratio, 0.9
        )
        np.testing.assert_array_equal(inside[:, k], scores[:, k] <= threshold)
    p = model.predict_p_values(new, likelihood_ratio=new_ratio)
    np.testing.assert_array_equal(inside, p > 0.1)


def test_equal_likelihood_ratios_change_nothing():
    proba, labels = proba_rows(60, digits=5)
    for more in ({}, {"class_conditional": True}, {"randomized": True}):
        plain = calibrated(proba, labels, random_state=0, **more)
        equal = ConformalClassifier(frozen(), random_state=0, **more)
        quietly(equal.fit, proba, labels, likelihood_ratio=np.full(60, 4.0))
        new = {"likelihood_ratio": np.full(60, 4.0)}
        np.testing.assert_array_equal(
            plain.predict_set(proba), quietly(equal.predict_set, proba, **new)
        )
        np.testing.assert_array_equal(
            plain.predict_p_values(proba), equal.predict_p_values(proba, **new)
        )


def test_rows_that_outweigh_their_class_get_its_label_with_one_warning():
    proba, labels = proba_rows(200)
    model = ConformalClassifier(frozen(), class_conditional=True)
    model.fit(proba, labels, likelihood_ratio=np.ones(200))
    ratio = np.where(np.arange(200) < 3, 1e6, 1.0)
    with pytest.warns(InfiniteIntervalWarning, match="3 of 3 classes") as caught:
        inside = model.predict_set(proba, likelihood_ratio=ratio)
    assert len(caught) == 1
    assert inside[:3].all()
    assert not inside[3:].all()


# ------------------------------------------------------------------ exact laws


def uniform_rows(rng, size, label):
    """Two classes whose lac score of the given label is uniform."""
    own = 1 - rng.random(size)
    return np.stack([own, 1 - own] if label == 0 else [1 - own, own], axis=-1)


@pytest.mark.parametrize("n_calibration", [9, 19, 50])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_coverage_has_its_exact_law(n_calibration, level):
    # A lac score that is uniform on (0, 1) is covered with the probability of the
    # threshold. 9 cells share an error of 1e-6.
    rng, rank = (
        np.random.default_rng(n_calibration),
        conformal_rank(n_calibration, level),
    )
    labels = np.zeros(n_calibration, dtype=int)
    thresholds = np.array(
        [
            calibrated(
                uniform_rows(rng, n_calibration, 0), labels, confidence_level=level
            ).threshold_
            for _ in range(300)
        ]
    )
    if rank > n_calibration:
        assert np.isposinf(thresholds).all()
        return
    law = beta(rank, n_calibration + 1 - rank)
    assert kstest(thresholds, law.cdf).pvalue > 1e-6 / 9
    error = law.std() / np.sqrt(thresholds.size)
    assert abs(thresholds.mean() - rank / (n_calibration + 1)) < 5.6 * error


def test_each_class_has_its_exact_law():
    # Class 1 is scored by the square of a uniform number, and has fewer rows.
    rng, sizes = np.random.default_rng(0), (40, 19)
    labels, squared = np.repeat([0, 1], sizes), np.repeat([False, True], sizes)
    thresholds = []
    for _ in range(400):
        score = rng.random(59)
        score[squared] **= 2
        first = np.where(squared, score, 1 - score)
        proba = np.column_stack([first, 1 - first])
        model = calibrated(proba, labels, class_conditional=True)
        thresholds.append(model.threshold_)
    coverage = np.array(thresholds)
    coverage[:, 1] **= 0.5
    for k, n in enumerate(sizes):
        rank = conformal_rank(n, 0.9)
        assert kstest(coverage[:, k], beta(rank, n + 1 - rank).cdf).pvalue > 1e-6 / 2


def test_randomized_coverage_is_the_level_itself_in_spite_of_ties():
    # Every row has the same three probabilities, so all scores of a label tie. A peer
    # randomizes calibration scores and not those of prediction: its sets then differ.
    rng = np.random.default_rng(0)
    p, level, n, n_new = nine_digits([0.6, 0.3, 0.1]), 0.8, 12, 20
    covered = {False: 0, True: 0}
    n_replications = 400
    for i in range(n_replications):
        labels = rng.choice(3, size=n + n_new, p=[0.6, 0.3, 0.1])
        proba = np.tile(p, (n + n_new, 1))
        for randomized in covered:
            model = calibrated(
                proba[:n],
                labels[:n],
                nonconformity="aps",
                confidence_level=level,
                randomized=randomized,
                allow_empty=True,
                random_state=i,
            )
            # One new row a replication, so that the replications are independent.
            inside = model.predict_set(proba[n:])
            covered[randomized] += inside[i % n_new, labels[n + i % n_new]]
            if randomized:
                assert np.unique(model.scores_).size == n
            else:
                assert set(model.scores_) <= set(aps_scores([p] * 3, [0, 1, 2]))
    law = binom(n_replications, level)
    assert law.ppf(5e-7) <= covered[True] <= law.isf(5e-7)
    assert covered[False] >= law.ppf(5e-7)


def test_random_numbers_are_fixed_at_calibration():
    proba, labels = proba_rows(80)
    settings = {"nonconformity": "aps", "randomized": True}
    model = calibrated(proba, labels, random_state=0, **settings)
    again = calibrated(proba, labels, random_state=0, **settings)
    other = calibrated(proba, labels, random_state=1, **settings)
    p = model.predict_p_values(proba)
    np.testing.assert_array_equal(p, model.predict_p_values(proba))
    np.testing.assert_array_equal(p, again.predict_p_values(proba))
    np.testing.assert_array_equal(p[:10], model.predict_p_values(proba[:10]))
    assert (p != other.predict_p_values(proba)).any()
    # Rows of calibration and of prediction do not share their numbers.
    own = model.nonconformity_.labels(proba, labels, model._draws(1, 80)[0])
    assert (own != model.scores_).mean() > 0.9


# ------------------------------------------------------------------------ classes


def test_string_labels_and_two_classes():
    X, y = IRIS
    keep = y < 2
    names = np.array(["no", "yes"])[y[keep]]
    strings = ConformalClassifier(LogisticRegression(), random_state=0)
    numbers = ConformalClassifier(LogisticRegression(), random_state=0)
    strings.fit(X[keep], names)
    numbers.fit(X[keep], y[keep])
    assert strings.classes_.tolist() == ["no", "yes"]
    assert strings.predict_set(X).shape == (150, 2)
    np.testing.assert_array_equal(strings.predict_set(X), numbers.predict_set(X))
    assert set(strings.predict(X)) == {"no", "yes"}


def test_a_class_that_is_only_in_calibration_has_probability_zero():
    X, y = np.arange(40.0).reshape(-1, 1), np.arange(40) % 2 * 2
    seed = next(
        s
        for s in range(99)
        if 39 in train_test_split(range(40), test_size=0.25, random_state=s)[1]
    )
    y[39] = 1
    model = ConformalClassifier(DecisionTreeClassifier(), random_state=seed).fit(X, y)
    assert model.estimator_.classes_.tolist() == [0, 2]
    assert model.classes_.tolist() == [0, 1, 2]
    proba = model.predict_proba(X)
    assert (proba[:, 1] == 0).all()
    np.testing.assert_array_equal(proba[:, [0, 2]], model.estimator_.predict_proba(X))
    assert model.scores_.max() == 1.0
    assert model.predict_set(X).shape == (40, 3)


@pytest.mark.parametrize("nonconformity", ["raps", "aps"])
@pytest.mark.parametrize("class_conditional", [False, True])
def test_many_classes_with_single_members(nonconformity, class_conditional):
    # A peer splits by class to tune its penalty, and fails here.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 3)), np.concatenate([np.arange(60), np.zeros(60, int)])
    model = ConformalClassifier(
        DecisionTreeClassifier(max_depth=3),
        nonconformity=nonconformity,
        class_conditional=class_conditional,
        random_state=0,
    )
    quietly(model.fit, X, y)
    inside = model.predict_set(X)
    assert inside.shape == (120, 60)
    assert inside.any(axis=1).all()
    assert model.n_calibration_ == 30


def test_classes_share_the_calibration_rows_if_they_are_calibrated_alone():
    y = np.repeat([0, 1, 2], [40, 40, 8])
    X = np.arange(88.0).reshape(-1, 1)
    for seed in range(5):
        model = ConformalClassifier(
            DecisionTreeClassifier(), class_conditional=True, random_state=seed
        )
        quietly(model.fit, X, y)
        assert model._cells.sizes.tolist() == [[10, 10, 2]]


def test_a_label_that_a_frozen_estimator_does_not_know_is_named():
    proba, labels = proba_rows(20)
    with pytest.raises(ValueError, match="not know: 3, 4; it knows 0, 1, 2"):
        ConformalClassifier(frozen()).fit(proba, np.where(labels == 2, 4, 3))
    with pytest.raises(ValueError, match="not know: '0', '1', '2'; it knows 0, 1, 2"):
        ConformalClassifier(frozen()).fit(proba, labels.astype(str))


def test_a_label_that_calibration_does_not_know_is_named():
    X, y = IRIS
    model = ConformalClassifier(LogisticRegression(max_iter=500), random_state=0)
    model.fit(X, y)
    before = model.predict_set(X)
    with pytest.raises(ValueError, match="does not know: 5; it knows 0, 1, 2"):
        model.calibrate(X, np.where(y == 2, 5, y))
    np.testing.assert_array_equal(model.predict_set(X), before)
    model.calibrate(X[:100], y[:100])  # one class is absent
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.n_calibration_ == 100
