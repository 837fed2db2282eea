"""What `import uqlib` costs, relative to `import sklearn`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import sklearn
from _timing import Result

ROOT = Path(__file__).resolve().parents[2]


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the ratio of CPU times, each import in an interpreter of its own."""
    repeats = 7 if quick else 15
    import_seconds("uqlib"), import_seconds("sklearn")  # writes the bytecode
    ratios = tuple(
        import_seconds("uqlib") / import_seconds("sklearn") for _ in range(repeats)
    )
    yield Result(
        "import uqlib",
        "fresh interpreter, start-up excluded; public names load on first use",
        f"scikit-learn {sklearn.__version__}, import sklearn",
        ratios,
        1.05,
        at_most=True,
    )


def import_seconds(module: str) -> float:
    """CPU time of one import, measured inside the new interpreter."""
    code = (
        "import time; start = time.process_time(); "
        f"import {module}; print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)
