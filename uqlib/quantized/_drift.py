"""What the drift of a quantized model means, with and without new labels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from uqlib._core.checks import as_1d, check_rows, check_sample_weight, check_target
from uqlib._core.drift_certificate import DriftCertificate, drift_certificate
from uqlib._core.levels import check_confidence_level
from uqlib._core.split_point import (
    self_consistency_discrepancy,
    split_point_statistics,
)
from uqlib._typing import ArrayLike, FloatArray
from uqlib.quantized._coverage_kinds import find_kind, warn_if_seen


class SplitPointShift(NamedTuple):
    """Residuals on the two sides of a prediction, before and after quantization.

    As :func:`split_point_shift` returns it.

    Parameters
    ----------
    bias, bias_quantized : float
        Mean of target minus prediction.
    rmse, rmse_quantized : float
        Root mean squared error.
    sds, sds_quantized : float
        Self-consistency discrepancy, in squared units of the target; NaN where all
        targets are on one side of the prediction.
    relative_sds, relative_sds_quantized : float
        The same without units, in [0, 1).

    Examples
    --------
    >>> from uqlib.quantized import split_point_shift
    >>> split_point_shift([0.0, 0.0, 0.0, 3.0], [0.75] * 4, [1.0] * 4).bias_quantized
    -0.25
    """

    bias: float
    bias_quantized: float
    rmse: float
    rmse_quantized: float
    sds: float
    sds_quantized: float
    relative_sds: float
    relative_sds_quantized: float


def split_point_shift(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_pred_quantized: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> SplitPointShift:
    r"""Compare the residuals of both models on the two sides of the prediction.

    .. math:: \mathrm{SDS} = |b| \, |m_+ - m_-| ,

    with the bias b and the mean absolute residuals above and below the prediction, of
    the float model and of the quantized one on the same rows.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target of rows that neither trained nor quantized a model, finite.
    y_pred, y_pred_quantized : array-like of shape (n_samples,)
        Predictions of the float model and of the quantized one, finite.
    sample_weight : array-like of shape (n_samples,), default=None
        One weight a row.

    Returns
    -------
    SplitPointShift
        Bias, RMSE and discrepancy before and after.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a value is not finite, or the weights
        are negative, not finite or all 0.

    See Also
    --------
    coverage_report : What quantization did to intervals.
    uqlib.spa.split_point_statistics : All numbers of one model.

    Notes
    -----
    A quantized model can have the RMSE of the float model and be biased where that was
    not: a constant drift c adds only :math:`c^2` to the squared error, and moves the
    discrepancy by about :math:`|c| \, |m_+ - m_-|`. For symmetric residuals it does not
    move the discrepancy to first order: look at the bias too.

    Examples
    --------
    >>> from uqlib.quantized import split_point_shift
    >>> shift = split_point_shift([0.0, 0.0, 0.0, 3.0], [0.75] * 4, [1.0] * 4)
    >>> shift.bias, shift.bias_quantized, shift.sds, round(shift.sds_quantized, 9)
    (0.0, -0.25, 0.0, 0.25)
    """
    target = check_target(y_true)
    weight = check_sample_weight(sample_weight, target.size)
    named = {"y_pred": y_pred, "y_pred_quantized": y_pred_quantized}
    pairs = zip(*(_sides(target, v, n, weight) for n, v in named.items()), strict=True)
    return SplitPointShift(*(value for pair in pairs for value in pair))


def certify_drift(
    fp: Any,
    quantized: Any,
    X_cal: Any,
    y_cal: ArrayLike,
    X_unlabelled: Any,
    *,
    confidence_level: float = 0.9,
    drift_share: float = 0.1,
    nonconformity: str = "auto",
) -> DriftCertificate:
    r"""Certify a quantized model by labels of the float model and rows without labels.

    .. math:: C(x) = [f_q(x) - (t + D), \; f_q(x) + (t + D)] ,

    with the conformal threshold t of the float model on the labelled rows at
    :math:`1 - \alpha_1` and that of the drift, D, on the rows without labels at
    :math:`1 - \alpha_2`; :math:`\alpha_1 + \alpha_2 = 1 - p`.

    Parameters
    ----------
    fp, quantized : estimator
        The fitted float model and the same model quantized.
    X_cal : {array-like, dataframe} of shape (n_calibration, n_features)
        Rows that neither trained nor quantized a model.
    y_cal : array-like of shape (n_calibration,)
        Their targets.
    X_unlabelled : {array-like, dataframe} of shape (n_unlabelled, n_features)
        Such rows without targets; it may be `X_cal` again.
    confidence_level : float, default=0.9
        Coverage asked for, p, strictly between 0 and 1.
    drift_share : float, default=0.1
        The :math:`\alpha_2 / (1 - p)`, strictly between 0 and 1.
    nonconformity : {"auto", "absolute", "quantile", "lac"}, default="auto"
        As in `coverage_report`.

    Returns
    -------
    DriftCertificate
        Its ``interval`` takes points or quantiles of the quantized model. Of a
        classifier, an offset is the threshold for :func:`~uqlib.conformal.lac_sets` of
        the quantized probabilities.

    Raises
    ------
    ValueError
        If shapes do not agree, a target is missing, a label is unknown to the float
        model, a model does not give what is asked for, or a parameter is out of its
        range.
    TypeError
        If a level is not a number.

    Warns
    -----
    QuantizationWarning
        If `quantized` says that some of these rows were used in its quantization.
    InfiniteIntervalWarning
        If there are too few rows for a level.

    See Also
    --------
    drift_certificate : The same from scores and drifts.
    coverage_report : Recalibration, once labels have arrived.

    Notes
    -----
    .. rubric:: Guarantee

    Theorem: :math:`P(y \in C(x)) \ge p`.
    Assumptions: given both models, the new row is exchangeable with the rows of
    `X_cal`, and with those of `X_unlabelled`; neither were used to train or to
    quantize.
    Level: exactly `confidence_level`, by the union bound.

    For classifiers the drift of a row is the largest fall of a probability,
    :math:`\max_y (p_y - q_y)`, which no score :math:`1 - p_y` can outgrow.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from uqlib.quantized import certify_drift
    >>> X = np.random.default_rng(0).normal(size=(900, 3))
    >>> y = X @ [1.0, 2.0, 3.0] + np.random.default_rng(1).normal(size=900)
    >>> fp, rough = (LinearRegression().fit(X[:200], y[:200]) for _ in range(2))
    >>> rough.coef_ = np.round(rough.coef_ * 4) / 4
    >>> certificate = certify_drift(fp, rough, X[200:500], y[200:500], X[500:])
    >>> certificate.interval(rough.predict(X[:7])).shape
    (7, 2)
    """
    level = float(check_confidence_level(confidence_level))
    kind = find_kind(nonconformity, fp)
    target = kind.target(y_cal, "y_cal")
    check_rows(_num_samples(X_cal), len(target), "y_cal", "X_cal")
    scores = kind.scores(target, kind.predict(fp, X_cal, level))
    drift = kind.drift(*(kind.predict(m, X_unlabelled, level) for m in (fp, quantized)))
    warn_if_seen(quantized, X_cal, "X_cal")
    if X_unlabelled is not X_cal:
        warn_if_seen(quantized, X_unlabelled, "X_unlabelled")
    return drift_certificate(scores, drift, confidence_level, drift_share=drift_share)


# For one row x and an activation s with s(0) = 0 and |s(a) - s(b)| <= |a - b|, let h_k
# be the float input of layer k, and e_k how far the quantized input is from it. Then
#
#     |h_{k+1}|  <=  |W| |h_k| + |b| ,
#     e_{k+1}    <=  |W_q h_q + b_q - W h - b|
#                 =  |W_q (h_q - h) + (W_q - W) h + b_q - b|
#                <=  |W_q| e_k + |W_q - W| |h_k| + |b_q - b| ,
#
# from |h_0| = |x| and e_0 = 0; the norms of matrices are spectral. The last layer has
# no activation, for which the same holds.
def lipschitz_drift_bound(
    layers: Sequence[tuple[ArrayLike, ArrayLike]],
    quantized_layers: Sequence[tuple[ArrayLike, ArrayLike]],
    x_norm: ArrayLike,
) -> FloatArray:
    r"""Bound the drift of a dense network at every input of a given size.

    .. math:: e_{k+1} = \|W^q_k\| e_k + \|W^q_k - W_k\| h_k + \|b^q_k - b_k\| , \qquad
              h_{k+1} = \|W_k\| h_k + \|b_k\| ,

    with :math:`h_0 = \|x\|`, :math:`e_0 = 0` and spectral norms; the bound is the last
    e.

    Parameters
    ----------
    layers : sequence of tuple (weight, bias)
        Of the float network in the order of execution: arrays of shape (n_out, n_in)
        and (n_out,).
    quantized_layers : sequence of tuple (weight, bias)
        The same after quantization, dequantized.
    x_norm : array-like of shape (n_samples,)
        Euclidean norms of the rows, at least 0.

    Returns
    -------
    ndarray of shape (n_samples,)
        Bounds of :math:`\|f_q(x) - f(x)\|`.

    Raises
    ------
    ValueError
        If the networks have unlike or no layers, or a norm is negative or NaN.

    See Also
    --------
    drift_certificate : With the drift measured, which is far smaller.

    Notes
    -----
    It holds for every x, and not only with some probability, if weights alone are
    quantized and the activation is ReLU, tanh or another with :math:`s(0) = 0` and no
    slope beyond 1. It is loose: the norms multiply from layer to layer, so that it is
    ten to some thousand times the drift that is met. An interval widened by it covers
    as the float model's does.

    Examples
    --------
    >>> from uqlib.quantized import lipschitz_drift_bound
    >>> lipschitz_drift_bound([([[1.0]], [0.0])], [([[1.25]], [0.5])], [2.0])
    array([1.])
    """
    size = as_1d(x_norm, "x_norm")
    if size.size and size.min() < 0:
        raise ValueError(
            f"x_norm must be at least 0, got {float(size.min())!r}. Pass "
            "np.linalg.norm(X, axis=1)."
        )
    exact, rounded = _as_layers(layers), _as_layers(quantized_layers)
    shapes = [[matrix.shape for matrix, _ in layer] for layer in (exact, rounded)]
    if not exact or shapes[0] != shapes[1]:
        raise ValueError(
            "layers and quantized_layers must be the layers of one network, at least "
            f"one, got weights of shapes {shapes[0]} and {shapes[1]}."
        )
    error = np.zeros_like(size)
    for (weight, bias), (weight_q, bias_q) in zip(exact, rounded, strict=True):
        moved = _norm(weight_q - weight) * size + _norm(bias_q - bias)
        error = _norm(weight_q) * error + moved
        size = _norm(weight) * size + _norm(bias)
    return error


def _sides(
    target: FloatArray, y_pred: ArrayLike, name: str, weight: FloatArray | None
) -> tuple[float, float, float, float]:
    prediction = check_target(y_pred, name=name)
    check_rows(target.size, prediction.size, name, "y_true")
    residuals = target - prediction
    found = split_point_statistics(residuals, weight)
    rmse = float(np.sqrt(np.average(residuals**2, weights=weight)))
    relative = float("nan")
    if found.valid:
        means = found.mar, found.mar_up, found.mar_down
        relative = self_consistency_discrepancy(*means, kind="relative")
    return found.bias, rmse, found.sds, relative


def _as_layers(
    layers: Sequence[tuple[ArrayLike, ArrayLike]],
) -> list[tuple[FloatArray, FloatArray]]:
    return [
        (np.atleast_2d(np.asarray(weight, np.float64)), np.asarray(bias, np.float64))
        for weight, bias in layers
    ]


def _norm(matrix: FloatArray) -> float:
    return float(np.linalg.norm(matrix, 2))
