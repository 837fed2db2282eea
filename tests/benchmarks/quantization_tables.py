"""What quantization costs, beside figures of a prototype and on real data; for docs.

Four tables: networks on Friedman's first function and on digits with every rounding;
the loss of a single layer; four real data sets with a network, boosted trees and a
quantile network at 8 to 2 bits. Reference figures and thresholds were set beforehand
with an independent prototype in torch, whose networks and noise were others. Each table
is made by itself with `--tables`; all four take about three minutes of CPU time.
"""

# isort: off
import _timing  # noqa: F401 - first: it pins the threads

# isort: on
import argparse
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from _quantization_models import (
    digits,
    friedman,
    measure,
    real_case,
    real_rows,
)
from _quantization_reference import (
    DIGITS_LIMITS,
    DIGITS_REFERENCE,
    FLOAT_ACCURACY,
    FLOAT_RMSE,
    LAYER_REFERENCE,
    LAYER_SLACK,
    QUALITY_LIMITS,
    REFERENCE,
)

from tests._real_data import N_SPLITS, block_splits, coverage_band
from tests.quantized._rounding_problems import layer
from uqlib.quantized import QuantizationScheme, quantize
from uqlib.quantized._corrections import low_rank_correction
from uqlib.quantized._gptq import gptq_codes
from uqlib.quantized._hadamard import BlockHadamard
from uqlib.quantized._problem import LayerProblem
from uqlib.quantized._rounding import fitted_grid, round_layer

DOCS = Path(__file__).resolve().parents[2] / "docs"
SEEDS = range(5)
SETS = ("concrete", "energy", "kin8nm", "elevators")
LEVEL = 0.9
NOTHING = "\N{EN DASH}"
TWO_BITS = "GPTQ + CD, quantized target"  # looked at where it matters most
# Name, recipe and what is changed of it.
METHODS = {
    "RTN": ("rtn", {"clip": "mse"}),
    "GPTQ": ("gptq", {}),
    "QuantEase (CD)": ("quantease", {}),
    "CD, 1 % outliers": ("quantease-outlier", {}),
    "GPTQ, fp target": ("gptaq", {}),
    "GPTQ + CD (default)": ("gptq+cd", {}),
    TWO_BITS: ("gptq+cd", {"target": "quantized"}),
    "FlexRound": ("flexround", {}),
    "DiscQuant": ("discquant", {}),
    "Hadamard, GPTQ + CD": ("hadamard", {}),
}
ALL_ROWS = ", all rows"  # of training
MODELS = {
    "network": ("float", "w8", "w4", f"w4{ALL_ROWS}", "w3", "w2", f"w2{ALL_ROWS}"),
    "boosting": ("float", "auto", "int16", "int8"),
    "quantile network": ("float", "w8", "w4", "w3", "w2"),
}


def scheme_of(method, bits):
    """Return the scheme of a method; all layers get the bits."""
    recipe, changes = METHODS[method]
    return QuantizationScheme.recipe(recipe, bits, **changes)


def run_methods(make_case, all_bits, confidence_level, methods=tuple(METHODS)):
    """Return {(method, bits): [figures of each seed]}."""
    found = {}
    for seed in SEEDS:
        case = make_case(seed)
        for bits in all_bits:
            for method in methods:
                if method == TWO_BITS and bits > 2:
                    continue
                quantized = quantize(
                    case.model,
                    scheme_of(method, bits),
                    case.X_quantization,
                    last_layer_bits=None,
                    random_state=seed,
                )
                figures = measure(case, quantized, confidence_level)
                found.setdefault((method, bits), []).append(figures)
    return found


def quality():
    """Yield the rows of the table of networks on Friedman's function."""
    yield [
        *("Method", "Bits", "RMSE", "Width ratio", "Stale coverage"),
        *("Recalibrated", "Removed", "Reference", "Asked for"),
    ]
    yield from _quality_rows(run_methods(friedman, (4, 3, 2), LEVEL), "")
    decayed = partial(friedman, weight_decay=0.1)
    found = run_methods(decayed, (3,), LEVEL, ("RTN", "GPTQ", "GPTQ, fp target"))
    yield from _quality_rows(found, ", weight decay")


