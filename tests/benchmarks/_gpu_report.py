"""Results of the GPU script as reStructuredText, and in few lines for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _gpu_clock import middle, tenths
from _gpu_goals import (
    BF16,
    NOT_RUN,
    TINYGEMM,
    bandwidth_share,
    beside_cpu,
    copy_bandwidth,
    outcomes,
    time_of,
)
from _gpu_stages import KERNEL_HEADER

Record = Mapping[str, Any]
Results = Mapping[str, Any]
NOTHING = "\N{EN DASH}"


# ---------------------------------------------------------------------------
# Text.


def figure(value: float | None) -> str:
    """Return three digits, without an exponent."""
    if value is None:
        return NOTHING
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 0.1 else f"{value:.3g}"


def literal(text: str) -> str:
    """Return a text of others, which may hold any sign, on one line as it is."""
    return " ".join(text.replace("`", "'").replace("\\", "/").split())


def plain(text: str) -> str:
    """Return a text for a paragraph or a cell: what is markup loses its meaning."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{sign}" if sign in r"\`*_|<>" else sign for sign in flat)


def list_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row is its header."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [
            f"   {'  -' if k else '* -'} {cell or NOTHING}"
            for k, cell in enumerate(row)
        ]
    return [*lines, ""]


def heading(text: str, sign: str) -> list[str]:
    """Return a heading."""
    return [text, sign * len(text), ""]


def verbatim(lines: Iterable[str]) -> list[str]:
    """Return lines of others, as they are."""
    kept = [f"   {line}".rstrip() for line in lines if line.strip()]
    return ["::", "", *kept, ""] if kept else []


# ---------------------------------------------------------------------------
# Tables.


def goal_rows(records: Sequence[Record]) -> list[list[str]]:
    """Return the table of goals."""
    rows = [["Goal", "At least", "Reached", "Result"]]
    for outcome in outcomes(records):
        goal, found = outcome.goal, outcome.figure
        text = f"{goal.text} (stretch)" if goal.stretch else goal.text
        result = outcome.result
        shown = f"**{result}**" if result == "missed" else result
        rows.append([plain(text), figure(goal.least), figure(found), shown])
    return rows


def ceiling_rows(records: Iterable[Record]) -> list[list[str]]:
    """Return the table of what the device can do."""
    rows = [["What", "A second", "Unit"]]
    for record in _of(records, "ceilings"):
        seconds = record.get("seconds")
        value = f"{record['work'] / middle(seconds):.3e}" if seconds else NOTHING
        text = record.get("failed") or record["unit"]
        rows.append([record["name"], value, plain(text)])
    return rows


def linear_rows(
    shape: Sequence[int], records: Sequence[Record]
) -> tuple[list[list[str]], list[str]]:
    """Return the table of a shape, and the lines of what has no times."""
    rows = [
        [
            "Rows",
            "Layer",
            "\N{MICRO SIGN}s",
            "10 to 90 %",
            "x bf16",
            "x tinygemm",
            "Share of copy",
            "Relative error",
        ]
    ]
    missing: dict[str, list[int]] = {}
    bandwidth = copy_bandwidth(records)
    mine = [r for r in _of(records, "linear") if list(r["shape"]) == list(shape)]
    for record in sorted(mine, key=lambda r: r["rows"]):
        if not record.get("seconds"):
            text = f"{record['layer']}: {record.get('failed', 'no times')}"
            missing.setdefault(text, []).append(record["rows"])
            continue
        own = middle(record["seconds"])
        case = {"table": "linear", "shape": record["shape"], "rows": record["rows"]}
        others = [time_of(records, layer=name, **case) for name in (BF16, TINYGEMM)]
        low, high = tenths(record["seconds"])
        error = record.get("error")
        wrong = record.get("right") is False
        shown = NOTHING if error is None else f"{error:.1e}"
        share = bandwidth_share(record, bandwidth)
        rows.append(
            [
                f"{record['rows']:,}",
                plain(record["layer"]),
                figure(1e6 * own),
                f"{figure(1e6 * low)} to {figure(1e6 * high)}",
                *(figure(other / own) if other else NOTHING for other in others),
                f"{share:.0%}" if share is not None else NOTHING,
                f"**{shown}: wrong**" if wrong else shown,
            ]
        )
    lines = [
        f"Left out: {plain(text)} (rows: {', '.join(map(str, sizes))})."
        for text, sizes in missing.items()
    ]
    return rows, lines


def row_rows(records: Sequence[Record]) -> list[list[str]]:
    """Return the table of operations on rows."""
    rows = [["Operation", "Size", "ms", "10 to 90 %", "Share of copy", "x CPU", "Bits"]]
    bandwidth = copy_bandwidth(records)
    for record in _of(records, "rows"):
        name, size = plain(record["name"]), record["size"]
        if not record.get("seconds"):
            failed = plain(record.get("failed", ""))
            rows.append([name, size, *[NOTHING] * 4, failed])
            continue
        low, high = tenths(record["seconds"])
        share = bandwidth_share(record, bandwidth)
        bits = {True: "those of the CPU", False: "**other than those of the CPU**"}
        rows.append(
            [
                name,
                size,
                figure(1e3 * middle(record["seconds"])),
                f"{figure(1e3 * low)} to {figure(1e3 * high)}",
                f"{share:.0%}" if share is not None else NOTHING,
                figure(beside_cpu(record["name"], records)),
                bits.get(record.get("right"), plain(record.get("cpu_failed", ""))),
            ]
        )
    return rows


