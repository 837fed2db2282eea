"""RiskControlledClassifier: the procedure by hand, levels held, every kind of model."""

import pickle
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import binom
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib._core.ranks import conformal_quantile
from uqlib.conformal import (
    RiskControlledClassifier,
    conformal_risk_threshold,
    false_discovery_losses,
    false_negative_losses,
    hoeffding_bentkus_p_value,
    learn_then_test,
    miscoverage_losses,
    rcps_threshold,
    wsr_p_value,
)
from uqlib.conformal._label_sets import default_thresholds
from uqlib.exceptions import AlreadyFittedWarning, RiskNotControlledWarning

X, Y = make_multilabel_classification(
    600, n_features=6, n_classes=4, n_labels=2, random_state=0
)
CLASSES = np.where(Y[:, 0] == 1, "b", np.where(Y[:, 1] == 1, "c", "a"))
GRID = np.linspace(0, 1, 21)


class Given(ClassifierMixin, BaseEstimator):
    """The columns of X are the probabilities: nothing is learned."""

    def __init__(self, classes=None):
        self.classes = classes

    def fit(self, X, y):
        """Take the classes as they are given."""
        self.classes_ = np.arange(X.shape[1])
        if self.classes is not None:
            self.classes_ = np.asarray(self.classes)
        return self

    def predict_proba(self, X):
        """Return X."""
        return np.asarray(X)

    def predict(self, X):
        """Return the largest column."""
        return self.classes_[np.argmax(np.asarray(X), axis=1)]


def given_model(n_labels, classes=None):
    return FrozenEstimator(Given(classes).fit(np.zeros((1, n_labels)), None))


def world(n, rng, n_labels=5):
    """Probabilities that are right, and labels drawn from them."""
    proba = rng.beta(0.5, 1.5, size=(n, n_labels))
    return proba, (rng.uniform(size=proba.shape) < proba).astype(int)


def by_hand(name, indicator, proba, control, level):
    """Threshold of the three controls on GRID."""
    function = {
        "false_negative_rate": false_negative_losses,
        "miscoverage": miscoverage_losses,
    }[name]
    falling = function(indicator, proba, GRID[::-1])
    if control == "conformal":
        return conformal_risk_threshold(falling, GRID[::-1], level)
    if control == "rcps":
        return rcps_threshold(falling, GRID[::-1], level)
    p_values = hoeffding_bentkus_p_value(falling.mean(axis=0), len(proba), level)
    return GRID[::-1][learn_then_test(p_values[::-1])[::-1]].max()


@pytest.mark.parametrize("control", ["conformal", "rcps", "ltt"])
@pytest.mark.parametrize("risk", ["false_negative_rate", "miscoverage"])
@pytest.mark.parametrize("multilabel", [True, False])
def test_equals_the_procedure_by_hand(risk, control, multilabel):
    y = Y if multilabel else CLASSES
    base = KNeighborsClassifier(15)
    model = RiskControlledClassifier(
        base,
        risk=risk,
        control=control,
        risk_level=0.3,
        thresholds=GRID,
        calibration_size=0.4,
        random_state=1,
    ).fit(X, y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, y, test_size=0.4, random_state=1
    )
    fitted = base.fit(X_train, y_train)
    if multilabel:
        proba = np.column_stack([p[:, 1] for p in fitted.predict_proba(X_cal)])
        new = np.column_stack([p[:, 1] for p in fitted.predict_proba(X)])
        indicator = y_cal
    else:
        proba, new = fitted.predict_proba(X_cal), fitted.predict_proba(X)
        indicator = y_cal[:, None] == fitted.classes_
    threshold = by_hand(risk, indicator, proba, control, 0.3)
    assert model.threshold_ == threshold
    np.testing.assert_array_equal(model.predict_set(X), new >= threshold)
    np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
    assert model.n_calibration_ == len(X_cal)
    assert model.multilabel_ is multilabel
    assert model.thresholds_[model.valid_].max() == threshold
    losses = miscoverage_losses if risk == "miscoverage" else false_negative_losses
    expected = losses(indicator, proba, GRID)
    np.testing.assert_allclose(model.risks_, expected.mean(axis=0), rtol=1e-12)
    if control == "conformal":
        assert model.p_values_ is None
    else:
        p_values = hoeffding_bentkus_p_value(expected.mean(axis=0), len(proba), 0.3)
        np.testing.assert_allclose(model.p_values_, p_values, rtol=1e-9)


