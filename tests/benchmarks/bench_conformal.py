"""Conformal calibration: array functions and calibrators against the peers.

TorchCP is imported with empty stand-ins for packages that its other parts need and its
label scores do not (torchsort, which needs a compiler, torch_geometric, transformers).
Without it, or another peer, its cases are left out, with a line that says so.
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys
import tracemalloc
import types
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
from _timing import Result, speedups
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

REPEATS = 3
# The folds of puncc's splitter, for all.
FOLDS = KFold(10, shuffle=True, random_state=0)
MEBIBYTE = 2**20


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases."""
    for cases in (cross, labels, predictive, weighted, online, venn_abers):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from cases(quick)


# ---------------------------------------------------------------------------
# CV+


def cross(quick: bool) -> Iterator[Result]:
    """CV+ around a linear regression, whole predictions of both sides."""
    n, n_test = (1_000, 5_000) if quick else (10_000, 100_000)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    y = X[:, 0] + rng.normal(size=n)
    X_test = rng.normal(size=(n_test, 3))
    ours = _our_cross(X, y)
    regime = f"10 folds, n = {n:,}, {n_test:,} rows"
    for name, peer, n_part, target in (
        (_named("mapie", "MAPIE"), _mapie_cross, 500, 100),
        (_named("puncc", "puncc"), _puncc_cross, 500, 50),
    ):
        with _if_installed(name):
            predict = peer(X, y)
            part = X_test[:n_part]
            _agree(ours.predict_interval(part), predict(part), 1e-9)
            ratios = speedups(
                lambda: ours.predict_interval(X_test),
                lambda predict=predict, part=part: predict(part),
                REPEATS,
                scale=n_test / n_part,
            )
            yield Result(
                "CV+ intervals", f"{regime}; peer on {n_part}", name, ratios, target
            )
    yield _cross_memory(ours, X_test, regime)


def _our_cross(X: np.ndarray, y: np.ndarray) -> Any:
    from uqlib import CrossConformalRegressor

    return CrossConformalRegressor(LinearRegression(), cv=FOLDS).fit(X, y)


def _mapie_cross(X: np.ndarray, y: np.ndarray) -> Callable[[Any], np.ndarray]:
    from mapie.regression import CrossConformalRegressor

    model = CrossConformalRegressor(
        LinearRegression(), confidence_level=0.9, method="plus", cv=FOLDS
    ).fit_conformalize(X, y)
    return lambda rows: model.predict_interval(rows)[1][:, :, 0]


def _puncc_cross(X: np.ndarray, y: np.ndarray) -> Callable[[Any], np.ndarray]:
    from deel.puncc.api.prediction import BasePredictor
    from deel.puncc.regression import CVPlus

    model = CVPlus(BasePredictor(LinearRegression()), K=10, random_state=0)
    model.fit(X=X, y=y)
    return lambda rows: np.column_stack(model.predict(rows, alpha=0.1)[1:])