def model_rows(records: Iterable[Record]) -> list[list[str]]:
    """Return the table of a model, end to end."""
    rows = [["Network", "Size", "\N{MICRO SIGN}s", "10 to 90 %"]]
    for record in _of(records, "model"):
        seconds = record.get("seconds")
        if seconds:
            low, high = (figure(1e6 * part) for part in tenths(seconds))
            cells = [figure(1e6 * middle(seconds)), f"{low} to {high}"]
        else:
            cells = [NOTHING, plain(record.get("failed", ""))]
        rows.append([plain(record["name"]), record["size"], *cells])
    return rows


def _of(records: Iterable[Record], table: str) -> list[Record]:
    return [record for record in records if record["table"] == table]


# ---------------------------------------------------------------------------
# The page.


def as_rst(results: Results) -> str:
    """Return the page of results."""
    records, machine = results["records"], results["machine"]
    title = f"{results['date']}: {plain(machine.get('GPU', 'no GPU'))}"
    lines = heading(title, "=")
    lines += ["What ``python tests/benchmarks/gpu.py`` found.", ""]
    if results.get("dry"):
        lines += ["A dry run on a CPU: its times say nothing.", ""]
    lines += [f"- {plain(name)}: {plain(text)}" for name, text in machine.items()]
    lines += ["", *heading("Stages", "-")]
    stages = [["Stage", "Result", "Seconds", "What"]]
    for stage in results["stages"]:
        result = {True: "passed", False: "**failed**", None: "not run"}[stage["ok"]]
        cells = [stage["name"], result, f"{stage['seconds']:.0f}", plain(stage["text"])]
        stages.append(cells)
    lines += list_table(stages)
    for stage in results["stages"]:
        if stage["lines"]:
            lines += [f"{stage['name']}:", "", *verbatim(stage["lines"])]
    lines += [*heading("Goals", "-"), *list_table(goal_rows(records))]
    lines += _times(records)
    failures = _of(records, "failures")
    if failures:
        lines += heading("Cases that failed", "-")
        lines += [f"- {plain(r['case'])}: {plain(r['failed'])}" for r in failures]
        lines += [""]
    lines += _kernels(results["stages"])
    return "\n".join(lines).rstrip() + "\n"


def _times(records: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    if _of(records, "ceilings"):
        lines += heading("Ceilings", "-") + list_table(ceiling_rows(records))
    shapes = list(dict.fromkeys(tuple(r["shape"]) for r in _of(records, "linear")))
    if shapes:
        lines += heading("Linear layers", "-")
        lines += [
            "Medians of replays of a graph over copies of the weight that together are "
            "three times as large as the cache; layers take turns. Bytes are those of "
            "codes, scales, rows and outputs. Errors are those of a call beside "
            "products in double precision with the same codes.",
            "",
        ]
    for shape in shapes:
        rows, missing = linear_rows(shape, records)
        lines += heading(f"{shape[0]} x {shape[1]}", "~")
        lines += list_table(rows) if len(rows) > 1 else []
        for line in missing:
            lines += [line, ""]
    for title, table in (
        ("Rows of quantiles, and sets", row_rows(records)),
        ("A network", model_rows(records)),
    ):
        if len(table) > 1:
            lines += heading(title, "-") + list_table(table)
    return lines


def _kernels(stages: Iterable[Record]) -> list[str]:
    rows = [row for stage in stages for row in stage["table"]]
    if not rows:
        return []
    cells = [[plain(cell) for cell in row] for row in rows]
    return heading("Kernels", "-") + list_table([KERNEL_HEADER, *cells])


# ---------------------------------------------------------------------------
# The terminal.


def summary(results: Results, most: int = 58) -> list[str]:
    """Return stages, goals and what failed, in so many lines at most."""
    lines = [f"{results['machine'].get('GPU', 'no GPU')}, {results['date']}"]
    for stage in results["stages"]:
        word = {True: "passed", False: "FAILED", None: "not run"}[stage["ok"]]
        text = literal(stage["text"])[:110]
        lines.append(f"{stage['name']:<14} {word:<8} {stage['seconds']:4.0f} s  {text}")
    for record in _of(results["records"], "failures"):
        lines.append(f"failed: {record['case']}: {literal(record['failed'])[:110]}")
    wrong = [r for r in results["records"] if r.get("right") is False]
    for record in wrong[:8]:
        name = record.get("layer", record.get("name"))
        where = f"{record.get('shape', '')} {record.get('rows', '')}".strip()
        lines.append(f"wrong results: {name} {where} {record.get('error', '')}")
    goals = outcomes(results["records"])
    words = [outcome.result for outcome in goals]
    counts = ", ".join(f"{words.count(w)} {w}" for w in ("met", "missed", NOT_RUN))
    room = max(0, most - len(lines) - 1)
    if any(word != NOT_RUN for word in words):
        for outcome in goals[:room]:
            stretch = " (stretch)" if outcome.goal.stretch else ""
            shown = figure(outcome.figure)
            lines.append(
                f"{outcome.result:<8} {shown:>6}  {outcome.goal.text}{stretch}"
            )
    return [*lines[: most - 1], f"goals: {counts}"]