@pytest.mark.parametrize("bound", ["hoeffding_bentkus", "wsr"])
@pytest.mark.parametrize("correction", ["fixed_sequence", "holm", "bonferroni"])
def test_false_discoveries_by_hand(correction, bound):
    proba, labels = world(400, np.random.default_rng(0))
    model = RiskControlledClassifier(
        given_model(5),
        risk="false_discovery_rate",
        risk_level=0.35,
        control="ltt",
        correction=correction,
        bound=bound,
        thresholds=GRID,
        random_state=7,
    ).fit(proba, labels)
    losses = false_discovery_losses(labels, proba, GRID)
    order = np.random.RandomState(7).permutation(400)
    p_values = (
        wsr_p_value(losses[order], 0.35)
        if bound == "wsr"
        else hoeffding_bentkus_p_value(losses.mean(axis=0), 400, 0.35)
    )
    valid = learn_then_test(p_values[::-1], method=correction)[::-1]
    np.testing.assert_array_equal(model.valid_, valid)
    assert valid.any()
    assert not valid.all()
    assert model.threshold_ == GRID[valid].min()
    for threshold in model.thresholds_[model.valid_]:
        np.testing.assert_array_equal(
            model.predict_set(proba, threshold=threshold), proba >= threshold
        )


def test_miscoverage_of_classes_is_the_conformal_quantile():
    # With the observed probabilities as thresholds the largest one that will do is the
    # conformal quantile of the scores -p, and the sets are those of split conformal.
    rng = np.random.default_rng(4)
    proba = rng.dirichlet(np.ones(4), size=99)
    y = rng.integers(0, 4, size=99)
    own = proba[np.arange(99), y]
    model = RiskControlledClassifier(
        given_model(4), risk="miscoverage", risk_level=0.2, thresholds=own
    ).fit(proba, y)
    assert model.threshold_ == -conformal_quantile(-own, 0.8)


def test_every_kind_of_multilabel_model():
    models = {
        "one": OneVsRestClassifier(LogisticRegression()),
        "many": MultiOutputClassifier(LogisticRegression()),
        "forest": RandomForestClassifier(10, random_state=0),
        "neighbors": make_pipeline(StandardScaler(), KNeighborsClassifier(7)),
        "network": MLPClassifier((4,), max_iter=20, random_state=0),
        "search": GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [3, 9]}, cv=2),
    }
    sets = {}
    for name, base in models.items():
        model = RiskControlledClassifier(base, random_state=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Stochastic Optimizer")
            sets[name] = model.fit(X, Y).predict_set(X)
        assert sets[name].shape == Y.shape
        assert sets[name].dtype == bool
        missed = ((Y == 1) & ~sets[name]).sum(axis=1) / np.maximum(Y.sum(axis=1), 1)
        assert missed.mean() < 0.25
        np.testing.assert_array_equal(model.classes_, np.arange(4))
        assert model.predict(X).shape == Y.shape
    np.testing.assert_array_equal(sets["one"], sets["many"])


def test_a_label_that_training_never_saw_has_probability_zero():
    y = Y.copy()
    y[:, 1], y[:, 2] = 0, 1
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    assert [p.shape[1] for p in forest.predict_proba(X)] == [2, 1, 1, 2]
    model = RiskControlledClassifier(FrozenEstimator(forest)).fit(X, y)
    sets = model.predict_set(X, threshold=0.5)
    assert not sets[:, 1].any()
    assert sets[:, 2].all()


def test_a_class_that_is_only_in_calibration_has_probability_zero():
    X, y = np.arange(60.0).reshape(-1, 1), np.repeat([0, 3], 30)
    y[5] = 1
    seed = next(
        s
        for s in range(99)
        if 5 in train_test_split(range(60), test_size=0.25, random_state=s)[1]
    )
    model = RiskControlledClassifier(KNeighborsClassifier(1), random_state=seed)
    model.fit(X, y)
    assert model.estimator_.classes_.tolist() == [0, 3]
    assert model.classes_.tolist() == [0, 1, 3]
    proba = model.estimator_.predict_proba(X)
    sets = model.predict_set(X, threshold=0.5)
    np.testing.assert_array_equal(sets[:, [0, 2]], proba >= 0.5)
    assert not sets[:, 1].any()
    assert model.predict_set(X, threshold=0.0).all()
    # One calibration row of 15 is missed wherever its class is left out.
    assert model.risks_[model.thresholds_ > 0].min() >= 1 / 15
    assert model.calibrate(X[20:], y[20:]).classes_.tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match=r"classes \[7\] that the estimator was not"):
        model.calibrate(X, np.where(y == 1, 7, y))