def _cross_memory(ours: Any, X_test: np.ndarray, regime: str) -> Result:
    tracemalloc.start()
    output = ours.predict_interval(X_test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    extra = (peak - output.nbytes) / MEBIBYTE
    return Result(
        "CV+ intervals, peak memory beyond the output, MiB",
        regime,
        "none: a size, not a ratio",
        (extra,),
        64,
        at_most=True,
    )


# ---------------------------------------------------------------------------
# Label sets


def labels(quick: bool) -> Iterator[Result]:
    """Scores and sets of 1,000 classes."""
    from uqlib.conformal import (
        aps_scores,
        aps_sets,
        lac_sets,
        raps_scores,
        raps_sets,
    )

    n_samples, n_part = (2_000, 500) if quick else (20_000, 2_000)
    proba, y = _softmax_rows(n_samples, 1_000)
    part, y_part, scale = proba[:n_part], y[:n_part], n_samples / n_part
    regime = f"1,000 classes, {n_samples:,} rows; peer on {n_part:,}"
    threshold, raps = 0.9, {"k_reg": 5, "penalty": 0.01}
    with _if_installed("TorchCP"):
        torchcp = _torchcp()
        aps, peer_raps = torchcp(), torchcp(**raps)
        name = f"TorchCP {torchcp.version}"
        _agree(aps_scores(part, y_part), aps.scores(part, y_part), 1e-9)
        yield Result(
            "aps_scores",
            regime,
            name,
            speedups(
                lambda: aps_scores(proba, y),
                lambda: aps.scores(part, y_part),
                REPEATS,
                scale,
            ),
            20,
        )
        for case, ours, peer, options in (
            ("aps_sets", aps_sets, aps, {}),
            ("raps_sets", raps_sets, peer_raps, raps),
        ):
            # Masses that are rounded in another order can differ at the threshold.
            _same_sets(ours(part, threshold, **options), peer.sets(part, threshold))
            yield Result(
                case,
                regime,
                name,
                speedups(
                    lambda ours=ours, given=options: ours(proba, threshold, **given),
                    lambda peer=peer: peer.sets(part, threshold),
                    REPEATS,
                    scale,
                ),
                8,
            )
        _agree(raps_scores(part, y_part, **raps), peer_raps.scores(part, y_part), 1e-6)
    with _if_installed("MAPIE"):
        yield from _mapie_sets(proba, y, part, regime, scale)
    with _if_installed("crepes"):
        yield from _crepes_sets(proba, y, lac_sets)


def _softmax_rows(n_samples: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(n_samples, n_classes))
    proba = np.exp(logits)
    proba /= proba.sum(axis=1, keepdims=True)
    # Labels drawn from the probabilities themselves: a calibrated classifier.
    y = (proba.cumsum(axis=1) < rng.random((n_samples, 1))).sum(axis=1)
    return proba, np.minimum(y, n_classes - 1)


def _mapie_sets(
    proba: np.ndarray, y: np.ndarray, part: np.ndarray, regime: str, scale: float
) -> Iterator[Result]:
    from mapie.classification import SplitConformalClassifier

    from uqlib.conformal import aps_scores, aps_sets, conformal_quantile

    model = SplitConformalClassifier(
        _Given(proba.shape[1]),
        confidence_level=0.9,
        prefit=True,
        conformity_score="aps",
    )
    calibration = proba[-2_000:]
    model.conformalize(calibration, y[-2_000:])
    # The peer's calibration scores are randomized and its sets are not, so the two
    # thresholds differ; the sets are compared at the same one.
    threshold = float(conformal_quantile(aps_scores(calibration, y[-2_000:]), 0.9))
    yield Result(
        "aps_sets",
        f"{regime}; outputs differ, as the peer randomizes one side",
        _named("mapie", "MAPIE"),
        speedups(
            lambda: aps_sets(proba, threshold),
            lambda: model.predict_set(part),
            REPEATS,
            scale,
        ),
        8,
    )


class _Given:
    """A fitted classifier whose rows are their probabilities."""

    def __init__(self, n_classes: int) -> None:
        self.classes_ = np.arange(n_classes)
        self.n_features_in_ = n_classes

    def fit(self, X: Any, y: Any) -> "_Given":
        """Do nothing."""
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the rows."""
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the most probable class."""
        return X.argmax(axis=1)


def _crepes_sets(
    proba: np.ndarray, y: np.ndarray, lac_sets: Callable[..., np.ndarray]
) -> Iterator[Result]:
    from crepes import ConformalClassifier

    from uqlib.conformal import conformal_quantile, lac_scores

    n_calibration, n_part = 1_000, 20
    scores = lac_scores(proba[:n_calibration], y[:n_calibration])
    peer = ConformalClassifier().fit(scores)
    part = 1 - proba[-n_part:]
    threshold = conformal_quantile(scores, 0.9)
    theirs = peer.predict_set(part, confidence=0.9, smoothing=False).astype(bool)
    np.testing.assert_array_equal(lac_sets(proba[-n_part:], threshold), theirs)
    yield Result(
        "lac_sets",
        f"1,000 classes, {len(proba):,} rows; peer on {n_part}",
        _named("crepes", "crepes"),
        speedups(
            lambda: lac_sets(proba, threshold),
            lambda: peer.predict_set(part, confidence=0.9, smoothing=False),
            REPEATS,
            len(proba) / n_part,
        ),
        300,
    )


def _torchcp() -> Any:
    """Return a class that wraps the peer's APS and RAPS; raises ImportError."""
    sys.meta_path.append(_StandIns())
    import torch
    import torchcp
    from torchcp.classification.predictor import SplitPredictor
    from torchcp.classification.score import APS, RAPS

    torch.set_num_threads(1)

    class Peer:
        version = torchcp.__version__

        def __init__(self, k_reg: int = 0, penalty: float = 0.0) -> None:
            options: dict[str, Any] = {"score_type": "identity", "randomized": False}
            if penalty:
                self._score = RAPS(penalty=penalty, kreg=k_reg, **options)
            else:
                self._score = APS(**options)
            self._predictor = SplitPredictor(self._score)

        def scores(self, proba: np.ndarray, y: np.ndarray) -> np.ndarray:
            return self._score(torch.from_numpy(proba), torch.from_numpy(y)).numpy()

        def sets(self, proba: np.ndarray, threshold: float) -> np.ndarray:
            rows = torch.from_numpy(proba)
            sets = self._predictor.predict_with_logits(rows, torch.tensor(threshold))
            return sets.numpy().astype(bool)

    return Peer


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for packages that an import names and nothing here uses."""

    NAMES = ("torchsort", "torch_geometric", "transformers")

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Answer for the named packages, after everything that is installed."""
        if name.split(".")[0] not in self.NAMES:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        """Return a module in which every name is an empty class."""
        module = types.ModuleType(spec.name)
        module.__getattr__ = _empty_class  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing."""


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


# ---------------------------------------------------------------------------
# Predictive systems


def predictive(quick: bool) -> Iterator[Result]:
    """p-values and CRPS of a conformal predictive system."""
    from uqlib.conformal import predictive_crps, predictive_p_values

    n, n_test, n_part = (5_000, 1_000, 50) if quick else (100_000, 10_000, 200)
    rng = np.random.default_rng(0)
    # Sorted, as a fitted system keeps them on both sides.
    residuals, y_pred = np.sort(rng.normal(size=n)), rng.normal(size=n_test)
    y = y_pred + rng.normal(size=n_test)
    # Ours takes less than a millisecond, too little to time once.
    hot = f"n = {n:,}, {n_test:,} rows, cache-hot, 20 times a turn; peer on {n_part}"
    with _if_installed("crepes"):
        from crepes import ConformalPredictiveSystem

        peer = ConformalPredictiveSystem().fit(residuals)
        name, part = _named("crepes", "crepes"), slice(0, n_part)

        def peer_p() -> np.ndarray:
            return peer.predict_p(y_pred[part], y=y[part], smoothing=False)

        # Without smoothing the peer counts the residuals below and the new row.
        ours = predictive_p_values(residuals, y_pred, y)[part]
        assert np.abs(ours - np.ravel(peer_p())).max() <= 1 / (n + 1) + 1e-12
        yield Result(
            "predictive_p_values",
            hot,
            name,
            speedups(
                lambda: [predictive_p_values(residuals, y_pred, y) for _ in range(20)],
                peer_p,
                REPEATS,
                20 * n_test / n_part,
            ),
            1_000,
        )

        def peer_crps() -> Any:
            return peer.evaluate(y_pred[part], y=y[part], metrics=["CRPS"])

        # At a scale of 1 the peer's figure is right.
        mean = float(predictive_crps(residuals, y_pred, y)[part].mean())
        assert abs(mean - float(peer_crps()["CRPS"])) <= 1e-9, mean
        yield Result(
            "predictive_crps",
            hot,
            name,
            speedups(
                lambda: [predictive_crps(residuals, y_pred, y) for _ in range(20)],
                peer_crps,
                REPEATS,
                20 * n_test / n_part,
            ),
            5_000,
        )


# ---------------------------------------------------------------------------
# Weights


def weighted(quick: bool) -> Iterator[Result]:
    """Thresholds under covariate shift."""
    from uqlib.conformal import weighted_conformal_quantile

    n, n_test, n_part = (5_000, 1_000, 20) if quick else (100_000, 10_000, 20)
    rng = np.random.default_rng(0)
    scores, weights = rng.exponential(size=n), rng.exponential(size=n)
    new = rng.exponential(size=n_test)
    with _if_installed("puncc"):
        from deel.puncc.api.utils import quantile

        def peer() -> np.ndarray:
            # The new row is one more score, at infinity, with its own weight.
            rows, thresholds = np.append(scores, np.inf), []
            for w in new[:n_part]:
                mass = np.append(weights, w)
                thresholds.append(quantile(rows, 0.9, mass / mass.sum()))
            return np.ravel(thresholds)

        ours = weighted_conformal_quantile(scores, weights, new[:n_part], 0.9)
        _agree(ours, peer(), 1e-9)
        yield Result(
            "weighted_conformal_quantile",
            f"n = {n:,}, {n_test:,} rows; peer on {n_part}",
            _named("puncc", "puncc"),
            speedups(
                lambda: weighted_conformal_quantile(scores, weights, new, 0.9),
                peer,
                REPEATS,
                n_test / n_part,
            ),
            1_000,
        )


# ---------------------------------------------------------------------------
# Online


def online(quick: bool) -> Iterator[Result]:
    """Adaptive conformal inference over a long sequence."""
    from uqlib.conformal import aci_thresholds

    n_steps = 20_000 if quick else 1_000_000
    rng = np.random.default_rng(0)
    calibration, scores = rng.exponential(size=1_000), rng.exponential(size=n_steps)
    part = scores[: n_steps // 10]

    def peer() -> np.ndarray:
        return _sorted_list_loop(calibration, part, 0.1, 0.005)

    ours = aci_thresholds(calibration, part, 0.9, 0.005)
    # The loop adds up rounding errors in alpha: a rank may differ at a tie.
    assert np.mean(ours != peer()) < 1e-3
    yield Result(
        "aci_thresholds",
        f"{n_steps:,} steps, 1,000 calibration scores; peer on a tenth",
        "a loop in Python over a sorted list",
        speedups(
            lambda: aci_thresholds(calibration, scores, 0.9, 0.005), peer, REPEATS, 10
        ),
        10,
    )


def _sorted_list_loop(
    calibration: np.ndarray, scores: np.ndarray, alpha: float, gamma: float
) -> np.ndarray:
    ordered, level, out = sorted(calibration.tolist()), alpha, []
    n = len(ordered)
    for score in scores.tolist():
        rank = max(1, -int(-(n + 1) * (1 - level) // 1))
        if level <= 0 or rank > n:
            threshold = np.inf
        elif level >= 1:
            threshold = -np.inf
        else:
            threshold = ordered[rank - 1]
        out.append(threshold)
        miss = bisect_left(ordered, score) >= rank and score > threshold
        level += gamma * (alpha - miss)
    return np.array(out)


# ---------------------------------------------------------------------------
# Venn-ABERS


def venn_abers(quick: bool) -> Iterator[Result]:
    """Inductive Venn-ABERS with its look-ups."""
    from uqlib.conformal import venn_abers as ours

    n, n_test = (1_000, 5_000) if quick else (10_000, 100_000)
    rng = np.random.default_rng(0)
    p_cal, p_test = rng.random(n), rng.random(n_test)
    y_cal = (rng.random(n) < p_cal).astype(int)
    with _if_installed("venn-abers"):
        from venn_abers import VennAbers

        def peer() -> np.ndarray:
            model = VennAbers()
            model.fit(np.column_stack([1 - p_cal, p_cal]), y_cal)
            return model.predict_proba(np.column_stack([1 - p_test, p_test]))[1]

        def mine() -> np.ndarray:
            return ours(p_cal, y_cal, p_test)

        _agree(mine(), peer(), 1e-5)  # the peer rounds scores
        yield Result(
            "venn_abers",
            f"n = {n:,}, {n_test:,} rows, with the fit",
            _named("venn-abers", "venn-abers"),
            speedups(mine, peer, 5),
            2.5,
        )


# ---------------------------------------------------------------------------


def _named(package: str, name: str) -> str:
    return f"{name} {version(package)}"


@contextlib.contextmanager
def _if_installed(name: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        print(f"left out: {name} ({error})", flush=True)


def _agree(ours: np.ndarray, peer: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(ours, peer, rtol=tolerance, atol=tolerance)


def _same_sets(ours: np.ndarray, peer: np.ndarray) -> None:
    differing = int((ours != peer).sum())
    assert differing <= 1e-5 * ours.size, differing
