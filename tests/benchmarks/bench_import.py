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
    every_name = "import uqlib; [getattr(uqlib, name) for name in uqlib.__all__]"
    model_selection = "import sklearn.model_selection"
    for case, ours, peer, target in (
        ("import uqlib, nothing used yet", "import uqlib", "import sklearn", 1.05),
        ("import uqlib, every public name used", every_name, model_selection, 1.25),
    ):
        seconds(ours), seconds(peer)  # writes the bytecode
        yield Result(
            case,
            "fresh interpreter, start-up excluded",
            f"scikit-learn {sklearn.__version__}, {peer}",
            tuple(seconds(ours) / seconds(peer) for _ in range(repeats)),
            target,
            at_most=True,
        )


def seconds(statement: str) -> float:
    """CPU time of one statement, measured inside the new interpreter."""
    code = (
        "import time; start = time.process_time(); "
        f"{statement}; print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)
