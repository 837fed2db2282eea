"""Bad and degenerate input of the allocation of bits."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError

from tests.quantized._allocation_models import data, fitted, mean_bits
from uqlib.quantized._allocation import allocate_bits
from uqlib.quantized._allocation_model import ModelLayers
from uqlib.quantized._scheme import QuantizationScheme

W4 = QuantizationScheme.parse("w4")


@pytest.fixture(scope="module")
def regressor():
    return fitted()


def test_a_budget_below_the_smallest_choice_names_it(regressor):
    X, _ = data()
    with pytest.raises(ValueError, match=r"budget=1\.9 is too small.* choices is 2 "):
        allocate_bits(regressor, X, budget=1.9)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"budget": True}, TypeError, "budget must be a number"),
        ({"budget": "3"}, TypeError, "budget must be a number"),
        ({"budget": 0}, ValueError, "budget must be positive and finite, got 0"),
        ({"budget": np.inf}, ValueError, "positive and finite, got inf"),
        ({"budget": np.nan}, ValueError, "positive and finite, got nan"),
        ({"choices": ()}, ValueError, "at least one number of bits"),
        ({"choices": (2, 9)}, ValueError, "from 1 to 8.*got 9"),
        ({"choices": (2, 2.5)}, ValueError, r"from 1 to 8.*got 2\.5"),
        ({"choices": (2, 16)}, ValueError, "choices must be from 1 to 8 bits, got 16"),
        ({"choices": ("2",)}, ValueError, "must be a number"),
        ({"criterion": "width"}, ValueError, r"criterion='width' must be one of \["),
        ({"criterion": "taylor"}, ValueError, "'taylor' needs the targets y"),
        ({"criterion": "interval_width"}, ValueError, "'interval_width' needs the ta"),
        ({"confidence_level": 1.0}, ValueError, "confidence_level must lie"),
        ({"scheme": "auto"}, ValueError, "scheme='auto' leaves no bits to choose"),
        ({"scheme": "x4"}, ValueError, "no name of a scheme"),
        ({"scheme": 4}, TypeError, "scheme must be"),
        (
            {"scheme": QuantizationScheme(skip=("nowhere",))},
            ValueError,
            r"does not have: \['nowhere'\]",
        ),
        (
            {"scheme": QuantizationScheme(skip=("layer_0", "layer_1", "layer_2"))},
            ValueError,
            "MLPRegressor has no layers that bits could be allocated to",
        ),
    ],
)
def test_bad_parameters_are_named(regressor, settings, error, message):
    X, _ = data(50)
    with pytest.raises(error, match=message):
        allocate_bits(regressor, X, **({"budget": 3.0} | settings))


@pytest.mark.parametrize("criterion", ["taylor", "interval_width"])
def test_bad_targets_are_named(regressor, criterion):
    X, y = data(50)
    settings = {"budget": 3.0, "criterion": criterion}
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        allocate_bits(regressor, X, y=y[:-1], **settings)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        allocate_bits(regressor, X, y=np.where(y > 0, y, np.nan), **settings)
    with pytest.raises(ValueError, match="could not convert string"):
        allocate_bits(regressor, X, y=np.array(["a", "b"] * 25), **settings)
    with pytest.raises(ValueError, match=r"(one target|needs a loss).*\(50, 2\)"):
        allocate_bits(regressor, X, y=np.column_stack([y, y]), **settings)


def test_bad_rows_are_named(regressor):
    X, y = data(50)
    with pytest.raises(ValueError, match="at least 2 rows"):
        allocate_bits(regressor, X[:1], budget=3.0)
    with pytest.raises(ValueError, match="contains NaN"):
        allocate_bits(regressor, np.where(X > 1, np.nan, X), budget=3.0)
    with pytest.raises(ValueError, match=r"at least 19 rows.*got 16 of 20"):
        allocate_bits(
            regressor, X[:20], budget=3.0, criterion="interval_width", y=y[:20]
        )


def test_two_rows_and_constant_columns_are_legal(regressor):
    X, _ = data(2)
    assert mean_bits(regressor, allocate_bits(regressor, X, budget=3.0)) <= 3.0
    same = np.zeros((30, 6))
    for criterion in ("interval_drift", "kl", "trace"):
        bits = allocate_bits(regressor, same, budget=3.0, criterion=criterion)
        assert mean_bits(regressor, bits) <= 3.0


def test_a_model_must_be_fitted_and_have_layers(regressor):
    X, y = data(50)
    with pytest.raises(NotFittedError):
        allocate_bits(clone(regressor), X, budget=3.0)
    forest = RandomForestRegressor(n_estimators=2).fit(X, y)
    with pytest.raises(ValueError, match="RandomForestRegressor has no layers"):
        allocate_bits(forest, X, budget=3.0)
    broken = fitted()
    broken.coefs_[1][0, 0] = np.nan
    with pytest.raises(ValueError, match="'layer_1' has weights that are not finite"):
        allocate_bits(broken, X, budget=3.0)


def test_seeds_are_drawn_from_the_random_state(regressor):
    X, _ = data(50)
    models = [ModelLayers(regressor, X, W4, seed) for seed in (0, 1)]
    assert models[0].named([2, 3, 4]) == models[1].named([2, 3, 4])
    assert models[0].split((2, 3, 4)) == {"": (2, 3, 4)}
