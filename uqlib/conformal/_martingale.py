"""A test of exchangeability that can be looked at after every row."""

from dataclasses import astuple
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.label_checks import nine_digits
from uqlib._core.levels import check_confidence_level
from uqlib._core.martingale import Betting
from uqlib._core.sequential_p_values import continue_p_values
from uqlib._fitting import clone_and_fit, is_frozen, warn_if_fitted
from uqlib._predictions import predict_normality
from uqlib._validation import check_X, with_input_tags


class ExchangeabilityMartingale(MetaEstimatorMixin, BaseEstimator):
    r"""Test whether rows keep following one law, at any time and as often as one likes.

    Each new row gets a p-value, its rank in strangeness among all new rows so far, and
    the capital of a gambler who bets against uniform p-values is

    .. math:: S_t = \prod_{i=1}^{t} f_i(p_i), \qquad \int_0^1 f_i(p)\,dp = 1 .

    A large capital is evidence that the law has changed.

    Parameters
    ----------
    estimator : estimator
        Anything with ``score_samples`` or ``decision_function``, larger = more normal:
        an outlier detector, a density, or a pipeline that ends in one. It is cloned and
        fitted; a :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    method : {"simple_jumper", "mixture", "power", "histogram"}, default="simple_jumper"
        How to bet, as in :func:`exchangeability_martingale`.
    confidence_level : float, default=0.99
        One minus the probability of ever rejecting what is exchangeable, strictly
        between 0 and 1.
    jump_rate : float, default=0.01
        In (0, 1]; for "simple_jumper".
    exponent : float, default=0.92
        In (0, 1]; for "power".
    n_bins : int, default=10
        At least 1; for "histogram".
    random_state : int, RandomState instance or None, default=None
        Draws the numbers that break ties between scores.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    p_values_ : ndarray of shape (n_monitored,)
        P-values of the rows since `fit`, in their order.
    log_martingale_ : ndarray of shape (n_monitored,)
        Natural logarithm of the capital after each of them.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the estimator gives no scores or NaN.

    Warns
    -----
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    exchangeability_martingale : The capital, from p-values.
    ConformalOutlierDetector : Judges rows one by one.

    Notes
    -----
    .. rubric:: Guarantee

    If the rows given to `partial_fit` since `fit` are exchangeable, given the rows that
    the estimator was trained on, the p-values are independent and uniform, the capital
    is a martingale with mean 1, and by Ville's inequality

    .. math:: P(S_t \ge 1 / (1 - c) \text{ for some } t) \le 1 - c

    with the confidence level c: however many rows come and however often `rejects` is
    asked. It compares the new rows with one another, not with the training rows: a law
    that changed before the first new row is not seen. Scores count with nine
    significant digits: the last bits of many a model depend on the number of rows that
    come together, and rows that are alike must tie.

    References
    ----------
    .. [1] V. Vovk, "Testing randomness online", arXiv:1906.09256.
    .. [2] V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson, A. Gammerman,
       "Retrain or not retrain: Conformal test martingales for change-point detection",
       arXiv:2102.10439.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.mixture import GaussianMixture
    >>> from uqlib.conformal import ExchangeabilityMartingale
    >>> X = np.random.default_rng(0).normal(size=(600, 2))
    >>> model = ExchangeabilityMartingale(GaussianMixture(), random_state=0)
    >>> model.fit(X[:200]).partial_fit(X[200:400]).rejects()
    False
    >>> model.partial_fit(3 * X[400:]).rejects()
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        method: str = "simple_jumper",
        confidence_level: float = 0.99,
        jump_rate: float = 0.01,
        exponent: float = 0.92,
        n_bins: int = 10,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.confidence_level = confidence_level
        self.jump_rate = jump_rate
        self.exponent = exponent
        self.n_bins = n_bins
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Any:
        """Train the estimator and start with a capital of 1.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, not tested. A `FrozenEstimator` learns nothing from them.
        y : None
            Ignored.

        Returns
        -------
        self : object
            Without monitored rows.
        """
        X = check_X(self, X, reset=True)
        check_confidence_level(self.confidence_level)
        betting = Betting(self.method, self.jump_rate, self.exponent, self.n_bins)
        warn_if_fitted(self.estimator, self)
        model = clone_and_fit(self.estimator, X, None)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        self.estimator_, self._rng = model, np.random.default_rng(seed)
        self._betting = astuple(betting)
        self._state, self._seen = betting.start(), np.empty(0)
        self.p_values_, self.log_martingale_ = np.empty(0), np.empty(0)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Any:
        """Test further rows, in the order in which they came.

        Before any `fit` the rows train the estimator instead, unless it is frozen.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            New rows, as the estimator takes them.
        y : None
            Ignored.

        Returns
        -------
        self : object
            With the rows in `p_values_` and `log_martingale_`.
        """
        if not hasattr(self, "estimator_"):
            self.fit(X)
            if not is_frozen(self.estimator):
                return self
        X = check_X(self, X, reset=False)
        if _num_samples(X) == 0:
            return self
        scores = -nine_digits(predict_normality(self.estimator_, X))
        p_values, self._seen = continue_p_values(
            self._seen, scores, self._rng.random(scores.size)
        )
        path, self._state = Betting(*self._betting).advance(self._state, p_values)
        self.p_values_ = np.concatenate([self.p_values_, p_values])
        self.log_martingale_ = np.concatenate([self.log_martingale_, path])
        return self

    def rejects(self, confidence_level: float | None = None) -> bool:
        """Tell whether the capital has ever reached 1 / (1 - confidence_level).

        Parameters
        ----------
        confidence_level : float, default=None
            Strictly between 0 and 1; None takes the parameter.

        Returns
        -------
        bool
            True if the rows are not exchangeable, at the level.
        """
        check_is_fitted(self, "log_martingale_")
        if confidence_level is None:
            confidence_level = self.confidence_level
        level = check_confidence_level(confidence_level)
        highest = self.log_martingale_.max(initial=0.0)
        return bool(highest >= -np.log(float(1 - level)))

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])
