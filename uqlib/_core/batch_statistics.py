r"""Statistics of a batch: non-negative weights on its sorted scores, or a composition.

Both grow with every score, which is all that a bound by ranks asks of them. The weights
are integers without a common divisor, and serve twice:

    g(t) = sum_i a_i t_(i) / sum_i a_i,        h(r) = sum_i a_i phi(r_i),

so that h looks at no rank that g does not look at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.levels import exact_level

_MAX_WEIGHT = 1000
# Floats this close, relatively, to a ratio of small integers are meant as that ratio.
_RATIO_TOLERANCE = 1e-9

NAMES = ("mean", "median", "max", "min")


@dataclass(frozen=True)
class Composition:
    r"""A statistic of a batch that is built up score by score, and its rank score.

    .. math:: g_i = \gamma_i(g_{i-1}, t_{(i)}), \qquad
              h_i = \eta_i(h_{i-1}, r_i), \qquad i = 1, \dots, m, \; h_0 = 0,

    over the sorted scores :math:`t_{(1)} \le \dots \le t_{(m)}` of the batch and the
    gaps :math:`r_1 \le \dots \le r_m` between calibration scores into which they fall.

    Parameters
    ----------
    gamma : callable
        ``gamma(i, g, t)`` with an array g of shape (n_states,) and a number t gives an
        array of the same shape. It must not decrease in g nor in t.
    eta : callable
        ``eta(i, h, r)`` with an integer array h of shape (n_states,) and a gap r in
        1, ..., n + 1 gives integers, or inf where the gap is forbidden. Any function is
        valid; a good one is large where the statistic is. Lower bounds call it with
        n + 2 - r.
    start : float, default=0.0
        The value :math:`g_0`.

    See Also
    --------
    batch_bound : What takes it.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.batch import Composition, batch_bound
    >>> largest_gain = Composition(
    ...     gamma=lambda i, g, t: g + max(t, 0.0), eta=lambda i, h, r: h + r
    ... )
    >>> float(batch_bound([-2.0, -1.0, 1.0, 3.0], 2, largest_gain, 0.6,
    ...                   score_bounds=(-5.0, 5.0), side="upper"))
    5.0
    """

    gamma: Callable[[int, Any, float], Any]
    eta: Callable[[int, Any, int], Any]
    start: float = 0.0


class Linear(NamedTuple):
    """Integer weights on sorted scores, with what the programs ask of them.

    `order` is the k of a single order statistic, else None; `first` and `last` are the
    outermost positions, counted from 1, that carry weight.
    """

    weights: tuple[int, ...]
    order: int | None
    first: int
    last: int

    @property
    def is_mean(self) -> bool:
        """Whether every score has the same weight."""
        return len(self.weights) == self.weights.count(1)

    def mirrored(self) -> "Linear":
        """Return the statistic -g(-t), whose upper bound is the lower bound of g."""
        return linear(self.weights[::-1])


def resolve_statistic(statistic: Any, m: int) -> Linear | Composition:
    """Return a statistic of m scores from any of its forms, or say what is wrong.

    Parameters
    ----------
    statistic : str, tuple, array-like of shape (m,) or object with gamma and eta
        As `batch_bound` takes it.
    m : int
        Number of scores in the batch.

    Returns
    -------
    Linear or Composition
        The statistic.
    """
    if isinstance(statistic, str):
        return _named(statistic, m)
    if hasattr(statistic, "gamma") and hasattr(statistic, "eta"):
        start = getattr(statistic, "start", 0.0)
        return Composition(statistic.gamma, statistic.eta, start)
    if isinstance(statistic, tuple) and statistic and isinstance(statistic[0], str):
        return _parametric(statistic, m)
    return linear(_small_integers(statistic, m))


@lru_cache(maxsize=256)
def linear(weights: tuple[int, ...]) -> Linear:
    """Return the statistic of integer weights without a common divisor.

    Parameters
    ----------
    weights : tuple of int
        Not negative, at least one positive.

    Returns
    -------
    Linear
        The statistic.
    """
    held = [i for i, weight in enumerate(weights, start=1) if weight]
    return Linear(weights, held[0] if len(held) == 1 else None, held[0], held[-1])


@lru_cache(maxsize=256)
def _named(name: str, m: int) -> Linear:
    if name == "mean":
        return linear((1,) * m)
    if name == "max":
        return _order(m, m)
    if name == "min":
        return _order(1, m)
    if name == "median":
        return _block((m + 1) // 2, m // 2 + 1, m)
    raise ValueError(
        f"statistic={name!r} is not known. Pass one of {', '.join(map(repr, NAMES))}, "
        "('quantile', p), ('order', k), ('trimmed', l, u), an array of m weights on "
        "the sorted scores, or a Composition."
    )


def _parametric(statistic: tuple[Any, ...], m: int) -> Linear:
    name, values = statistic[0], statistic[1:]
    if name == "order" and len(values) == 1:
        return _order(_check_order(values[0], m), m)
    if name == "quantile" and len(values) == 1:
        level = _share(values[0], statistic, 1.0, open_start=True)
        return _order(math.ceil(m * level), m)
    if name == "trimmed" and len(values) == 2:
        lower, upper = (_share(value, statistic, 0.5) for value in values)
        return _block(math.floor(m * lower) + 1, m - math.floor(m * upper), m)
    raise ValueError(
        f"statistic={statistic!r} is not known. The statistics with parameters are "
        "('quantile', p), ('order', k) and ('trimmed', l, u)."
    )


def _order(k: int, m: int) -> Linear:
    return _block(k, k, m)


def _block(first: int, last: int, m: int) -> Linear:
    """Return the mean of the sorted scores first, ..., last."""
    return linear((0,) * (first - 1) + (1,) * (last - first + 1) + (0,) * (m - last))


def _check_order(k: Any, m: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= m:
        raise ValueError(
            f"statistic=('order', {k!r}) must name one of the m={m} sorted scores: "
            f"pass an integer from 1 to {m}."
        )
    return int(k)


def _share(
    value: Any, statistic: Any, below: float, open_start: bool = False
) -> Fraction:
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share < below or (open_start and share == 0):
        start = "strictly between 0 and 1" if open_start else f"in [0, {below:g})"
        raise ValueError(
            f"statistic={statistic!r} takes shares of the batch {start}, got "
            f"{value!r}. Pass 0.1 for a tenth of its scores."
        )
    return exact_level(value)


def _small_integers(weights: Any, m: int) -> tuple[int, ...]:
    """Return the smallest integers that are proportional to weights."""
    try:
        array = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"statistic={weights!r} is not known. Pass a name, a tuple such as "
            "('order', 3), an array of m weights, or a Composition."
        ) from error
    if array.shape != (m,):
        raise ValueError(
            f"statistic must hold one weight for each of the m={m} sorted scores, got "
            f"an array of shape {array.shape}."
        )
    if not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise ValueError(
            "The weights of a statistic must be finite and non-negative, at least one "
            f"of them positive, got {array.tolist()}. A statistic that falls as a "
            "score grows is bounded by the other side of its negative."
        )
    ratios = array / array[array > 0].min()
    exact = [Fraction(ratio).limit_denominator(_MAX_WEIGHT) for ratio in ratios]
    unit = math.lcm(*(ratio.denominator for ratio in exact))
    integers = [int(ratio * unit) for ratio in exact]
    close = np.allclose([float(r) for r in exact], ratios, _RATIO_TOLERANCE, 0.0)
    if not close or max(integers) > _MAX_WEIGHT:
        raise ValueError(
            "The weights of a statistic must be proportional to integers of at most "
            f"{_MAX_WEIGHT}, got {array.tolist()}. Round them, for example with "
            "np.rint(100 * weights / weights.max())."
        )
    return tuple(integers)
