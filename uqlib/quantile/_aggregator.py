"""Aggregation of quantile models: global or by the features, coarse to fine."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import ShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _num_samples,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from uqlib._core.aggregation import aggregate, fit_weights
from uqlib._core.checks import check_no_nan, check_sample_weight
from uqlib._core.crossing import margin_offsets
from uqlib._core.levels import check_quantiles, level_indices
from uqlib._core.monotone import interpolate_level
from uqlib._fitting import draw_seeds, shuffled_splitter
from uqlib._typing import FloatArray
from uqlib._validation import check_finite_predictions, check_X_y
from uqlib.quantile._aggregator_checks import check_parameters, input_axes
from uqlib.quantile._base import (
    QuantileRegressorMixin,
    monotone_rows,
    require_torch,
)
from uqlib.quantile._gate import (
    can_encode,
    feature_encoder,
    gate_features,
    gated_quantiles,
    mean_weights,
)
from uqlib.quantile._local_weights import (
    ALTERNATIVES,
    Split,
    fit_local,
    in_resolution,
    scattered,
    weight_shape,
)


class QuantileAggregator(QuantileRegressorMixin, BaseEstimator):
    r"""Weigh the quantiles of several models, the same for all rows or by the features.

    With :math:`Z_{ijl}` the quantile of level :math:`\tau_l` that model j gives for
    row i, the prediction of level :math:`\tau_k` is

    .. math:: Q_{ik} = \sum_j w_j Z_{ijk} \;\text{(coarse)}, \qquad
              Q_{ik} = \sum_j w_{jk} Z_{ijk} \;\text{(medium)}, \qquad
              Q_{ik} = \sum_{j, l} w_{jlk} Z_{ijl} \;\text{(fine)},

    and the weights minimize, with :math:`\delta_{ab}` the margins,

    .. math:: \frac{1}{n m} \sum_{i, k} \psi_{\tau_k}(y_i - Q_{ik})
              + \lambda \frac{1}{n |P|} \sum_i \sum_{(a, b) \in P}
              (Q_{ia} - Q_{ib} + \delta_{ab})_+ .

    Global weights are the exact solution of this linear program. Local weights
    :math:`w(x)` come from a network on the features.

    Parameters
    ----------
    resolution : {"average", "median", "coarse", "medium", "fine"}, default="medium"
        What has a weight of its own: each model, each model and level, or each model,
        level and level of the output. "average" and "median" over the models learn
        nothing.
    quantiles : array-like of shape (n_quantiles,), default=None
        Levels. None reads them from column names such as "q0.05" (of a single model, or
        of the first of `n_models`); without names it takes 0.05, 0.10, ..., 0.95 for 19
        levels, and warns that it takes k / (m + 1) for another number m of them.
    n_models : int, default=None
        Number of models in a two-dimensional Z; None divides its columns by the number
        of levels. A three-dimensional Z says it itself.
    local : bool, default=False
        Let the weights depend on the features, which `fit` and `predict` then need.
        Training needs torch.
    constraint : {"simplex", "sum_to_one", "free"}, default="simplex"
        Convex weights, weights of any sign with sum one, or any weights.
    bandwidth : int, default=None
        For "fine": each level is built of the 2 * bandwidth + 1 levels around it; None
        takes all.
    crossing_penalty : float, default=0.0
        The factor :math:`\lambda`. Infinity makes it a constraint on the training rows
        (global weights only): flexible QRA, the medium resolution that does not cross.
    margin : float or {"auto", "spacing"}, default="auto"
        How far apart levels must be to escape the penalty: a number; "spacing" in
        proportion to the distance of the levels; "auto" in proportion to the distance
        of the quantiles of the residuals of the median model.
    crossing_pairs : {"neighbors", "all"}, default="neighbors"
        Pairs of levels that are penalized.
    non_crossing : {None, "sort", "isotonic"}, default=None
        How rows of the output are made monotone. Networks are trained through it.
    solver : {"auto", "interior_point", "torch"}, default="auto"
        "interior_point" is exact and for global weights only; "torch" trains a
        network, or for global weights its output alone. "auto" takes the first where
        it can.
    hidden : tuple of int, default=(64, 64)
        Sizes of the hidden layers of the network.
    dropout : float, default=0.0
        Share of its hidden units dropped in training.
    learning_rate : float, default=0.003
        Of the network.
    max_iter : int, default=10000
        Cap on its training steps.
    validation_fraction : float, default=0.2
        Share of the rows (with `cv` of those outside the fold) that stop the training.
    early_stopping : bool, default=True
        Keep the state with the least loss on validation rows; False trains on all rows
        for `max_iter` steps.
    cv : int, cross-validation splitter or iterable, default=None
        Train one network without each fold, judge it on the fold, and average the
        weights of all. An int draws shuffled folds. None trains one network, which the
        rows that stop it judge too. Without early stopping there is one network.
    random_state : int, RandomState instance or None, default=None
        Draws the validation rows or folds, and seeds the networks.

    Attributes
    ----------
    quantiles_ : ndarray of shape (n_quantiles,)
        The levels.
    n_models_ : int
        Number of models.
    weights_ : ndarray of shape (n_models,), (n_models, m) or (n_models, m, m), or None
        Global weights of the resolution "coarse" (and "average"), "medium" or "fine"
        for m levels, the last axis the level of the output. None for "median" and
        where networks weigh.
    networks_ : list
        The networks, as lists of (matrix, bias); empty where `weights_` holds.
    validation_loss_ : float
        Mean pinball loss on the rows that judged the networks; NaN if there were none.
    row_losses_ : ndarray of shape (n_samples,) or None
        Pinball loss of each of these rows, mean over the levels; NaN for the others.
        None without networks. With `cv` every row judges the network that was neither
        trained nor stopped by it.
    n_iter_ : int
        Training steps of the longest network; 1 for weights solved exactly.
    n_features_in_ : int
        Number of columns of Z.

    Raises
    ------
    ValueError
        If Z is not finite or does not hold n_models times n_quantiles columns, if
        local weights are asked for without X, or a parameter is out of its range.
    ImportError
        If networks are to be trained without torch.

    Warns
    -----
    UncertaintyWarning
        If the levels had to be guessed, or if an infinite crossing penalty cannot be
        kept.

    See Also
    --------
    QuantileEnsembleRegressor : Fits the models too, and this on out-of-fold quantiles.
    SortQuantiles, IsotonicQuantiles : Repair rows whose levels cross.

    Notes
    -----
    Z must be out of fold: predictions of rows that the models were trained on make a
    model that memorizes look perfect. Coarse convex weights of models that do not cross
    do not cross; all others can.

    A network starts near the global weights (fine: around each level) and keeps its
    best state. If on the rows that judge it it is no better than the best global
    weights, coarse or medium, these are taken instead. No coverage is
    guaranteed: wrap the ensemble in a conformal calibrator.

    References
    ----------
    .. [1] R. Fakoor, T. Kim, J. Mueller, A. J. Smola, R. J. Tibshirani, "Flexible
       Model Aggregation for Quantile Regression", arXiv:2103.00083.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantile import QuantileAggregator
    >>> y = np.random.default_rng(0).normal(size=200)
    >>> levels = [0.25, 0.5, 0.75]
    >>> good, bad = np.tile([-0.67, 0.0, 0.67], (200, 1)), np.full((200, 3), 9.0)
    >>> Z = np.stack([good, bad], axis=1)
    >>> model = QuantileAggregator("coarse", quantiles=levels).fit(Z, y)
    >>> model.weights_.round(2)
    array([1., 0.])
    """

    def __init__(
        self,
        resolution: str = "medium",
        *,
        quantiles: Any = None,
        n_models: int | None = None,
        local: bool = False,
        constraint: str = "simplex",
        bandwidth: int | None = None,
        crossing_penalty: float = 0.0,
        margin: Any = "auto",
        crossing_pairs: str = "neighbors",
        non_crossing: str | None = None,
        solver: str = "auto",
        hidden: tuple[int, ...] = (64, 64),
        dropout: float = 0.0,
        learning_rate: float = 0.003,
        max_iter: int = 10_000,
        validation_fraction: float = 0.2,
        early_stopping: bool = True,
        cv: Any = None,
        random_state: Any = None,
    ) -> None:
        self.resolution = resolution
        self.quantiles = quantiles
        self.n_models = n_models
        self.local = local
        self.constraint = constraint
        self.bandwidth = bandwidth
        self.crossing_penalty = crossing_penalty
        self.margin = margin
        self.crossing_pairs = crossing_pairs
        self.non_crossing = non_crossing
        self.solver = solver
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.cv = cv
        self.random_state = random_state

    def fit(
        self, Z: Any, y: Any, X: Any = None, sample_weight: Any = None
    ) -> "QuantileAggregator":
        """Learn the weights from out-of-fold quantiles.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_models, n_quantiles) or dataframe or \
                array-like of shape (n_samples, n_models * n_quantiles)
            Out-of-fold quantiles of the models, finite; in two dimensions the levels of
            the first model come first.
        y : array-like of shape (n_samples,)
            Target, finite.
        X : {array-like, dataframe} of shape (n_samples, n_features), default=None
            Features, for local weights alone. Missing values and columns of strings
            (in a dataframe) are taken care of.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, in the loss.

        Returns
        -------
        self : QuantileAggregator
            Fitted.
        """
        check_parameters(self)
        _, y = check_X_y(self, _flat(Z), y, reset=True)
        Z = self._base_quantiles(Z, reset=True)
        weight = check_sample_weight(sample_weight, y.size)
        row_weight = np.ones(y.size) if weight is None else weight
        self._margins = self._margin_offsets(Z, y)
        self.networks_, self.n_iter_ = [], 1
        self.validation_loss_, self.row_losses_ = np.nan, None
        if not self.local and self.solver != "torch":
            self.weights_ = self._global_weights(Z, y, weight, self.resolution)
            return self
        if self.local and X is None:
            raise ValueError(
                "local=True needs the features: call fit(Z, y, X=X). A "
                "QuantileEnsembleRegressor passes them on by itself."
            )
        require_torch(
            f"QuantileAggregator(local={self.local!r}, solver={self.solver!r})"
        )
        features = np.zeros((y.size, 1), dtype=np.float32)
        if self.local:
            check_consistent_length(Z, X)
            if not can_encode(X):
                raise ValueError(
                    "X must be a dataframe or a dense array of numbers for local "
                    f"weights, got {type(X).__name__}. Encode it first."
                )
            self._encoder = feature_encoder(X).fit(X)
            features = gate_features(self._encoder, X)
        self._fit_networks(features, Z, y, row_weight)
        return self

    def predict_quantiles(
        self, Z: Any, X: Any = None, quantiles: Any = None
    ) -> FloatArray:
        """Predict the aggregated quantile matrix.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_models, n_quantiles) or dataframe or \
                array-like of shape (n_samples, n_models * n_quantiles)
            Quantiles of the models, without NaN.
        X : {array-like, dataframe} of shape (n_samples, n_features), default=None
            Features, for local weights alone.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels among `quantiles_`; None takes all.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            Quantiles, one column a level.

        Raises
        ------
        ValueError
            If a level asked for was not fitted.
        """
        check_is_fitted(self, "weights_")
        asked = self.quantiles_ if quantiles is None else check_quantiles(quantiles)
        columns = level_indices(self.quantiles_, asked)
        Z = self._base_quantiles(Z, reset=False)
        if self.networks_:
            features = self._features(Z, X)
            sources, shape = self._weight_shape()
            with np.errstate(invalid="ignore"):
                values = gated_quantiles(
                    Z, features, self.networks_, sources, shape, self.constraint
                )
        else:
            values = aggregate(Z, self.weights_)
        check_finite_predictions(values, self)
        values = monotone_rows(values, self.non_crossing)
        return values if quantiles is None else values[:, columns]

    def predict(self, Z: Any, X: Any = None) -> FloatArray:
        """Predict the median.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_models, n_quantiles) or dataframe or \
                array-like of shape (n_samples, n_models * n_quantiles)
            Quantiles of the models, without NaN.
        X : {array-like, dataframe} of shape (n_samples, n_features), default=None
            Features, for local weights alone.

        Returns
        -------
        ndarray of shape (n_samples,)
            The quantile of level 0.5, interpolated linearly between the two levels
            around 0.5 where it is not among them.
        """
        values = self.predict_quantiles(Z, X)
        return interpolate_level(values, self.quantiles_, 0.5)

    def predict_weights(self, X: Any) -> FloatArray:
        """Return the weights of each row, as the features decide them.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_models), (n_samples, n_models, n_quantiles) or \
                (n_samples, n_models, n_quantiles, n_quantiles)
            Weights of the resolution "coarse", "medium" or "fine", the last axis the
            level of the output. Global weights are the same in each row.

        Raises
        ------
        ValueError
            If the resolution is "median", which has no weights.
        """
        check_is_fitted(self, "weights_")
        if not self.networks_:
            if self.weights_ is None:
                raise ValueError("resolution='median' has no weights.")
            shape = (_num_samples(X), *self.weights_.shape)
            return np.broadcast_to(self.weights_, shape).copy()
        return self._network_weights(self._features(X, X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _features(self, rows: Any, X: Any) -> FloatArray:
        if not self.local:
            return np.zeros((_num_samples(rows), 1), dtype=np.float32)
        if X is None:
            raise ValueError(
                "The weights depend on the features: pass X as it was in fit."
            )
        check_consistent_length(rows, X)
        return gate_features(self._encoder, X)

    def _base_quantiles(self, Z: Any, *, reset: bool) -> FloatArray:
        """Return Z with its three axes; on reset record what they are."""
        axes = np.shape(Z)[1:] if _has_three_axes(Z) else None
        if not reset and axes not in (None, self._axes()):
            raise ValueError(
                f"Z has {axes[0]} models and {axes[1]} levels, but QuantileAggregator "
                f"was fitted with {self._axes()}."
            )
        matrix = validate_data(
            self, _flat(Z), reset=reset, dtype=np.float64, ensure_all_finite=reset
        )
        if reset:
            names = getattr(self, "feature_names_in_", ())
            self.n_models_, self.quantiles_ = input_axes(
                matrix.shape[1], axes, names, self.n_models, self.quantiles
            )
        else:
            check_no_nan(matrix, "Z")
        return matrix.reshape(len(matrix), *self._axes())

    def _axes(self) -> tuple[int, int]:
        return self.n_models_, self.quantiles_.size

    def _margin_offsets(self, Z: FloatArray, y: FloatArray) -> Any:
        if not self.crossing_penalty > 0:
            return np.zeros(self.quantiles_.size), 0.0
        middle = int(np.argmin(np.abs(self.quantiles_ - 0.5)))
        pilot = y - np.median(Z[:, :, middle], axis=1)
        return margin_offsets(self.margin, self.quantiles_, pilot)

    def _global_weights(
        self, Z: FloatArray, y: FloatArray, weight: Any, resolution: str
    ) -> FloatArray | None:
        return fit_weights(
            Z,
            y,
            self.quantiles_,
            resolution,
            weight,
            constraint=self.constraint,
            bandwidth=self.bandwidth,
            crossing_penalty=float(self.crossing_penalty),
            margins=self._margins,
            all_pairs=self.crossing_pairs == "all",
        )

    def _fit_networks(
        self, features: FloatArray, Z: FloatArray, y: FloatArray, row_weight: FloatArray
    ) -> None:
        from uqlib.quantile._torch_gate import GateSettings

        rng = check_random_state(self.random_state)
        splits = self._splits(row_weight, rng)
        offsets, constant = self._margins
        settings = GateSettings(
            hidden=tuple(self.hidden) if self.local else (),
            dropout=float(self.dropout),
            learning_rate=float(self.learning_rate),
            max_iter=int(self.max_iter),
            constraint=self.constraint,
            crossing_penalty=float(self.crossing_penalty),
            offsets=offsets,
            constant=constant,
            pairs=self.crossing_pairs,
            non_crossing=self.non_crossing,
        )
        fit = fit_local(
            features,
            Z,
            y,
            self.quantiles_,
            row_weight,
            splits,
            draw_seeds(rng, len(splits)),
            self.resolution,
            self.bandwidth,
            settings,
        )
        self.networks_, self.weights_, self.n_iter_ = fit.networks, None, fit.n_iter
        self.row_losses_ = fit.row_losses[-1]
        held_out = np.isfinite(self.row_losses_)
        if held_out.any():
            judged = np.stack([fit.row_losses, fit.row_losses + fit.row_penalties])
            losses, objectives = np.average(
                judged[:, :, held_out], axis=2, weights=row_weight[held_out]
            )
            best = int(np.argmin(objectives))  # of equal ones the first: global weights
            self.validation_loss_ = float(losses[best])
            self.row_losses_ = fit.row_losses[best]
            names = ALTERNATIVES[self.resolution]
            if best < len(names):
                self._fall_back(names[best], Z, y, row_weight)
        if self.networks_ and not self.local:
            # A network without inputs: the same weights in each row.
            self.weights_ = self._network_weights(features[:1])[0]
            self.networks_ = []

    def _fall_back(
        self, resolution: str, Z: FloatArray, y: FloatArray, row_weight: FloatArray
    ) -> None:
        self.networks_ = []
        weights = self._global_weights(Z, y, row_weight, resolution)
        self.weights_ = in_resolution(weights, self.resolution, self.quantiles_.size)

    def _network_weights(self, features: FloatArray) -> FloatArray:
        sources, shape = self._weight_shape()
        weights = mean_weights(features, self.networks_, shape, self.constraint)
        if self.resolution == "coarse":
            return weights[:, :, 0, 0]
        if self.resolution == "medium":
            return weights[:, :, 0]
        return scattered(weights, sources)

    def _weight_shape(self) -> Any:
        return weight_shape(self.resolution, *self._axes(), self.bandwidth)

    def _splits(self, row_weight: FloatArray, rng: Any) -> list[Split]:
        rows = np.flatnonzero(row_weight > 0)
        if not self.early_stopping:
            return [Split(rows, None, None)]
        if self.cv is None:
            train, stop = self._stopping_rows(rows, rng)
            return [Split(train, stop, stop)]
        splits = []
        for train, test in shuffled_splitter(self.cv, rng).split(row_weight):
            others, judge = np.intersect1d(train, rows), np.intersect1d(test, rows)
            splits.append(Split(*self._stopping_rows(others, rng), judge))
        return splits

    def _stopping_rows(self, rows: Any, rng: Any) -> tuple[Any, Any]:
        splitter = ShuffleSplit(
            1, test_size=float(self.validation_fraction), random_state=rng
        )
        train, stop = next(splitter.split(rows))
        return rows[train], rows[stop]


def _has_three_axes(Z: Any) -> bool:
    return (Z.ndim if hasattr(Z, "ndim") else np.asarray(Z).ndim) == 3


def _flat(Z: Any) -> Any:
    """Return Z with the levels of all models side by side."""
    if not _has_three_axes(Z):
        return Z
    n_samples, n_models, n_quantiles = np.shape(Z)
    return np.asarray(Z).reshape(n_samples, n_models * n_quantiles)
