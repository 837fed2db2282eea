"""Time of calls: graphs replayed on a GPU, or the host's clock for a dry run.

A weight of few bits fits the cache, where a second pass would find it; so a pass goes
over copies of the weight that together are three caches large. All calls that are
compared take turns, a pass each, and a call's time is that of a pass over its calls.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Call = Callable[[], Any]

CACHES = 3
LEAST_COPIES = 24  # so that what a graph takes to begin is small beside a pass
# Cycles that a GPU is kept waiting while the host queues a replay behind them: for a
# graph, and more for each call of it.
WAIT, WAIT_OF_CALL = 1_000_000, 5_000
# A peer that takes so many seconds in all is timed less often.
MOST_SECONDS, LEAST_ROUNDS = 2.0, 5


def n_copies(n_bytes: int, cache: int) -> int:
    """Return how many copies of so many bytes are three caches large, and no fewer."""
    return max(LEAST_COPIES, -(-CACHES * cache // max(1, n_bytes)))


def middle(seconds: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(seconds)


def tenths(seconds: Sequence[float]) -> tuple[float, float]:
    """Return what a tenth of the times is below, and above."""
    ordered = sorted(seconds)
    k = len(ordered) // 10
    return ordered[k], ordered[-1 - k]


class HostClock:
    """The clock of a dry run: the same calls, on the CPU, one after the other."""

    device = "cpu"
    cache = 1 << 12

    def prepared(self, calls: Sequence[Call]) -> Call:
        """Return a function that makes all calls."""
        calls[0]()
        return lambda: [call() for call in calls][-1]

    def seconds(self, replay: Call, n_calls: int) -> float:
        """Return what a pass takes."""
        start = time.perf_counter()
        replay()
        return time.perf_counter() - start

    def synchronize(self) -> None:
        """Wait for nothing."""

    def free(self) -> None:
        """Give nothing back."""


class GraphClock:
    """A GPU's clock: calls become a graph, events stand around its replays."""

    device = "cuda"

    def __init__(self) -> None:
        import torch

        self._torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.cache = getattr(properties, "L2_cache_size", 0) or 60 << 20

    def prepared(self, calls: Sequence[Call]) -> Call:
        """Return a function that replays a graph of all calls."""
        torch = self._torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in calls[:3]:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay

    def seconds(self, replay: Call, n_calls: int) -> float:
        """Return what a replay takes on the device."""
        torch = self._torch
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        if hasattr(torch.cuda, "_sleep"):
            torch.cuda._sleep(WAIT + n_calls * WAIT_OF_CALL)
        start.record()
        replay()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1e3

    def synchronize(self) -> None:
        """Wait for the device, which reports what went wrong there."""
        self._torch.cuda.synchronize()

    def free(self) -> None:
        """Give back memory that nothing uses."""
        self._torch.cuda.empty_cache()


Clock = HostClock | GraphClock


def clock_of(device: str) -> Clock:
    """Return the clock of a device."""
    return GraphClock() if device == "cuda" else HostClock()


def interleaved(
    clock: Clock,
    passes: Mapping[str, Sequence[Call]],
    rounds: int,
    note: Callable[[str], None] = lambda name: None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return {name: seconds of a call, once a round}, and {name: reason} of failures.

    A failure of the device itself is raised: nothing can be measured after it. `note`
    is told a name before anything is done that might break the device.
    """
    replays: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for name, calls in passes.items():
        note(name)
        try:
            replays[name] = clock.prepared(calls)
        except Exception as error:
            failed[name] = reason(error)
            clock.synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(rounds):
        for name, replay in replays.items():
            times, n_calls = seconds[name], len(passes[name])
            if len(times) < LEAST_ROUNDS or sum(times) * n_calls < MOST_SECONDS:
                note(name)
                times.append(clock.seconds(replay, n_calls) / n_calls)
    return seconds, failed


def reason(error: BaseException) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
