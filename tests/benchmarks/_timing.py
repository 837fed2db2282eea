"""Ratios of CPU time, interleaved in one process; imported before NumPy is.

Machines drift: two timings taken a minute apart compare two states of the machine.
Here ours and the peer take turns, each turn gives one ratio, and the median ratio is
reported with the smallest and the largest.
"""

# ruff: noqa: E402 - the environment must be set before anything else is imported
import os

# Read when the libraries load their thread pools, hence before any other import.
for _name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
):
    os.environ[_name] = "1"

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One line of the table: several ratios, and the bound their median must keep."""

    case: str
    regime: str
    peer: str
    ratios: tuple[float, ...]
    target: float
    at_most: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        if self.at_most:
            return self.median <= self.target
        return self.median >= self.target

    def cells(self) -> list[str]:
        """Return the texts of the table's columns."""
        bound = "at most" if self.at_most else "at least"
        return [
            self.case,
            self.regime,
            self.peer,
            _figure(self.median),
            f"{_figure(min(self.ratios))} to {_figure(max(self.ratios))}",
            f"{bound} {_figure(self.target)}",
            "met" if self.met else "**missed**",
        ]


def cpu_seconds(function: Callable[[], object]) -> float:
    """CPU time of one call: user and system, page faults included."""
    start = time.process_time()
    function()
    return time.process_time() - start


def speedups(
    ours: Callable[[], object],
    peer: Callable[[], object],
    repeats: int,
    scale: float = 1.0,
) -> tuple[float, ...]:
    """Time of the peer over ours, once a turn, after one untimed call of each.

    `scale` is the number of times that the peer's call would have to be repeated to
    do the same work (a peer timed on a part of the rows).
    """
    ours()
    peer()
    return tuple(scale * cpu_seconds(peer) / cpu_seconds(ours) for _ in range(repeats))


def _figure(value: float) -> str:
    # Three figures, thousands separated, no exponent.
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
