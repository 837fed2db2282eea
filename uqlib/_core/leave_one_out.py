r"""All leave-one-out fits of a linear least-squares model from one factorization.

The model minimizes sum_i w_i (y_i - b - x_i' beta)^2 + a |beta|^2. Let X be centered by
the weighted mean m of the rows (the intercept is free, so this changes no prediction),
v_i = sqrt(w_i) x_i, A = V'V + a I, and 1_b = 1 with an intercept, else 0. Then

    r_i = y_i - (fitted value),      residuals,
    h_i = v_i' A^-1 v_i + 1_b w_i / sum w,      leverages,

and without row i, by the rank-one update of Sherman and Morrison in the centered
coordinates (x, 1), which are orthogonal in the weighted inner product,

    beta_-i = beta - A^-1 x_i w_i r_i / (1 - h_i),
    b_-i    = b    - 1_b (w_i / sum w) r_i / (1 - h_i),
    y_i - x_i' beta_-i - b_-i = r_i / (1 - h_i).

A leverage of 1 means that the other rows do not determine the prediction at x_i, and a
small 1 - h_i, or an A that is nearly singular, costs as many digits as it has zeros.
Both are refused here; who calls fits the n models then.
"""

from typing import NamedTuple

import numpy as np

from uqlib._typing import FloatArray

# Digits are lost in proportion to these; 1e-9 of the refitted models is kept.
_MIN_COMPLEMENT = 1e-5
_MIN_CONDITION = 1e-10


class LinearFits(NamedTuple):
    """Linear models, one a row: predictions at x are x' coef[i] + intercept[i]."""

    coef: FloatArray
    intercept: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """Predict with every model.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_rows, n_models)
            The predictions.
        """
        return X @ self.coef.T + self.intercept


def leave_one_out_fits(
    X: FloatArray,
    y: FloatArray,
    *,
    penalty: float = 0.0,
    fit_intercept: bool = True,
    sample_weight: FloatArray | None = None,
) -> tuple[LinearFits, FloatArray] | None:
    """Return the n fits without one row each, and the predictions of those rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Rows, finite.
    y : ndarray of shape (n_samples,)
        Target, finite.
    penalty : float, default=0.0
        The a, at least 0.
    fit_intercept : bool, default=True
        Whether there is an unpenalized constant.
    sample_weight : ndarray of shape (n_samples,), default=None
        Weights of the rows, at least 0.

    Returns
    -------
    fits : LinearFits
        The models, `coef` of shape (n_samples, n_features).
    y_oof : ndarray of shape (n_samples,)
        Prediction of each row by the model without it.

    None where a model is not determined or digits would be lost.
    """
    weight = np.ones(y.size) if sample_weight is None else sample_weight
    share = weight / weight.sum() if fit_intercept else np.zeros(y.size)
    mean, y_mean = share @ X, float(share @ y)
    centered = X - mean
    root = np.sqrt(weight)
    left, size, right = np.linalg.svd(root[:, None] * centered, full_matrices=False)
    spectrum = size**2 + penalty
    if not _well_posed(spectrum, X.shape[1], penalty):
        return None
    leverage = (left**2 * (size**2 / spectrum)).sum(axis=1) + share
    if np.any(1 - leverage < _MIN_COMPLEMENT):
        return None

    coef = ((left * size).T @ (root * (y - y_mean)) / spectrum) @ right
    residual = y - y_mean - centered @ coef
    step = residual / (1 - leverage)
    change = (left * (size / spectrum)) @ right * (root * step)[:, None]
    coefs = coef - change
    intercepts = y_mean - share * step - coefs @ mean
    return LinearFits(coefs, intercepts), y - step


def _well_posed(spectrum: FloatArray, n_features: int, penalty: float) -> bool:
    """Return whether A, of the eigenvalues given and else the penalty, is regular."""
    smallest = spectrum.min(initial=np.inf)
    if spectrum.size < n_features:
        smallest = min(smallest, penalty)
    return bool(smallest > _MIN_CONDITION * spectrum.max(initial=0.0))
