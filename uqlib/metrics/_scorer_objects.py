"""Scorer objects: they ask a model for quantiles or intervals and route metadata.

The metadata of a scorer are `sample_weight`, for the metric, and `mondrian_groups` and
`likelihood_ratio`, for the prediction method of the model. With metadata routing
enabled it is a consumer as scikit-learn's own scorers are: it gets what was requested
by `set_score_request`, and to pass what was neither requested nor refused is an error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils.metadata_routing import MetadataRequest

from uqlib._predictions import own_confidence_level, predict_interval, predict_quantiles
from uqlib.metrics._interval import coverage_score, mean_interval_width

_METADATA = ("sample_weight", "mondrian_groups", "likelihood_ratio")


class _Scorer:
    """A picklable callable that shows how it was made and takes part in routing."""

    def __init__(self, metric: Callable[..., float], sign: int, argument: Any) -> None:
        self._metric, self._sign, self._argument = metric, sign, argument
        self._requests: dict[str, Any] = {}

    def __repr__(self) -> str:
        argument = self._argument
        shown = argument.tolist() if isinstance(argument, np.ndarray) else argument
        negated = "neg_" if self._sign < 0 else ""
        return f"<{negated}{self._metric.__name__} at {shown}>"

    def set_score_request(self, **requests: bool | str | None) -> "_Scorer":
        """Say which metadata the scorer is to be given by a search or `cross_validate`.

        As in scikit-learn's scorers, this changes the scorer itself, and what was
        requested before is forgotten.

        Parameters
        ----------
        **requests : {True, False, None} or str
            `sample_weight`, `mondrian_groups` and `likelihood_ratio`: True requests,
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
        unknown = sorted(set(requests) - set(_METADATA))
        if unknown:
            raise TypeError(
                f"{self!r} does not take {', '.join(unknown)}. It takes "
                f"{', '.join(_METADATA)}."
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


class IntervalScorer(_Scorer):
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
        }
        arguments = needed.get(self._metric) or (y, interval, self._level(estimator))
        return self._sign * self._metric(*arguments, sample_weight=sample_weight)

    def _level(self, estimator: Any) -> float:
        return self._argument or own_confidence_level(estimator)


def _metadata_request(scorer: _Scorer, requests: dict[str, Any]) -> MetadataRequest:
    # Owned by a name, which every version of scikit-learn can show in its errors.
    request = MetadataRequest(owner=repr(scorer))
    for name in _METADATA:
        request.score.add_request(param=name, alias=requests.get(name))
    return request
