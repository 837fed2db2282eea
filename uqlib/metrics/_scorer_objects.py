"""Scorer objects: they ask a model for what a metric judges and route metadata.

The metadata of a scorer are `sample_weight`, for the metric, and `mondrian_groups` and
`likelihood_ratio`, for the prediction method of the model where there are models that
take them. With metadata routing
enabled it is a consumer as scikit-learn's own scorers are: it gets what was requested
by `set_score_request`, and to pass what was neither requested nor refused is an error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRequest

from uqlib._class_predictions import model_classes, predict_proba, predict_set
from uqlib._core.checks import check_rows, check_target
from uqlib._core.coverage_checks import check_interval
from uqlib._core.group_ranks import check_groups
from uqlib._core.interval_ties import tied_widths
from uqlib._core.levels import check_confidence_level
from uqlib._predictions import (
    own_confidence_level,
    predict_interval,
    predict_point,
    predict_quantiles,
    predict_uncertainty,
    uncertainty_field,
)
from uqlib._typing import FloatArray
from uqlib.metrics._interval import coverage_score, mean_interval_width
from uqlib.metrics._interval_width import normalized_interval_width
from uqlib.metrics._sets import set_coverage_score


class _Scorer:
    """A picklable callable that shows how it was made and takes part in routing.

    `argument` is what the model is asked for, `options` are for the metric.
    """

    _metadata: tuple[str, ...] = (
        "sample_weight",
        "mondrian_groups",
        "likelihood_ratio",
    )

    def __init__(
        self,
        metric: Callable[..., float],
        sign: int,
        argument: Any = None,
        **options: Any,
    ) -> None:
        self._metric, self._sign, self._argument = metric, sign, argument
        self._options = options
        self._requests: dict[str, Any] = {}

    def __repr__(self) -> str:
        name = self._metric.__name__
        if self._sign < 0:
            doubly = name.startswith("negative_")
            name = name.removeprefix("negative_") if doubly else f"neg_{name}"
        return f"<{', '.join([name + self._asked(), *self._shown_options()])}>"

    def _asked(self) -> str:
        argument = self._argument
        shown = argument.tolist() if isinstance(argument, np.ndarray) else argument
        return f" at {shown}"

    def _shown_options(self) -> list[str]:
        return [f"{name}={value!r}" for name, value in self._options.items()]

    def set_score_request(self, **requests: bool | str | None) -> "_Scorer":
        """Say which metadata the scorer is to be given by a search or `cross_validate`.

        As in scikit-learn's scorers, this changes the scorer itself, and what was
        requested before is forgotten.

        Parameters
        ----------
        **requests : {True, False, None} or str
            Names of the metadata of this scorer, as `sample_weight`: True requests,
            False refuses, None makes it an error to pass it, and a string requests what
            is passed by that name.

        Returns
        -------
        self
            The same scorer.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "set_score_request has an effect only with metadata routing. Enable it "
                "first by sklearn.set_config(enable_metadata_routing=True)."
            )
        unknown = sorted(set(requests) - set(self._metadata))
        if unknown:
            raise TypeError(
                f"{self!r} does not take {', '.join(unknown)}. It takes "
                f"{', '.join(self._metadata)}."
            )
        _metadata_request(self, requests)  # refuses values that are no request
        self._requests = requests
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what the scorer requests, for scikit-learn's routing.

        Returns
        -------
        MetadataRequest
            A new one at every call.
        """
        return _metadata_request(self, self._requests)

    def _accept_sample_weight(self) -> bool:
        # What scikit-learn asks of each scorer where routing is not enabled.
        return True


class QuantileScorer(_Scorer):
    """The metrics of quantiles take the levels that the model gave."""

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> float:
        values, levels = predict_quantiles(
            estimator,
            X,
            self._argument,
            mondrian_groups=mondrian_groups,
            likelihood_ratio=likelihood_ratio,
        )
        return self._sign * self._metric(y, values, levels, sample_weight=sample_weight)


class _LevelScorer(_Scorer):
    """Its argument is a confidence level, None for the model's own."""

    def __init__(
        self,
        metric: Callable[..., float],
        sign: int,
        confidence_level: Any,
        **options: Any,
    ) -> None:
        if confidence_level is not None:
            check_confidence_level(confidence_level)
        super().__init__(metric, sign, confidence_level, **options)


class IntervalScorer(_LevelScorer):
    """The metrics of intervals differ in what they look at beside the intervals."""

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> float:
        interval = predict_interval(
            estimator,
            X,
            self._argument,
            mondrian_groups=mondrian_groups,
            likelihood_ratio=likelihood_ratio,
        )
        needed: dict[Any, tuple[Any, ...]] = {
            coverage_score: (y, interval),
            mean_interval_width: (interval,),
            normalized_interval_width: (y, interval),
        }
        arguments = needed.get(self._metric) or (y, interval, self._level(estimator))
        return self._sign * self._metric(
            *arguments, sample_weight=sample_weight, **self._options
        )

    def _level(self, estimator: Any) -> float:
        return self._argument or own_confidence_level(estimator)


