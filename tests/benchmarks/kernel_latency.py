"""What the kernels cost before they compute: imports, compilation, a call.

Run `python tests/benchmarks/kernel_latency.py`; it prints two tables. Every figure is
of a process of its own, the median of several; the cache of machine code is a folder
that is empty at first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIZE = 256
OPERATIONS = {
    "linear_w8a8": "pack_w8",
    "linear_w4a8": "pack_w4",
    "linear_w2a8": "pack_w2",
    "linear_w1": "pack_w1",
    "linear_w4a32": "pack_w4",
    "linear_dequantized": "pack_w4",
}
UNWANTED = ("numba", "llvmlite", "torch", "uqlib_kernels")

CALL = """
import json, sys, time
import numpy as np
from uqlib_kernels import ops, pack

operation, pack_weight = getattr(ops, sys.argv[1]), getattr(pack, sys.argv[2])
size, n_rows = int(sys.argv[3]), int(sys.argv[4])
rng = np.random.default_rng(0)
weight = pack_weight(rng.normal(size=(size, size)), 128)
x = rng.normal(size=(n_rows, size)).astype(np.float32)
start = time.perf_counter()
operation(x, weight)
first = time.perf_counter() - start
turns = []
for _ in range(2000):
    start = time.thread_time()
    operation(x, weight)
    turns.append(time.thread_time() - start)
print(json.dumps({"first": first, "next": sorted(turns)[len(turns) // 2]}))
"""
IMPORT = """
import json, sys, time
start = time.process_time()
exec(sys.argv[1])
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted(sys.modules)}))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="processes a figure")
    repeats = parser.parse_args(arguments).repeats
    print_table(
        ("Statement", "CPU time", "Loads " + ", ".join(UNWANTED)),
        (import_cells(statement, repeats) for statement in statements()),
    )
    print()
    head = ("Operation", "First call ever", "First call of a process", "Next calls")
    print_table(head, (call_cells(name, repeats) for name in OPERATIONS))
    print(
        f"\nA weight of {SIZE} x {SIZE} in groups of 128, one row. First calls in wall "
        "time: with an empty cache of machine code, then with what that call left."
    )


def statements() -> list[str]:
    return [
        "import numpy",
        "import numba",
        "import sklearn",
        "import uqlib",
        "import uqlib; [getattr(uqlib, name) for name in uqlib.__all__]",
        "import uqlib_kernels",
        "import uqlib_kernels.ops",
    ]


def import_cells(statement: str, repeats: int) -> tuple[str, ...]:
    """Return the line of one statement; fail if `import uqlib` loads too much."""
    inside(IMPORT, statement)  # writes the bytecode
    found = [inside(IMPORT, statement) for _ in range(repeats)]
    loaded = [name for name in UNWANTED if name in found[0]["modules"]]
    if statement.startswith("import uqlib") and "uqlib_kernels" not in statement:
        assert not loaded, f"{statement!r} loads {loaded}"
    milliseconds = 1000 * statistics.median(run["seconds"] for run in found)
    return f"``{statement}``", f"{milliseconds:.0f} ms", ", ".join(loaded) or "none"


def call_cells(operation: str, repeats: int) -> tuple[str, ...]:
    """Return the line of one operation."""
    arguments = (operation, OPERATIONS[operation], str(SIZE), "1")
    ever, again = [], []
    for _ in range(max(1, repeats // 2)):
        with tempfile.TemporaryDirectory() as folder:
            ever.append(inside(CALL, *arguments, cache=folder))
            again += [inside(CALL, *arguments, cache=folder) for _ in range(2)]
    return (
        f"``{operation}``",
        f"{1000 * statistics.median(run['first'] for run in ever):,.0f} ms",
        f"{1000 * statistics.median(run['first'] for run in again):,.1f} ms",
        f"{1e6 * statistics.median(run['next'] for run in again):,.1f} µs",
    )


def inside(script: str, *arguments: str, cache: str | None = None) -> Any:
    """Run a script in a process of its own; return what it prints."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))),
        "OMP_NUM_THREADS": "1",
    }
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def print_table(head: Sequence[str], rows: Iterable[Any]) -> None:
    print(".. list-table::\n   :header-rows: 1\n")
    for row in chain([head], rows):
        for column, cell in enumerate(row):
            print(f"   {'* -' if column == 0 else '  -'} {cell}", flush=True)


if __name__ == "__main__":
    main()
