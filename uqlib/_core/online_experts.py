r"""Online updates that run several adaptive levels and learn whom to trust.

Each expert k is adaptive conformal inference with its own step size gamma_k; its
alpha_{t,k} is exact, as in `online`. "agaci" mixes the quantiles of the experts and
"dtaci" their levels.
"""

import math
from fractions import Fraction

import numpy as np

from uqlib._core.online import AciSteps, ScoreStore, aci_steps
from uqlib._core.online_updates import OnlineUpdate
from uqlib._typing import FloatArray

# A mean of floats may lie this far from the fraction that it stands for.
_TOLERANCE = 1e-12
# Below it a loss has no reciprocal, and nothing has been lost.
_NO_LOSS = 1e-300
# Above it the sums of losses would leave the range of floats.
_LARGE_LOSS = 1e300


class Experts(OnlineUpdate):
    """Several adaptive levels side by side, each with its own step size.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    gammas : list of Fraction
        The step sizes.
    """

    def __init__(self, level: Fraction, gammas: list[Fraction]) -> None:
        super().__init__(level)
        self.steps = [tuple(aci_steps(level, gamma)) for gamma in gammas]
        self.expert_misses = [0] * len(gammas)

    def _coverages(self) -> list[int]:
        return [
            start + misses * (rise + fall) - self.n_steps * fall
            for (_, start, rise, fall), misses in zip(
                self.steps, self.expert_misses, strict=True
            )
        ]

    def _alphas(self) -> FloatArray:
        pairs = zip(self.steps, self._coverages(), strict=True)
        return np.array([(steps[0] - c) / steps[0] for steps, c in pairs])

    def _ranks(self, n: int) -> list[int]:
        pairs = zip(self.steps, self._coverages(), strict=True)
        return [AciSteps(*steps).rank(n, c) for steps, c in pairs]

    def _judge(self, store: ScoreStore, score: float, ranks: list[int]) -> None:
        # score > s_(k) exactly when at least k scores are smaller; rank 0 always misses
        # and rank n + 1 never does.
        below = store.count_below(score)
        for k, rank in enumerate(ranks):
            self.expert_misses[k] += below >= rank


# Bernstein online aggregation (BOA) of one end. The pinball loss of an end at level
# tau has, as a function of its threshold x, the derivative g = alpha / 2 - 1 if y lies
# beyond that end and alpha / 2 if not (for both ends, a larger threshold lying further
# out). In place of its loss each expert is charged the linear excess
# l_k = g (q_k - sum_j w_j q_j), so that the mean of the experts competes with the best
# fixed mixture. With L_k the sum of l_k + eta_k l_k^2,
#     w_k ~ eta_k exp(-eta_k L_k),
#     eta_k = min(1 / (2 max |l|), sqrt(log K / sum l_k^2)),
# the maximum over all experts, so that one that lost nothing has a rate. The factor
# eta_k makes the mean of eta_k-weighted excesses 0, on which the regret bound of BOA
# with a rate for each expert rests; a rate has seen the excess that it weighs, so that
# no step is too long for it.
# An expert whose level has left (0, 1) has no finite quantile: it is given the largest
# or the smallest score of the store, since a mean with an infinite member is no bound.
class AgAciUpdate(Experts):
    """Aggregated adaptive conformal inference: one mixture of thresholds for each end.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    gammas : list of Fraction
        The step sizes.
    """

    needs_finite_scores = True
    two_ends = True

    def __init__(self, level: Fraction, gammas: list[Fraction]) -> None:
        super().__init__(level, gammas)
        # One row for the lower end, one for the upper.
        self.regularized = np.zeros((2, len(gammas)))
        self.norms = np.zeros((2, len(gammas)))  # root of the summed squares
        self.largest = np.zeros((2, 1))

    @property
    def alpha(self) -> FloatArray:
        """The current alpha_t of each step size."""
        return self._alphas()

    @property
    def weights(self) -> FloatArray:
        """The weights of the experts, one row an end."""
        rates = self._rates()
        exponent = -rates * self.regularized
        weights = rates * np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def thresholds(self, store: ScoreStore) -> tuple[float, float]:
        """Return the mixture of the experts' quantiles for each end."""
        return self._mix(self._quantiles(store, self._ranks(len(store))))

    def _mix(self, quantiles: FloatArray) -> tuple[float, float]:
        # Rounding must not carry the mean of equal quantiles past them.
        mixed = self.weights @ quantiles
        lower, upper = np.clip(mixed, quantiles.min(), quantiles.max()).tolist()
        return lower, upper

    def _quantiles(self, store: ScoreStore, ranks: list[int]) -> FloatArray:
        n = len(store)
        return np.array([store.order_statistic(min(max(r, 1), n)) for r in ranks])

    def _rates(self) -> FloatArray:
        # Before the first loss all weigh alike, whatever the rate.
        fast = 0.5 / np.where(self.largest > _NO_LOSS, self.largest, 0.5)
        slow = math.sqrt(math.log(len(self.steps))) / np.maximum(self.norms, _NO_LOSS)
        return np.where(slow > 0, np.minimum(fast, slow), fast)

    def _step(
        self, store: ScoreStore, score: float, above: bool
    ) -> tuple[float, float]:
        ranks = self._ranks(len(store))
        quantiles = self._quantiles(store, ranks)
        ends = self._mix(quantiles)
        half = float((1 - self.level) / 2)
        for end, threshold in enumerate(ends):
            beyond = end == above and score > threshold
            with np.errstate(over="ignore"):
                excess = (half - beyond) * (quantiles - threshold)
            excess = np.clip(excess, -_LARGE_LOSS, _LARGE_LOSS)
            self.largest[end] = max(self.largest[end], np.abs(excess).max())
            self.norms[end] = np.hypot(self.norms[end], excess)
            self.regularized[end] += excess * (1 + self._rates()[end] * excess)
        self._judge(store, score, ranks)
        return ends