def test_a_function_equals_the_name_that_it_computes():
    def missed(y_true, y_set):
        assert y_true.dtype == y_set.dtype == bool
        return (y_true & ~y_set).sum(axis=1) / np.maximum(y_true.sum(axis=1), 1)

    proba, labels = world(150, np.random.default_rng(1))
    for control in ("conformal", "rcps", "ltt"):
        parameters = {"control": control, "risk_level": 0.2}
        named = RiskControlledClassifier(given_model(5), **parameters)
        own = RiskControlledClassifier(given_model(5), risk=missed, **parameters)
        named.fit(proba, labels)
        own.fit(proba, labels)
        assert named.threshold_ == own.threshold_
        np.testing.assert_array_equal(named.risks_, own.risks_)
        np.testing.assert_array_equal(named.valid_, own.valid_)


def size_or_miss(y_true, y_set):
    """No monotone loss: a large set costs, and so does a miss."""
    return np.where((y_true & ~y_set).any(axis=1), 1.0, y_set.mean(axis=1))


def test_a_loss_that_is_not_monotone_needs_learn_then_test():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 6, size=800)
    proba = np.full((800, 6), 0.02)
    proba[np.arange(800), y] = 0.9
    for control in ("conformal", "rcps"):
        model = RiskControlledClassifier(
            given_model(6), risk=size_or_miss, control=control, risk_level=0.3
        )
        with pytest.raises(ValueError, match=r"must not grow .* use learn_then_test"):
            model.fit(proba, y)
        assert not hasattr(model, "threshold_")
    model = RiskControlledClassifier(
        given_model(6),
        risk=size_or_miss,
        control="ltt",
        correction="holm",
        risk_level=0.3,
        thresholds=GRID,
    ).fit(proba, y)
    # Below 0.02 the set is full and costs 1, above 0.9 it misses: between lies 1 / 6.
    np.testing.assert_array_equal(model.valid_, (GRID > 0.02) & (GRID <= 0.9))
    model.set_params(risk_level=0.1)
    with pytest.raises(ValueError, match="of a function no set is known to be safe"):
        model.fit(proba, y)
    for name in ("conformal", "rcps"):
        with pytest.raises(ValueError, match=r"is not monotone .* control='ltt'"):
            RiskControlledClassifier(
                given_model(6), risk="false_discovery_rate", control=name
            ).fit(proba, y)


def exact_risk(name, threshold, reference, cache):
    """Risk at a threshold, by 200,000 rows of the world."""
    if threshold not in cache:
        function = {
            "false_negative_rate": false_negative_losses,
            "false_discovery_rate": false_discovery_losses,
        }[name]
        proba, labels = reference
        cache[threshold] = function(labels, proba, [threshold]).mean()
    return cache[threshold]


