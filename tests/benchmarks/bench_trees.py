"""Exact trees on small integers beside the libraries and the compilers of trees.

A whole prediction is timed: `predict` of the quantized estimator on a plain array of
floats, its checks included, beside the same of each peer. Predictions are compared
before: scikit-learn's and LightGBM's must be equal, those of peers that compute in
single precision close. A peer that is not installed, or does not take the model, is
left out. One thread. A turn of few rows goes through a thousand, in batches; both sides
find their model and the rows in the cache where they fit.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import sklearn
from _timing import Result, speedups
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from uqlib.quantized import quantize
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._tree_kernels import compiled_trees

N_FEATURES = 20
SKLEARN = f"scikit-learn {sklearn.__version__}"
Predict = Callable[[np.ndarray], np.ndarray]


class Peer(NamedTuple):
    """What is timed beside ours, and how close its predictions are."""

    name: str
    predict: Predict
    dtype: type = np.float64
    tolerance: float = 0.0  # of the spread of the predictions; 0 for the same bits


# Targets by peer and by the number of rows from which on they hold.
BOOSTING = {
    "hist": {1: 1.0, 64: 80.0, 10_000: 25.0},
    "booster": {1: 6.0, 64: 30.0, 10_000: 35.0},
    "wrapper": {1: 6.0, 64: 30.0, 10_000: 35.0},
    "onnxruntime": {1: 1.8, 64: 16.0, 10_000: 18.0},
    "tl2cgen": {1: 1.0, 64: 10.0, 10_000: 13.0},
}
FOREST = {
    "forest": {1: 1.0, 10_000: 8.0},
    "onnxruntime": {1: 0.8, 10_000: 8.0},
}
PORTABLE = {"hist": {10_000: 2.2}, "forest": {10_000: 2.0}}


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases."""
    sizes, repeats = ((1, 64, 2_000), 3) if quick else ((1, 64, 10_000, 100_000), 31)
    n_trees = 40 if quick else 200
    X, y = table(4_000 if quick else 20_000)
    rows = table(sizes[-1], seed=1)[0]
    cases = (hist_case, lightgbm_case, forest_case)
    for case in cases:
        name, model, peers, targets = case(X, y, n_trees)
        yield from compared(name, model, peers, targets, rows, sizes, repeats)
    for case, key in ((hist_case, "hist"), (forest_case, "forest")):
        name, model, peers, _ = case(X, y, n_trees)
        own = {key: peers[key]}
        yield from portable(name, model, own, PORTABLE, rows, sizes[2:], repeats)


def table(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return normal features and a smooth target with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, N_FEATURES))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + X[:, 2] * X[:, 3] + rng.normal(size=n)
    return X, y


# ---------------------------------------------------------------------------
# Models and their peers


def hist_case(X, y, n_trees: int):
    """Return boosted trees of scikit-learn."""
    model = HistGradientBoostingRegressor(
        max_iter=n_trees, early_stopping=False, random_state=0
    ).fit(X, y)
    peers = {
        "hist": Peer(f"{SKLEARN}, ``predict``", model.predict),
        "onnxruntime": onnx_peer(model, sklearn_onnx),
    }
    name = f"HistGradientBoosting, {n_trees} trees of 31 leaves"
    return name, model, peers, BOOSTING


def lightgbm_case(X, y, n_trees: int):
    """Return boosted trees of LightGBM; None for a model that cannot be had."""
    lightgbm = installed("lightgbm")
    name = f"LightGBM, {n_trees} trees of 31 leaves"
    if lightgbm is None:
        return name, None, {}, BOOSTING
    model = lightgbm.LGBMRegressor(n_estimators=n_trees, n_jobs=1, verbose=-1)
    model.fit(X, y)
    version = f"LightGBM {lightgbm.__version__}"
    booster = partial(model.booster_.predict, num_threads=1)
    peers = {
        "booster": Peer(f"{version}, ``Booster.predict``", booster),
        "wrapper": Peer(f"{version}, ``predict`` of the estimator", model.predict),
        "onnxruntime": onnx_peer(model, lightgbm_onnx),
        "tl2cgen": tl2cgen_peer(model),
    }
    return name, model, peers, BOOSTING


def forest_case(X, y, n_trees: int):
    """Return a deep forest of scikit-learn."""
    n_trees //= 2
    model = RandomForestRegressor(n_trees, max_depth=12, n_jobs=1, random_state=0).fit(
        X[:10_000], y[:10_000]
    )
    peers = {
        "forest": Peer(f"{SKLEARN}, ``predict``", model.predict),
        "onnxruntime": onnx_peer(model, sklearn_onnx),
    }
    return f"RandomForest, {n_trees} trees of depth 12", model, peers, FOREST


