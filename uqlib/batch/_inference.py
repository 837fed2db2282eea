"""Statements about whole batches of rows, around any regressor."""

import math
from typing import Any

import numpy as np

from uqlib._core.batch_statistics import Linear
from uqlib._core.levels import check_confidence_level
from uqlib._core.order_law import check_between, count_above_bound
from uqlib._core.rank_sides import BatchBound
from uqlib._typing import BoolArray, FloatArray
from uqlib.batch._base import BaseBatchCalibrator, batch_members, one_cell
from uqlib.batch._bounds import (
    BatchAnswer,
    BatchTask,
    check_request,
    columns_of,
    moved_by_mean,
    score_sides,
    target_sides,
    warn_infinite_once,
    warn_rows,
)
from uqlib.batch._scores import (
    TARGET_SCORES,
    check_nonconformity,
    score_prediction,
)
from uqlib.batch._selection import (
    check_threshold,
    covering_window,
    rows_for_window,
    score_at,
    selected,
    window_interval,
)
from uqlib.batch._shapes import check_shape, side_shape


class BatchPredictiveInference(BaseBatchCalibrator):
    r"""Statements about many new rows at once, around any regressor.

    The scores :math:`T_1, \dots, T_m` of a batch fall between the sorted calibration
    scores :math:`S_{(1)} \le \dots \le S_{(n)}` at ranks
    :math:`r_1 \le \dots \le r_m` of a known law, so that a statistic g of them is
    bounded by its largest value over a set of ranks with probability p,

    .. math:: P(g(T) \le U) \ge p, \qquad
              U = \max_{h(r) \le q} g(S_{(r_1)}, \dots, S_{(r_m)}).

    For the mean of the targets, from signed residuals, the interval is
    :math:`\bar{\hat y} + [L, U]`.

    Parameters
    ----------
    estimator : estimator
        Any regressor or pipeline. It is cloned and fitted; a
        :class:`~sklearn.frozen.FrozenEstimator` is used as it stands.
    statistic : str, tuple, array-like of shape (m,) or Composition, default="mean"
        What of a batch is bounded, as in :func:`batch_bound`: ``"mean"``,
        ``"median"``, ``"max"``, ``"min"``, ``("order", k)``, ``("quantile", p)``,
        ``("trimmed", l, u)``, weights of the sorted values, or a
        :class:`Composition`.
    confidence_level : float, default=0.9
        Probability asked for, strictly between 0 and 1.
    side : {"two", "upper", "lower"}, default="two"
        Which ends `predict_batch_interval` bounds, and `predict_simultaneous` with
        signed or outcome scores; the other one is infinite. Two sides share the
        miscoverage equally.
    method : str, default="auto"
        ``"closed"``, ``"dp"``, ``"hull"``, ``"core"`` and ``"band"`` are those of
        :func:`batch_bound`; ``"partition"`` is split conformal prediction with the
        statistics of groups of m calibration rows, divided at random. ``"auto"`` takes
        the partition for the mean where floor(n / m) groups suffice for the level, and
        else what :func:`batch_bound` takes. It looks at n, m, the level and the
        statistic, never at the data.
    phi : str or array-like of shape (n_calibration + 1,), default="rank"
        What a rank costs in h, as in :func:`batch_bound`: ``"rank"``, ``"normal"``, an
        array, or ``"train"``, the quantiles of the scores on the training rows. It
        matters for the width of programs and hulls, never for validity.
    kappa : float, default=0.0
        Penalty of the tails of a named phi, in standard errors of its quantiles.
    grid : int, default=500
        Number of levels of ``"normal"``, ``"train"`` and penalized shapes.
    nonconformity : str or nonconformity score, default="signed"
        What the scores are: ``"signed"``, the residual :math:`y - \hat y`;
        ``"outcome"``, the target y itself, without the predictions; ``"absolute"``,
        :math:`|y - \hat y|`, or an object with ``score(y, y_pred)`` -> (n_samples,)
        and ``inverse(y_pred, threshold)`` -> (n_samples, 2). With the first two all
        statements are about targets, with the others about scores.
    score_bounds : tuple of two floats, default=(-inf, inf)
        Values between which every score must lie, known beforehand. With them bounds
        stay finite however few calibration rows there are.
    calibration_size : float or int, default=0.25
        Share or number of rows held out for calibration. Without effect for a
        `FrozenEstimator`, where all rows calibrate.
    random_state : int, RandomState instance or None, default=None
        Draws the rows held out, those that a likelihood ratio keeps, and the groups of
        the partition.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    nonconformity_ : str or object
        The score.
    scores_ : ndarray of shape (`n_calibration_`,)
        Scores of the calibration rows that were kept.
    n_calibration_ : int
        Their number.
    groups_ : ndarray of shape (n_mondrian_groups,)
        Labels of `mondrian_groups` at calibration, sorted, if they were given.
    event_probability_ : ndarray of shape (n_groups, 2)
        For each batch of the last call of `predict_batch_interval`, the probability of
        the set of ranks that its lower and its upper end stand on; at least the level
        of that end. NaN for an end that was not asked for.
    gap_ : ndarray of shape (n_groups, 2)
        For each of these, how far the end may be from the best one for its set of
        ranks: 0 for exact methods, the certificate of the hull, NaN where unknown.
    rank_ : ndarray of shape (n_groups, 2)
        For each of these, the rank of the score (or of the group's statistic for the
        partition) that is the end, or the q of a program; NaN for bands.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ValueError
        If y or a score is not finite, a score leaves `score_bounds`, a parameter is out
        of its range, a method does not bound the statistic, or a batch is empty.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for a finite bound, with the number needed.
    AlreadyFittedWarning
        If a fitted estimator is passed without `FrozenEstimator`.

    See Also
    --------
    batch_bound : The bounds of statistics of scores, as a function.
    order_statistic_rank : The ranks behind `predict_simultaneous` and `select`.

    Notes
    -----
    .. rubric:: Guarantee

    If the calibration rows and the rows of a batch are exchangeable, the estimator was
    not trained on them and the size of the batch does not depend on them, then each of
    these holds with probability at least p [1]_: the statistic of the batch lies in its
    interval; at least k of the sets of `predict_simultaneous` hold their target; no
    more than `max_false` rows of `select` have a target at or below the threshold; no
    more values than `count_above` says lie above the threshold, if that was fixed
    beforehand. Ties are no exception. The probability is over calibration rows and
    batch together; each of these statements and each batch has its own, and
    ``joint=True`` makes the intervals of all batches of one call hold together.

    Batches that are made by a feature, such as a region, are not exchangeable with all
    calibration rows. Pass the feature as `mondrian_groups`: then a batch is compared
    with the rows of its own group, and the guarantee is that of the group.

    With a true likelihood ratio, up to a factor, and a true `max_ratio` the same holds
    for independent rows and new rows that follow the other law, on average over the
    draw of the rows kept. With estimated ratios there is no guarantee.

    The mean of targets is bounded exactly from signed residuals. For other statistics
    of targets the bound must hold for any matching of residuals and predictions, of
    which the worst is found: it is valid, and wide if predictions differ much. Where
    they do, and m is large, compare it with ``nonconformity="outcome"``.

    For the mean of unbounded scores the partition is usually the tighter way. Sets of
    ranks win where the scores have known bounds and n / m is small, and for order
    statistics, which they bound exactly. `statistic`, `confidence_level`, `side`,
    `method` and the shape of ranks are looked at when a batch is there, so that they
    can be set anew without a new calibration.

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from uqlib.batch import BatchPredictiveInference
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = BatchPredictiveInference(Ridge(), random_state=0).fit(X[:422], y[:422])
    >>> low, high = model.predict_batch_interval(X[422:427])[0]
    >>> bool(low <= y[422:427].mean() <= high)
    True
    >>> model.predict_simultaneous(X[422:], k=18).shape
    (20, 2)
    """

    def __init__(
        self,
        estimator: Any,
        statistic: Any = "mean",
        *,
        confidence_level: float = 0.9,
        side: str = "two",
        method: str = "auto",
        phi: Any = "rank",
        kappa: float = 0.0,
        grid: int = 500,
        nonconformity: Any = "signed",
        score_bounds: tuple[float, float] = (-math.inf, math.inf),
        calibration_size: float | int = 0.25,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.statistic = statistic
        self.confidence_level = confidence_level
        self.side = side
        self.method = method
        self.phi = phi
        self.kappa = kappa
        self.grid = grid
        self.nonconformity = nonconformity
        self.score_bounds = score_bounds
        self.calibration_size = calibration_size
        self.random_state = random_state

    def predict_batch_interval(
        self,
        X: Any,
        groups: Any = None,
        *,
        mondrian_groups: Any = None,
        joint: bool = False,
    ) -> FloatArray:
        """Bound the statistic of each batch.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows of all batches.
        groups : array-like of shape (n_samples,), default=None
            Label of the batch of each row; None makes all rows one batch.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the calibration group of each row, if the calibration had groups;
            the same for all rows of a batch.
        joint : bool, default=False
            Whether all intervals hold together with the confidence level, each of K
            taking 1 / K of the miscoverage. Otherwise each holds by itself.

        Returns
        -------
        ndarray of shape (n_groups, 2)
            Lower and upper bounds, a row for each batch in the order of the sorted
            labels.
        """
        X, cells = self._batch_rows(X, mondrian_groups)
        batches = batch_members(groups, cells.size)
        level = self._level(len(batches) if joint else 1)
        of_targets = self.nonconformity_ == "signed"
        points = self._finite_points(X) if of_targets else None
        found: list[BatchAnswer] = []
        known: dict[tuple[int, int], tuple[BatchBound, ...]] = {}
        for rows in batches:
            task = BatchTask(rows.size, self.statistic, level, self.side, self.method)
            held = None if points is None else points[rows]
            found.append(self._answer(task, one_cell(cells[rows]), held, known))
        interval, *certificate = columns_of(found)
        self.event_probability_, self.gap_, self.rank_ = certificate
        warn_infinite_once(found)
        return interval

    def predict_simultaneous(
        self, X: Any, k: int, *, mondrian_groups: Any = None
    ) -> FloatArray:
        """Predict one interval a row, of which at least k hold their target.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            The rows of one batch.
        k : int
            How many of the intervals must hold their target, from 1 to n_samples. For
            all but a share d of them pass ceil((1 - d) n_samples).
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the calibration group of each row, if the calibration had groups;
            the same for all rows.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds.
        """
        X, cells = self._batch_rows(X, mondrian_groups)
        k = check_between(k, 1, cells.size, "k")
        scores = self.scores_[self._members(one_cell(cells))]
        level, score = self._level(), self.nonconformity_
        if isinstance(score, str):
            outcome = score == "outcome"
            points = np.zeros(cells.size) if outcome else self._finite_points(X)
            return window_interval(points, scores, self._bounds, k, level, self.side)
        window = covering_window(scores.size, cells.size, k, level, "upper")
        threshold = score_at(scores, window.high, self._bounds)
        if threshold == np.inf:
            needed = rows_for_window(cells.size, k, level, 1)
            what = f"The set that covers {k}"
            warn_rows(scores.size, cells.size, needed, what)
        points = self._finite_points(X)
        prediction = score_prediction(score, self.estimator_, X, points)
        return np.asarray(score.inverse(prediction, threshold))

    def select(
        self,
        X: Any,
        threshold: float,
        max_false: int,
        *,
        mondrian_groups: Any = None,
    ) -> BoolArray:
        """Select rows whose targets are above a threshold, but for a few of them.

        The rows with the largest predictions are selected. With the probability
        `confidence_level` no more than `max_false` of them have a target at or below
        the threshold.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            The rows of one batch.
        threshold : float
            The value that a target should exceed.
        max_false : int
            The number of false selections, from 0 to n_samples - 1.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the calibration group of each row, if the calibration had groups;
            the same for all rows.

        Returns
        -------
        ndarray of shape (n_samples,), bool
            True for the rows selected; none, with a warning, where the calibration
            rows are too few.
        """
        X, cells = self._batch_rows(X, mondrian_groups)
        max_false = check_between(max_false, 0, cells.size - 1, "max_false")
        value = check_threshold(threshold)
        members = self._members(one_cell(cells))
        is_hit = self._targets[members] > value
        rivals = np.where(is_hit, -np.inf, self._points[members])
        return selected(self._finite_points(X), rivals, max_false, self._level())

    def count_above(
        self, X: Any, threshold: float, *, mondrian_groups: Any = None
    ) -> int:
        """Bound how many values of a batch lie above a fixed threshold.

        The values are the targets with signed and outcome scores, and the scores with
        others. Of X only the number of rows is used.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            The rows of one batch.
        threshold : float
            The value, chosen without looking at the calibration rows.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the calibration group of each row, if the calibration had groups;
            the same for all rows.

        Returns
        -------
        int
            With the probability `confidence_level` no more values are above.
        """
        X, cells = self._batch_rows(X, mondrian_groups)
        members = self._members(one_cell(cells))
        of_targets = self.nonconformity_ in TARGET_SCORES
        values = (self._targets if of_targets else self.scores_)[members]
        n_below = int((values <= check_threshold(threshold)).sum())
        return count_above_bound(
            values.size, cells.size, n_below, self.confidence_level
        )

    def _check_parameters(self) -> None:
        check_confidence_level(self.confidence_level)
        check_request(self.statistic, self.side, self.method)
        check_shape(self.phi, self.kappa, self.grid)
        check_nonconformity(self.nonconformity)

    def _answer(
        self,
        task: BatchTask,
        cell: int,
        points: FloatArray | None,
        known: dict[tuple[int, int], tuple[BatchBound, ...]],
    ) -> BatchAnswer:
        """Bound the statistic of one batch.

        `known` holds the bounds of scores by group and size: they depend on no more.
        """
        members = self._members(cell)
        scores, statistic = self.scores_[members], task.statistic
        means = isinstance(statistic, Linear) and statistic.is_mean
        if points is not None and not means:
            bounds = target_sides(task, scores, self._bounds, points)
            return BatchAnswer(task, scores.size, bounds)
        key = cell, task.m
        if key not in known:
            known[key] = score_sides(
                task, scores, self._bounds, lambda side: self._shape(scores.size, side)
            )
        bounds = known[key]
        if points is not None:
            bounds = moved_by_mean(bounds, task, points)
        return BatchAnswer(task, scores.size, bounds)

    def _shape(self, n: int, side: str) -> Any:
        end = self._bounds[0 if side == "lower" else 1]
        return side_shape(
            self.phi, n, self.kappa, self.grid, self._shape_scores, end, side
        )