@pytest.mark.parametrize(
    ("control", "risk", "bound"),
    [
        ("conformal", "false_negative_rate", "hoeffding_bentkus"),
        ("rcps", "false_negative_rate", "hoeffding_bentkus"),
        ("rcps", "false_negative_rate", "wsr"),
        ("ltt", "false_discovery_rate", "hoeffding_bentkus"),
    ],
)
def test_the_level_is_held_over_1000_replications(control, risk, bound):
    rng, level, n, n_replications = np.random.default_rng(11), 0.25, 60, 1000
    reference, cache, risks = world(200_000, np.random.default_rng(12)), {}, []
    model = RiskControlledClassifier(
        given_model(5),
        risk=risk,
        risk_level=level,
        control=control,
        confidence_level=0.8,
        bound=bound,
        thresholds=np.linspace(0, 1, 41),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RiskNotControlledWarning)
        for _ in range(n_replications):
            threshold = model.fit(*world(n, rng)).threshold_
            risks.append(exact_risk(risk, threshold, reference, cache))
    risks = np.array(risks)
    # The reference itself is known to within 5 standard errors of its mean.
    allowed = level + 5 * 0.5 / np.sqrt(200_000)
    if control == "conformal":
        error = risks.std() / np.sqrt(n_replications)
        assert risks.mean() <= allowed + 4.8 * error
        assert risks.mean() >= level - 0.06  # a grid of 41 wastes no more
    else:
        assert (risks > allowed).sum() <= binom.isf(1e-6, n_replications, 0.2)
        assert risks.mean() > 0.1


def test_no_threshold_is_certified():
    proba, labels = world(8, np.random.default_rng(0))
    with pytest.warns(RiskNotControlledWarning) as caught:
        model = RiskControlledClassifier(given_model(5)).fit(proba, labels)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert "at least 9 are needed" in message
    assert "every label is in each set" in message
    assert model.threshold_ == -np.inf
    assert not model.valid_.any()
    assert model.predict_set(proba).all()
    discovery = RiskControlledClassifier(
        given_model(5), risk="false_discovery_rate", control="ltt"
    )
    with pytest.warns(RiskNotControlledWarning, match=r"22 are needed .* are empty"):
        discovery.fit(proba, labels)
    assert discovery.threshold_ == np.inf
    assert not discovery.predict_set(proba).any()
    discovery.set_params(correction="holm", thresholds=GRID)
    with pytest.warns(RiskNotControlledWarning, match="at least 51 are needed"):
        discovery.fit(proba, labels)


def test_a_lower_level_gives_larger_sets():
    proba, labels = world(300, np.random.default_rng(3))
    for control in ("conformal", "rcps", "ltt"):
        thresholds = [
            RiskControlledClassifier(given_model(5), risk_level=a, control=control)
            .fit(proba, labels)
            .threshold_
            for a in (0.05, 0.1, 0.2, 0.4)
        ]
        assert (np.diff(thresholds) >= 0).all()
        assert thresholds[0] < thresholds[-1]


def test_order_of_rows_matters_to_betting_alone():
    proba, labels = world(200, np.random.default_rng(3))
    order = np.random.default_rng(0).permutation(200)

    def p_values(bound, rows, seed=0):
        model = RiskControlledClassifier(
            given_model(5), control="rcps", bound=bound, random_state=seed
        )
        return model.fit(proba[rows], labels[rows]).p_values_

    every = np.arange(200)
    np.testing.assert_allclose(
        p_values("hoeffding_bentkus", order),
        p_values("hoeffding_bentkus", every, seed=1),
        rtol=1e-9,
    )
    np.testing.assert_array_equal(p_values("wsr", every), p_values("wsr", every))
    assert (p_values("wsr", order) != p_values("wsr", every)).any()
    assert (p_values("wsr", every, seed=1) != p_values("wsr", every)).any()


def test_rows_sorted_by_class_win_no_bets():
    # At 0.5 the risk is 0.3, above the level. Whoever bets on 70 rows without a loss
    # before the 30 with one gets rich: rows that come in order of class are shuffled.
    rng, proba = np.random.default_rng(0), np.tile([0.7, 0.3], (100, 1))
    model = RiskControlledClassifier(
        given_model(2),
        risk="miscoverage",
        risk_level=0.2,
        control="rcps",
        bound="wsr",
        thresholds=[0.0, 0.5],
        random_state=np.random.RandomState(0),
    )
    wrong = 0
    for _ in range(200):
        y = np.sort((rng.random(100) < 0.3).astype(int))
        wrong += model.fit(proba, y).valid_[1]
        assert model.valid_[0]
    assert wrong <= binom.isf(1e-6, 200, 0.1)


