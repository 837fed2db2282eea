"""Find the parts of a model that can be quantized, whatever it is wrapped in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline

from uqlib._quantile_models import is_transformer
from uqlib._validation import check_X
from uqlib.exceptions import QuantizationWarning, warn_user
from uqlib.quantized._adapter import SkippedLayer
from uqlib.quantized._composites import (
    Composed,
    Path,
    Slot,
    floats_beside,
    model_slots,
    pipeline_slots,
    unchanged,
    with_members,
)
from uqlib.quantized._composites_members import as_member, with_quantiles
from uqlib.quantized._dense import mlp_network
from uqlib.quantized._open_linear import NotOneLayerError, is_linear, linear_part
from uqlib.quantized._open_torch import is_torch_model, torch_adapter
from uqlib.quantized._quantile_networks import is_quantile_network, quantile_network
from uqlib.quantized._tree_part import TreeAdapter, is_tree_model
from uqlib.quantized._trees import UnsupportedTreesError


class ModelPart(NamedTuple):
    """A network or an ensemble of trees inside a model, and what enters it."""

    name: str
    adapter: Any
    inputs: Callable[[Any], Any]

    def rows(self, X: Any) -> Any:
        """Return what enters the part, if it has the columns of its float model."""
        rows, model = self.inputs(X), getattr(self.adapter, "model", None)
        if hasattr(model, "n_features_in_"):
            check_X(model, rows, reset=False)
        return rows


@dataclass(frozen=True)
class OpenedModel:
    """A model as parts that can be quantized and put together again.

    `assembled` gets one model for each part by name, with the prediction methods of the
    part, and returns the whole with them in place; it never changes the model.
    """

    parts: tuple[ModelPart, ...]
    assembled: Callable[[Mapping[str, Any]], Any]
    skipped: tuple[SkippedLayer, ...] = field(default=())


def open_model(model: Any, name: str = "") -> OpenedModel:
    """Return the parts of a fitted model.

    Parameters
    ----------
    model : object
        A fitted estimator or a torch module.
    name : str, default=""
        Where it stands in the model around it, as "step" or "estimators_.3".

    Returns
    -------
    OpenedModel
        Without parts where nothing can be quantized; `skipped` then says why.

    Warns
    -----
    QuantizationWarning
        If the model is a calibrator, whose thresholds are those of the float model.
    """
    if isinstance(model, FrozenEstimator):
        return open_model(model.estimator, name)
    if hasattr(model, "best_estimator_"):
        return open_model(model.best_estimator_, name)
    if isinstance(model, Pipeline):
        return _open_pipeline(model, name)
    for accepts, adapt in _KINDS:
        if accepts(model):
            return _open_part(model, name, adapt)
    reason = _reason_to_leave(model)
    if reason is not None:
        return _left(model, name, reason)
    slots = model_slots(model)
    if not slots:
        reason = f"{type(model).__name__} has no layers or trees that are known here"
        return _left(model, name, reason)
    _warn_if_calibrated(model)
    opened = _joined(model, _opened(model, name, slots))
    beside = tuple(
        layer._replace(name=f"{name}.{layer.name}" if name else layer.name)
        for layer in floats_beside(model)
    )
    return replace(opened, skipped=(*opened.skipped, *beside))


def single_part(name: str, adapter: Any) -> OpenedModel:
    """Return a model that is one part.

    Parameters
    ----------
    name : str
        Of the part.
    adapter : NetworkAdapter or tree adapter
        The part.

    Returns
    -------
    OpenedModel
        With that part.
    """
    return OpenedModel((ModelPart(name, adapter, unchanged),), _OnlyPart(name))


def _open_part(model: Any, name: str, adapt: Callable[[Any], Any]) -> OpenedModel:
    try:
        return single_part(name, adapt(model))
    except (UnsupportedTreesError, NotOneLayerError) as error:
        return _left(model, name, str(error))


def _left(model: Any, name: str, reason: str) -> OpenedModel:
    return OpenedModel((), _AsItIs(model), (SkippedLayer(name, reason, 0),))


def _open_pipeline(model: Pipeline, name: str) -> OpenedModel:
    *before, last = _opened(model, name, pipeline_slots(model))
    # A transformer without parts is nothing that was left out.
    opened = [pair for pair in before if pair[1].parts]
    if last[1].parts or not opened or not is_transformer(model):
        opened.append(last)
    return _joined(model, opened)


def _opened(model: Any, name: str, slots: list[Slot]) -> list[tuple[Slot, OpenedModel]]:
    """Return the models inside a model, opened."""
    opened = []
    for slot in slots:
        own = _step_name(model, slot)
        inner = open_model(slot.model, f"{name}.{own}" if name else own)
        opened.append((slot, inner))
    return opened


def _joined(model: Any, opened: list[tuple[Slot, OpenedModel]]) -> OpenedModel:
    """Return a model by the parts of the models inside."""
    parts = tuple(
        part._replace(inputs=Composed(slot.inputs, part.inputs))
        for slot, inner in opened
        for part in inner.parts
    )
    skipped = tuple(layer for _, inner in opened for layer in inner.skipped)
    changed = {
        slot.path: (slot.model, inner.assembled)
        for slot, inner in opened
        if inner.parts
    }
    return OpenedModel(parts, _Assembly(model, changed), skipped)


def _step_name(model: Any, slot: Slot) -> str:
    if isinstance(model, Pipeline):
        return str(model.steps[int(slot.path[1])][0])
    return slot.name


def _reason_to_leave(model: Any) -> str | None:
    kind = type(model).__name__
    if hasattr(model, "parts_") and hasattr(model, "nbytes_"):
        return f"{kind} is quantized already"
    if hasattr(model, "estimators_") and _is_calibrator(model):
        return (
            f"the intervals or sets of {kind} come from models of several folds and "
            "their scores: quantize the model inside, before it is calibrated"
        )
    return None


def _is_calibrator(model: Any) -> bool:
    found = ("scores_", "n_calibration_", "steps_", "residuals_")
    return any(hasattr(model, name) for name in found)


def _warn_if_calibrated(model: Any) -> None:
    if _is_calibrator(model):
        kind = type(model).__name__
        warn_user(
            f"{kind} was calibrated with the float model: its coverage does not hold "
            "for the quantized one. Quantize the model inside, then calibrate anew: "
            f"{kind}(FrozenEstimator(quantized_model)).",
            QuantizationWarning,
        )


# Classes and not closures: they are kept by fitted estimators, which are pickled.
class _AsItIs:
    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, models: Mapping[str, Any]) -> Any:
        return self.model


class _OnlyPart:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, models: Mapping[str, Any]) -> Any:
        return models[self.name]


class _Assembly:
    """A copy of a model with new models inside."""

    def __init__(self, model: Any, inner: Mapping[Path, tuple[Any, Any]]) -> None:
        self.model, self.inner = model, inner

    def __call__(self, models: Mapping[str, Any]) -> Any:
        members = {
            path: as_member(member, assembled(models))
            for path, (member, assembled) in self.inner.items()
        }
        whole = with_members(self.model, members)
        return with_quantiles(whole) if isinstance(whole, Pipeline) else whole


def _is_mlp(model: Any) -> bool:
    return isinstance(model, MLPRegressor | MLPClassifier)


_KINDS: list[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = [
    (is_torch_model, torch_adapter),
    (_is_mlp, mlp_network),
    (is_quantile_network, quantile_network),
    (is_tree_model, TreeAdapter),
    (is_linear, linear_part),
]