def _quality_rows(found, suffix):
    parts = next(iter(found.values()))
    error = _mean(parts, "float_error")
    reference = f"{FLOAT_RMSE:.3f}"
    yield [f"float{suffix}", "32", error, "1", *[NOTHING] * 3, reference, ""]
    for (method, bits), parts in found.items():
        removed, error = _removed(parts, found["RTN", bits])
        values = {
            "removed": removed,
            "width ratio": np.mean([part["width_ratio"] for part in parts]),
        }
        yield [
            method + suffix,
            str(bits),
            _mean(parts, "error"),
            _mean(parts, "width_ratio"),
            _mean(parts, "stale"),
            _mean(parts, "coverage"),
            NOTHING if method == "RTN" else f"{removed:.0%} ({error:.0%})",
            _quality_reference(method, bits),
            _verdict(QUALITY_LIMITS.get((method, bits)), values),
        ]


def _removed(parts, nearest):
    """Share of the excess RMSE of rounding to nearest removed, and its jackknife."""
    excess = np.array([part["error"] - part["float_error"] for part in parts])
    whole = np.array([part["error"] - part["float_error"] for part in nearest])
    n = len(parts)
    left_out = [
        1 - np.delete(excess, k).mean() / np.delete(whole, k).mean() for k in range(n)
    ]
    return 1 - excess.mean() / whole.mean(), np.std(left_out) * np.sqrt(n - 1)


def _quality_reference(method, bits):
    if method not in REFERENCE:
        return NOTHING
    rmse, width, stale, removed = REFERENCE[method][bits]
    share = "" if removed is None else f" / {removed:.0%}"
    return f"{rmse:.3f} / {width:.3f} / {stale:.3f}{share}"


def digits_rows():
    """Yield the rows of the table of networks on digits."""
    yield [
        *("Method", "Bits", "Accuracy", "Set size ratio", "Stale coverage"),
        *("Recalibrated", "Reference", "Asked for"),
    ]
    found = run_methods(digits, (3, 2), 0.95)
    for parts in found.values():
        for part in parts:
            part |= {"accuracy": 1 - part["error"], "float": 1 - part["float_error"]}
    first = found["RTN", 3]
    accuracy, reference = _mean(first, "float"), f"{FLOAT_ACCURACY:.3f}"
    yield ["float", "32", accuracy, "1", *[NOTHING] * 2, reference, ""]
    for (method, bits), parts in found.items():
        reference = DIGITS_REFERENCE.get(method) if bits == 2 else None
        shown = "{:.3f} / {:.3f} / {:.3f}".format(*reference) if reference else NOTHING
        values = {"accuracy": np.mean([part["accuracy"] for part in parts])}
        yield [
            method,
            str(bits),
            *(
                _mean(parts, k)
                for k in ("accuracy", "width_ratio", "stale", "coverage")
            ),
            shown,
            _verdict(DIGITS_LIMITS.get((method, bits)), values),
        ]


def layers():
    """Yield the rows of the table of single layers."""
    columns = [f"{bits} bits, {law}" for bits in (4, 3, 2) for law in ("normal", "t4")]
    yield ["Method", *columns]
    ratios = {name: {} for name in LAYER_REFERENCE}
    for seed in SEEDS:
        for bits in (4, 3, 2):
            for heavy in (False, True):
                problem = layer(seed, n_out=128, n_in=128, n_rows=512, heavy=heavy)
                nearest = _layer_loss(problem, "rtn", bits, clip="minmax")
                for name, loss in _layer_losses(problem, bits).items():
                    cell = ratios[name].setdefault((bits, heavy), [])
                    cell.append(loss / nearest)
    for name, cells in ratios.items():
        yield [name, *(_layer_cell(name, *key, v) for key, v in cells.items())]


def _layer_losses(problem, bits):
    scheme = QuantizationScheme.recipe("rtn", bits, clip="mse")
    grid = fitted_grid(problem, problem.weight, scheme)
    in_order = grid.decode(gptq_codes(problem, grid, act_order=False))
    nearest = grid.nearest(problem.weight)
    left, right = low_rank_correction(problem.weight - nearest, problem.gram, 8)
    turn = BlockHadamard.fit(problem.weight, None, 0)
    rotated = LayerProblem(turn.weight(problem.weight), turn.gram(problem.gram), 512)
    return {
        "RTN, MSE scales": problem.loss(nearest),
        "GPTQ, columns in order": problem.loss(in_order),
        "GPTQ": _layer_loss(problem, "gptq", bits),
        "QuantEase (CD)": _layer_loss(problem, "quantease", bits),
        "GPTQ + CD": _layer_loss(problem, "gptq+cd", bits),
        "CD, 1 % outliers": _layer_loss(problem, "quantease-outlier", bits),
        "RTN, low rank 8": problem.loss(nearest + left.astype(float) @ right),
        "EasyQuant": _layer_loss(problem, "easyquant", bits),
        "Hadamard, RTN": _layer_loss(rotated, "rtn", bits, clip="mse"),
        "NUPES": _layer_loss(problem, "nupes", bits),
    }


