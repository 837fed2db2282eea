"""TorchSPAHead in classification: means of each class, labels, two classes."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.base import is_classifier, is_regressor
from sklearn.linear_model import LinearRegression

from tests.spa._torch_heads import (
    CLASSES,
    FULL,
    LABELS,
    Table,
    X,
    class_rows,
    logits,
    nn,
    one_thread,  # noqa: F401
    quick,
    table_head,
)
from uqlib._core.split_point_classes import sds_classification


def test_linear_class_heads_become_least_squares():
    scores = logits()
    inputs, proba = class_rows(scores), softmax(scores, axis=1)
    head = table_head(
        n_outputs=3,
        task="classification",
        hidden=(),
        positive=False,
        learning_rate=0.01,
        max_iter=800,
        **FULL,
    ).fit(inputs, LABELS)
    found = head.predict_uncertainty(inputs)
    is_class = LABELS[:, None] == np.arange(3)
    targets = {
        "mar": np.abs(is_class - proba),
        "side_up": is_class * (1 - proba),
        "side_down": ~is_class * proba,
    }
    for name, target in targets.items():
        expected = LinearRegression().fit(X, target).predict(X)
        np.testing.assert_allclose(found[name], expected, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(found.bias, found.side_up - found.side_down)
    sds = sds_classification(proba, found.mar, reduce=None)
    np.testing.assert_allclose(found.sds, sds, rtol=1e-9)
    np.testing.assert_allclose(found.epistemic, sds.sum(axis=1), rtol=1e-9)
    entropy = -(proba * np.log(proba)).sum(axis=1)
    np.testing.assert_allclose(found.aleatoric, entropy, rtol=1e-9)
    assert set(found) == CLASSES
    assert not hasattr(head, "n_up_")


@pytest.mark.parametrize("n_classes", [2, 3])
def test_class_means_stay_in_their_range(n_classes):
    inputs = class_rows(3 * logits(n_classes))
    labels = LABELS % n_classes
    head = table_head(
        n_outputs=n_classes, task="classification", learning_rate=0.05
    ).fit(inputs, labels)
    far = inputs * np.array([50.0] * 2 + [1.0] * n_classes)
    found, proba = head.predict_uncertainty(far), head.predict_proba(far)
    assert np.all((found.mar >= 0) & (found.mar <= 1))
    assert np.all((found.side_up >= 0) & (found.side_up <= 1 - proba + 1e-15))
    assert np.all((found.side_down >= 0) & (found.side_down <= proba + 1e-15))
    assert found.mar.shape == found.sds.shape == (300, n_classes)


@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)", "(n, 2)", "proba", "proba (n, 1)"])
def test_two_classes_in_every_form(shape):
    score = logits(1)[:, 0]
    labels = np.array(["no", "yes"])[LABELS % 2]
    p = expit(score)
    columns = {
        "(n, 2)": [np.zeros(300), score],
        "proba": [1 - p, p],
        "proba (n, 1)": [p],
    }.get(shape, [score])
    inputs = class_rows(np.column_stack(columns))
    net = Table(len(columns))
    if shape == "(n,)":
        net = nn.Sequential(net, nn.Flatten(0))
    head = quick(
        net,
        task="classification",
        outputs="proba" if "proba" in shape else "logits",
        feature_layer="0.features" if shape == "(n,)" else "features",
    ).fit(inputs, labels)
    np.testing.assert_allclose(head.predict_proba(inputs)[:, 1], p, rtol=1e-12)
    np.testing.assert_array_equal(head.classes_, ["no", "yes"])
    expected = np.where(p > 0.5, "yes", "no")
    np.testing.assert_array_equal(head.predict(inputs), expected)
    found = head.predict_uncertainty(inputs)
    np.testing.assert_array_equal(found.mar[:, 0], found.mar[:, 1])
    np.testing.assert_array_equal(found.side_up[:, 0], found.side_down[:, 1])
    np.testing.assert_allclose(found.sds[:, 0], found.sds[:, 1], rtol=1e-9, atol=1e-15)
    reference = quick(Table(2), task="classification", feature_layer="features").fit(
        class_rows(np.column_stack([np.zeros(300), score])), LABELS % 2
    )
    other = reference.predict_uncertainty(class_rows(np.column_stack([0 * p, score])))
    np.testing.assert_allclose(found.mar, other.mar, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([0, 2], None, [0, 1, 2]),  # one class is absent
        ([1, 2, 3], None, [1, 2, 3]),
        (["a", "b", "c"], None, ["a", "b", "c"]),
        (["a", "c"], ["c", "b", "a"], ["c", "b", "a"]),
        ([True, False], None, [0, 1]),
    ],
    ids=str,
)
def test_labels_of_the_columns(labels, classes, expected):
    n_classes = len(expected)
    inputs = class_rows(logits(n_classes))
    y = np.array(labels)[LABELS % len(labels)]
    head = table_head(n_outputs=n_classes, task="classification", classes=classes).fit(
        inputs, y
    )
    np.testing.assert_array_equal(head.classes_, expected)
    best = np.argmax(inputs[:, 2:], axis=1)
    np.testing.assert_array_equal(head.predict(inputs), np.array(expected)[best])
    found = head.predict_uncertainty(inputs)
    assert all(np.isfinite(values).all() for values in found.values())
    if len(labels) < n_classes:
        absent = next(k for k in range(n_classes) if expected[k] not in y.tolist())
        assert head.constant_heads_ == {f"side_up[{expected[absent]}]": 0.0}
        np.testing.assert_array_equal(found.side_up[:, absent], 0.0)


def test_methods_of_the_task():
    regression, classification = quick(), quick(task="classification")
    assert is_regressor(regression)
    assert not is_classifier(regression)
    assert is_classifier(classification)
    assert not is_regressor(classification)
    assert hasattr(regression, "predict_interval")
    assert not hasattr(regression, "predict_proba")
    assert hasattr(classification, "predict_proba")
    assert not hasattr(classification, "predict_interval")
