"""All shapes of linear layers of low bits beside their peers, for the documentation.

One thread by CPU time, two threads by wall time, and the portable kernels beside float
layers, each in a process of its own; some ten minutes. `--quick` takes smaller layers
and writes nothing.
"""

# isort: off
import _timing  # noqa: F401 - first: it pins the threads

# isort: on
import argparse
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from bench_kernels import (
    AGAINST,
    COLD,
    GOALS,
    HOT,
    PORTABLE_GOALS,
    SIZES,
    every_shape,
    in_process,
    largest_cache,
    ratio,
)
from run import processor

TABLE = Path(__file__).resolve().parents[2] / "docs" / "kernels_table.rst"
LIBRARIES = ("numpy", "numba", "torch", "onnxruntime", "torchao")
NOTHING = "\N{EN DASH}"
PORTABLE_SHAPES = {(n, m, HOT) for n in SIZES for m in (1, 8, 64, 512)} | {
    (n, 1, COLD) for n in SIZES if n > 256
}
# The three parts: title, the text below it, shapes, threads, level, goals.
PARTS = (
    ("One thread", "CPU time.", every_shape(), 1, "", GOALS),
    (
        "Two threads",
        "Wall time; threads that wait do not spin.",
        every_shape(),
        2,
        "",
        {},
    ),
    (
        "Portable kernels, one thread",
        "With ``UQLIB_ISA=portable``, CPU time.",
        PORTABLE_SHAPES,
        1,
        "portable",
        PORTABLE_GOALS,
    ),
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, not written")
    quick = parser.parse_args().quick
    lines = [machine(), ""]
    for title, text, shapes, threads, level, goals in PARTS:
        found = in_process(shapes, quick, threads, level)
        lines += part(f"{title} ({found['isa']})", text, found, goals)
    written = "\n".join(lines)
    print(written, flush=True)
    if not quick:
        TABLE.write_text(written, encoding="utf-8")


def machine() -> str:
    """Processor and versions."""
    libraries = ", ".join(_versions())
    return (
        f"{processor()}, {os.cpu_count()} cores, {largest_cache() // 2**20} MB of last "
        f"cache; {platform.system()}, Python {platform.python_version()}, {libraries}. "
        "``vnni`` and ``portable`` are levels of instructions: of the three the tiles "
        "of ``amx``, on which goals for many rows rest, are the fastest."
    )


def _versions() -> Iterator[str]:
    for name in LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def part(title: str, text: str, found: Mapping, goals: Mapping) -> list[str]:
    """Return the lines of a heading and of one table for each of our layers."""
    lines = [f".. rubric:: {title}", "", text, ""]
    for name, reason in found["missing"].items():
        lines += [f"Left out: {name} ({reason}).", ""]
    for mine, peers in AGAINST.items():
        rows = [
            row_of(case, mine, peers, goals)
            for case in found["cases"]
            if mine in case["times"]
        ]
        # A peer that was measured nowhere has no column.
        kept = [k for k, _ in enumerate(peers) if any(row[4 + k] for row in rows)]
        header = ["Size", "Rows", "Regime", f"{mine}, \N{MICRO SIGN}s"]
        table = [[*header, *(peers[k] for k in kept)]]
        table += [[*row[:4], *(row[4 + k] or NOTHING for k in kept)] for row in rows]
        if rows:
            lines += list_table(table)
    return lines


def row_of(case: Mapping, mine: str, peers: tuple[str, ...], goals: Mapping):
    """Return the cells of a case."""
    n, m, regime, times = (case[key] for key in ("n", "m", "regime", "times"))
    targets = goals.get((mine, n, m, regime), {})
    cells = [
        cell(ratio(times, mine, peer), targets.get(peer)) if peer in times else ""
        for peer in peers
    ]
    micro = np.median(times[mine]) * 1e6
    return [
        f"{n:,}",
        f"{m:,}",
        regime,
        f"{micro:,.3g}" if micro < 100 else f"{micro:,.0f}",
        *cells,
    ]


def cell(ratios: list[float], goal: float | None) -> str:
    """Return the median with its tenths; losses and missed goals are bold."""
    median = np.median(ratios)
    lower, upper = np.percentile(ratios, (10, 90))
    figure = f"{median:.2f}" if median >= 1 else f"**{median:.2f}**"
    text = f"{figure} ({lower:.2f} to {upper:.2f})"
    if goal is None:
        return text
    return f"{text}; {goal:g} {'met' if median >= goal else '**missed**'}"


def list_table(rows: list[list[str]]) -> list[str]:
    """Return the lines of a list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'  -' if k else '* -'} {text}" for k, text in enumerate(row)]
    return [*lines, ""]


if __name__ == "__main__":
    main()
