"""Aleatoric against epistemic uncertainty, row by row."""

from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples

from uqlib._core.checks import check_choice, check_rows
from uqlib._predictions import predict_uncertainty, uncertainty_field
from uqlib._typing import ArrayLike
from uqlib.inspection._decomposition_checks import (
    check_bars,
    check_errors,
    check_group_of_rows,
    check_one_color,
    check_size,
    check_unit,
    own_unit,
)
from uqlib.inspection._interval_display import check_matplotlib, even_steps
from uqlib.inspection._selective_risk_inputs import row_losses

_KINDS, _SCALES = ("scatter", "bars"), ("linear", "log")


class UncertaintyDecompositionDisplay:
    r"""Picture of the aleatoric and the epistemic uncertainty of rows.

    Row i is a point :math:`(a_i, e_i)`, or the stacked bars :math:`a_i` and
    :math:`e_i` at its place in the order of

    .. math:: a_i + e_i .

    Points are colored by the error of the row, or by its group, so that one sees which
    kind of uncertainty, if any, is large where the model errs. Make one with
    `from_estimator` or `from_predictions`; all parameters are stored as attributes.

    Parameters
    ----------
    aleatoric : array-like of shape (n_samples,)
        Uncertainty that more training rows would not take away, finite and at least 0.
    epistemic : array-like of shape (n_samples,)
        Uncertainty that they would, finite and at least 0.
    errors : array-like of shape (n_samples,), default=None
        Size of the error of each row, finite and at least 0; or booleans, True where
        the prediction is wrong.
    mondrian_groups : array-like of shape (n_samples,), default=None
        The group of each row, in place of errors.
    unit : str or tuple of two str, default=None
        Unit of both uncertainties, or of the aleatoric and of the epistemic one, for
        the labels; None leaves it out.
    error_name : str, default="error"
        What the color bar or the legend calls errors that are numbers.
    name : str, default=None
        What the legend calls these rows.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Figure of the axes.
    points_ : list of matplotlib PathCollection
        The points of the rows: one entry, or one for each group in sorted order, or
        those of right and of wrong predictions. Over bars, those of the errors.
    bars_ : tuple of two matplotlib PolyCollection or None
        The aleatoric and the epistemic bars; None in a scatter.
    colorbar_ : matplotlib Colorbar or None
        The scale of the errors; None if points are not colored by numbers, or if the
        axes had one from an earlier display, to which the colors then belong.

    Raises
    ------
    ValueError
        If there are no rows, shapes do not agree, a value is negative, infinite or
        NaN, a group is missing, or both errors and groups are given.

    See Also
    --------
    SelectiveRiskDisplay : How well an uncertainty sorts the errors.
    uqlib.metrics.variance_decomposition : Both kinds, of an ensemble of regressors.
    uqlib.metrics.mutual_information : The epistemic kind, of one of classifiers.

    Notes
    -----
    What the two numbers mean is up to the model: no picture can show that they are
    right. Their sum is a quantity of its own only for some of them, as the variances
    of `variance_decomposition`; bars of different units are refused.

    On a log scale values below a millionth of the largest, zeros among them, stand in
    a linear strip between 0 and the rest. Points of large errors are drawn over those
    of small ones.

    Several models go into one scatter by passing the `ax_` of the first to the others.
    Colors of errors are then on one scale.

    Examples
    --------
    >>> from uqlib.inspection import UncertaintyDecompositionDisplay
    >>> display = UncertaintyDecompositionDisplay.from_predictions(
    ...     [0.7, 0.1], [0.2, 0.1], errors=[True, False], unit="nats"
    ... )
    >>> display.ax_.get_xlabel()
    'Aleatoric uncertainty (nats)'
    """

    def __init__(
        self,
        *,
        aleatoric: ArrayLike,
        epistemic: ArrayLike,
        errors: ArrayLike | None = None,
        mondrian_groups: ArrayLike | None = None,
        unit: str | tuple[str | None, str | None] | None = None,
        error_name: str = "error",
        name: str | None = None,
    ) -> None:
        self.aleatoric = check_size(aleatoric, "aleatoric")
        self.epistemic = check_size(epistemic, "epistemic")
        n_samples = self.aleatoric.size
        check_rows(n_samples, self.epistemic.size, "epistemic", "aleatoric")
        check_one_color(errors, mondrian_groups)
        self.errors = check_errors(errors, n_samples)
        self.mondrian_groups = check_group_of_rows(mondrian_groups, n_samples)
        self.unit = check_unit(unit)
        self.error_name = error_name
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "scatter",
        scale: str = "linear",
        max_rows: int | None = 1000,
        name: str | None = None,
        scatter_kwargs: dict[str, Any] | None = None,
        aleatoric_kwargs: dict[str, Any] | None = None,
        epistemic_kwargs: dict[str, Any] | None = None,
    ) -> "UncertaintyDecompositionDisplay":
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        kind : {"scatter", "bars"}, default="scatter"
            One point a row; or stacked bars over the rows in the order of the sum,
            with the errors as points: at their size, or over the bars of rows that are
            wrong.
        scale : {"linear", "log"}, default="linear"
            Scale of both axes of the scatter.
        max_rows : int, default=1000
            Rows drawn at most, at even steps through the rows in the order of the sum;
            None draws all.
        name : str, default=None
            What the legend calls these rows; None takes the attribute.
        scatter_kwargs : dict, default=None
            Keywords for the `Axes.scatter` of the points.
        aleatoric_kwargs : dict, default=None
            Keywords for the `PolyCollection` of the aleatoric bars.
        epistemic_kwargs : dict, default=None
            Keywords for the `PolyCollection` of the epistemic bars.

        Returns
        -------
        display : UncertaintyDecompositionDisplay
            This object, with the artists as attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `kind` or `scale` is unknown, `max_rows` is not an integer of at least
            2, the axes hold a picture that this one does not fit, or bars are asked
            for on a log scale, by group, or of two units.
        """
        check_matplotlib(type(self).__name__)
        check_choice("kind", kind, _KINDS)
        check_choice("scale", scale, _SCALES)
        if kind == "bars":
            check_bars(self, scale)
        from uqlib.inspection import _mpl_decomposition

        # Halved, so that no sum is infinite.
        order = np.argsort(self.aleatoric / 2 + self.epistemic / 2, kind="stable")
        ranks = even_steps(order.size, max_rows)
        name = self.name if name is None else name
        where = {"rows": order[ranks], "name": name}
        if kind == "scatter":
            artists = _mpl_decomposition.draw_scatter(
                self, ax, **where, scale=scale, kwargs=scatter_kwargs
            )
        else:
            styles = (aleatoric_kwargs, epistemic_kwargs, scatter_kwargs)
            artists = _mpl_decomposition.draw_bars(
                self, ax, **where, ranks=ranks + 1, styles=styles
            )
        self.ax_, self.figure_ = artists.ax, artists.ax.figure
        self.points_, self.bars_ = artists.points, artists.bars
        self.colorbar_ = artists.colorbar
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        mondrian_groups: ArrayLike | None = None,
        unit: str | tuple[str | None, str | None] | None = None,
        kind: str = "scatter",
        scale: str = "linear",
        max_rows: int | None = 1000,
        name: str | None = None,
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
        aleatoric_kwargs: dict[str, Any] | None = None,
        epistemic_kwargs: dict[str, Any] | None = None,
    ) -> "UncertaintyDecompositionDisplay":
        """Draw what a fitted model says about rows.

        Parameters
        ----------
        estimator : estimator
            A fitted model whose `predict_uncertainty` gives a Bunch or dict with
            arrays aleatoric and epistemic of shape (n_samples,), as `SPARegressor` and
            `SPAClassifier`; a pipeline or search that ends in one.
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows that the model was not trained on, as it takes them.
        y : array-like of shape (n_samples,), default=None
            Their target or labels, to color the rows by the absolute error of the
            prediction, or by whether it is wrong.
        mondrian_groups : array-like of shape (n_samples,), default=None
            The group of each row, to color them by it, in place of y.
        unit : str or tuple of two str, default=None
            Unit of both uncertainties, or of each. None takes that of the model where
            it is one of `uqlib.spa`, and else leaves it out.
        kind : {"scatter", "bars"}, default="scatter"
            One point a row, or stacked bars over the rows in the order of the sum.
        scale : {"linear", "log"}, default="linear"
            Scale of both axes of the scatter.
        max_rows : int, default=1000
            Rows drawn at most, at even steps through the rows in the order of the sum;
            None draws all.
        name : str, default=None
            What the legend calls these rows; None takes the class of the model.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        scatter_kwargs : dict, default=None
            Keywords for the `Axes.scatter` of the points.
        aleatoric_kwargs : dict, default=None
            Keywords for the `PolyCollection` of the aleatoric bars.
        epistemic_kwargs : dict, default=None
            Keywords for the `PolyCollection` of the epistemic bars.

        Returns
        -------
        display : UncertaintyDecompositionDisplay
            The picture drawn.

        Raises
        ------
        ValueError
            If the model does not give both kinds, y or the groups do not fit X, or
            both are given.

        See Also
        --------
        UncertaintyDecompositionDisplay.from_predictions : From arrays.
        """
        check_matplotlib(cls.__name__)
        fields, n_samples = predict_uncertainty(estimator, X), _num_samples(X)
        errors, error_name = None, "error"
        if y is not None:
            errors, error_name = row_losses(estimator, X, y)
            error_name += ", in units of the target"  # not said of wrong labels
        return cls.from_predictions(
            uncertainty_field(fields, "aleatoric", n_samples),
            uncertainty_field(fields, "epistemic", n_samples),
            errors=errors,
            mondrian_groups=mondrian_groups,
            unit=own_unit(fields) if unit is None else unit,
            error_name=error_name,
            kind=kind,
            scale=scale,
            max_rows=max_rows,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
            scatter_kwargs=scatter_kwargs,
            aleatoric_kwargs=aleatoric_kwargs,
            epistemic_kwargs=epistemic_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        aleatoric: ArrayLike,
        epistemic: ArrayLike,
        *,
        errors: ArrayLike | None = None,
        mondrian_groups: ArrayLike | None = None,
        unit: str | tuple[str | None, str | None] | None = None,
        error_name: str = "error",
        kind: str = "scatter",
        scale: str = "linear",
        max_rows: int | None = 1000,
        name: str | None = None,
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
        aleatoric_kwargs: dict[str, Any] | None = None,
        epistemic_kwargs: dict[str, Any] | None = None,
    ) -> "UncertaintyDecompositionDisplay":
        """Draw uncertainties that are there already.

        Parameters
        ----------
        aleatoric, epistemic : array-like of shape (n_samples,)
            Both kinds of uncertainty, finite and at least 0.
        errors : array-like of shape (n_samples,), default=None
            Size of the error of each row, finite and at least 0; or booleans, True
            where the prediction is wrong.
        mondrian_groups : array-like of shape (n_samples,), default=None
            The group of each row, in place of errors.
        unit : str or tuple of two str, default=None
            Unit of both uncertainties, or of each; None leaves it out.
        error_name : str, default="error"
            What the color bar or the legend calls errors that are numbers.
        kind : {"scatter", "bars"}, default="scatter"
            One point a row, or stacked bars over the rows in the order of the sum.
        scale : {"linear", "log"}, default="linear"
            Scale of both axes of the scatter.
        max_rows : int, default=1000
            Rows drawn at most, at even steps through the rows in the order of the sum;
            None draws all.
        name : str, default=None
            What the legend calls these rows.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        scatter_kwargs : dict, default=None
            Keywords for the `Axes.scatter` of the points.
        aleatoric_kwargs : dict, default=None
            Keywords for the `PolyCollection` of the aleatoric bars.
        epistemic_kwargs : dict, default=None
            Keywords for the `PolyCollection` of the epistemic bars.

        Returns
        -------
        display : UncertaintyDecompositionDisplay
            The picture drawn.

        See Also
        --------
        UncertaintyDecompositionDisplay.from_estimator : From a fitted model.
        """
        check_matplotlib(cls.__name__)
        display = cls(
            aleatoric=aleatoric,
            epistemic=epistemic,
            errors=errors,
            mondrian_groups=mondrian_groups,
            unit=unit,
            error_name=error_name,
            name=name,
        )
        return display.plot(
            ax,
            kind=kind,
            scale=scale,
            max_rows=max_rows,
            scatter_kwargs=scatter_kwargs,
            aleatoric_kwargs=aleatoric_kwargs,
            epistemic_kwargs=epistemic_kwargs,
        )
