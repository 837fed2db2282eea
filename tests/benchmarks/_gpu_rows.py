"""Times on a GPU of all but products: ceilings, rows of quantiles, sets, a model."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from _gpu_clock import Clock, interleaved, reason

Record = dict[str, Any]

LEVELS = 19
CROSSING = 0.28  # of rows, as in bench_rows
CPU_REPEATS = 3


def ceilings(clock: Clock, rounds: int, tiny: bool) -> Iterator[Record]:
    """Yield what the device can do: bytes copied, and products in bfloat16."""
    n = 1 << 12 if tiny else 1 << 30
    source = torch.randint(0, 255, (n,), dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    size = 64 if tiny else 8192
    a, b = (torch.randn(size, size, device=clock.device).bfloat16() for _ in range(2))
    passes = {"copy": [lambda: target.copy_(source)], "matmul": [lambda: a @ b]}
    seconds, failed = interleaved(clock, passes, rounds)
    for name, work, unit in (
        ("copy", 2 * n, "bytes/s, read and written"),
        ("matmul", 2 * size**3, "FLOP/s, bfloat16"),
    ):
        record: Record = {"table": "ceilings", "name": name, "work": work, "unit": unit}
        if name in failed:
            yield record | {"failed": failed[name]}
        else:
            yield record | {"seconds": seconds[name]}


# ---------------------------------------------------------------------------
# Rows.


def quantiles(n_rows: int, device: str) -> Any:
    """Return sorted normal rows; in a share of them two neighbors change places."""
    torch.manual_seed(0)
    q = torch.randn(n_rows, LEVELS, device=device).sort(dim=1).values
    rows = torch.nonzero(torch.rand(n_rows, device=device) < CROSSING).flatten()
    first = torch.randint(0, LEVELS - 1, rows.shape, device=device)
    swapped = q[rows, first + 1]
    q[rows, first + 1] = q[rows, first]
    q[rows, first] = swapped
    return q


def row_cases(clock: Clock, rounds: int, tiny: bool) -> Iterator[Record]:
    """Yield isotonic projection and sort of rows, beside the CPU's kernels."""
    n_rows = 1000 if tiny else 10_000_000
    q = quantiles(n_rows, clock.device)
    operations = torch.ops.uqlib_kernels
    calls = {
        "isotonic_rows": lambda: operations.isotonic_rows(q, None),
        "sort_rows": lambda: operations.sort_rows(q),
    }
    size = f"{n_rows:,} x {LEVELS}, float32"
    seconds, failed = interleaved(clock, {k: [c] for k, c in calls.items()}, rounds)
    host = q.cpu().numpy()
    for name, call in calls.items():
        record: Record = {"table": "rows", "name": name, "size": size}
        record["bytes"] = 2 * host.nbytes
        if name in failed:
            yield record | {"failed": failed[name]}
            continue
        record["seconds"] = seconds[name]
        try:
            record |= _beside_rows(name, host, call().cpu().numpy())
        except Exception as error:  # where numba does not work the rest still counts
            record["cpu_failed"] = reason(error)
        yield record


def _beside_rows(name: str, host: Any, found: Any) -> Record:
    from uqlib_kernels import rows

    kernel = getattr(rows, name)
    kernel(host[:1000])  # compiled now
    times = []
    for _ in range(CPU_REPEATS):
        start = time.process_time()
        expected = kernel(host)
        times.append(time.process_time() - start)
    right = bool(np.array_equal(found.view(np.int32), expected.view(np.int32)))
    return {"cpu_seconds": times, "right": right}


def set_cases(clock: Clock, rounds: int, tiny: bool) -> Iterator[Record]:
    """Yield prediction sets of many classes."""
    n_rows, n_classes = (50, 40) if tiny else (100_000, 1000)
    torch.manual_seed(1)
    logits = 2 * torch.randn(n_rows, n_classes, device=clock.device)
    proba = logits.softmax(dim=1)
    threshold = torch.full((n_rows,), 0.9, dtype=torch.float64, device=clock.device)
    u = torch.rand(n_rows, dtype=torch.float64, device=clock.device)
    arguments = (proba, threshold, u, 5, 0.01)

    def call() -> Any:
        return torch.ops.uqlib_kernels.mass_sets(*arguments)

    seconds, failed = interleaved(clock, {"mass_sets": [call]}, rounds)
    record: Record = {"table": "rows", "name": "mass_sets"}
    record |= {"size": f"{n_rows:,} x {n_classes:,}, float32"}
    record["bytes"] = 5 * proba.numel()
    if failed:
        yield record | {"failed": failed["mass_sets"]}
        return
    record["seconds"] = seconds["mass_sets"]
    try:
        from uqlib_kernels import sets

        part = slice(0, 10_000)
        host = [a.cpu().numpy() if torch.is_tensor(a) else a for a in arguments]
        given = [host[0][part], host[1][part], host[2][part], *host[3:]]
        sets.mass_sets(*([a[:10] for a in given[:3]] + given[3:]))
        start = time.process_time()
        expected = sets.mass_sets(*given)
        share = len(given[0]) / n_rows
        record["cpu_seconds"] = [(time.process_time() - start) / share]
        record["right"] = bool(np.array_equal(call()[part].cpu().numpy(), expected))
    except Exception as error:
        record["cpu_failed"] = reason(error)
    yield record


# ---------------------------------------------------------------------------
# A quantized model, end to end.


def model_cases(clock: Clock, rounds: int, tiny: bool) -> Iterator[Record]:
    """Yield a network before and after quantization, eager and compiled."""
    from uqlib.quantized import quantize

    width, rows = (32, 8) if tiny else (4096, 16)
    torch.manual_seed(2)
    network = torch.nn.Sequential(
        torch.nn.Linear(256, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 1),
    ).eval()
    samples = np.random.default_rng(2).normal(size=(64, 256)).astype(np.float32)
    network = network.to(clock.device)
    backend = "cuda" if clock.device == "cuda" else "auto"
    model = quantize(network, "w4g128", samples, method="rtn", backend=backend)
    x = torch.from_numpy(samples[:rows]).to(clock.device)
    forms = {"float32": network, "quantized": model.model_.module}
    size = f"256-{width}-{width}-1, {rows} rows, w4g128"
    for name, module in forms.items():
        for how in ("eager", "torch.compile"):
            record: Record = {"table": "model", "name": f"{name}, {how}", "size": size}
            try:
                record["seconds"] = _module_seconds(clock, module, how, x, rounds)
            except Exception as error:
                record["failed"] = reason(error)
                clock.synchronize()
            yield record


def _module_seconds(clock: Clock, module: Any, how: str, x: Any, rounds: int) -> Any:
    # On the CPU the compiler would take longer than all of a dry run.
    backend = "inductor" if clock.device == "cuda" else "eager"
    run = module
    if how != "eager":
        run = torch.compile(module, fullgraph=True, backend=backend)
    with torch.no_grad():
        for _ in range(3):
            run(x)
        times = []
        for _ in range(rounds):
            clock.synchronize()
            start = time.perf_counter()
            for _ in range(10):
                run(x)
            clock.synchronize()
            times.append((time.perf_counter() - start) / 10)
    return times