class SetScorer(_LevelScorer):
    """Sets do not hold a class that the model does not know."""

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> float:
        sets, classes = predict_set(
            estimator,
            X,
            self._argument,
            mondrian_groups=mondrian_groups,
            likelihood_ratio=likelihood_ratio,
        )
        if self._metric is not set_coverage_score:
            return self._sign * self._metric(sets, sample_weight=sample_weight)
        y, labels = _labels(y, classes)
        sets = np.pad(sets, ((0, 0), (0, labels.size - classes.size)))
        return self._sign * self._metric(
            y, sets, labels=labels, sample_weight=sample_weight
        )


class ProbaScorer(_Scorer):
    """A class that the model does not know has the probability 0."""

    _metadata = ("sample_weight",)

    def _asked(self) -> str:
        return ""

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> float:
        y, labels = _labels(y, model_classes(estimator))
        proba = predict_proba(estimator, X, labels)
        return self._sign * self._metric(
            y, proba, labels=labels, sample_weight=sample_weight, **self._options
        )


class RankingScorer(_Scorer):
    """The metrics of a ranking take the loss and the uncertainty of each row."""

    def _asked(self) -> str:
        name, level = self._argument
        if name is not None:
            return f" by {name}"
        return "" if level is None else f" at {level}"

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> float:
        conditions = {
            "mondrian_groups": mondrian_groups,
            "likelihood_ratio": likelihood_ratio,
        }
        losses, uncertainty = self._judge(estimator, X, y, conditions)
        return self._sign * self._metric(
            losses, uncertainty, sample_weight=sample_weight
        )

    def _judge(
        self, estimator: Any, X: Any, y: Any, conditions: dict[str, Any]
    ) -> tuple[Any, FloatArray]:
        classifies = _is_classifier(estimator)
        losses = _errors(estimator, X, y) if classifies else _residuals(estimator, X, y)
        name, level = self._argument
        if name is None and not classifies:
            interval = predict_interval(estimator, X, level, **conditions)
            return losses, tied_widths(check_interval(interval, losses.size))
        self._refuse(conditions)
        if name is not None:
            fields = predict_uncertainty(estimator, X)
            return losses, uncertainty_field(fields, name, losses.size)
        proba = predict_proba(estimator, X, model_classes(estimator))
        return losses, -proba.max(axis=1)  # the order of 1 - max, without its rounding

    def _refuse(self, conditions: dict[str, Any]) -> None:
        given = [name for name, value in conditions.items() if value is not None]
        if given:
            raise TypeError(
                f"{', '.join(given)} cannot be used by {self!r}: only intervals of "
                "regressors take them. Leave them out."
            )


def _is_classifier(model: Any) -> bool:
    tags = get_tags(model) if hasattr(model, "__sklearn_tags__") else None
    if tags is None or tags.estimator_type is None:
        return hasattr(model, "classes_")
    return bool(tags.estimator_type == "classifier")


def _residuals(model: Any, X: Any, y: Any) -> FloatArray:
    target, point = check_target(y), predict_point(model, X)
    check_rows(target.size, point.size, "X", "y")
    return np.abs(target - point)


def _errors(model: Any, X: Any, y: Any) -> Any:
    labels = check_groups(y, np.size(y), "y")
    name = f"what {type(model).__name__} predicts"
    predicted = check_groups(model.predict(X), labels.size, name)
    _check_same_type(labels, predicted)
    return labels != predicted


def _labels(y: Any, known: Any) -> tuple[Any, Any]:
    """Return the labels of the rows, and those that are known with all others of y.

    A class without a row in training, as a fold may have it, is one that the model
    does not know; one without a row in y is among those that it knows.
    """
    labels = check_groups(y, np.size(y), "y")
    classes = check_groups(known, np.size(known), "classes_")
    _check_same_type(labels, classes)
    return labels, np.append(classes, np.setdiff1d(labels, classes))


def _check_same_type(labels: Any, known: Any) -> None:
    # NumPy takes the number 1 for the string "1" in one place and not in another.
    if labels.size and (labels.dtype.kind == "U") != (known.dtype.kind == "U"):
        raise ValueError(
            f"y holds labels of type {labels.dtype}, but the model knows labels of "
            f"type {known.dtype}. Score it by labels of the type that it was fitted on."
        )


def _metadata_request(scorer: _Scorer, requests: dict[str, Any]) -> MetadataRequest:
    # Owned by a name, which every version of scikit-learn can show in its errors.
    request = MetadataRequest(owner=repr(scorer))
    for name in scorer._metadata:
        request.score.add_request(param=name, alias=requests.get(name))
    return request
