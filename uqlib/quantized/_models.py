"""Quantized regressors and classifiers, and the function that makes them."""

from typing import Any

from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.frozen import FrozenEstimator

from uqlib._typing import FloatArray
from uqlib.quantized._estimator import BaseQuantizedModel, model_has
from uqlib.quantized._open_torch import is_torch_module


class QuantizedRegressor(RegressorMixin, BaseQuantizedModel):
    r"""A regressor whose weights take a few bits each.

    Every weight becomes a code q on a grid of its row or group,

    .. math:: \hat w = (C[q] - z)\, s ,

    chosen so that the outputs of each layer move as little as possible on calibration
    rows; trees keep their thresholds exactly, as integer bins.

    Parameters
    ----------
    estimator : estimator or torch module
        A :class:`~sklearn.frozen.FrozenEstimator` or a torch module is quantized as it
        stands; any other estimator is cloned and fitted first. Networks, linear models,
        trees, pipelines and what wraps them; `report_` lists what stays in float.
    scheme : "auto", str or QuantizationScheme, default="auto"
        How; a short name such as "w4" or "w4a8g32", see `QuantizationScheme.parse`.
        "auto" takes exact integer bins for trees and "w8a8" for networks.
    method : str, default=None
        Name of a rounding ("rtn", "gptq", "gptq+cd", "flexround", ...) or of a recipe
        that replaces parts of the scheme; None leaves it as it is.
    backend : {"auto", "cuda", "numba", "reference"}, default="auto"
        What computes the predictions. "numba" are compiled kernels that multiply codes,
        in integers where activations are rounded; networks compute in single precision
        then. "cuda" are kernels for GPUs: it needs a torch module whose parameters are
        on one, and the kernels of `uqlib_kernels.cuda`. "reference" is NumPy or torch
        in float on the rounded weights and activations. "auto" takes kernels, on a GPU
        those of "cuda" if they are there, on a CPU but for layers whose activations
        stay in float, where products of floats are as fast for many rows. `layers_`
        says what computes each layer.
    last_layer_bits : int or None, default=8
        Bits that the last layer of a network has at least, since its few weights
        matter most; None treats it like the others.
    strict : bool, default=False
        Whether it is an error if some part of the model stays in float.
    random_state : int, RandomState instance or None, default=None
        For random signs and learned rounding.

    Attributes
    ----------
    estimator_ : estimator
        The float model, unchanged.
    model_ : object
        The quantized model.
    parts_ : dict of str to object
        Networks and ensembles of trees inside the model, quantized.
    scheme_ : QuantizationScheme or "auto"
        What `scheme` and `method` stand for.
    layers_ : DataFrame of shape (n_layers, 11)
        One row a layer: shape, format, bits, bytes, relative error of its outputs on
        the calibration rows, and the operation that computes it.
    nbytes_ : int
        Bytes stored: packed codes, scales, biases, and in float32 what was skipped.
    effective_bits_ : float
        Bits stored for each parameter of the float model, all included. The parameters
        of trees are thresholds and leaves; what joins them is stored as well.
    compression_ratio_ : float
        Bytes of the float model over `nbytes_`: of a network at four for each
        parameter, whatever type it holds, of trees those that their library reads.
    report_ : Bunch
        These numbers, and `skipped`: what stayed in float and why.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a parameter is unknown or out of range, y is missing where a clone is fitted,
        there are fewer than 2 rows, weights are not finite, the estimator is for
        another task, or `strict` finds a part that stays in float.
    TypeError
        If `scheme` is neither a string nor a scheme.
    NotFittedError
        If a `FrozenEstimator` is not fitted.

    Warns
    -----
    QuantizationWarning
        If nothing could be quantized, or rows of calibration are fewer than the inputs
        of a layer.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    quantize : The same for a fitted model, in one call.
    coverage_report : What it cost in coverage and width.
    allocate_bits : Bits for each layer from a budget.

    Notes
    -----
    .. rubric:: Guarantee

    None on the predictions, but those of trees with ``scheme="auto"``, which are equal.
    Calibrate intervals on the quantized model, with rows that neither training nor
    quantization used: coverage is then as for any model, whatever the bits, and the
    damage is in the width. A threshold of the float model covers too little.

    References
    ----------
    .. [1] E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate
       Post-Training Quantization for Generative Pre-trained Transformers",
       arXiv:2210.17323.
    .. [2] K. Behdin et al., "QuantEase: Optimization-based Quantization for Language
       Models", arXiv:2309.01885.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from uqlib.quantized import QuantizedRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = QuantizedRegressor(HistGradientBoostingRegressor()).fit(X, y)
    >>> bool((model.drift(X) == 0).all()), model.compression_ratio_ > 1.5
    (True, True)
    """

    _task = "regression"

    @model_has("predict_quantiles")
    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Return the quantiles of the quantized model, if it has any.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.
        quantiles : array-like of shape (n_quantiles,), default=None
            Levels; None takes those of the model.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles)
            As the float model gives them.
        """
        extra = () if quantiles is None else (quantiles,)
        return self._ask("predict_quantiles", X, *extra)  # type: ignore[no-any-return]

    @property
    def quantiles_(self) -> Any:
        """Levels of the quantiles, if the model has any."""
        return self.model_.quantiles_


class QuantizedClassifier(ClassifierMixin, BaseQuantizedModel):
    r"""A classifier whose weights take a few bits each.

    Every weight becomes a code q on a grid of its row or group,

    .. math:: \hat w = (C[q] - z)\, s ,

    chosen so that the outputs of each layer move as little as possible on calibration
    rows; trees keep their thresholds exactly, as integer bins.

    Parameters
    ----------
    estimator : estimator or torch module
        A :class:`~sklearn.frozen.FrozenEstimator` or a torch module, whose outputs are
        logits, is quantized as it stands; any other estimator is cloned and fitted
        first.
    scheme : "auto", str or QuantizationScheme, default="auto"
        How; a short name such as "w4" or "w4a8g32", see `QuantizationScheme.parse`.
        "auto" takes exact integer bins for trees and "w8a8" for networks.
    method : str, default=None
        Name of a rounding ("rtn", "gptq", "gptq+cd", "flexround", ...) or of a recipe
        that replaces parts of the scheme; None leaves it as it is.
    backend : {"auto", "cuda", "numba", "reference"}, default="auto"
        What computes the predictions. "numba" are compiled kernels that multiply codes,
        in integers where activations are rounded; networks compute in single precision
        then. "cuda" are kernels for GPUs: it needs a torch module whose parameters are
        on one, and the kernels of `uqlib_kernels.cuda`. "reference" is NumPy or torch
        in float on the rounded weights and activations. "auto" takes kernels, on a GPU
        those of "cuda" if they are there, on a CPU but for layers whose activations
        stay in float, where products of floats are as fast for many rows. `layers_`
        says what computes each layer.
    last_layer_bits : int or None, default=8
        Bits that the last layer of a network has at least, since its few weights
        matter most; None treats it like the others.
    strict : bool, default=False
        Whether it is an error if some part of the model stays in float.
    random_state : int, RandomState instance or None, default=None
        For random signs and learned rounding.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of probabilities.
    estimator_ : estimator
        The float model, unchanged.
    model_ : object
        The quantized model.
    parts_ : dict of str to object
        Networks and ensembles of trees inside the model, quantized.
    scheme_ : QuantizationScheme or "auto"
        What `scheme` and `method` stand for.
    layers_ : DataFrame of shape (n_layers, 11)
        One row a layer: shape, format, bits, bytes, relative error of its outputs on
        the calibration rows, and the operation that computes it.
    nbytes_ : int
        Bytes stored: packed codes, scales, biases, and in float32 what was skipped.
    effective_bits_ : float
        Bits stored for each parameter of the float model, all included. The parameters
        of trees are thresholds and leaves; what joins them is stored as well.
    compression_ratio_ : float
        Bytes of the float model over `nbytes_`: of a network at four for each
        parameter, whatever type it holds, of trees those that their library reads.
    report_ : Bunch
        These numbers, and `skipped`: what stayed in float and why.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If a parameter is unknown or out of range, y is missing where a clone is fitted,
        there are fewer than 2 rows, weights are not finite, the estimator is for
        another task, or `strict` finds a part that stays in float.
    TypeError
        If `scheme` is neither a string nor a scheme.
    NotFittedError
        If a `FrozenEstimator` is not fitted.

    Warns
    -----
    QuantizationWarning
        If nothing could be quantized, or rows of calibration are fewer than the inputs
        of a layer.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    quantize : The same for a fitted model, in one call.
    coverage_report : What it cost in coverage and set size.
    allocate_bits : Bits for each layer from a budget.

    Notes
    -----
    .. rubric:: Guarantee

    None on the predictions, but those of trees with ``scheme="auto"``, which are equal.
    Calibrate sets on the quantized model, with rows that neither training nor
    quantization used: coverage is then as for any model, whatever the bits.

    References
    ----------
    .. [1] E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate
       Post-Training Quantization for Generative Pre-trained Transformers",
       arXiv:2210.17323.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from uqlib.quantized import QuantizedClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = QuantizedClassifier(LogisticRegression(max_iter=5000), scheme="w4")
    >>> model = model.set_params(last_layer_bits=None).fit(X, y)
    >>> bool(model.compression_ratio_ > 5), bool(model.score(X, y) > 0.97)
    (True, True)
    """

    _task = "classification"

    @model_has("predict_proba")
    def predict_proba(self, X: Any) -> FloatArray:
        """Return the probabilities of the quantized model.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            As the float model gives them.
        """
        return self._ask("predict_proba", X)  # type: ignore[no-any-return]

    @model_has("decision_function")
    def decision_function(self, X: Any) -> FloatArray:
        """Return the decision values of the quantized model.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            As the float model gives them.
        """
        return self._ask("decision_function", X)  # type: ignore[no-any-return]

    def _drift_method(self) -> str:
        has_proba = hasattr(self.estimator_, "predict_proba")
        return "predict_proba" if has_proba else "decision_function"


def quantize(
    estimator: Any,
    scheme: Any = "auto",
    X: Any = None,
    *,
    task: str | None = None,
    **parameters: Any,
) -> QuantizedRegressor | QuantizedClassifier:
    """Quantize a fitted model as it stands.

    Parameters
    ----------
    estimator : estimator or torch module
        Fitted; never changed.
    scheme : "auto", str or QuantizationScheme, default="auto"
        As in `QuantizedRegressor`.
    X : array-like of shape (n_samples, n_features)
        Rows of calibration, such as it was trained on; no targets are needed.
    task : {"regression", "classification"}, default=None
        What the model does; None asks it. A torch module does not tell: None then
        stands for "regression".
    **parameters : dict
        Other parameters of `QuantizedRegressor`.

    Returns
    -------
    QuantizedRegressor or QuantizedClassifier
        Fitted.

    Raises
    ------
    ValueError
        If X is missing, or as the estimators say.

    See Also
    --------
    QuantizedRegressor, QuantizedClassifier : What is returned.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.quantized import quantize
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = quantize(Ridge().fit(X, y), "w8a8", X)
    >>> type(model).__name__, model.predict(X[:3]).shape
    ('QuantizedRegressor', (3,))
    """
    if X is None:
        raise ValueError(
            "X is missing: pass rows of calibration, such as rows of the training set. "
            "They need no targets."
        )
    if task not in ("regression", "classification", None):
        raise ValueError(
            f"task={task!r} must be 'regression', 'classification' or None."
        )
    if is_torch_module(estimator):
        frozen, classifies = estimator, task == "classification"
    else:
        frozen = FrozenEstimator(estimator)
        own = "classification" if is_classifier(estimator) else "regression"
        classifies = (task or own) == "classification"
    kind = QuantizedClassifier if classifies else QuantizedRegressor
    return kind(frozen, scheme=scheme, **parameters).fit(X)  # type: ignore[no-any-return]
