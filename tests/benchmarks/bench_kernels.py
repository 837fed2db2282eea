"""Linear layers of low bits beside torch, onnxruntime and torchao.

Two regimes. *Hot*: each call follows one of the same layer, so that its weights lie in
the smallest cache that holds them. *Cold*: all layers take turns, each with several
copies of its weights, so that between two uses of the same bytes more than the largest
cache was read. Beyond one row layers are measured hot.

With ``UQLIB_BENCH_THREADS=2`` libraries use two threads and wall time counts;
otherwise it is the CPU time of the one thread. As a program it measures every shape and
prints JSON, for `kernel_tables.py`.
"""

# ruff: noqa: E402 - the number of threads must be set before libraries are imported
# isort: off
from _timing import Result  # first: it sets one thread

# isort: on
import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

N_THREADS = int(os.environ.get("UQLIB_BENCH_THREADS", "1"))
for _name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
):
    os.environ[_name] = str(N_THREADS)

import numpy as np
from _kernel_peers import (
    BF16,
    F32,
    INT4,
    ONEDNN,
    ORT2,
    ORT4,
    ORT4_FLOAT,
    ORT8,
    OURS,
    PEERS,
    TORCHAO,
    X86,
    Call,
    Kind,
    Layer,
    Weight,
    as_array,
    missing,
)

ROOT = Path(__file__).resolve().parents[2]
# What each of our layers is compared with.
AGAINST = {
    "W8A8": (F32, BF16, ONEDNN, X86, TORCHAO, ORT8),
    "W4A8": (F32, BF16, INT4, ORT4),
    "W4A32": (F32, BF16, INT4, ORT4_FLOAT),
    "W2A8": (F32, INT4, ORT2),
    "W1A6": (F32, ORT2),
    "W4, dequantized": (F32, BF16, INT4, ORT4_FLOAT),
}
SIZES, ROWS = (256, 1024, 4096), (1, 8, 64, 512, 4096)
HOT, COLD = "hot", "cold"
GROUP = 128

# (ours, size, rows, regime): {peer: least ratio}. They were set on a machine with tiles
# (AMX), which products of bytes with many rows rest on.
_MANY = {ORT8: 1.15, ONEDNN: 1.3, BF16: 1.25, F32: 9.0}
GOALS: dict[tuple[str, int, int, str], dict[str, float]] = {
    ("W4A8", 4096, 1, COLD): {F32: 4.5, INT4: 1.25, ORT4: 1.0},
    ("W4A8", 1024, 1, HOT): {F32: 9.0, INT4: 3.3, ORT4: 1.4},
    ("W4A8", 4096, 8, HOT): {INT4: 2.0, ORT4: 1.2},
    ("W4A32", 1024, 1, HOT): {F32: 4.5},
    ("W2A8", 4096, 1, COLD): {F32: 9.0, ORT2: 1.1},
    **{("W8A8", n, m, HOT): _MANY for n in (1024, 4096) for m in (64, 512, 4096)},
}
PORTABLE_GOALS: dict[tuple[str, int, int, str], dict[str, float]] = {
    ("W8A8", 1024, 1, HOT): {F32: 1.3},
    ("W8A8", 4096, 1, COLD): {F32: 1.3},
}
# Of the largest shape a turn takes seconds: it is in the tables of all shapes alone.
LONGEST = (4096, 4096)

BUDGET = 6.0  # seconds for the turns of a case
MIN_TURNS, MAX_TURNS = 30, 100
BLOCK = 2e-4  # seconds of calls that are timed together, when hot
LONG = 1e-2  # seconds of a call before which there is no untimed one
SLOWEST = 1.5  # seconds of a call beyond which a layer is left out

Times = dict[str, list[float]]


def run(quick: bool = False) -> Iterator[Result]:
    """Yield the cases for which there are goals."""
    shapes = {key[1:] for key in GOALS if key[1:3] != LONGEST}
    cases = _cases(shapes, _present([*OURS, *PEERS])[0], quick)
    yield from _results(cases, GOALS, isa(), quick)
    portable = {key[1:] for key in PORTABLE_GOALS}
    found = in_process(portable, quick, threads=1, level="portable")["cases"]
    yield from _results(found, PORTABLE_GOALS, "portable", quick)


