"""Split-point heads on the features of a torch network."""

from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_array
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from uqlib._core.checks import check_not_a_date
from uqlib._core.levels import LEVEL_TOLERANCE, check_confidence_level
from uqlib._fitting import all_or_nothing
from uqlib._typing import FloatArray
from uqlib.spa._head_base import INPUT, BaseTorchHead, as_they_are
from uqlib.spa._head_checks import (
    as_point,
    as_proba,
    check_parameters,
    check_torch_network,
)
from uqlib.spa._head_outputs import fit_scaling, standardize
from uqlib.spa._head_uncertainty import (
    class_uncertainty,
    side_quantiles,
    side_uncertainty,
)


def _for_task(task: str) -> Any:
    return available_if(lambda head: head.task == task)


class TorchSPAHead(BaseTorchHead):
    r"""Uncertainty of a torch network from heads on its penultimate features.

    The network v stays as it is. From the features before its last layer, a small
    perceptron learns what its residuals r = y - v(x) look like:

    .. math:: m = E\big[|r| \,\big|\, x\big], \quad m_+ = E[r \mid r > 0, x], \quad
              m_- = E[-r \mid r \le 0, x], \quad p = P(r > 0 \mid x),

    and the quantiles :math:`q_+` of r where it is positive and :math:`q_-` of -r where
    it is not. They give

    .. math:: \text{aleatoric} = m_+ + m_-, \quad
              \text{epistemic} = \sqrt{\mathrm{SDS}}, \quad
              \mathrm{SDS} = |2 m_+ m_- - m (m_+ + m_-)|, \quad
              b = p \, m_+ - (1 - p) \, m_- ,

    and the interval :math:`[v - q_-, \; v + q_+]`. In classification the heads learn
    for each class :math:`m_k = E|1\{y = k\} - p_k|` and its parts
    :math:`u^+_k = E[1\{y = k\} (1 - p_k)]` and :math:`u^-_k = E[1\{y \ne k\} p_k]`, and
    :math:`\mathrm{SDS} = \sum_k |m_k - 2 p_k (1 - p_k)|`.

    Parameters
    ----------
    network : torch.nn.Module
        A fitted network that takes one tensor and returns one: a number a row in
        regression, scores of the classes in classification. It is used as it stands,
        in evaluation mode and without gradients, where it lives and in its own type;
        neither its weights and buffers nor its modes change. Clones hold a copy of it.
    task : {"regression", "classification"}, default="regression"
        What the network does.
    outputs : {"logits", "proba"}, default="logits"
        What the outputs of a classification network are: logits (or logarithms of
        probabilities), or probabilities. One number a row speaks of the second class.
    classes : array-like of shape (n_classes,), default=None
        Labels of the outputs, in their order. None takes 0, 1, ... if y holds nothing
        else, and otherwise the sorted labels of y, which must then be complete.
    feature_layer : str, default=None
        Name of the module of the network whose input is the features. None takes the
        linear layer that is called last.
    hidden : tuple of int, default=(64,)
        Widths of the hidden layers between features and heads; () makes linear heads.
    positive : bool, default=True
        Keep means in their range: by softplus in regression, in [0, 1] and below
        :math:`1 - p_k` and :math:`p_k` in classification. False leaves them linear, as
        in the paper [1]_, and possibly negative. Quantiles are positive always.
    quantile_loss : {"pinball", "coverage"}, default="pinball"
        What trains the side quantiles: the pinball loss, or the distance of the
        coverage of each batch from the level, as in the paper, for large batches.
    confidence_level : float, default=0.9
        Level of the side quantiles, strictly between 0 and 1.
    learning_rate : float, default=1e-3
        Step size of Adam.
    weight_decay : float, default=0.0
        Coefficient of the squared parameters of the heads in the loss.
    batch_size : int or "auto", default="auto"
        Rows of a step. "auto" takes :math:`2^{3 + \lfloor \log_{10} n \rfloor}`; a
        number above n takes all rows.
    max_iter : int, default=5000
        Cap on the number of optimizer steps, not of passes over the rows.
    early_stopping : bool, default=True
        Whether to hold rows out that choose the state which is kept. False trains on
        all rows for `max_iter` steps and keeps the last state.
    validation_fraction : float, default=0.1
        Share of the rows held out, strictly between 0 and 1.
    n_iter_no_change : int, default=1000
        Steps without improvement on these rows after which training ends.
    random_state : int, RandomState instance or None, default=None
        Fixes the rows held out, the initialization and the batches. The global
        generators of torch are neither used nor changed.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network, the same object.
    classes_ : ndarray of shape (n_classes,)
        Labels, in classification only.
    coefs_ : list of ndarray of shape (n_inputs, n_outputs)
        Matrix of each layer of the heads, for standardized features.
    intercepts_ : list of ndarray of shape (n_outputs,)
        Bias of each layer.
    feature_center_, feature_scale_ : ndarray of shape (n_network_features,)
        Means and standard deviations of the features of the network.
    constant_heads_ : dict of str to float
        Heads that do not follow x, since there are fewer than 20 rows to learn them
        from or all these have the same target, and the value that they give; 0 for a
        side without rows. The heads of a class are named as ``side_up[2]``.
    n_up_, n_down_ : int
        Rows above the prediction and the others, in regression only.
    confidence_level_ : float
        Level of the side quantiles, in regression only.
    n_iter_ : int
        Number of optimizer steps done.
    loss_curve_ : ndarray of shape (n_evaluations,)
        Mean training loss between two evaluations, for residuals over their root mean
        square.
    validation_curve_ : ndarray of shape (n_evaluations + 1,) or None
        Loss on the held-out rows from before the first step on, with the pinball loss
        for quantiles.
    validation_loss_ : float or None
        The lowest of these: that of the state kept.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are strings.

    Raises
    ------
    ImportError
        If torch is missing when a method is called.
    TypeError
        If `network` is no torch module.
    ValueError
        If a parameter is out of range, `feature_layer` is unknown or has no rows, the
        outputs of the network do not suit the task, are not finite or have no label.

    Warns
    -----
    UncertaintyWarning
        If the training of the heads diverged; the state before is kept.

    See Also
    --------
    SPARegressor : Heads of any regressors, with a calibrated interval.
    SPAClassifier : The same for class probabilities.
    uqlib.conformal.SplitConformalRegressor : An interval of guaranteed coverage.

    Notes
    -----
    .. rubric:: Guarantee

    None. With true side quantiles the interval covers with probability p at every x and
    on each side, but estimated ones promise nothing; it is not the central interval
    either. For coverage that holds in finite samples give the network to
    :class:`~uqlib.spa.SPARegressor` or to a calibrator of :mod:`uqlib.conformal`.

    Fit on rows that the network was not trained on. Its residuals on training rows are
    too small; the heads then say how well it fits, not how well it predicts.

    SDS is not an out-of-distribution detector: nothing forces the heads to disagree
    far from the data. For symmetric noise it grows with the square of the bias, and
    residuals (1, 1, 1, -1) have a bias of 0.5 and an SDS of 0. For a bias that is
    looked for, `bias` says it directly, with its sign.

    Features are standardized and bounded at ten standard deviations. The heads start as
    the means and quantiles of all rows, and all losses have the weight 1: squares for
    the means (of a side over its rows alone, none where a batch has no such row), the
    logistic loss for p. The head of p is not in the paper; to solve
    :math:`m = p \, m_+ + (1 - p) \, m_-` for p is ill-conditioned where noise is
    symmetric. With ``positive=False``, ``quantile_loss="coverage"``,
    ``early_stopping=False`` and all rows in a batch the losses are those of the paper.
    Where no step improves the losses on the held-out rows, the start is kept and
    nothing follows x: `validation_curve_` tells.

    The heads are arrays, read in NumPy; the network is needed for its features. Input
    of more than two dimensions, such as images, goes to the network as it is.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in Deep
       Learning", arXiv:2509.13262.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from uqlib.spa import TorchSPAHead
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(200, 2)), rng.normal(size=200)
    >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> head = TorchSPAHead(network, max_iter=100, random_state=0).fit(X, y)
    >>> head.predict_uncertainty(X).epistemic.shape, head.predict_interval(X).shape
    ((200,), (200, 2))
    """

    def __init__(
        self,
        network: Any,
        *,
        task: str = "regression",
        outputs: str = "logits",
        classes: Any = None,
        feature_layer: str | None = None,
        hidden: Any = (64,),
        positive: bool = True,
        quantile_loss: str = "pinball",
        confidence_level: float = 0.9,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: Any = "auto",
        max_iter: int = 5000,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.task = task
        self.outputs = outputs
        self.classes = classes
        self.feature_layer = feature_layer
        self.hidden = hidden
        self.positive = positive
        self.quantile_loss = quantile_loss
        self.confidence_level = confidence_level
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "TorchSPAHead":
        """Train the heads on the residuals of the network.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features) or (n_samples, ...)
            Rows that the network was not trained on, numbers, finite.
        y : array-like of shape (n_samples,)
            Targets, finite, or labels.

        Returns
        -------
        self : TorchSPAHead
            Fitted.
        """
        with all_or_nothing(self):
            return self._fit(X, y)

    def _fit(self, X: Any, y: Any) -> "TorchSPAHead":
        check_torch_network(self.network, self.feature_layer)
        check_parameters(self)
        check_not_a_date(y, "y")
        regression = self.task == "regression"
        X, y = validate_data(self, X, y, y_numeric=regression, **INPUT)
        features, outputs = self._run(self.network, X, as_they_are)
        scaling = fit_scaling(features)
        read_task = self._read_regression if regression else self._read_classification
        targets, plan, found = read_task(outputs, y)
        result = self._train(standardize(features, scaling), targets, plan)
        self.network_, self._plan = self.network, plan
        self.feature_center_, self.feature_scale_ = scaling
        for name, value in found.items():
            setattr(self, name, value)
        self._record(result)
        return self

    def predict(self, X: Any) -> Any:
        """Return the prediction of the network itself.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features) or (n_samples, ...)
            Rows, numbers, finite.

        Returns
        -------
        ndarray of shape (n_samples,)
            Its outputs, float64, or the labels of the largest probability.
        """
        _, outputs = self._outputs(X)
        if self.task == "regression":
            return as_point(outputs)
        return self.classes_[as_proba(outputs, self.outputs).argmax(axis=1)]

    @_for_task("classification")
    def predict_proba(self, X: Any) -> FloatArray:
        """Return the class probabilities of the network itself, in classification only.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features) or (n_samples, ...)
            Rows, numbers, finite.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows that sum to 1, in the order of `classes_`.
        """
        _, outputs = self._outputs(X)
        return as_proba(outputs, self.outputs)

    @_for_task("regression")
    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Return what the side quantiles reach around the prediction.

        In regression only, and without a guarantee.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features) or (n_samples, ...)
            Rows, numbers, finite.
        confidence_level : float, default=None
            That of fit, or None for it: the quantiles have no other.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds; the prediction lies between them.

        Raises
        ------
        ValueError
            If another level is asked for.
        """
        heads, outputs = self._outputs(X, self._heads)
        if confidence_level is not None:
            asked = float(check_confidence_level(confidence_level))
            if abs(asked - self.confidence_level_) > LEVEL_TOLERANCE:
                raise ValueError(
                    f"confidence_level={confidence_level!r} was not fitted: the heads "
                    f"are quantiles of level {self.confidence_level_}. Fit a "
                    "TorchSPAHead with that level."
                )
        point, (up, down) = as_point(outputs), side_quantiles(heads)
        return np.column_stack([point - down, point + up])

    def predict_uncertainty(self, X: Any) -> Bunch:
        """Return what the heads say about each row.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features) or (n_samples, ...)
            Rows, numbers, finite.

        Returns
        -------
        Bunch
            Named arrays, larger = more uncertain. In regression all have the shape
            (n_samples,): aleatoric, epistemic, sds, relative_sds, mar, mar_up,
            mar_down, p_up, bias, quantile_up, quantile_down. In classification
            aleatoric (the entropy of the probabilities) and epistemic (the sum of sds)
            have that shape, and sds, mar, side_up, side_down, bias the shape
            (n_samples, n_classes).
        """
        heads, outputs = self._outputs(X, self._heads)
        if self.task == "regression":
            return Bunch(**side_uncertainty(heads))
        proba = as_proba(outputs, self.outputs)
        return Bunch(**class_uncertainty(heads, proba, self.positive))

    def features(self, X: Any) -> FloatArray:
        """Return the features of the network that the heads see.

        It needs no fit, so that ``TorchSPAHead(network).features`` can be handed to
        `SPARegressor` as its `feature_map`.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features) or (n_samples, ...)
            Rows, numbers, finite.

        Returns
        -------
        ndarray of shape (n_samples, n_network_features)
            Float64 for a network in double precision, else float32; not standardized.
        """
        network = getattr(self, "network_", self.network)
        check_torch_network(network, self.feature_layer)
        if hasattr(self, "network_"):
            X = validate_data(self, X, reset=False, **INPUT)
        else:
            X = check_array(X, input_name="X", **INPUT)
        return self._run(network, X, as_they_are)[0]