def _layer_loss(problem, recipe, bits, **changes):
    scheme = QuantizationScheme.recipe(recipe, bits, **changes)
    return problem.loss(round_layer(problem, problem.weight, scheme, None).weight())


def _layer_cell(name, bits, heavy, values):
    reference = LAYER_REFERENCE[name][bits][heavy]
    missed = " **missed**" if np.mean(values) > LAYER_SLACK * reference else ""
    return f"{np.mean(values):.3f} ({_error(values):.3f}); {reference:.3f}{missed}"


def data():
    """Yield the rows of the table of real data."""
    yield [
        *("Data", "Model", "Scheme", "Error", "Width", "Coverage"),
        *("Stale coverage", "Bits", "Compression"),
    ]
    for name in SETS:
        rows = real_rows(name)
        if rows is not None:
            for kind, schemes in MODELS.items():
                yield from _data_rows(name, kind, schemes, *rows)


def _data_rows(name, kind, schemes, X, y):
    lower, _ = coverage_band(block_splits(len(y)), LEVEL)
    found = {scheme: [] for scheme in schemes}
    for seed in range(N_SPLITS):
        case = real_case(kind, X, y, seed)
        for scheme in schemes:
            quantized = _quantized(case, scheme, seed)
            found[scheme].append(measure(case, quantized, LEVEL))
    for scheme, parts in found.items():
        n_test = np.array([part["n_test"] for part in parts])
        coverage, n_covered = _pooled(parts, "coverage", n_test)
        if n_covered < lower:  # ties can only add to the exact law
            raise AssertionError(f"{name}, {kind}, {scheme}: {n_covered} < {lower}")
        bits = [part["bits"] for part in parts]
        if scheme == "float":  # trees in float are more than 32 bits a parameter
            bits = [part["bits"] * part["compression"] for part in found[schemes[1]]]
        yield [
            f"{name}, {len(y)} rows",
            kind,
            scheme,
            _mean(parts, "error", 4),
            _mean(parts, "width"),
            coverage,
            NOTHING if scheme == "float" else _pooled(parts, "stale", n_test)[0],
            f"{np.mean(bits):.1f}",
            f"{np.mean([part['compression'] for part in parts]):.1f}",
        ]


def _quantized(case, scheme, seed):
    """Return the model at the bits of a row of the table."""
    if scheme == "float":
        return case.model
    X = case.X_train if scheme.endswith(ALL_ROWS) else case.X_quantization
    given = scheme.removesuffix(ALL_ROWS)
    if given.startswith("int"):  # of leaves
        given = QuantizationScheme(weights=given)
    return quantize(case.model, given, X, strict=True, random_state=seed)


def _pooled(parts, key, n_test):
    covered = int(sum(np.rint(n_test * [part[key] for part in parts])))
    share = covered / n_test.sum()
    return f"{share:.3f} ({np.sqrt(share * (1 - share) / n_test.sum()):.3f})", covered


def _error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


def _mean(parts, key, digits=3):
    values = [part[key] for part in parts]
    return f"{np.mean(values):.{digits}f} ({_error(values):.{digits}f})"


def _verdict(limit, values):
    if limit is None:
        return ""
    key, sign, bound = limit
    words = f"{key} {'at least' if sign > 0 else 'at most'} {bound:g}"
    is_met = sign * (values[key] - bound) >= 0
    return words + (": met" if is_met else ": **missed**")


def write(name, rows, docs):
    """Print a table and write it as a list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        print("  |  ".join(row), flush=True)
        for k, cell in enumerate(row):
            lines.append(f"   {'  -' if k else '* -'} {cell}".rstrip())
    path = docs / f"quantization_{name}_table.rst"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


TABLES = {"quality": quality, "digits": digits_rows, "layer": layers, "data": data}


def main():
    """Measure the tables named, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    for name in options.tables.split(","):
        start = time.process_time()
        write(name, TABLES[name](), options.docs)
        print(f"# {name}: {time.process_time() - start:.0f} s of CPU time", flush=True)


if __name__ == "__main__":
    main()