def _results(cases, goals, level, quick) -> Iterator[Result]:
    for case in cases:
        n, m, regime, times = (case[key] for key in ("n", "m", "regime", "times"))
        for key, targets in goals.items():
            shape = (_smaller(key[1], quick), *key[2:])
            if shape != (n, m, regime) or key[0] not in times:
                continue
            for peer, target in targets.items():
                if peer in times:
                    ratios = tuple(ratio(times, key[0], peer))
                    text = f"{describe(n, m, regime)}; {level}{_without(level, m)}"
                    yield Result(f"linear layer {key[0]}", text, peer, ratios, target)


def _without(level: str, m: int) -> str:
    return ", no amx, for which this was set" if level == "vnni" and m > 1 else ""


def ratio(times: Mapping[str, Sequence[float]], mine: str, peer: str) -> list[float]:
    """Return time of the peer over ours, turn by turn."""
    return [p / o for o, p in zip(times[mine], times[peer], strict=True)]


def describe(n: int, m: int, regime: str) -> str:
    """Return a shape and its regime in words."""
    rows = "1 row" if m == 1 else f"{m:,} rows"
    return f"{n:,} x {n:,}, {rows}, {regime}"


def isa() -> str:
    """Return the level of instructions of our layers."""
    from uqlib_kernels.registry import isa

    return isa()


# ---------------------------------------------------------------------------
# A case: a shape, for which all layers take turns.


def _present(kinds: Sequence[Kind]) -> tuple[list[Kind], dict[str, str]]:
    absent = missing(kinds)
    for name, reason in absent.items():
        print(f"left out: {name} ({reason})", file=sys.stderr, flush=True)
    return [kind for kind in kinds if kind.name not in absent], absent


def _cases(shapes, kinds, quick) -> Iterator[dict[str, object]]:
    for n in sorted({_smaller(shape[0], quick) for shape in shapes}):
        built: dict[str, list[Layer]] = {}  # all shapes of a size share the layers
        for size, m, regime in sorted(shapes, key=_order):
            if _smaller(size, quick) != n:
                continue
            times = measure(kinds, n, m, regime, built, quick)
            yield {"n": n, "m": m, "regime": regime, "times": times}
        del built
        gc.collect()


def _order(shape) -> tuple[int, int, str]:
    n, m, regime = shape
    return n, m, regime


def _smaller(n: int, quick: bool) -> int:
    return n // 8 if quick and n > 256 else n


def measure(
    kinds: Sequence[Kind],
    n: int,
    m: int,
    regime: str,
    built: dict[str, list[Layer]],
    quick: bool = False,
) -> Times:
    """Return the times of all layers, one a turn, after a look at their outputs."""
    copies = n_copies(kinds, n) if regime == COLD else 1
    x = np.random.default_rng(1).normal(size=(m, n)).astype(np.float32)
    few = x[:64].astype(np.float64)
    expected = {
        bits: few @ _weight(n, bits, 0).values.T.astype(np.float64)
        for bits in sorted({kind.bits for kind in kinds})
    }
    calls: dict[str, list[Call]] = {}
    single = {}  # seconds of a call
    with _torch_mode():
        for kind in kinds:
            if kind.few_rows and n * m > 2**20:
                continue
            layers = built.setdefault(kind.name, [])
            while len(layers) < copies:
                layers.append(kind.make(_weight(n, kind.bits, len(layers))))
            made = [layer(x) for layer in layers[:copies]]
            _compare(kind, expected[kind.bits], made[0])
            start = time.perf_counter()
            for call in made:
                call()
            single[kind.name] = (time.perf_counter() - start) / copies
            if single[kind.name] < SLOWEST:
                calls[kind.name] = made
        if regime == HOT:
            repeats = {name: _repeats(single[name]) for name in calls}
        else:
            repeats = dict.fromkeys(calls, 0)
        turn = sum((1 + repeats[name]) * single[name] for name in calls)
        return _turns(calls, repeats, 3 if quick else _n_turns(turn))