# Dynamically tuned ACI. beta_t, the largest level at which y_t would be covered, is
# 1 - j / (n + 1) with j scores of the store smaller than s_t. Level alpha_k is charged
# the pinball loss l(beta, a) = alpha (beta - a) - min(0, beta - a), whose derivative in
# a is the miss minus alpha, the step of ACI. The weights are those of exponential
# weighting with a share sigma given back to all:
#     w_k <- (1 - sigma) w_k exp(-eta l_k) / W + sigma / K,
#     sigma = 1 / (2 I),  eta^2 = (log(2 K I) + 1) / (I E),
#     E = ((1 - alpha)^2 alpha^3 + alpha^2 (1 - alpha)^3) / 3,
# E being the mean of l^2 for uniform beta at a = alpha, and I the length of the spells
# over which the regret is to be small. The levels are averaged, not drawn: the loss is
# convex, so the mean is charged no more than the draw is on average.
class DtAciUpdate(Experts):
    """Dynamically tuned adaptive conformal inference, with the mean of the levels.

    Parameters
    ----------
    level : Fraction
        The coverage p.
    gammas : list of Fraction
        The step sizes.
    horizon : int
        The length I of the spells.
    """

    def __init__(self, level: Fraction, gammas: list[Fraction], horizon: int) -> None:
        super().__init__(level, gammas)
        p, a = float(level), float(1 - level)
        square = (p**2 * a**3 + a**2 * p**3) / 3
        regret = math.log(2 * len(gammas) * horizon) + 1
        self.eta = math.sqrt(regret / (horizon * square))
        self.sigma = 1 / (2 * horizon)
        self.weights = np.full(len(gammas), 1 / len(gammas))

    @property
    def alpha(self) -> float:
        """The mean of the levels, unclipped."""
        return float(self.weights @ self._alphas())

    def thresholds(self, store: ScoreStore) -> tuple[float, float]:
        """Return the quantile of the store at level 1 - alpha_t, twice."""
        rank = _rank_from_float(len(store), 1 - self.alpha)
        threshold = store.order_statistic(rank)
        return threshold, threshold

    def _step(
        self, store: ScoreStore, score: float, above: bool
    ) -> tuple[float, float]:
        ends = self.thresholds(store)
        alpha = float(1 - self.level)
        beta = 1 - store.count_below(score) / (len(store) + 1)
        margin = beta - self._alphas()
        loss = alpha * margin - np.minimum(0.0, margin)
        weights = self.weights * np.exp(-self.eta * (loss - loss.min()))
        weights /= weights.sum()
        self.weights = (1 - self.sigma) * weights + self.sigma / weights.size
        self._judge(store, score, self._ranks(len(store)))
        return ends


def _rank_from_float(n: int, coverage: float) -> int:
    """Return the rank of a computed level, whose rounding error must not cost a rank.

    0 stands for -inf and n + 1 for +inf, as in `AciSteps.rank`.
    """
    if coverage <= _TOLERANCE:
        return 0
    if coverage >= 1 - _TOLERANCE:
        return n + 1
    return max(1, math.ceil((n + 1) * coverage * (1 - _TOLERANCE)))
