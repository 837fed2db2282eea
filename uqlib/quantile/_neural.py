"""Quantile regression by a neural network that gives all levels at once."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from uqlib._core.checks import check_not_a_date, check_sample_weight
from uqlib._core.levels import check_quantiles, level_indices
from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user
from uqlib.quantile._base import (
    DEFAULT_QUANTILES,
    QuantileRegressorMixin,
    monotone_rows,
    require_torch,
)
from uqlib.quantile._network import ANY_LEVEL, network_quantiles, start_bias
from uqlib.quantile._neural_checks import check_calibration, check_parameters
from uqlib.quantile._neural_data import (
    Rows,
    Scaling,
    fit_scaling,
    pilot_margins,
    split_rows,
    standardized_rows,
    unit_weight,
)

_N_MARGIN_LEVELS = 100  # where the level is an input


class TorchQuantileRegressor(QuantileRegressorMixin, BaseEstimator):
    r"""Quantile regression by a neural network, all levels in one fit.

    A multilayer perceptron :math:`q_\theta` minimizes the pinball loss, summed over
    the levels, plus a penalty on levels that cross:

    .. math:: \min_\theta \frac1n \sum_i \Big[ \frac1m \sum_k
              \psi_{\tau_k}\big(y_i - q_{\theta,k}(x_i)\big) + \frac{\lambda}{|P|}
              \sum_{(a,b) \in P} \big(q_{\theta,a}(x_i) - q_{\theta,b}(x_i)
              + \delta_{ab}\big)_+ \Big].

    Mini-batches stream through Adam; rows held out choose the state that is kept, and
    check the calibration of each level. Training needs torch (``pip install
    uqlib[torch]``), prediction does not.

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), default=(0.05, 0.10, ..., 0.95)
        Levels, strictly increasing, strictly between 0 and 1.
    hidden : tuple of int, default=(64, 64)
        Widths of the hidden layers; () gives a linear model.
    dropout : float, default=0.0
        Share of the units of a hidden layer that is dropped in training, in [0, 1).
    head : {"quantiles", "softplus", "gaussian"}, default="quantiles"
        "quantiles" has one output a level. "softplus" adds and subtracts positive
        gaps from a middle level: it cannot cross. "gaussian" estimates the mean and
        standard deviation of a normal law by a weighted likelihood [3]_, and gives any
        level.
    tau_input : bool, default=False
        Make the level an input of the network, trained at levels drawn uniformly from
        (0, 1). It then gives any level; one so extreme that hardly a training row lies
        beyond it is an extrapolation of the network. The state is chosen at
        `quantiles`.
    crossing_penalty : float, default=0.0
        :math:`\lambda`, at least 0, for a target of unit variance.
    margin : float or {"auto", "spacing"}, default="auto"
        :math:`\delta_{ab}`, which only counts with a penalty. A number is the margin
        of every pair, in the units of the target. "spacing" grows with
        :math:`\tau_b - \tau_a` and "auto" with the distance of these quantiles of the
        residuals of a linear model.
    crossing_pairs : {"neighbors", "all"}, default="neighbors"
        :math:`P`: pairs of adjacent levels, or all of them.
    non_crossing : {None, "sort", "isotonic"}, default=None
        Sort each row or project it on the non-decreasing ones: as a last layer of the
        network in training, whose gradient is exact, and in every prediction.
    learning_rate : float, default=3e-3
        Step size of Adam.
    weight_decay : float, default=0.0
        Coefficient of the squared parameters in the loss.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" takes :math:`2^{3 + \lfloor \log_{10} n \rfloor}`.
    max_iter : int, default=20000
        Cap on the number of optimizer steps, not of passes over the rows.
    validation_fraction : float, default=0.1
        Share of the rows held out, strictly between 0 and 1.
    early_stopping : bool, default=True
        Whether to hold rows out. False trains on all rows for `max_iter` steps and
        keeps the last state.
    n_iter_no_change : int, default=2000
        Steps without improvement on the held-out rows after which training ends.
    device : str, default="auto"
        Where to train, as torch names it; "auto" takes a CUDA device if there is one.
        Prediction is on the CPU.
    random_state : int, RandomState instance or None, default=None
        Fixes the rows held out, the initialization, the batches and the dropout. The
        global generators of torch are neither used nor changed.

    Attributes
    ----------
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    coefs_ : list of ndarray of shape (n_inputs, n_outputs)
        Matrix of each layer, for standardized features and target. Where the level is
        an input it is the last two.
    intercepts_ : list of ndarray of shape (n_outputs,)
        Bias of each layer.
    feature_center_, feature_scale_ : ndarray of shape (n_features,)
        Means and standard deviations of the features in the rows trained on.
    target_center_, target_scale_ : float
        Those of the target.
    n_iter_ : int
        Number of optimizer steps done.
    loss_curve_ : ndarray of shape (n_evaluations,)
        Mean training loss between two evaluations, for the standardized target.
    validation_curve_ : ndarray of shape (n_evaluations + 1,) or None
        Mean pinball loss on the held-out rows, from before the first step on, in the
        units of the target.
    validation_loss_ : float or None
        The lowest of these: that of the state kept.
    validation_coverage_ : ndarray of shape (n_quantiles,) or None
        Share of the held-out rows whose target is at most the quantile, by level. The
        same rows chose the state, so that this is a check and no guarantee.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ImportError
        If torch is missing when `fit` is called.
    ValueError
        If a parameter is out of range, or parameters do not go together.

    Warns
    -----
    UncertaintyWarning
        If the share of held-out rows below the quantile of a level is outside of the
        binomial band that a calibrated network leaves once in a million fits; if a
        level beyond 0.05 or 0.95 has so few held-out rows, under
        :math:`1 / \min(\tau, 1 - \tau)`, that they cannot judge it; or if the training
        diverged.

    See Also
    --------
    MultiQuantileRegressor : One model a level, from any learner.
    QuantileEnsembleRegressor : Aggregates several quantile regressors.
    uqlib.conformal.ConformalizedQuantileRegressor : Adds a guarantee of coverage.

    Notes
    -----
    Features and target are standardized inside, and features further than ten
    standard deviations from the mean are set there. The network starts as the sample
    quantiles in all rows, so that on the held-out rows it is never worse than these
    (with `tau_input`, than a constant; with the Gaussian head, than a normal law).

    What is judged and kept is a running average of the parameters, over the last tenth
    of the steps and at most 500. Rows of weight 0 are left out. With weights the
    held-out shares are weighted and no binomial law holds: they are not tested.

    Levels can cross unless `non_crossing` is set or the head is "softplus" or
    "gaussian". It repairs a row at all of `quantiles`, and with `tau_input` at the
    other levels asked for in the same call as well. No coverage is guaranteed; a
    conformal calibrator gives it.

    References
    ----------
    .. [1] R. Fakoor, T. Kim, J. Mueller, A. J. Smola, R. J. Tibshirani, "Flexible
       Model Aggregation for Quantile Regression", arXiv:2103.00083.
    .. [2] N. Tagasovska, D. Lopez-Paz, "Single-Model Uncertainties for Deep Learning",
       arXiv:1811.00908.
    .. [3] M. Seitzer, A. Tavakoli, D. Antic, G. Martius, "On the Pitfalls of
       Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks",
       arXiv:2203.09168.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantile import TorchQuantileRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(2000, 1))
    >>> y = X[:, 0] + rng.uniform(0, 1, size=2000)
    >>> model = TorchQuantileRegressor([0.1, 0.5, 0.9], max_iter=2000, random_state=0)
    >>> model.fit(X, y).predict_quantiles([[0.0]]).round(1)
    array([[0.1, 0.5, 0.9]])
    """

    def __init__(
        self,
        quantiles: Any = DEFAULT_QUANTILES,
        *,
        hidden: Any = (64, 64),
        dropout: float = 0.0,
        head: str = "quantiles",
        tau_input: bool = False,
        crossing_penalty: float = 0.0,
        margin: Any = "auto",
        crossing_pairs: str = "neighbors",
        non_crossing: str | None = None,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        batch_size: Any = "auto",
        max_iter: int = 20_000,
        validation_fraction: float = 0.1,
        early_stopping: bool = True,
        n_iter_no_change: int = 2000,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.quantiles = quantiles
        self.hidden = hidden
        self.dropout = dropout
        self.head = head
        self.tau_input = tau_input
        self.crossing_penalty = crossing_penalty
        self.margin = margin
        self.crossing_pairs = crossing_pairs
        self.non_crossing = non_crossing
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.random_state = random_state

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> "TorchQuantileRegressor":
        """Train the network.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Training rows, numbers, finite.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, non-negative.

        Returns
        -------
        self : TorchQuantileRegressor
            Fitted.
        """
        require_torch("TorchQuantileRegressor")
        levels = check_quantiles(self.quantiles)
        check_parameters(self)
        check_not_a_date(y, "y")
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        weight = check_sample_weight(sample_weight, y.size)
        random_state = check_random_state(self.random_state)
        fraction = self.validation_fraction if self.early_stopping else None
        rows, held_out = split_rows(weight, y.size, fraction, random_state)
        seed = int(random_state.randint(np.iinfo(np.int32).max))
        scaling = fit_scaling(X, y, rows, unit_weight(weight, rows))
        parts = [
            None if part is None else standardized_rows(X, y, weight, part, scaling)
            for part in (rows, held_out)
        ]
        kind = "level" if self.tau_input else self.head
        layers, result = self._train(*parts, kind, scaling.target_scale, seed)
        self.quantiles_, self._kind = levels, kind
        self.feature_center_, self.feature_scale_ = scaling[:2]
        self.target_center_, self.target_scale_ = scaling[2:]
        self.coefs_, self.intercepts_ = map(list, zip(*layers, strict=True))
        self._record(result)
        self.validation_coverage_ = None
        if held_out is not None:
            q = self._predict(X[held_out], levels)
            self.validation_coverage_ = check_calibration(
                y[held_out], q, levels, unit_weight(weight, held_out)
            )
        return self

    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Predict the quantile matrix.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, numbers, finite.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels among `quantiles_`, or any with `tau_input` or the Gaussian head.
            None takes all of `quantiles_`.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Quantiles, float64, one column a level.

        Raises
        ------
        ValueError
            If a level asked for was not fitted.
        """
        check_is_fitted(self, "quantiles_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        asked = self.quantiles_ if quantiles is None else check_quantiles(quantiles)
        return self._predict(X, asked)

    def predict(self, X: Any) -> FloatArray:
        """Predict the median.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, numbers, finite.

        Returns
        -------
        ndarray of shape (n_samples,)
            The quantile of level 0.5, interpolated linearly between the two levels
            around 0.5 where it is not among them and the network gives no other.

        Raises
        ------
        ValueError
            If it is not among them and no two levels bracket 0.5.
        """
        check_is_fitted(self, "quantiles_")
        if self._kind in ANY_LEVEL:
            return self.predict_quantiles(X, [0.5])[:, 0]
        return super().predict(X)

    def _predict(self, X: FloatArray, asked: FloatArray) -> FloatArray:
        # A row is repaired as a whole: with the fitted levels, whichever are asked for.
        levels = self.quantiles_
        if self._kind in ANY_LEVEL:
            repaired = self.non_crossing is not None
            levels = np.union1d(asked, levels) if repaired else asked
        columns = level_indices(levels, asked)
        layers = list(zip(self.coefs_, self.intercepts_, strict=True))
        features = self.feature_center_, self.feature_scale_
        scaling = Scaling(*features, self.target_center_, self.target_scale_)
        q = network_quantiles(X, scaling, layers, levels, self._kind)
        return monotone_rows(q, self.non_crossing)[:, columns]

    def _train(
        self, training: Rows, held_out: Rows | None, kind: str, scale: float, seed: int
    ) -> Any:
        from uqlib.quantile._torch_network import NetworkSettings, train_network

        levels = margin_levels = check_quantiles(self.quantiles)
        start = np.quantile(
            training.y, levels, method="inverted_cdf", weights=training.weight
        )
        if kind == "level":
            margin_levels = (np.arange(_N_MARGIN_LEVELS) + 0.5) / _N_MARGIN_LEVELS
        offsets, constant = np.zeros(margin_levels.size), 0.0
        if self.crossing_penalty > 0:
            offsets, constant = pilot_margins(
                self.margin, margin_levels, training, scale
            )
        settings = NetworkSettings(
            kind=kind,
            bias=start_bias(start, kind),
            hidden=tuple(self.hidden),
            dropout=self.dropout,
            crossing_penalty=self.crossing_penalty,
            offsets=offsets,
            constant=constant,
            pairs=self.crossing_pairs,
            non_crossing=self.non_crossing,
        )
        return train_network(
            training,
            held_out,
            levels,
            settings,
            device=self.device,
            seed=seed,
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            n_iter_no_change=self.n_iter_no_change,
        )

    def _record(self, result: Any) -> None:
        scale = self.target_scale_
        self.n_iter_ = result.n_iter
        self.loss_curve_ = np.array(result.loss_curve)
        self.validation_curve_, self.validation_loss_ = None, None
        if self.early_stopping:
            self.validation_curve_ = scale * np.array(result.validation_curve)
            self.validation_loss_ = scale * result.best_loss
        if result.diverged:
            warn_user(
                f"The training loss was not finite after {result.n_iter} steps, and "
                "the state before is kept. Decrease learning_rate="
                f"{self.learning_rate!r}, or look for extreme values in X and y.",
                UncertaintyWarning,
            )
