r"""How online conformal prediction learns from the scores that it has seen.

Every update turns a store of past scores into two thresholds, of the lower and of the
upper end, and is then told the score of the row and at which end of its interval y
lies. alpha = 1 - p; a miss is a score above the threshold.

aci      One alpha_t (see `online`); threshold = quantile of the store at 1 - alpha_t.
agaci    K of them with step sizes gamma_k. Each end has its own weights: the threshold
         is sum_k w_k q_k, learnt by Bernstein online aggregation.
dtaci    K of them; alpha_t = sum_k w_k alpha_{t,k}, learnt by exponential weights with
         mixing.
pid      No alpha_t: the threshold itself takes steps of size eta_t (miss - alpha), plus
         a term in the summed error that grows without bound.
"""

import math
import sys
from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.online import (
    AciSteps,
    ScoreStore,
    aci_steps,
    window_thresholds,
)
from uqlib._core.ranks import rank_from_fraction
from uqlib._typing import BoolArray, FloatArray


class OnlineUpdate:
    """What all updates share: the loop over a stream, and its counts.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    """

    needs_finite_scores = False
    two_ends = False  # whether the ends have thresholds of their own

    def __init__(self, level: Fraction) -> None:
        # Integers, so that the state is numbers and arrays only.
        self.numerator, self.denominator = level.numerator, level.denominator
        self.n_steps = self.n_misses = 0

    @property
    def level(self) -> Fraction:
        """The coverage p."""
        return Fraction(self.numerator, self.denominator)

    @property
    def alpha(self) -> Any:
        """The miscoverage that is asked for now; None if there is none."""
        return None

    def start(self, store: ScoreStore) -> None:
        """Look at the calibration scores before the first step."""

    def thresholds(self, store: ScoreStore) -> tuple[float, float]:
        """Return the thresholds of the lower and the upper end for the next row."""
        raise NotImplementedError("abstract: the thresholds of the next row")

    def run(
        self, store: ScoreStore, scores: FloatArray, above: BoolArray
    ) -> FloatArray:
        """Take all steps of a stream; the store takes in its scores.

        Parameters
        ----------
        store : ScoreStore
            Past scores.
        scores : ndarray of shape (n_steps,)
            New scores in time order.
        above : ndarray of shape (n_steps,)
            Whether y is at the upper end of its interval rather than at the lower.

        Returns
        -------
        ndarray of shape (n_steps, 2)
            The thresholds of each step, set before its score was seen.
        """
        ends = np.empty((scores.size, 2))
        pairs = zip(scores.tolist(), above.tolist(), strict=True)
        for t, (score, at_upper) in enumerate(pairs):
            ends[t] = pair = self._step(store, score, at_upper)
            self._count(score > pair[int(at_upper)])
            store.add(score)
        return ends

    def _step(
        self, store: ScoreStore, score: float, above: bool
    ) -> tuple[float, float]:
        """Return the thresholds of this step and learn from its score."""
        raise NotImplementedError("abstract: one step")

    def _count(self, misses: int, steps: int = 1) -> None:
        self.n_steps += steps
        self.n_misses += int(misses)


class AciUpdate(OnlineUpdate):
    """Adaptive conformal inference with one step size.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    gamma : Fraction
        The step size.
    """

    def __init__(self, level: Fraction, gamma: Fraction) -> None:
        super().__init__(level)
        self.steps = tuple(aci_steps(level, gamma))

    @property
    def coverage(self) -> int:
        """1 - alpha_t in units, from the two counts."""
        _, start, rise, fall = self.steps
        return start + self.n_misses * (rise + fall) - self.n_steps * fall

    @property
    def alpha(self) -> float:
        """The current alpha_t, unclipped."""
        return (self.steps[0] - self.coverage) / self.steps[0]

    def thresholds(self, store: ScoreStore) -> tuple[float, float]:
        """Return the quantile of the store at level 1 - alpha_t, twice."""
        rank = AciSteps(*self.steps).rank(len(store), self.coverage)
        threshold = store.order_statistic(rank)
        return threshold, threshold

    def run(
        self, store: ScoreStore, scores: FloatArray, above: BoolArray
    ) -> FloatArray:
        """Take all steps of a stream, compiled if it is long."""
        steps = AciSteps(*self.steps)
        thresholds = window_thresholds(store, scores, steps, self.coverage)
        self._count(int(np.sum(scores > thresholds)), scores.size)
        return np.column_stack([thresholds, thresholds])


# Conformal PID control without a scorecaster: threshold_{t+1} = q_{t+1} + r_t(E_t),
#     q_{t+1} = q_t + eta_t (m_t - alpha),    E_t = sum_{s <= t} (m_s - alpha),
#     r_t(x) = K tan(x log(t + 1) / (C (t + 1))), infinite from +-pi / 2 on.
# eta_t is a share of the range of the scores. Where |E_t| reaches c h(t), with
# c = C pi / 2 and h(t) = (t + 1) / log(t + 1), the threshold is infinite, so that the
# next step moves E back; h does not fall after t = 2, and one step moves E by less
# than 1. Hence |E_T| <= c max_{t <= T} h(t) + 1 whatever the scores are.
class PidUpdate(OnlineUpdate):
    """Conformal PID control: quantile tracking plus an integrator that saturates.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    learning_rate : float
        The step of the tracker as a share of the range of the scores.
    integral_gain : float or None
        The K; None takes the largest absolute calibration score.
    saturation : float
        The C.
    """

    needs_finite_scores = True

    def __init__(
        self,
        level: Fraction,
        learning_rate: float,
        integral_gain: float | None,
        saturation: float,
    ) -> None:
        super().__init__(level)
        self.learning_rate = learning_rate
        self.integral_gain = integral_gain
        self.saturation = saturation
        self.tracked = 0.0

    def start(self, store: ScoreStore) -> None:
        """Start the tracker at the conformal quantile, or at the largest score."""
        n = len(store)
        self.tracked = store.order_statistic(min(n, rank_from_fraction(n, self.level)))
        if self.integral_gain is None:
            extremes = store.order_statistic(1), store.order_statistic(n)
            self.integral_gain = max(abs(score) for score in extremes)

    @property
    def error(self) -> float:
        """The summed error E_t, rounded once."""
        missed = self.n_misses * self.denominator
        allowed = self.n_steps * (self.denominator - self.numerator)
        return (missed - allowed) / self.denominator

    def thresholds(self, store: ScoreStore) -> tuple[float, float]:
        """Return the tracked threshold plus the integrator, twice."""
        threshold = self.tracked + self._integrator()
        return threshold, threshold

    def _integrator(self) -> float:
        t = self.n_steps + 1
        angle = self.error * math.log(t) / (self.saturation * t)
        if abs(angle) >= math.pi / 2:
            return math.copysign(math.inf, angle)
        return float(self.integral_gain or 0.0) * math.tan(angle)

    def _step(
        self, store: ScoreStore, score: float, above: bool
    ) -> tuple[float, float]:
        ends = self.thresholds(store)
        width = store.order_statistic(len(store)) - store.order_statistic(1)
        miss = score > ends[0]
        move = self.learning_rate * _finite(width) * (miss - float(1 - self.level))
        self.tracked = _finite(self.tracked + _finite(move))
        return ends


def _finite(value: float) -> float:
    """Return the nearest finite number: only the integrator may be infinite."""
    return min(max(value, -sys.float_info.max), sys.float_info.max)