def _turns(calls: dict[str, list[Call]], repeats: dict[str, int], turns: int) -> Times:
    clock = time.thread_time if N_THREADS == 1 else time.perf_counter
    times: Times = {name: [] for name in calls}
    order = list(calls)
    for turn in range(turns):
        # Not in reverse: then the last layer would find its weights in the cache.
        order = order[1:] + order[:1]
        for name in order:
            made = calls[name]
            call, times_each = made[turn % len(made)], max(1, repeats[name])
            if repeats[name]:
                call()
            start = clock()
            for _ in range(times_each):
                call()
            times[name].append((clock() - start) / times_each)
    return times


def _repeats(seconds: float) -> int:
    # A call so long is as good as its own predecessor: it fills the caches itself.
    return int(np.clip(BLOCK / seconds, 1, 50)) if seconds < LONG else 0


def _n_turns(seconds: float) -> int:
    # The largest shapes take seconds a turn: their medians are of few.
    least = MIN_TURNS if seconds < 1.2 else 5
    return int(np.clip(BUDGET / seconds, least, MAX_TURNS))


def n_copies(kinds: Sequence[Kind], n: int) -> int:
    """Return how many copies make a round read three times the largest cache."""
    a_turn = sum(kind.stored for kind in kinds) * n * n
    return 1 + int(3 * largest_cache() / a_turn)


def largest_cache() -> int:
    """Return the bytes of the last cache, 32 MB if the system does not tell."""
    path = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    try:
        return int(path.read_text(encoding="utf-8").strip().removesuffix("K")) * 2**10
    except (OSError, ValueError):
        return 2**25


@lru_cache(maxsize=4)
def _weight(n: int, bits: int, seed: int) -> Weight:
    return Weight(n, bits, n if bits == 8 else min(GROUP, n), seed)


def _compare(kind: Kind, expected: np.ndarray, call: Call) -> None:
    found = as_array(call())[: len(expected)]
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error <= kind.tolerance:
        raise AssertionError(f"{kind.name}: error {error:.2g} > {kind.tolerance}")


def _torch_mode():
    try:
        import torch
    except ImportError:
        return nullcontext()
    torch.set_num_threads(N_THREADS)
    return torch.inference_mode()


# ---------------------------------------------------------------------------
# Another number of threads or other instructions need a process of their own.


def every_shape() -> set[tuple[int, int, str]]:
    """Return all shapes of the tables."""
    cold = {(n, 1, COLD) for n in SIZES if n > 256}
    return {(n, m, HOT) for n in SIZES for m in ROWS} | cold


def in_process(shapes, quick, threads, level=""):
    """Measure in a fresh process, beside float layers if `level` is given."""
    environment = {**os.environ, "UQLIB_BENCH_THREADS": str(threads)}
    if threads > 1:  # pools that wait in a loop would take turns on the cores
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    if level:
        environment["UQLIB_ISA"] = level
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(sorted(shapes))]
    command += ["--quick"] * quick + ["--float-only"] * bool(level)
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    """Measure shapes and print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="?", help="[[size, rows, regime], ...]; all")
    parser.add_argument("--quick", action="store_true", help="smaller")
    parser.add_argument("--float-only", action="store_true", help="beside float alone")
    parsed = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]  # a bare checkout is enough
    shapes = every_shape()
    if parsed.shapes:
        shapes = {tuple(shape) for shape in json.loads(parsed.shapes)}
    beside_float = [kind for kind in PEERS if kind.name in (F32, BF16)]
    peers = beside_float if parsed.float_only else PEERS
    kinds, absent = _present([*OURS, *peers])
    start = time.perf_counter()
    cases = []
    for case in _cases(shapes, kinds, parsed.quick):
        cases.append(case)
        text = describe(case["n"], case["m"], case["regime"])
        spent = time.perf_counter() - start
        turns = len(next(iter(case["times"].values())))
        print(f"{spent:4.0f} s  {text}, {turns} turns", file=sys.stderr, flush=True)
    found = {
        "isa": isa(),
        "threads": N_THREADS,
        "missing": absent,
        "cases": cases,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