def test_chunks_of_thresholds_do_not_matter(monkeypatch):
    proba, labels = world(100, np.random.default_rng(3))

    def missed(y_true, y_set):
        return (y_true & ~y_set).any(axis=1)

    for risk in ("miscoverage", missed):
        model = RiskControlledClassifier(
            given_model(5), risk=risk, control="rcps", risk_level=0.3
        )
        whole = pickle.loads(pickle.dumps(model.fit(proba, labels).p_values_))
        monkeypatch.setattr("uqlib.conformal._risk._CHUNK", 700)
        np.testing.assert_allclose(model.fit(proba, labels).p_values_, whole)
        monkeypatch.undo()

    def sets_grow_once(y_true, y_set):
        return np.full(len(y_set), 0.5 * (y_set.sum() < 40))

    # A loss that falls with the threshold between two chunks is seen as well.
    falls = RiskControlledClassifier(
        given_model(5), risk=lambda a, b: 1 - sets_grow_once(a, b), thresholds=GRID
    )
    monkeypatch.setattr("uqlib.conformal._risk._CHUNK", 1)
    with pytest.raises(ValueError, match="must not grow"):
        falls.fit(proba, labels)


def test_default_thresholds():
    grid = default_thresholds()
    assert (np.diff(grid) > 0).all()
    assert np.diff(grid).max() < 0.0010001
    assert grid[0] == 0
    assert grid[-1] == 1
    assert set(np.arange(1, 1000) / 1000) <= set(grid)


def test_calibrate_changes_the_threshold_and_not_the_model():
    model = RiskControlledClassifier(KNeighborsClassifier(9), random_state=0)
    model.fit(X[:300], Y[:300])
    fitted, before = model.estimator_, vars(model).copy()
    for rows, labels, message in [
        (X[:3], CLASSES[:3], "labels of the same kind"),
        (X[:3], Y[:2], "inconsistent numbers of samples"),
        (X[:3], Y[:3, :3], r"there are 3 rows and 3 labels"),
        (X[:3], 2 * Y[:3], "0 and 1 alone"),
        (X[:3], None, "requires y to be passed"),
        (X[:3, :2], Y[:3], "features"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.calibrate(rows, labels)
    assert vars(model).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(model).items())
    again = RiskControlledClassifier(FrozenEstimator(fitted)).fit(X[300:], Y[300:])
    model.calibrate(X[300:], Y[300:])
    assert model.estimator_ is fitted
    assert model.n_calibration_ == 300
    assert model.threshold_ == again.threshold_


def test_sparse_and_list_indicators():
    model = RiskControlledClassifier(KNeighborsClassifier(9), random_state=0)
    expected = model.fit(X, Y).threshold_
    assert model.fit(X, csr_array(Y)).threshold_ == expected
    assert model.fit(X, Y.tolist()).threshold_ == expected
    assert model.fit(X, Y.astype(bool)).threshold_ == expected
    assert model.fit(np.asfortranarray(X), Y.astype(np.float32)).threshold_ == expected


def test_frames_and_pipelines(df_module):
    names = [f"x{k}" for k in range(X.shape[1])]
    frame = df_module.make_dataframe(dict(zip(names, X.T, strict=True)))
    columns = {f"y{k}": Y[:, k] for k in range(Y.shape[1])}
    base = make_pipeline(
        make_column_transformer((StandardScaler(), names)), KNeighborsClassifier(15)
    )
    model = RiskControlledClassifier(base, random_state=0)
    model.fit(frame, df_module.make_dataframe(columns))
    assert list(model.feature_names_in_) == names
    plain = make_pipeline(StandardScaler(), KNeighborsClassifier(15))
    expected = RiskControlledClassifier(plain, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(model.predict_set(frame), expected.predict_set(X))
    series = df_module.make_series(CLASSES)
    classes = RiskControlledClassifier(base, random_state=0).fit(frame, series)
    assert classes.predict_set(frame).shape == (600, 3)
    assert classes.classes_.tolist() == ["a", "b", "c"]


def test_clone_pickle_search_and_scores():
    model = RiskControlledClassifier(
        KNeighborsClassifier(9), risk="miscoverage", risk_level=0.2, random_state=0
    )
    fitted = clone(model).fit(X, CLASSES)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_set(X), fitted.predict_set(X))
    assert fitted.score(X, CLASSES) > 0.5
    search = GridSearchCV(model, {"estimator__n_neighbors": [3, 9]}, cv=2)
    assert search.fit(X, CLASSES).best_estimator_.predict_set(X).shape == (600, 3)


def test_weights_train_and_do_not_calibrate():
    weight = np.random.default_rng(0).uniform(0.1, 2, size=600)
    model = RiskControlledClassifier(LogisticRegression(), random_state=0)
    model.fit(X, CLASSES, sample_weight=weight)
    rows, held_out = train_test_split(range(600), test_size=0.25, random_state=0)
    base = LogisticRegression().fit(X[rows], CLASSES[rows], sample_weight=weight[rows])
    expected = RiskControlledClassifier(FrozenEstimator(base))
    expected.fit(X[held_out], CLASSES[held_out])
    assert model.threshold_ == expected.threshold_


def test_a_fitted_model_is_cloned_with_a_warning():
    base = KNeighborsClassifier(5).fit(X[:50], Y[:50])
    with pytest.warns(AlreadyFittedWarning):
        RiskControlledClassifier(base, random_state=0).fit(X, Y)
    assert base.n_samples_fit_ == 50


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"risk": "recall"}, "risk='recall' must be one of"),
        ({"risk": 3}, "risk=3 must be one of"),
        ({"risk_level": 0.0}, "risk_level must lie strictly between 0"),
        ({"risk_level": 1.0}, "risk_level must lie strictly between 0"),
        ({"confidence_level": 1.0}, "confidence_level must lie strictly"),
        ({"control": "crc"}, "control='crc' must be one of"),
        ({"bound": "clt"}, "bound='clt' must be one of"),
        ({"correction": "bh"}, "correction='bh' must be one of"),
        ({"thresholds": []}, "thresholds must be a non-empty 1-D sequence"),
        ({"thresholds": [0.5, np.nan]}, "of finite numbers"),
        ({"calibration_size": 1.5}, "calibration_size as a float"),
        ({"risk": lambda a, b: 0.5}, "must give one loss a row"),
        ({"risk": lambda a, b: np.full(len(a), 2.0)}, "losses must lie between 0"),
        ({"risk": lambda a, b: np.full(len(a), np.nan)}, "losses contains NaN"),
    ],
)
def test_bad_parameters_are_errors(parameters, message):
    model = RiskControlledClassifier(KNeighborsClassifier(5), random_state=0)
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(X, Y)


