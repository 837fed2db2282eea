"""What a `TorchSPAHead` does with its network, its heads and their training."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import ClassifierTags, RegressorTags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from uqlib._core.levels import check_confidence_level
from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user
from uqlib.spa._head_checks import (
    as_point,
    as_proba,
    find_classes,
    held_out_rows,
    require_torch,
)
from uqlib.spa._head_outputs import (
    CLASSIFICATION_HEADS,
    REGRESSION_HEADS,
    class_targets,
    classification_heads,
    read_heads,
    regression_heads,
    rms,
)

INPUT = {"dtype": [np.float64, np.float32], "allow_nd": True}


def as_they_are(features: FloatArray) -> FloatArray:
    """Return the features of a few rows.

    Parameters
    ----------
    features : ndarray of shape (n_rows, n_features)
        Features.

    Returns
    -------
    ndarray of shape (n_rows, n_features)
        The same.
    """
    return features


class BaseTorchHead(BaseEstimator):
    """The machinery of `TorchSPAHead`, whose parameters it uses."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if self.task == "classification":
            tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        else:
            # How well it predicts was settled when the network was trained.
            tags.estimator_type = "regressor"
            tags.regressor_tags = RegressorTags(poor_score=True)
        return tags

    def _run(self, network: Any, X: Any, read: Any) -> Any:
        from uqlib.spa._torch_features import run_network

        return run_network(network, X, self.feature_layer, read)

    def _outputs(self, X: Any, read: Any = None) -> Any:
        check_is_fitted(self, "network_")
        require_torch()
        X = validate_data(self, X, reset=False, **INPUT)
        return self._run(self.network_, X, read)

    def _heads(self, features: FloatArray) -> FloatArray:
        layers = list(zip(self.coefs_, self.intercepts_, strict=True))
        scaling = self.feature_center_, self.feature_scale_
        return read_heads(features, layers, scaling, self._plan)

    def _read_regression(self, outputs: FloatArray, y: Any) -> Any:
        """Return targets, plan of the heads, and fitted attributes."""
        level = float(check_confidence_level(self.confidence_level))
        residuals = np.asarray(y, dtype=np.float64) - as_point(outputs)
        plan = regression_heads(residuals, level, self.positive)
        n_up = int((residuals > 0).sum())
        found = {
            "n_up_": n_up,
            "n_down_": residuals.size - n_up,
            "confidence_level_": level,
            "constant_heads_": _constant_heads(plan, REGRESSION_HEADS),
        }
        return residuals / rms(residuals), plan, found

    def _read_classification(self, outputs: FloatArray, y: Any) -> Any:
        check_classification_targets(y)
        proba = as_proba(outputs, self.outputs)
        classes, columns = find_classes(y, proba.shape[1], self.classes)
        # Of two classes the second is enough: what is up for one is down for the other.
        first = int(classes.size == 2)
        is_class = columns[:, None] == np.arange(first, classes.size)
        targets = class_targets(proba[:, first:], is_class)
        plan = classification_heads(targets, self.positive)
        names = [
            f"{h}[{label}]" for h in CLASSIFICATION_HEADS for label in classes[first:]
        ]
        found = {"classes_": classes, "constant_heads_": _constant_heads(plan, names)}
        return targets, plan, found

    def _train(self, features: FloatArray, targets: FloatArray, plan: Any) -> Any:
        from uqlib.spa._torch_features import network_device
        from uqlib.spa._torch_training import Task, train_heads

        random_state = check_random_state(self.random_state)
        fraction = self.validation_fraction if self.early_stopping else None
        held_out = held_out_rows(len(targets), fraction, random_state)
        quantile_loss = self.quantile_loss if self.task == "regression" else None
        return train_heads(
            features,
            targets,
            held_out,
            Task(plan, float(self.confidence_level), quantile_loss),
            hidden=tuple(self.hidden),
            device=network_device(self.network),
            seed=int(random_state.randint(np.iinfo(np.int32).max)),
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            n_iter_no_change=self.n_iter_no_change,
        )

    def _record(self, result: Any) -> None:
        self.coefs_, self.intercepts_ = map(list, zip(*result.layers, strict=True))
        self.n_iter_ = result.n_iter
        self.loss_curve_ = np.array(result.loss_curve)
        self.validation_curve_, self.validation_loss_ = None, None
        if self.early_stopping:
            self.validation_curve_ = np.array(result.validation_curve)
            self.validation_loss_ = result.best_loss
        if result.diverged:
            warn_user(
                f"The training loss was not finite after {result.n_iter} steps, and "
                "the state before is kept. Decrease learning_rate="
                f"{self.learning_rate!r}, or look for extreme values in X and y.",
                UncertaintyWarning,
            )


def _constant_heads(plan: Any, names: Any) -> dict[str, float]:
    pairs = zip(names, plan.constant, strict=True)
    return {name: float(value) for name, value in pairs if not np.isnan(value)}
