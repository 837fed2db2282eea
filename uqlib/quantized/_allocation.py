"""Bits for each layer of a model within a budget."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length, check_random_state

from uqlib._core.levels import check_confidence_level
from uqlib._typing import FloatArray
from uqlib.quantized._allocation_model import Damage, ModelLayers
from uqlib.quantized._driver import n_calibration_rows
from uqlib.quantized._knapsack import (
    Choice,
    IntArray,
    cheapest_choice,
    local_search,
)
from uqlib.quantized._resolve import find_scheme
from uqlib.quantized._scheme import QuantizationScheme, format_at_bits
from uqlib.quantized._sensitivity import Bits
from uqlib.quantized._sensitivity_width import check_width_rows

CRITERIA = ("interval_drift", "trace", "kl", "taylor", "interval_width")
_WITH_TARGETS = ("taylor", "interval_width")
_LARGEST_SEED = 2**31 - 1


def allocate_bits(
    estimator: Any,
    X: Any,
    *,
    budget: float,
    choices: Iterable[float] = (2, 3, 4, 8),
    criterion: str = "interval_drift",
    scheme: Any = None,
    y: Any = None,
    confidence_level: float = 0.9,
    random_state: Any = None,
) -> dict[str, Any]:
    r"""Choose the bits of each layer for the least damage within a budget.

    .. math:: \min_{b} \; D(b_1, \dots, b_L) \quad \text{subject to} \quad
              \sum_l n_l b_l \le B \sum_l n_l ,

    with :math:`n_l` weights in layer l, its bits :math:`b_l` among the choices and the
    budget B. The damage D is first taken for the sum of what each layer does alone,
    :math:`\sum_l D_l(b_l)`, for which the optimum is exact (a multiple-choice
    knapsack). Where layers have few bits their errors interact; so a local search on
    the damage of all layers together follows.

    Parameters
    ----------
    estimator : estimator or torch module
        Fitted; never changed. A `FrozenEstimator` stands for what is inside.
    X : {array-like, dataframe} of shape (n_samples, n_features)
        Rows of calibration, at least 2; some hundreds are enough.
    budget : float
        Mean nominal bits of a weight over the layers that get bits; scales and zero
        points are not counted. At least the smallest choice.
    choices : sequence of numbers, default=(2, 3, 4, 8)
        Bits that a layer may get: integers from 1 to 8, and 1.58 for ternary weights.
    criterion : str, default="interval_drift"
        The damage of a layer alone at b bits, with f the float model:

        - "interval_drift": mean squared change of all outputs of the network, which are
          the ends of intervals for quantile networks, points for other regressors and
          logits for classifiers (less what all logits of a row have in common).
        - "kl": mean Kullback-Leibler divergence from the float output distribution, of
          classes for classifiers. For regressors both are normal with the variance of
          the float outputs over X, so that this is the drift in units of that spread.
        - "trace": trace of the Gauss-Newton matrix of the outputs with respect to the
          weights of the layer, divided by their number, times the squared rounding
          error.
        - "taylor": sum of the absolute products of the gradient of the loss on (X, y)
          with the rounding error.
        - "interval_width": widening of split-conformal intervals for (X, y), averaged
          over 5 folds and 6 levels around `confidence_level`; regressors only.
    scheme : str or QuantizationScheme, default=None
        How the layers are quantized; its bits are what is chosen, and its `layer_bits`
        are ignored. Layers that it skips get no bits. None stands for "w4".
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Targets, for "taylor" and "interval_width" alone.
    confidence_level : float, default=0.9
        For "interval_width", strictly between 0 and 1; for "taylor" the level of a
        network whose two outputs are the ends for one target.
    random_state : int, RandomState instance or None, default=None
        For random parts of the scheme and random probes of large networks. The result
        is deterministic for an int, and for any where there are no such parts.

    Returns
    -------
    dict of str to number
        Bits by name of the layer, in the order of execution, to be passed as
        `layer_bits` of a scheme. Names are "part.layer" where the model has several
        parts, networks or trees.

    Raises
    ------
    ValueError
        If no layer can be quantized, the budget is below the smallest choice, a
        parameter is illegal, the criterion needs y or gradients that are not there, or
        "interval_width" has too few rows for finite intervals.
    TypeError
        If the budget is not a number, or the scheme no scheme.
    NotFittedError
        If the estimator is not fitted.

    See Also
    --------
    QuantizationScheme : Takes the result as `layer_bits`.
    QuantizedRegressor : Quantizes with the scheme.

    Notes
    -----
    The local search starts from the knapsack's choice and from the largest uniform one,
    moves one or two layers a level up with at most one other a level down, and keeps
    the better end. It looks at the interval drift, or for "kl" and "interval_width" at
    these themselves: on X its result is never worse than the largest uniform choice
    within the budget. With "trace" and "taylor" the criterion decides a start and the
    order of the moves.

    The Gauss-Newton matrix stands for the Hessian because pinball and absolute losses
    have none; it is that of outputs, not of a loss. At a minimum of the loss the
    gradient is near zero: "taylor" then says little on training rows.

    Rows of a conformal calibration must not be used here: bits that are chosen for
    narrow intervals on them invalidate the coverage. For "interval_width" they should
    not be rows of training either, on which residuals are too small. Where the budget
    allows the largest choice for all layers, they get it.

    References
    ----------
    .. [1] Z. Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural
       Networks", arXiv:1911.03852.
    .. [2] Y. Cai et al., "ZeroQ: A Novel Zero Shot Quantization Framework",
       arXiv:2001.00281.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> from uqlib.quantized import allocate_bits
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = MLPRegressor(hidden_layer_sizes=(16, 16), tol=0.1, random_state=0)
    >>> bits = allocate_bits(model.fit(X, X[:, 0] * X[:, 1]), X, budget=3.5)
    >>> list(bits), all(b in (2, 3, 4, 8) for b in bits.values())
    (['layer_0', 'layer_1', 'layer_2'], True)
    """
    check_confidence_level(confidence_level)
    legal = _check_choices(choices)
    limit = _check_budget(budget, legal[0])
    n_samples = n_calibration_rows(X)
    target = _check_criterion(criterion, y, n_samples, confidence_level)
    random = check_random_state(random_state)
    seed = int(random.randint(_LARGEST_SEED))
    model = ModelLayers(estimator, X, _scheme_to_vary(scheme), seed)
    sizes, capacity = model.sizes(legal, limit)
    if sizes[:, -1].sum() <= capacity:
        return model.named([legal[-1]] * len(sizes))
    damage = Damage(model, criterion, legal, target, confidence_level)
    costs = damage.of_single_layers(random)
    best = _least_damage(damage, sizes, costs, capacity)
    return model.named([legal[k] for k in best])


def _least_damage(
    damage: Damage, sizes: IntArray, costs: FloatArray, capacity: int
) -> Choice:
    """Search from the optimum of the sum, and from the largest uniform choice."""
    uniform = int(np.flatnonzero(sizes.sum(axis=0) <= capacity)[-1])
    starts = (cheapest_choice(sizes, costs, capacity), (uniform,) * len(sizes))
    found = [
        local_search(start, sizes, costs, capacity, damage.of_all) for start in starts
    ]
    return min(found, key=damage.of_all)


def _scheme_to_vary(scheme: Any) -> QuantizationScheme:
    found = find_scheme("w4" if scheme is None else scheme, None)
    if found is None:  # "auto"
        raise ValueError(
            "scheme='auto' leaves no bits to choose. Pass a short name such as 'w4' or "
            "a QuantizationScheme."
        )
    return replace(found, layer_bits=())


def _check_choices(choices: Any) -> Bits:
    values = tuple(choices) if isinstance(choices, Iterable) else (choices,)
    if not values:
        raise ValueError("choices must hold at least one number of bits, got none.")
    for bits in values:
        if format_at_bits("int4", bits) is None:
            raise ValueError(
                f"choices must be from 1 to 8 bits, got {bits!r}. Name layers that "
                "stay in float in skip= of the scheme."
            )
    plain = {np.asarray(bits).item() for bits in values}
    return tuple(sorted(int(bits) if bits == int(bits) else bits for bits in plain))


def _check_budget(budget: Any, smallest: Any) -> Fraction:
    if isinstance(budget, bool) or not isinstance(budget, Real):
        raise TypeError(f"budget must be a number of bits, got {budget!r}.")
    if not 0 < float(budget) < np.inf:
        raise ValueError(f"budget must be positive and finite, got {budget!r}.")
    limit = Fraction(float(budget)).limit_denominator(10**9)
    if limit < Fraction(str(smallest)):
        raise ValueError(
            f"budget={budget!r} is too small: the smallest of the choices is "
            f"{smallest} bits. Raise budget to it, or add a smaller choice."
        )
    return limit


def _check_criterion(
    criterion: Any, y: Any, n_samples: int, confidence_level: float
) -> Any:
    """Return the targets that a criterion needs, or None."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion={criterion!r} must be one of {list(CRITERIA)}.")
    if criterion not in _WITH_TARGETS:
        return None
    if y is None:
        raise ValueError(
            f"criterion={criterion!r} needs the targets y of X, got y=None. Pass y=, "
            "or use criterion='interval_drift', which needs none."
        )
    if criterion == "interval_width":
        check_width_rows(n_samples, confidence_level)
    dtype = None if np.asarray(y).dtype.kind in "OUSb" else "numeric"
    y = check_array(y, ensure_2d=False, dtype=dtype, input_name="y")
    check_consistent_length(np.empty(n_samples), y)
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
