r"""Learn-then-Test: which parameters control their risk, by multiple testing.

Each parameter is a hypothesis, "its risk is above the level", with a valid p-value. A
procedure that rejects no true hypothesis but with probability d finds, with confidence
1 - d, only parameters that control their risk, however they are chosen among:

- Bonferroni: m d_j = d for each; a true hypothesis is rejected with d / m.
- Holm: of m_0 true hypotheses the first in the order of the p-values has a place
  i <= m + 1 - m_0, so it must pass d / (m + 1 - i) <= d / m_0.
- Fixed sequence: on the way from a start, a true hypothesis is rejected only if the
  first true one is, with probability d / n_starts; the starts share d.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.levels import check_confidence_level
from uqlib._typing import ArrayLike, BoolArray, FloatArray

TESTS = ("bonferroni", "holm", "fixed_sequence")


def learn_then_test(
    p_values: ArrayLike,
    confidence_level: float = 0.9,
    *,
    method: str = "fixed_sequence",
    n_starts: int = 1,
) -> BoolArray:
    r"""Which parameters control their risk, all at once, whatever the loss.

    Each parameter j (a threshold, or a row of several) has a p-value of the hypothesis
    that its risk is above the level. With :math:`d = 1 -` `confidence_level`, the
    parameters found are

    - ``"bonferroni"``: :math:`p_j \le d / m`;
    - ``"holm"``: in increasing order of the p-values, up to the first with
      :math:`p_{(i)} > d / (m + 1 - i)`;
    - ``"fixed_sequence"``: in the order given, from each of `n_starts` equally spaced
      starts up to the first with :math:`p_j > d / n_{starts}`.

    Parameters
    ----------
    p_values : array-like of shape (n_parameters,)
        One a parameter. For several risks at once, the largest of their p-values.
    confidence_level : float, default=0.9
        Probability over the calibration rows that none of the parameters found has a
        risk above its level.
    method : {"fixed_sequence", "holm", "bonferroni"}, default="fixed_sequence"
        How the error is shared. A fixed sequence loses nothing to the number of
        parameters, but its order must be fixed without the calibration rows, the
        parameters that are most likely to control their risk first.
    n_starts : int, default=1
        Number of starts of a fixed sequence, from 1 to n_parameters.

    Returns
    -------
    ndarray of shape (n_parameters,)
        True for the parameters found. Any of them may be used, chosen in any way.

    Raises
    ------
    ValueError
        If a p-value is not in [0, 1], or a parameter is out of its range.
    TypeError
        If `n_starts` is not an integer.

    See Also
    --------
    hoeffding_bentkus_p_value : P-values from mean losses.
    wsr_p_value : P-values from losses.
    rcps_threshold : One sequence from the cautious end, for monotone losses.

    Notes
    -----
    If each p-value is valid, which needs independent rows of one law,

    .. math:: P(R_j \le a \text{ for all } j \text{ found}) \ge c

    for the confidence level c, over the calibration rows [1]_. The loss need not be
    monotone in the parameter, nor the parameter be a number.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan, L. Lei, "Learn then
       Test: Calibrating Predictive Algorithms to Achieve Risk Control",
       arXiv:2110.01052.

    Examples
    --------
    >>> from uqlib.conformal import learn_then_test
    >>> p_values = [0.001, 0.02, 0.3, 0.04]
    >>> learn_then_test(p_values)
    array([ True,  True, False, False])
    >>> learn_then_test(p_values, method="bonferroni")
    array([ True,  True, False, False])
    """
    confidence = check_confidence_level(confidence_level)
    values = as_1d(p_values, "p_values")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            "p_values must lie in [0, 1], got values from "
            f"{values.min()} to {values.max()}."
        )
    if not isinstance(method, str) or method not in TESTS:
        raise ValueError(f"method={method!r} must be one of {list(TESTS)}.")
    if method == "fixed_sequence":
        starts = _starts(n_starts, values.size)
        return _fixed_sequence(values, 1 - confidence, starts)
    if method == "holm":
        return _holm(values, 1 - confidence)
    return np.asarray(values <= _share(1 - confidence, values.size))


def _share(delta: Fraction, n_parts: int) -> float:
    return float(delta / max(n_parts, 1))


def _starts(n_starts: Any, n_parameters: int) -> list[int]:
    if isinstance(n_starts, bool) or not isinstance(n_starts, int | np.integer):
        raise TypeError(
            f"n_starts must be an integer, got {n_starts!r} of type "
            f"{type(n_starts).__name__}."
        )
    if not 1 <= n_starts <= max(n_parameters, 1):
        raise ValueError(
            f"n_starts={n_starts!r} must lie between 1 and the number of parameters, "
            f"{n_parameters}."
        )
    return [int(k) * n_parameters // int(n_starts) for k in range(n_starts)]


def _fixed_sequence(
    p_values: FloatArray, delta: Fraction, starts: list[int]
) -> BoolArray:
    small = p_values <= _share(delta, len(starts))
    found = np.zeros(p_values.shape, dtype=bool)
    for start in starts:
        found[start:] |= np.logical_and.accumulate(small[start:])
    return found


def _holm(p_values: FloatArray, delta: Fraction) -> BoolArray:
    order = np.argsort(p_values, kind="stable")
    shares = float(delta) / np.arange(p_values.size, 0, -1)
    found = np.empty(p_values.shape, dtype=bool)
    found[order] = np.logical_and.accumulate(p_values[order] <= shares)
    return found
