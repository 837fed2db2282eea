"""Commands with a limit of time, the budget of it, and workers that are watched."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Budget:
    """Seconds that are left of a total."""

    def __init__(self, total: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self.total = now, total
        self._end = now() + total

    def left(self, reserve: float = 0.0) -> float:
        """Return what is left, less a reserve; never less than 0."""
        return max(0.0, self._end - self._now() - reserve)

    def part(self, share: float, most: float = float("inf")) -> float:
        """Return a share of what is left."""
        return min(most, share * self.left())


@dataclass(frozen=True)
class Done:
    """What became of a command."""

    status: int | None  # None: it ran past its limit, and was ended
    text: str
    seconds: float

    @property
    def said(self) -> str:
        """Its last lines that are not empty, in one."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-400:]


def ran(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Done:
    """Run a command for so many seconds at most; never raise."""
    start = time.monotonic()
    # A file and no pipe: what was written before the limit is kept.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                list(command),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_with(environment),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as error:
            return Done(127, str(error), time.monotonic() - start)
        status: int | None
        try:
            status = process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            end(process)
            status = None
        output.seek(0)
        text = output.read().decode(errors="replace")
    return Done(status, text, time.monotonic() - start)


def _with(environment: Mapping[str, str] | None) -> dict[str, str]:
    # What a command has said when it is ended shall be known.
    return {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


@dataclass
class Measured:
    """What workers wrote, and which cases were not measured."""

    records: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Cases that ended in an error."""
        return [line for line in self.records if line["table"] == "failures"]


def watched(
    worker: Callable[[Path, Sequence[str], Sequence[str]], Sequence[str]],
    cases: Sequence[str],
    budget: Budget,
    reserve: float,
    stall: float,
    environment: Mapping[str, str] | None = None,
) -> Measured:
    """Run workers on cases until all are done or time is out.

    `worker` returns the command that writes to a file the lines of cases, without some
    layers. One that breaks, or writes nothing for `stall` seconds, is ended; what it
    was at is a failure. Another goes on without that layer, or behind that case.
    """
    found, left, without = Measured(), list(cases), list[str]()
    while left and budget.left(reserve) > 0:
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "lines"
            lines.touch()
            command = worker(lines, left, without)
            why, text = _watch(command, lines, budget, reserve, stall, environment)
            records, open_case, layer, ended = _read(lines)
        found.records += records
        found.text += text
        left = [case for case in left if case not in ended]
        if why in (ENDED, OUT_OF_TIME):  # there was no time for what is left
            break
        if layer is not None and layer not in without:
            without.append(layer)
            _fail(found, str(open_case), why, layer)
        elif open_case is not None:
            left.remove(open_case)
            _fail(found, open_case, why)
        elif not ended:  # it breaks before the first case, and always will
            _fail(found, "worker", why)
            break
    found.left = left
    return found


OUT_OF_TIME, ENDED = "out of time", "ended"


def _fail(found: Measured, case: str, why: str, layer: str = "") -> None:
    at = f"{case}, {layer}" if layer else case
    found.records.append({"table": "failures", "case": at, "failed": why})


def _watch(
    command: Sequence[str],
    lines: Path,
    budget: Budget,
    reserve: float,
    stall: float,
    environment: Mapping[str, str] | None,
) -> tuple[str, str]:
    """Return why a worker ended, and what it said."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_with(environment),
            start_new_session=True,
        )
        why, size, last = "", -1, time.monotonic()
        while not why:
            try:
                status = process.wait(0.2)
                why = ENDED if status == 0 else f"the worker ended with {status}"
                break
            except subprocess.TimeoutExpired:
                pass
            now = lines.stat().st_size
            if now != size:
                size, last = now, time.monotonic()
            if budget.left(reserve) <= 0:
                why = OUT_OF_TIME
            elif time.monotonic() - last > stall:
                why = f"nothing was written for {stall:.0f} s"
        end(process)
        output.seek(0)
        text = output.read().decode(errors="replace")
    said = text.strip().splitlines()
    if why not in (ENDED, OUT_OF_TIME) and said:
        why = f"{why}: {said[-1][-200:]}"
    return why, text


def _read(
    lines: Path,
) -> tuple[list[dict[str, Any]], str | None, str | None, set[str]]:
    """Return records, the case and the layer not ended yet, and the ended cases."""
    records, begun, layer, ended = [], None, None, set()
    for line in lines.read_text(encoding="utf-8").splitlines():
        try:
            parsed = json.loads(line)
        except ValueError:  # a line that was cut off
            continue
        if "begin" in parsed:
            begun, layer = parsed["begin"], None
        elif "doing" in parsed:
            layer = parsed["doing"]
        elif "end" in parsed:
            ended.add(parsed["end"])
            begun = layer = None
        else:
            records.append(parsed)
    return records, begun, layer, ended
