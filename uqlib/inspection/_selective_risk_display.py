"""Risk of the rows that are kept, by how many are kept."""

from typing import Any

import numpy as np

from uqlib._core.checks import check_choice
from uqlib._core.selective_checks import check_losses
from uqlib._typing import ArrayLike
from uqlib.inspection._interval_display import check_matplotlib
from uqlib.inspection._selective_risk_inputs import (
    RowLosses,
    row_losses,
    row_uncertainty,
)
from uqlib.metrics import (
    risk_coverage_auc,
    risk_coverage_curve,
    sparsification_curve,
    sparsification_error,
)

_KINDS = ("risk", "sparsification")


class SelectiveRiskDisplay:
    r"""Picture of the mean loss of the most certain rows, for every number of them.

    With the losses in the order of the uncertainty, the most certain row first, the
    risk at the coverage c = k / n is

    .. math:: r(k / n) = \frac{1}{k} \sum_{i=1}^k l_{(i)}, \qquad k = 1, \dots, n .

    An uncertainty that knows where the losses are keeps the curve low. It lies between
    the curve of the oracle, which sorts rows by their losses, and the constant r(1) of
    a random order; above r(1) it would be better turned round. Make one with
    `from_estimator` or `from_predictions`; all parameters are stored as attributes.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0 and finite: absolute errors, say, or 1 for a wrong
        and 0 for a right answer.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Infinities are legal. Pass
        ``-confidence`` if you have confidences.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts for, as in `risk_coverage_auc`.
    loss_name : str, default="loss"
        What the axis calls the losses.
    name : str, default=None
        What the legend calls the curve.

    Attributes
    ----------
    coverage_ : ndarray of shape (n_points,)
        Share of the rows that is kept, increasing up to 1; one point a row.
    risk_ : ndarray of shape (n_points,)
        Their mean loss; the last one is that of a random order.
    oracle_risk_ : ndarray of shape (n_points,)
        The same where those of the largest losses are left out first.
    auc_ : float
        Area under the risk, by `risk_coverage_auc`; in the legend of ``kind="risk"``.
    sparsification_error_ : float
        Area between curve and oracle in units of r(1), by `sparsification_error`; in
        the legend of ``kind="sparsification"``.
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Figure of the axes.
    curve_ : matplotlib Line2D
        The risk, in steps.
    oracle_ : matplotlib Line2D or None
        The curve of the oracle. A second display of the same losses on the same axes
        finds it there.
    random_ : matplotlib Line2D or None
        The constant of a random order, found there alike.

    Raises
    ------
    ValueError
        If there are no rows, shapes do not agree, a loss is negative or infinite, an
        array contains NaN, or weights sum to less than 2 over several rows.

    See Also
    --------
    UncertaintyDecompositionDisplay : Two kinds of uncertainty of each row.
    uqlib.metrics.risk_coverage_curve : The points of the curve.
    uqlib.metrics.sparsification_curve : The points of the other view.

    Notes
    -----
    Curves are steps, the risk at k / n reaching back to (k - 1) / n, so that without
    weights the areas in the picture are those in the legend. At small coverages a risk
    is the mean of a few losses: what the curve does there is mostly chance.

    Rows of equal uncertainty are averaged over all their orders. An uncertainty that
    is constant, such as the width of intervals that are all as wide, gives the line of
    a random order.

    The sparsification view is the same curve by the share of rows left out, 1 - c, in
    units of r(1). There models of different losses can be compared by their ranking
    alone. If all losses are 0, the curves stay at 0.

    Several models, or several uncertainties of one, go into one picture by passing the
    `ax_` of the first to the others. The oracle has the color of its curve, unless
    several curves share it.

    Examples
    --------
    >>> from uqlib.inspection import SelectiveRiskDisplay
    >>> display = SelectiveRiskDisplay.from_predictions(
    ...     losses=[0, 0, 1, 1], uncertainty=[0.1, 0.3, 0.2, 0.9]
    ... )
    >>> display.risk_
    array([0.        , 0.5       , 0.33333333, 0.5       ])
    >>> display.oracle_risk_
    array([0.        , 0.        , 0.33333333, 0.5       ])
    """

    def __init__(
        self,
        *,
        losses: ArrayLike,
        uncertainty: ArrayLike,
        sample_weight: ArrayLike | None = None,
        loss_name: str = "loss",
        name: str | None = None,
    ) -> None:
        self.losses = check_losses(losses)
        if np.isinf(self.losses).any():
            raise ValueError(
                "losses contains infinity, for which there is no place on the axes. "
                "Clip the losses at a bound, or leave those rows out."
            )
        weight = {"sample_weight": sample_weight}
        curve = risk_coverage_curve(losses, uncertainty, **weight)
        self.auc_ = risk_coverage_auc(losses, uncertainty, **weight)
        self.sparsification_error_ = sparsification_error(losses, uncertainty, **weight)
        removal = sparsification_curve(losses, uncertainty, normalize=False, **weight)
        self.coverage_, self.risk_ = curve.coverage, curve.risk
        self.oracle_risk_ = removal.oracle_error[::-1]
        self.uncertainty = np.asarray(uncertainty, dtype=np.float64)
        self.sample_weight = sample_weight
        if sample_weight is not None:
            self.sample_weight = np.asarray(sample_weight, dtype=np.float64)
        self.loss_name = loss_name
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "risk",
        name: str | None = None,
        plot_oracle: bool = True,
        plot_random: bool = True,
        curve_kwargs: dict[str, Any] | None = None,
        oracle_kwargs: dict[str, Any] | None = None,
        random_kwargs: dict[str, Any] | None = None,
    ) -> "SelectiveRiskDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        kind : {"risk", "sparsification"}, default="risk"
            Draw the mean loss by the share of rows kept; or, in units of the mean loss
            of all rows, by the share of rows left out.
        name : str, default=None
            What the legend calls the curve; None takes the attribute.
        plot_oracle : bool, default=True
            Whether to draw the curve of the oracle.
        plot_random : bool, default=True
            Whether to draw the constant of a random order.
        curve_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the curve.
        oracle_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the oracle.
        random_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the constant.

        Returns
        -------
        display : SelectiveRiskDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `kind` is unknown, or `ax` has a SelectiveRiskDisplay of the other kind.
        """
        check_matplotlib(type(self).__name__)
        check_choice("kind", kind, _KINDS)
        from uqlib.inspection import _mpl_selective_risk

        artists = _mpl_selective_risk.draw_selective_risk(
            self,
            ax,
            kind=kind,
            name=self.name if name is None else name,
            shown=(plot_oracle, plot_random),
            styles=(curve_kwargs, oracle_kwargs, random_kwargs),
        )
        self.ax_, self.curve_, self.oracle_, self.random_ = artists
        self.figure_ = self.ax_.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        uncertainty: ArrayLike | str | None = None,
        losses: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        loss_name: str | None = None,
        kind: str = "risk",
        name: str | None = None,
        ax: Any = None,
        plot_oracle: bool = True,
        plot_random: bool = True,
        curve_kwargs: dict[str, Any] | None = None,
        oracle_kwargs: dict[str, Any] | None = None,
        random_kwargs: dict[str, Any] | None = None,
    ) -> "SelectiveRiskDisplay":
        """Draw the risk of a fitted model.

        Parameters
        ----------
        estimator : estimator
            A fitted regressor or classifier; a pipeline or search that ends in one.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows that the model was not trained on, as it takes them.
        y : array-like of shape (n_samples,), default=None
            Their target, finite, or their labels. Needed unless `losses` is given.
        uncertainty : str or array-like of shape (n_samples,), default=None
            The name of an array of the model's `predict_uncertainty` that is larger
            where the model is less certain, as "epistemic"; or the values themselves.
            None takes, of a regressor, the width of its intervals at its own level,
            else the epistemic uncertainty, else the distance of its outermost
            quantiles; of a classifier, minus the largest probability, else the
            epistemic uncertainty.
        losses : array-like of shape (n_samples,), default=None
            Loss of each row, at least 0 and finite. None takes the absolute errors of
            a regressor, and of a classifier 1 for each wrong label.
        sample_weight : array-like of shape (n_samples,), default=None
            How many rows each row counts for.
        loss_name : str, default=None
            What the axis calls the losses; None says what they are.
        kind : {"risk", "sparsification"}, default="risk"
            Draw the mean loss by the share of rows kept; or, in units of the mean loss
            of all rows, by the share of rows left out.
        name : str, default=None
            What the legend calls the curve; None takes the class of the model, with
            the name of the uncertainty if one is given.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        plot_oracle : bool, default=True
            Whether to draw the curve of the oracle.
        plot_random : bool, default=True
            Whether to draw the constant of a random order.
        curve_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the curve.
        oracle_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the oracle.
        random_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the constant.

        Returns
        -------
        display : SelectiveRiskDisplay
            The picture drawn.

        Raises
        ------
        ValueError
            If y or an array does not fit X, neither y nor losses is given, or the
            model gives no uncertainty, or none of that name or of one number a row.

        See Also
        --------
        SelectiveRiskDisplay.from_predictions : From arrays.
        """
        check_matplotlib(cls.__name__)
        found = _losses_of(estimator, X, y, losses)
        return cls.from_predictions(
            found.values,
            row_uncertainty(estimator, X, uncertainty),
            sample_weight=sample_weight,
            loss_name=found.name if loss_name is None else loss_name,
            kind=kind,
            name=_name_of(estimator, uncertainty) if name is None else name,
            ax=ax,
            plot_oracle=plot_oracle,
            plot_random=plot_random,
            curve_kwargs=curve_kwargs,
            oracle_kwargs=oracle_kwargs,
            random_kwargs=random_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        losses: ArrayLike,
        uncertainty: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        loss_name: str = "loss",
        kind: str = "risk",
        name: str | None = None,
        ax: Any = None,
        plot_oracle: bool = True,
        plot_random: bool = True,
        curve_kwargs: dict[str, Any] | None = None,
        oracle_kwargs: dict[str, Any] | None = None,
        random_kwargs: dict[str, Any] | None = None,
    ) -> "SelectiveRiskDisplay":
        """Draw the risk of losses that are there already.

        Parameters
        ----------
        losses : array-like of shape (n_samples,)
            Loss of each row, at least 0 and finite.
        uncertainty : array-like of shape (n_samples,)
            Larger = less certain; pass ``-confidence`` if you have confidences.
        sample_weight : array-like of shape (n_samples,), default=None
            How many rows each row counts for.
        loss_name : str, default="loss"
            What the axis calls the losses.
        kind : {"risk", "sparsification"}, default="risk"
            Draw the mean loss by the share of rows kept; or, in units of the mean loss
            of all rows, by the share of rows left out.
        name : str, default=None
            What the legend calls the curve.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        plot_oracle : bool, default=True
            Whether to draw the curve of the oracle.
        plot_random : bool, default=True
            Whether to draw the constant of a random order.
        curve_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the curve.
        oracle_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the oracle.
        random_kwargs : dict, default=None
            Keywords for the `Axes.plot` of the constant.

        Returns
        -------
        display : SelectiveRiskDisplay
            The picture drawn.

        See Also
        --------
        SelectiveRiskDisplay.from_estimator : From a fitted model.
        """
        check_matplotlib(cls.__name__)
        display = cls(
            losses=losses,
            uncertainty=uncertainty,
            sample_weight=sample_weight,
            loss_name=loss_name,
            name=name,
        )
        return display.plot(
            ax,
            kind=kind,
            plot_oracle=plot_oracle,
            plot_random=plot_random,
            curve_kwargs=curve_kwargs,
            oracle_kwargs=oracle_kwargs,
            random_kwargs=random_kwargs,
        )


def _losses_of(estimator: Any, X: Any, y: Any, losses: Any) -> RowLosses:
    if losses is not None:
        return RowLosses(losses, "loss")
    if y is None:
        raise ValueError(
            "y is None, and so is losses. Pass the targets y, from which the losses "
            "are computed, or the losses themselves."
        )
    return row_losses(estimator, X, y)


def _name_of(estimator: Any, uncertainty: Any) -> str:
    name = type(estimator).__name__
    return f"{name}, {uncertainty}" if isinstance(uncertainty, str) else name
