"""What the kernels are to reach on a GPU, and whether the times do.

A goal is met, missed, or was not run; a time whose results were wrong meets nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from _gpu_clock import middle

Record = Mapping[str, Any]
NOT_RUN, MET, MISSED = "not run", "met", "missed"

# Layers, as the records name them.
BF16, TINYGEMM, INT_MM, TWIN = "bf16 F.linear", "tinygemm int4", "_int_mm", "Triton W4"
PEERS = (BF16, TINYGEMM, INT_MM, TWIN)
W4, W4_HALF, NF4 = "W4 bfloat16", "W4 half", "NF4 bfloat16"
W2, W1, W8A8, W4A8 = "W2 bfloat16", "W1 bfloat16", "W8A8", "W4A8"
W2A8, W1A6 = "W2A8", "W1A6"


@dataclass(frozen=True)
class Goal:
    """A figure of the records that shall be at least so much."""

    text: str
    figure: Callable[[Sequence[Record]], float | None]
    least: float
    stretch: bool = False


@dataclass(frozen=True)
class Outcome:
    """A goal and what came of it."""

    goal: Goal
    figure: float | None

    @property
    def result(self) -> str:
        """Return "met", "missed" or "not run"."""
        if self.figure is None:
            return NOT_RUN
        return MET if self.figure >= self.goal.least else MISSED


def outcomes(records: Iterable[Record]) -> list[Outcome]:
    """Return what came of each goal."""
    found = list(records)
    return [Outcome(goal, goal.figure(found)) for goal in GOALS]


# ---------------------------------------------------------------------------
# Figures: None where a time is missing, 0 where a result was wrong.


def time_of(records: Iterable[Record], **keys: Any) -> float | None:
    """Return the median of the record with such entries."""
    found = _record(records, **keys)
    return middle(found["seconds"]) if found and found.get("seconds") else None


def _record(records: Iterable[Record], **keys: Any) -> Record | None:
    fitting = (
        record
        for record in records
        if all(record.get(key) == value for key, value in keys.items())
    )
    return next(fitting, None)


def is_broken(record: Record) -> bool:
    """Whether something of ours has no times."""
    own = record["table"] in ("linear", "rows") and record.get("layer") not in PEERS
    return own and "failed" in record


def is_wrong(record: Record) -> bool:
    """Whether the results of a record were compared and found wrong."""
    return record.get("right") is False


def ratio(
    layers: tuple[str, ...],
    peer: str,
    shape: tuple[int, int],
    rows: int,
    records: Sequence[Record],
) -> float | None:
    """Return how many times as fast as a peer the fastest of some layers is."""
    case = {"table": "linear", "shape": list(shape), "rows": rows}
    other = time_of(records, layer=peer, **case)
    found = []
    for layer in layers:
        record = _record(records, layer=layer, **case)
        own = time_of(records, layer=layer, **case)
        if record is not None and own is not None and other is not None:
            found.append(0.0 if is_wrong(record) else other / own)
    return max(found, default=None)


def copy_bandwidth(records: Iterable[Record]) -> float | None:
    """Return the bytes a second that a copy reads and writes."""
    record = _record(records, table="ceilings", name="copy")
    seconds = time_of(records, table="ceilings", name="copy")
    return record["work"] / seconds if record and seconds else None


def bandwidth_share(record: Record, bandwidth: float | None) -> float | None:
    """Return the bytes of a record over its time, as a share of what a copy does."""
    if not record.get("seconds") or not record.get("bytes") or not bandwidth:
        return None
    return record["bytes"] / middle(record["seconds"]) / bandwidth


def share(
    layer: str, shape: tuple[int, int], rows: int, records: Sequence[Record]
) -> float | None:
    """Return the share of the copy's bandwidth of a layer."""
    case = {"table": "linear", "shape": list(shape), "rows": rows, "layer": layer}
    record = _record(records, **case)
    if record is None:
        return None
    found = bandwidth_share(record, copy_bandwidth(records))
    return 0.0 if found is not None and is_wrong(record) else found


def beside_cpu(name: str, records: Sequence[Record], **keys: Any) -> float | None:
    """Return how many times as fast as one thread of the CPU a row operation is."""
    record = _record(records, table="rows", name=name, **keys)
    if not record or not record.get("seconds") or not record.get("cpu_seconds"):
        return None
    if is_wrong(record):
        return 0.0
    return middle(record["cpu_seconds"]) / middle(record["seconds"])


# ---------------------------------------------------------------------------

LARGE = ((8192, 8192), (14336, 4096))
SMALL = (4096, 4096)


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _faster(
    layers: tuple[str, ...],
    peer: str,
    shape: tuple[int, int],
    rows: int,
    least: float,
    stretch: bool = False,
) -> Goal:
    unit = "row" if rows == 1 else "rows"
    text = f"{' or '.join(layers)}, {_size(shape)}, {rows} {unit}: {least:g} x {peer}"
    return Goal(text, partial(ratio, layers, peer, shape, rows), least, stretch)


def _near(shape: tuple[int, int], least: float, stretch: bool = False) -> Goal:
    text = f"{W4}, {_size(shape)}, 1 row: {least:.0%} of the bandwidth of a copy"
    return Goal(text, partial(share, W4, shape, 1), least, stretch)


GOALS = (
    _faster((W4,), BF16, SMALL, 1, 1.6),
    _faster((W4,), TINYGEMM, SMALL, 1, 0.9),
    *(_faster((W4,), BF16, shape, 1, 2.5) for shape in LARGE),
    *(_near(shape, 0.65) for shape in LARGE),
    *(_faster((W4,), BF16, shape, 16, 2.0) for shape in LARGE),
    *(_faster((W4,), BF16, shape, 64, 1.3) for shape in LARGE),
    _faster((W2, W2A8), BF16, LARGE[0], 1, 3.5),
    *(
        _faster((W8A8,), BF16, shape, rows, 1.4)
        for shape in (SMALL, *LARGE)
        for rows in (512, 2048)
    ),
    Goal(
        "isotonic_rows, 1e7 x 19: 20 x one thread of the CPU",
        partial(beside_cpu, "isotonic_rows", size="10,000,000 x 19, float32"),
        20.0,
    ),
    *(_near(shape, 0.8, stretch=True) for shape in LARGE),
    *(_faster((W4,), BF16, shape, 64, 2.0, stretch=True) for shape in LARGE),
)
