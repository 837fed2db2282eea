"""Run all benchmarks, print the tables and write them for the documentation.

Run `make bench`, or `python tests/benchmarks/run.py --quick` for smaller sizes, which
prints the table of ratios and leaves the documentation alone.
"""

# isort: off
import _timing  # first: it pins the threads

# isort: on
import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
TABLE = ROOT / "docs" / "benchmarks_table.rst"
LATENCY = ROOT / "docs" / "kernels_latency_table.rst"
HEADER = ["Case", "Regime", "Peer", "Ratio", "Spread", "Target", "Result"]
LIBRARIES = ["numpy", "scipy", "scikit-learn", "numba"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, not written")
    parser.add_argument("--add", help="one module, as bench_spa: its rows alone")
    parsed = parser.parse_args(arguments)
    quick = parsed.quick
    # A bare checkout is enough, as for the tests.
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    import bench_aggregation
    import bench_batch
    import bench_conformal
    import bench_import
    import bench_kernels
    import bench_linear
    import bench_mlp
    import bench_rows
    import bench_spa
    import bench_trees

    if parsed.add:
        add_rows(import_module(parsed.add))
        return
    print(machine(), flush=True)
    results = []
    modules = (
        bench_rows,
        bench_linear,
        bench_aggregation,
        bench_batch,
        bench_conformal,
        bench_spa,
        bench_trees,
        bench_mlp,
        bench_kernels,
        bench_import,
    )
    for module in modules:
        for result in module.run(quick):
            results.append(result)
            print("  ".join(result.cells()), flush=True)
    if quick:
        return
    TABLE.write_text(as_rst(results), encoding="utf-8")
    import batch_cost
    import peers
    import real_data

    batch_cost.main()
    peers.main()
    real_data.main()
    for script in ("kernel_tables", "roofline"):
        subprocess.run([sys.executable, f"{FOLDER}/{script}.py"], check=True)
    command = [sys.executable, f"{FOLDER}/kernel_latency.py"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    LATENCY.write_text(printed.stdout, encoding="utf-8")


def add_rows(module) -> None:
    """Measure one module and put its rows in the place of theirs in the table."""
    head, *rows = TABLE.read_text(encoding="utf-8").split("   * - ")
    found = [result.cells() for result in module.run(False)]
    names = {(cells[0], cells[1]) for cells in found}
    kept = [row for row in rows if tuple(row.split("\n     - ")[:2]) not in names]
    new = ["\n     - ".join(cells) + "\n" for cells in found]
    TABLE.write_text("   * - ".join([head, *kept, *new]), encoding="utf-8")
    print("\n".join("  ".join(cells) for cells in found))


def as_rst(results: Sequence[_timing.Result]) -> str:
    """Return the machine's line and a list-table."""
    lines = [machine(), "", ".. list-table::", "   :header-rows: 1", ""]
    for cells in [HEADER, *(result.cells() for result in results)]:
        lines += [
            f"   {'* -' if column == 0 else '  -'} {cell}"
            for column, cell in enumerate(cells)
        ]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores and versions."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{processor()}, {os.cpu_count()} cores, one thread used; {platform.system()}, "
        f"Python {platform.python_version()}, {libraries}."
    )


def processor() -> str:
    """Name of the processor as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
