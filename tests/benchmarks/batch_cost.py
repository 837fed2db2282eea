"""Draw what the parts of a batch's bound cost, over n and over m, for the docs."""

# isort: off
import _timing  # first: it pins the threads

# isort: on
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "_static" / "batch_cost.png"
SIZES = (100, 300, 1_000, 3_000, 10_000)
BATCHES = (2, 5, 10, 20, 50, 100)


def main() -> None:
    """Measure and draw."""
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, 2, figsize=(10, 3.8), sharey=True, layout="constrained"
    )
    for axis, label, values, pairs in (
        (axes[0], "n, at m = 20", SIZES, [(n, 20) for n in SIZES]),
        (axes[1], "m, at n = 1,000", BATCHES, [(1_000, m) for m in BATCHES]),
    ):
        curves = [costs(n, m) for n, m in pairs]
        for name in curves[0]:
            axis.loglog(values, [c[name] * 1e6 for c in curves], "o-", label=name)
        axis.set(xlabel=label, ylabel="CPU microseconds" if axis is axes[0] else "")
        axis.grid(alpha=0.3)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.savefig(FIGURE, dpi=120)


def costs(n: int, m: int) -> dict[str, float]:
    """CPU seconds of the parts, the laws computed anew."""
    from uqlib._core import rank_events
    from uqlib.batch import batch_band, batch_bound, order_statistic_rank, rank_sum_law

    scores = np.random.default_rng(0).normal(size=n)
    bounds = {"score_bounds": (-9.0, 9.0), "side": "upper"}

    def hull() -> object:
        return batch_bound(scores, m, "mean", method="hull", **bounds)

    def fresh() -> object:
        rank_events.linear_event.cache_clear()
        rank_events._linear_law.cache_clear()
        return hull()

    parts: dict[str, Callable[[], object]] = {
        "sort of the scores": lambda: np.sort(scores),
        "rank of an order statistic": lambda: order_statistic_rank(
            n, m, m // 2 + 1, 0.9, "upper"
        ),
        "mean, law cached": hull,
        "mean, core": lambda: batch_bound(scores, m, "mean", method="core", **bounds),
        "mean, law computed": fresh,
        "rank-sum law": lambda: rank_sum_law(n, m),
        "band": lambda: batch_band(n, m, 0.9),
    }
    return {name: best(part) for name, part in parts.items()}


def best(part: Callable[[], object], seconds: float = 0.2) -> float:
    """Return the least CPU time of a call, after one that is not timed."""
    part()
    once = max(_timing.cpu_seconds(part), 1e-6)
    inner = max(1, int(1e-3 / once))
    turns = max(3, min(30, int(seconds / (inner * once))))

    def block() -> None:
        for _ in range(inner):
            part()

    return min(_timing.cpu_seconds(block) for _ in range(turns)) / inner


if __name__ == "__main__":
    main()