def test_bad_models_and_targets_are_errors():
    with pytest.raises(ValueError, match="Perceptron has no predict_proba"):
        RiskControlledClassifier(Perceptron()).fit(X, CLASSES)
    for values in (np.full((3, 2), 1.5), np.full((3, 2), -0.5)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            RiskControlledClassifier(given_model(2)).fit(values, [0, 1, 1])
    with pytest.raises(ValueError, match="contains NaN"):
        RiskControlledClassifier(given_model(2)).fit(np.full((2, 2), np.nan), [0, 1])
    with pytest.raises(ValueError, match=r"classes \[7\] that the estimator was not"):
        RiskControlledClassifier(given_model(2)).fit(np.full((2, 2), 0.5), [0, 7])
    with pytest.raises(ValueError, match="must have classes_, one for each"):
        RiskControlledClassifier(given_model(2, ["a"])).fit([[0.5, 0.5]], ["a"])
    model = RiskControlledClassifier(KNeighborsClassifier(5))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        model.fit(X[:3], [0.0, np.nan, 1.0])
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(X[:3], [0.1, 0.2, 1.5])
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        model.fit(X[:0], CLASSES[:0])
    fitted = RiskControlledClassifier(given_model(5))
    proba, labels = world(50, np.random.default_rng(0))
    fitted.fit(proba, labels)
    for threshold in (np.nan, "0.5", [0.1, 0.2]):
        with pytest.raises(ValueError, match="threshold must be a number, or None"):
            fitted.predict_set(proba, threshold=threshold)
