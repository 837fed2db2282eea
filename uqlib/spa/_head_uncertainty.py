"""What the heads of a network say about rows: the arrays that users see."""

import numpy as np
from scipy.special import entr

from uqlib._core.split_point import self_consistency_discrepancy
from uqlib._core.split_point_classes import sds_classification
from uqlib._typing import FloatArray
from uqlib.spa._head_outputs import REGRESSION_HEADS


def side_quantiles(heads: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the quantiles of the two sides.

    Parameters
    ----------
    heads : ndarray of shape (n_samples, n_heads)
        In the order of `REGRESSION_HEADS`.

    Returns
    -------
    up, down : ndarray of shape (n_samples,)
        How far the interval reaches above and below the prediction.
    """
    values = dict(zip(REGRESSION_HEADS, heads.T, strict=True))
    return values["quantile_up"], values["quantile_down"]


def side_uncertainty(heads: FloatArray) -> dict[str, FloatArray]:
    """Return what heads of a regression say.

    Parameters
    ----------
    heads : ndarray of shape (n_samples, n_heads)
        In the order of `REGRESSION_HEADS`.

    Returns
    -------
    dict of ndarray of shape (n_samples,)
        As `TorchSPAHead.predict_uncertainty`.
    """
    values = dict(zip(REGRESSION_HEADS, heads.T, strict=True))
    up, down, p = values["mar_up"], values["mar_down"], values["p_up"]
    return {
        "aleatoric": up + down,
        **discrepancies(values["mar"], up, down),
        "bias": p * up - (1 - p) * down,
        **values,
    }


def class_uncertainty(
    heads: FloatArray, proba: FloatArray, positive: bool
) -> dict[str, FloatArray]:
    """Return what heads of a classification say.

    Parameters
    ----------
    heads : ndarray of shape (n_samples, 3 * n_columns)
        m, u+ and u-, each of all classes, or of the second of two classes alone.
    proba : ndarray of shape (n_samples, n_classes)
        Class probabilities.
    positive : bool
        Whether u+ and u- are kept at most 1 - p and p.

    Returns
    -------
    dict of ndarray of shape (n_samples,) or (n_samples, n_classes)
        As `TorchSPAHead.predict_uncertainty`.
    """
    mar, up, down = np.split(heads, 3, axis=1)
    own = proba[:, -mar.shape[1] :]
    if positive:
        up, down = np.minimum(up, 1 - own), np.minimum(down, own)
    if proba.shape[1] == 2:
        mirrored = (mar, mar), (down, up), (up, down)
        mar, up, down = (np.hstack(pair) for pair in mirrored)
    sds = sds_classification(proba, mar, reduce=None)
    return {
        "aleatoric": entr(proba).sum(axis=1),
        "epistemic": sds.sum(axis=1),
        "sds": sds,
        "mar": mar,
        "side_up": up,
        "side_down": down,
        "bias": up - down,
    }


def discrepancies(
    mar: FloatArray, mar_up: FloatArray, mar_down: FloatArray
) -> dict[str, FloatArray]:
    """Return the discrepancy of three means raw, as a root, and relative to them.

    Parameters
    ----------
    mar, mar_up, mar_down : ndarray of shape (n_samples,)
        Means, or what unconstrained heads say in their place: any finite numbers.

    Returns
    -------
    dict of ndarray of shape (n_samples,)
        "sds", "epistemic" (its root) and "relative_sds".
    """
    means = mar, mar_up, mar_down
    if min(mean.min() for mean in means) >= 0:
        sds, epistemic, relative = (
            self_consistency_discrepancy(*means, kind=kind)
            for kind in ("raw", "sqrt", "relative")
        )
    else:
        # The formula has a value for every triple, if no longer a meaning.
        product = mar * (mar_up + mar_down)
        sds = np.abs(2 * mar_up * mar_down - product)
        epistemic, size = np.sqrt(sds), np.abs(product)
        relative = np.full(sds.shape, np.inf)
        np.divide(sds, size, out=relative, where=size > 0)
        relative[sds == 0] = 0.0
    return {"sds": sds, "epistemic": epistemic, "relative_sds": relative}