def installed(name: str) -> ModuleType | None:
    """Return a module, None if it is not there or cannot be loaded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ImportError:
        return None


def sklearn_onnx(model) -> Any:
    """Convert a model of scikit-learn."""
    types = import_module("skl2onnx.common.data_types")
    inputs = [("X", types.FloatTensorType([None, N_FEATURES]))]
    return import_module("skl2onnx").to_onnx(model, initial_types=inputs)


def lightgbm_onnx(model) -> Any:
    """Convert a model of LightGBM."""
    types = import_module("onnxmltools.convert.common.data_types")
    inputs = [("X", types.FloatTensorType([None, N_FEATURES]))]
    convert = import_module("onnxmltools").convert_lightgbm
    return convert(model, initial_types=inputs, zipmap=False)


def onnx_peer(model, convert: Callable[[Any], Any]) -> Peer | None:
    """Return the model in onnxruntime; None where it cannot be converted."""
    runtime = installed("onnxruntime")
    if runtime is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = convert(model).SerializeToString()
    except Exception as error:  # converters raise anything
        print(f"no onnxruntime: {type(error).__name__}: {error}"[:160], flush=True)
        return None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    session = runtime.InferenceSession(content, options, providers=providers)
    entry = session.get_inputs()[0].name

    def predict(rows):
        return session.run(None, {entry: rows})[0].reshape(-1)

    version = f"onnxruntime {runtime.__version__}, single precision"
    return Peer(version, predict, np.float32, 1e-4)


def tl2cgen_peer(model) -> Peer | None:
    """Return LightGBM's trees as C code, compiled once."""
    tl2cgen, treelite = installed("tl2cgen"), installed("treelite")
    if tl2cgen is None or treelite is None:
        return None
    trees = treelite.frontend.from_lightgbm(model.booster_)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "trees.so")
        tl2cgen.export_lib(trees, toolchain="gcc", libpath=path, params={})
        compiled = tl2cgen.Predictor(path, nthread=1)  # stays loaded

    def predict(rows):
        return compiled.predict(tl2cgen.DMatrix(rows)).reshape(-1)

    return Peer(f"tl2cgen {tl2cgen.__version__}, gcc", predict, np.float64, 1e-10)


# ---------------------------------------------------------------------------
# Ratios


def compared(
    name: str,
    model,
    peers: dict[str, Peer | None],
    targets: dict[str, dict[int, float]],
    rows: np.ndarray,
    sizes: tuple[int, ...],
    repeats: int,
) -> Iterator[Result]:
    """Yield the ratios to all peers at all numbers of rows."""
    if model is None:
        return
    quantized = quantize(model, "auto", rows[:100])
    compiled = compiled_trees(extract_trees(model), "numba")
    for peer, size in ((p, n) for p in peers for n in sizes):
        if peers[peer] is not None:
            ratios = turns(quantized.predict, peers[peer], rows, size, repeats)
            op = compiled.kernel(size)
            regime = f"{size:,} rows, {N_FEATURES} features, {op}"
            target = bound(targets[peer], size)
            yield Result(name, regime, peers[peer].name, ratios, target)


def portable(
    name: str,
    model,
    peers: dict[str, Peer],
    targets: dict[str, dict[int, float]],
    rows: np.ndarray,
    sizes: tuple[int, ...],
    repeats: int,
) -> Iterator[Result]:
    """Yield the ratios of the kernel for machines without wide vectors."""
    found = extract_trees(model)
    compiled = compiled_trees(found, "numba", level="portable")

    def predict(some):
        return compiled.raw(found.inputs.read(some))[:, 0]

    for size in sizes:
        for key, peer in peers.items():
            ratios = turns(predict, peer, rows, size, repeats)
            regime = f"{size:,} rows, {N_FEATURES} features, trees: portable"
            yield Result(name, regime, peer.name, ratios, bound(targets[key], size))


def bound(targets: dict[int, float], size: int) -> float:
    """Return the target at a number of rows."""
    return targets[max((n for n in targets if n <= size), default=min(targets))]


def turns(
    ours: Predict, peer: Peer, rows: np.ndarray, size: int, repeats: int
) -> tuple[float, ...]:
    """Compare the predictions, then time both for some milliseconds a turn.

    Small batches are many, with rows of their own: a processor foresees the branches of
    a walk down the trees that it was led through just before.
    """
    count = max(1, min(1_000, len(rows)) // size)
    batches = [rows[size * k : size * (k + 1)] for k in range(count)]
    theirs = [np.ascontiguousarray(batch, dtype=peer.dtype) for batch in batches]
    for batch, same in zip(batches, theirs, strict=True):
        own, other = ours(batch), peer.predict(same)
        if not peer.tolerance:
            np.testing.assert_array_equal(own, other)
    if peer.tolerance and size > 1:
        # Rows beside a threshold may take another branch in single precision.
        far = np.abs(own - other) > peer.tolerance * float(np.std(own))
        assert far.mean() < 1e-2, far.mean()
    return speedups(
        lambda: [ours(batch) for batch in batches],
        lambda: [peer.predict(batch) for batch in theirs],
        repeats,
    )
