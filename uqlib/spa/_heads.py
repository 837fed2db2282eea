r"""Regressions of residuals that make up split-point analysis.

With a residual r, u+ = E[max(r, 0) | x], u- = E[max(-r, 0) | x], p = P(r > 0 | x):

    coherent: u+, u- and p are learned, and m = u+ + u-, b = u+ - u-, m+ = u+ / p,
              m- = u- / (1 - p). Whatever the three heads say, m = p m+ + (1 - p) m-.
    separate: m, m+ and m- are learned, the last two on the rows of their side, and p;
              b = p m+ - (1 - p) m-. To solve the first line for p instead, as
              (m - m-) / (m+ - m-), is ill-conditioned wherever noise is symmetric.

In both modes q+ and q- are quantile regressions of |r| on the rows of their side.
"""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from uqlib._fitting import clone_and_fit, draw_seeds, is_frozen, seeded_clone
from uqlib._predictions import predict_point, predict_quantiles
from uqlib._quantile_models import quantile_parameter
from uqlib._typing import BoolArray, FloatArray
from uqlib.spa._head_outputs import MIN_ROWS

MODES = ("coherent", "separate")
# Shares of a side nearer to 0 or 1 would blow its mean up.
_P_RANGE = (0.02, 0.98)
# Means and quantiles are kept above this share of the mean absolute residual; without
# any residual, above a number whose square and inverse are still numbers.
_FLOOR_SHARE = 1e-6
_LEAST_FLOOR = float(np.sqrt(np.finfo(np.float64).tiny))


class Sides(NamedTuple):
    """What the heads say of rows: arrays of shape (n_samples,)."""

    mar: FloatArray
    mar_up: FloatArray
    mar_down: FloatArray
    p_up: FloatArray
    bias: FloatArray
    quantile_up: FloatArray
    quantile_down: FloatArray


class Heads(NamedTuple):
    """Fitted heads.

    `models` are by name, `constant` are the names of those that do not follow x,
    `floor` is the smallest mean or quantile, `level` that of the quantiles.
    """

    models: dict[str, Any]
    constant: tuple[str, ...]
    floor: float
    level: float

    def predict(self, Z: Any) -> tuple[Sides, BoolArray]:
        """Return what the heads say, and the rows where one fell below the floor."""
        values = {name: self._predict_head(name, Z) for name in self.models}
        positive = [name for name in values if name != "p_up"]
        clipped = np.any([values[name] < self.floor for name in positive], axis=0)
        for name in positive:
            values[name] = np.maximum(values[name], self.floor)
        values["p_up"] = np.clip(values["p_up"], *_P_RANGE)
        how = _coherent if "excess_up" in values else _separate
        return how(**values), clipped

    def _predict_head(self, name: str, Z: Any) -> FloatArray:
        model = self.models[name]
        if name.startswith("quantile"):
            values = predict_quantiles(model, Z, [self.level]).values[:, 0]
        else:
            values = predict_point(model, Z)
        if not np.isfinite(values).all():
            raise ValueError(
                f"The head {name!r} ({type(model).__name__}) predicted infinity. Check "
                "its parameters, or scale the target."
            )
        return values


class _Task(NamedTuple):
    """One regression: a learner, the rows that it sees, a target for all rows."""

    learner: Any
    rows: BoolArray
    target: FloatArray
    constant: bool
    quantile: bool = False


def fit_heads(
    Z: Any,
    residuals: FloatArray,
    weight: FloatArray | None,
    *,
    mode: str,
    mar_estimator: Any,
    quantile_estimator: Any,
    level: float,
    random_state: Any,
) -> Heads:
    """Fit the heads of one mode to residuals.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_features)
        What the heads see.
    residuals : ndarray of shape (n_samples,)
        Target minus prediction.
    weight : ndarray of shape (n_samples,) or None
        One weight a row.
    mode : {"coherent", "separate"}
        Which heads there are.
    mar_estimator, quantile_estimator : estimator or None
        Learners of means and of quantiles; None is gradient boosting.
    level : float
        Level of the quantiles.
    random_state : RandomState or None
        Seeds the heads.

    Returns
    -------
    Heads
        Fitted.
    """
    if weight is not None:  # a row without weight is no row
        kept = np.flatnonzero(weight)
        if not kept.size:
            raise ValueError(
                "sample_weight is 0 on all rows whose residuals the heads learn from. "
                "Give weight to some of them, or choose another cv."
            )
        Z, residuals, weight = _safe_indexing(Z, kept), residuals[kept], weight[kept]
    mean_learner = _learner(mar_estimator, "mar_estimator")
    quantile_learner = _learner(quantile_estimator, "quantile_estimator")
    tasks = _mean_tasks(residuals, mode, mean_learner)
    tasks |= _quantile_tasks(residuals, quantile_learner)
    seeds = draw_seeds(random_state, len(tasks))
    models = {
        name: _fit_head(task, Z, weight, level, seed)
        for seed, (name, task) in zip(seeds, tasks.items(), strict=True)
    }
    constant = tuple(name for name, task in tasks.items() if task.constant)
    mean = float(np.average(np.abs(residuals), weights=weight))
    return Heads(models, constant, max(_FLOOR_SHARE * mean, _LEAST_FLOOR), level)


