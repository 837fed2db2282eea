"""Times cases one after the other, in a process that may break.

Every line that is written is JSON: {"begin": case} before a case, {"doing": layer} as
often as it turns to a layer, the records of the case, and {"end": case}. Whoever reads
them knows what was measured, and what it broke on.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BROKEN = (
    3  # the exit status after an error of the device, which only a new process heals
)


def case_names(quick: bool, dry: bool) -> list[str]:
    """Return the cases, the most important first."""
    from _gpu_linear import DRY_ROWS, DRY_SHAPES, QUICK_ROWS, ROWS, SHAPES

    shapes = DRY_SHAPES if dry else SHAPES[: 2 if quick else None]
    sizes = DRY_ROWS if dry else QUICK_ROWS if quick else ROWS
    linear = [f"linear {n} {k} {rows}" for rows in sizes for n, k in shapes]
    of_goals = 5 * len(shapes)
    others = ["rows", "sets", "model"]
    return ["ceilings", *linear[:of_goals], *others, *linear[of_goals:]]


class Cases:
    """The cases by their names."""

    def __init__(
        self,
        device: str,
        quick: bool,
        note: Callable[[str], None],
        without: Sequence[str],
    ) -> None:
        from _gpu_clock import clock_of
        from _gpu_linear import DRY_ROUNDS, QUICK_ROUNDS, ROUNDS, LinearCases

        self.tiny = device == "cpu"
        self.clock = clock_of(device)
        self.rounds = DRY_ROUNDS if self.tiny else QUICK_ROUNDS if quick else ROUNDS
        self.linear = LinearCases(self.clock, self.rounds, note, without)

    def run(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a case."""
        import _gpu_rows

        kind, *numbers = name.split()
        if kind == "linear":
            n_out, n_in, rows = map(int, numbers)
            yield from self.linear.run((n_out, n_in), rows)
        else:
            cases = {
                "ceilings": _gpu_rows.ceilings,
                "rows": _gpu_rows.row_cases,
                "sets": _gpu_rows.set_cases,
                "model": _gpu_rows.model_cases,
            }
            yield from cases[kind](self.clock, self.rounds, self.tiny)
        self.clock.synchronize()
        self.clock.free()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run cases; return 0, or `BROKEN` if the device is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--until", type=float, help="no case begins after this time")
    parser.add_argument("--without", action="append", default=[], metavar="LAYER")
    parser.add_argument("cases", nargs="*")
    parsed = parser.parse_args(arguments)
    # Pins the host's threads, before anything else is imported.
    import _timing  # noqa: F401

    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    from _gpu_clock import reason
    from _gpu_sanitized import make_known

    make_known(parsed.device)
    with parsed.lines.open("a", encoding="utf-8") as lines:

        def write(line: dict[str, Any]) -> None:
            print(json.dumps(line), file=lines, flush=True)

        def note(layer: str) -> None:
            write({"doing": layer})

        cases = Cases(parsed.device, parsed.quick, note, parsed.without)
        for name in parsed.cases:
            if parsed.until is not None and time.time() > parsed.until:
                break
            write({"begin": name})
            try:
                for record in cases.run(name):
                    write(record)
            except Exception as error:
                # Said last, for whoever watches.
                print(reason(error), flush=True)
                try:
                    cases.clock.synchronize()
                except Exception:
                    return BROKEN
                write({"table": "failures", "case": name, "failed": reason(error)})
            write({"end": name})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
