"""Tables of the figures that `quantile_systems.py` measured."""

import json
from pathlib import Path

import numpy as np
from scipy.stats import gmean

MODELS = ("linear", "lightgbm", "forest", "extra-trees", "network", "Gaussian network")
FORMS = (
    "average",
    "median",
    "QRA (coarse)",
    "flexible QRA",
    "medium",
    "fine",
    "local coarse",
    "local medium",
    "local fine",
    "auto",
)
# Largest relative losses that were asked for.
LOCAL_FINE = {"energy": 0.92, "concrete": 0.94, "kin8nm": 0.90, "power_plant": 0.985}
AUTO, AUTO_MEAN, INFLATION = 1.03, 0.96, 1.75
PEERS = ("XGBoost", "LightGBM", "quantile-forest", "HistGradientBoosting")


def write_tables(results: Path, docs: Path, band, splits) -> None:
    """Write the four tables of all sets that were measured, and print them."""
    figures = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
    }
    _write(docs / "aggregation_table.rst", losses(figures))
    _write(docs / "aggregation_time_table.rst", seconds(figures))
    _write(docs / "aggregation_coverage_table.rst", coverage(figures, band, splits))
    _write(docs / "crossing_table.rst", crossing(figures))


def losses(figures):
    """Yield losses relative to the best single model, on the rows held out."""
    yield ["", *figures, "geometric mean"]
    best = {name: best_model(figure) for name, figure in figures.items()}
    yield ["best model", *best.values(), ""]
    selected = {}
    for form in [*FORMS, *(f"{form}, fold means" for form in FORMS)]:
        ratios, cells = [], []
        for name, figure in figures.items():
            parts = figure["splits"]
            ours = np.array([part["loss"][form] for part in parts])
            base = np.array([part["loss"][best[name]] for part in parts])
            ratio = ours.mean() / base.mean()
            error = (ours / base).std(ddof=1) / np.sqrt(len(parts))
            ratios.append(ratio)
            cells.append(f"{ratio:.3f} ({error:.3f}){_missed(form, name, ratio)}")
        mean = gmean(ratios)
        bold = form == "auto" and mean > AUTO_MEAN
        yield [form, *cells, f"{mean:.3f}" + (" **missed**" if bold else "")]
    for name, figure in figures.items():
        choices = [part["selected"] for part in figure["splits"]]
        selected[name] = ", ".join(
            f"{choice} {choices.count(choice)}" for choice in sorted(set(choices))
        )
    yield ["chosen by auto", *selected.values(), ""]


def best_model(figure) -> str:
    """Return the model with the least loss on the rows held out: an oracle."""
    means = {
        model: np.mean([part["loss"][model] for part in figure["splits"]])
        for model in MODELS
    }
    return min(means, key=means.__getitem__)


def _missed(form: str, name: str, ratio: float) -> str:
    bound = LOCAL_FINE.get(name, np.inf) if form == "local fine" else np.inf
    bound = AUTO if form == "auto" else bound
    return " **missed**" if ratio > bound else ""


def seconds(figures):
    """Yield mean CPU seconds of a fit."""
    yield ["", *figures]
    rows = ("folds and tuning", *MODELS, *FORMS[2:7], "auto")
    for form in rows:
        means = [
            np.mean([part["seconds"][form] for part in figure["splits"]])
            for figure in figures.values()
        ]
        yield [form, *(f"{mean:.2g}" for mean in means)]


def coverage(figures, band, splits):
    """Yield coverage of central 80 % intervals, raw and calibrated."""
    yield [
        "Data", "raw", "split conformal", "covered, band", "width, of raw",
        "crossing rows", "CV+, other models",
    ]  # fmt: skip
    for name, figure in figures.items():
        blocks = splits(figure["n_rows"])
        n_test = sum(len(split.test) for split in blocks)
        lower, upper = band(blocks, 0.8)
        parts = [part["coverage"] for part in figure["splits"]]
        for part, split in zip(parts, figure["splits"], strict=True):
            part["CV+"] = split["CV+"]
        kinds = ("raw", "split", "CV+")
        covered = {kind: sum(part[kind][0] for part in parts) for kind in kinds}
        width = {kind: np.mean([part[kind][1] for part in parts]) for kind in kinds}
        outside = "" if covered["split"] <= upper else " **above**"
        outside = outside if lower <= covered["split"] else " **below**"
        inflation = width["split"] / width["raw"]
        repaired = np.mean([part["crossing"] for part in parts])
        yield [
            name,
            _share(covered["raw"], n_test),
            _share(covered["split"], n_test),
            f"{covered['split']}, [{lower}, {upper}]{outside}",
            f"{inflation:.2f}" + ("" if inflation <= INFLATION else " **missed**"),
            f"{repaired:.3f}",
            _share(covered["CV+"], n_test),
        ]


def _share(covered: int, n_test: int) -> str:
    share = covered / n_test
    return f"{share:.3f} ({np.sqrt(share * (1 - share) / n_test):.3f})"


def crossing(figures):
    """Yield crossing rows and losses of many levels as other packages give them."""
    yield ["Data", "", *PEERS]
    for name, figure in figures.items():
        parts = [part["peers"] for part in figure["splits"]]
        rows = ("crossing rows", "pinball loss", "pinball loss, sorted")
        for k, row in enumerate(rows):
            means = [np.mean([part[peer][k] for part in parts]) for peer in PEERS]
            pattern = "{:.3f}" if k == 0 else "{:.4g}"
            yield [name, row, *(pattern.format(mean) for mean in means)]


def _write(path: Path, rows) -> None:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        print("  |  ".join(row), flush=True)
        lines += [f"   {'* -' if k == 0 else '  -'} {c}" for k, c in enumerate(row)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print()
