"""What quantized regressors and classifiers share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    is_classifier,
    is_regressor,
)
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._fitting import clone_and_fit, is_frozen, warn_if_fitted
from uqlib._typing import FloatArray
from uqlib._validation import check_X, with_input_tags
from uqlib.exceptions import QuantizationWarning, warn_user
from uqlib.quantized._driver import n_calibration_rows
from uqlib.quantized._fingerprint import row_fingerprints, share_seen
from uqlib.quantized._open import OpenedModel, open_model
from uqlib.quantized._open_torch import (
    is_torch_model,
    is_torch_module,
    torch_predictor,
)
from uqlib.quantized._parts import quantize_part
from uqlib.quantized._report import fitted_report
from uqlib.quantized._resolve import (
    check_backend,
    check_device,
    check_last_layer_bits,
    find_scheme,
    part_scheme,
)
from uqlib.quantized._saved_models import load_estimator, save_model
from uqlib.quantized._tree_part import is_tree_model

_KINDS = ("regressor", "classifier")


def model_has(method: str) -> Any:
    """Return a decorator of methods that exist where the quantized model has them.

    Parameters
    ----------
    method : str
        Name of the method.

    Returns
    -------
    callable
        The decorator.
    """

    def has(owner: Any) -> bool:
        model = getattr(owner, "model_", None)
        return hasattr(owner.estimator if model is None else model, method)

    return available_if(has)


class BaseQuantizedModel(MetaEstimatorMixin, BaseEstimator):
    """A model whose weights are codes; subclasses say what it predicts."""

    _task: str

    def __init__(
        self,
        estimator: Any,
        *,
        scheme: Any = "auto",
        method: str | None = None,
        backend: str = "auto",
        last_layer_bits: int | None = 8,
        strict: bool = False,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.scheme = scheme
        self.method = method
        self.backend = backend
        self.last_layer_bits = last_layer_bits
        self.strict = strict
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the estimator unless it is used as it stands, then quantize it.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows of training; for a `FrozenEstimator` or a torch module rows of
            calibration, such as it was trained on. Conformal calibration must use
            others.
        y : array-like of shape (n_samples,), default=None
            Targets or labels; not used where the estimator is used as it stands.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in training, and in the rounding of dense layers.

        Returns
        -------
        self : object
            Fitted and quantized.
        """
        scheme = find_scheme(self.scheme, self.method)
        check_backend(self.backend)
        check_last_layer_bits(self.last_layer_bits)
        self._check_task()
        X = check_X(self, X, reset=True)
        n_rows = n_calibration_rows(X)
        weight = check_sample_weight(sample_weight, n_rows)
        model = self._float_model(X, y, weight)
        opened = open_model(model)
        check_device(self.backend, {part.name: part.adapter for part in opened.parts})
        random_state = check_random_state(self.random_state)
        names = [part.name for part in opened.parts]
        parts = {
            part.name: quantize_part(
                part.adapter,
                part_scheme(scheme, part.name, names),
                part.rows(X),
                last_layer_bits=self.last_layer_bits,
                random_state=random_state,
                row_weight=weight,
            )
            for part in opened.parts
        }
        report = fitted_report(opened, parts, self.backend)
        # Without weights to be rounded (w16) nothing was asked for.
        asked = scheme is None or scheme.weights is not None
        self._check_skipped(report.skipped, len(report.layers) > 0 or not asked)
        self._set_quantized(model, opened, parts, report)
        if self._task == "classification":
            self.classes_ = model.classes_
        self.scheme_ = scheme if scheme is not None else "auto"
        self._fingerprints = row_fingerprints(X)
        return self

    def predict(self, X: Any) -> Any:
        """Return what the quantized model predicts.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Points or labels, as the float model gives them.
        """
        return self._ask("predict", X)

    def drift(self, X: Any) -> FloatArray:
        r"""Return the quantized minus the float prediction, for which no y is needed.

        .. math:: d(x) = f_q(x) - f(x) .

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Of the points of a regressor, or of the probabilities or decision values of
            a classifier.
        """
        check_is_fitted(self, "model_")
        if not hasattr(self, "estimator_"):
            raise ValueError(
                "drift compares with the float model, which a saved file does not "
                "hold. Pass it to load(path, estimator=...)."
            )
        X = check_X(self, X, reset=False)
        method = self._drift_method()
        exact = np.asarray(getattr(self.estimator_, method)(X), dtype=np.float64)
        return np.asarray(self._ask(method, X), dtype=np.float64) - exact

    def dequantize(self) -> Any:
        """Return a float model of the original kind with the rounded weights.

        Returns
        -------
        estimator or torch module
            It predicts as this model does, up to the order of float sums, where
            activations stay in float.
        """
        check_is_fitted(self, "model_")
        model = self._opened.assembled(
            {name: part.dequantized() for name, part in self.parts_.items()}
        )
        # A module came as it is and goes as it is, without the predictor around it.
        return model.module if self._is_module() else model

    def rows_seen(self, X: Any) -> float:
        """Return the share of rows that the quantization was calibrated on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as those of a conformal calibration, which should be others.

        Returns
        -------
        float
            Between 0 and 1; 0 where rows are sparse or not of numbers.
        """
        check_is_fitted(self, "model_")
        return share_seen(self._fingerprints, X)

    def save(self, path: Any) -> None:
        """Write the quantized model to a file, without pickle.

        Codes, scales and settings go to one file in the safetensors format, with a
        digest of all of it; a file that is there is replaced at once.

        Parameters
        ----------
        path : str or path-like
            The file, by custom with the suffix ``.safetensors``.

        See Also
        --------
        load : The way back.
        """
        check_is_fitted(self, "model_")
        save_model(path, self)

    @classmethod
    def load(cls, path: Any, *, estimator: Any = None, backend: str = "auto") -> Any:
        """Return a quantized model from a file; nothing in the file is run.

        Multilayer perceptrons, linear models of scikit-learn and trees need the file
        alone. Torch modules, pipelines, ensembles and classes of your own need a model
        to put the quantized layers into.

        Parameters
        ----------
        path : str or path-like
            As `save` wrote it.
        estimator : estimator or torch module, default=None
            The float model, or one of the same shape: a torch module may be untrained,
            the last step of a pipeline unfitted. It is not changed. With the float
            model itself `drift` works again.
        backend : {"auto", "cuda", "numba", "reference"}, default="auto"
            What computes the predictions; a file does not say. "cuda" needs an
            `estimator` on a GPU and the kernels of `uqlib_kernels.cuda`, "auto" takes
            them where both are there.

        Returns
        -------
        estimator
            It predicts the same bits as the model that was saved, with the backend
            that this one had, in a pipeline after the steps of the one that is given.
            The rows that it was calibrated on are not remembered: `rows_seen` is 0.

        Raises
        ------
        ValueError
            If the file is damaged, of a later version or of the other task, or the
            model that is needed is missing, has another shape or, for "cuda", is not
            on a GPU.
        KernelUnavailableError
            If the backend is "cuda" and its kernels are not built.
        """
        check_backend(backend)
        return load_estimator(cls, path, estimator, backend)

    def _ask(self, method: str, X: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._has_nothing_to_check(X):
            check_is_fitted(self, "model_")
            X = check_X(self, X, reset=False)
        return getattr(self.model_, method)(X, *args, **kwargs)

    # The checks of scikit-learn take longer than a small network for one row. They have
    # nothing to say of an array of floats with the right columns, unless the model was
    # fitted with names.
    def _has_nothing_to_check(self, X: Any) -> bool:
        fitted = vars(self)
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype.kind == "f"
            and X.shape[1] == fitted.get("n_features_in_")
            and "model_" in fitted
            and "feature_names_in_" not in fitted
        )

    def _drift_method(self) -> str:
        return "predict"

    def _float_model(self, X: Any, y: Any, weight: Any) -> Any:
        if self._is_module():
            return torch_predictor(self._as_it_stands(), self._task, X)
        if is_frozen(self.estimator):
            check_is_fitted(self.estimator)
            return self.estimator
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None: it fits a clone of the estimator. To quantize a "
                "fitted one as it stands wrap it in sklearn.frozen.FrozenEstimator, or "
                "call quantize(estimator, scheme, X)."
            )
        warn_if_fitted(self.estimator, self)
        # A network of skorch that is given one column compares with one column.
        target = y if is_torch_model(self.estimator) else _one_dimensional(y)
        return clone_and_fit(self.estimator, X, target, weight)

    def _as_it_stands(self) -> Any:
        return self.estimator.estimator if is_frozen(self.estimator) else self.estimator

    def _is_module(self) -> bool:
        return is_torch_module(self._as_it_stands())

    def _check_task(self) -> None:
        if self._is_module():
            return
        wrong = is_classifier if self._task == "regression" else is_regressor
        if wrong(self.estimator):
            kind, other = _KINDS if self._task == "regression" else _KINDS[::-1]
            raise ValueError(
                f"estimator={self.estimator!r} is a {other}, but "
                f"{type(self).__name__} takes a {kind}. Use "
                f"Quantized{other.capitalize()}."
            )

    def _check_skipped(self, skipped: list[str], as_asked: bool) -> None:
        if skipped and self.strict:
            raise ValueError(
                f"strict=True, but these parts would stay in float: {skipped}. Pass "
                "strict=False, or a model without them."
            )
        if not as_asked:
            warn_user(
                f"Nothing of the model was quantized: {skipped}. It predicts as the "
                "float model does.",
                QuantizationWarning,
            )

    def _set_quantized(
        self, model: Any, opened: OpenedModel, parts: Mapping[str, Any], report: Any
    ) -> None:
        self.estimator_, self._opened, self.parts_ = model, opened, dict(parts)
        self.model_ = opened.assembled(
            {name: part.quantized_model(self.backend) for name, part in parts.items()}
        )
        self.layers_, self.report_ = report.layers, report.summary
        self.nbytes_ = report.nbytes
        self.effective_bits_ = report.effective_bits
        self.compression_ratio_ = report.compression_ratio

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if not self._is_module():
            tags = with_input_tags(tags, [self.estimator])
        if not is_tree_model(self._as_it_stands()):
            tags.input_tags.sparse = False  # rounding looks at what enters a layer
        return tags


def _one_dimensional(y: Any) -> Any:
    """Return a column as scikit-learn flattens it, and several targets as they are."""
    shape = np.asarray(y).shape
    return column_or_1d(y, warn=True) if shape[1:] == (1,) else y