def map_features(feature_map: Any, X: Any) -> Any:
    """Return what the heads see of X.

    Parameters
    ----------
    feature_map : callable or None
        Function of X, None for X itself.
    X : array-like of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    array-like of shape (n_samples, n_outputs)
        Checked for its shape where it was mapped.
    """
    if feature_map is None:
        return X
    Z = feature_map(X)
    shape, n_samples = np.shape(Z), _num_samples(X)
    if len(shape) != 2 or shape[0] != n_samples:
        raise ValueError(
            f"feature_map gave an array of shape {shape} for {n_samples} rows: it must "
            "be (n_samples, n_outputs). Reshape one output with reshape(-1, 1)."
        )
    return Z


def default_learner() -> Any:
    """Return the learner of all heads that are not given.

    Residuals are mostly noise: few and small trees follow them better than the default
    ones of the class, and cost a fourth.

    Returns
    -------
    HistGradientBoostingRegressor
        Unfitted.
    """
    return HistGradientBoostingRegressor(max_iter=50, max_leaf_nodes=8)


def check_widening(cap: Any) -> None:
    """Refuse a cap of the widening that is no finite number above 1.

    Parameters
    ----------
    cap : object
        The parameter `sds_widening`; None is no widening.
    """
    if cap is None:
        return
    if isinstance(cap, bool) or not isinstance(cap, Real):
        raise TypeError(f"sds_widening must be a number above 1 or None, got {cap!r}.")
    if not 1 < cap < np.inf:
        raise ValueError(
            f"sds_widening must be finite and above 1, got {cap!r}: it is the largest "
            "factor of the side quantiles. Pass None to leave them as they are."
        )


def _mean_tasks(r: FloatArray, mode: str, learner: Any) -> dict[str, _Task]:
    up, everything = r > 0, np.ones(r.size, dtype=bool)
    above, below = np.maximum(r, 0.0), np.maximum(-r, 0.0)
    few_up, few_down, few = _few(up), _few(~up), _few(everything)
    share = _Task(learner, everything, up.astype(np.float64), few_up or few_down)
    if mode == "coherent":
        return {
            "excess_up": _Task(learner, everything, above, few_up),
            "excess_down": _Task(learner, everything, below, few_down),
            "p_up": share,
        }
    # A side without rows has no mean: it gets that of the zeros, which is the floor.
    rows_up, rows_down = (s if s.any() else everything for s in (up, ~up))
    return {
        "mar": _Task(learner, everything, np.abs(r), few),
        "mar_up": _Task(learner, rows_up, above, few_up),
        "mar_down": _Task(learner, rows_down, below, few_down),
        "p_up": share,
    }


def _quantile_tasks(r: FloatArray, learner: Any) -> dict[str, _Task]:
    # A side without rows takes the quantile of the other one: finite, and not so small
    # that the first residual there would make every interval wide.
    sides = {"quantile_up": r > 0, "quantile_down": r <= 0}
    return {
        name: _Task(learner, side if side.any() else ~side, np.abs(r), _few(side), True)
        for name, side in sides.items()
    }


def _few(rows: BoolArray) -> bool:
    return int(rows.sum()) < MIN_ROWS


def _fit_head(
    task: _Task, Z: Any, weight: FloatArray | None, level: float, seed: int | None
) -> Any:
    learner = DummyRegressor() if task.constant else seeded_clone(task.learner, seed)
    parameters = _at_level(learner, level) if task.quantile else None
    if task.rows.all():
        return clone_and_fit(learner, Z, task.target, weight, parameters)
    rows = np.flatnonzero(task.rows)
    weight = None if weight is None else weight[rows]
    seen = _safe_indexing(Z, rows)
    return clone_and_fit(learner, seen, task.target[rows], weight, parameters)


def _at_level(learner: Any, level: float) -> dict[str, Any]:
    """Return the parameters that make a learner one of a quantile."""
    kind, name, fixed = quantile_parameter(learner)
    if name is None:  # the level is chosen at prediction
        return fixed
    return fixed | {name: level if kind == "single" else [level]}


def _learner(estimator: Any, name: str) -> Any:
    if estimator is None:
        return default_learner()
    if is_frozen(estimator):
        raise ValueError(
            f"{name} is frozen, but it is fitted several times, to other targets each "
            "time. Pass the regressor without FrozenEstimator."
        )
    return estimator


def _coherent(
    excess_up: FloatArray,
    excess_down: FloatArray,
    p_up: FloatArray,
    quantile_up: FloatArray,
    quantile_down: FloatArray,
) -> Sides:
    return Sides(
        excess_up + excess_down,
        excess_up / p_up,
        excess_down / (1 - p_up),
        p_up,
        excess_up - excess_down,
        quantile_up,
        quantile_down,
    )


def _separate(
    mar: FloatArray,
    mar_up: FloatArray,
    mar_down: FloatArray,
    p_up: FloatArray,
    quantile_up: FloatArray,
    quantile_down: FloatArray,
) -> Sides:
    bias = p_up * mar_up - (1 - p_up) * mar_down
    return Sides(mar, mar_up, mar_down, p_up, bias, quantile_up, quantile_down)
