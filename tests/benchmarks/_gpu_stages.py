"""Stages of the GPU script that are commands of others: build, check, sanitize.

Each returns a `Stage` and raises nothing; `ok` is None where nothing can be said,
because a tool is missing for instance.
"""

import os
import re
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _gpu_process import Budget, Done, ran

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
BUILD = ROOT / "kernels" / "csrc" / "build.py"
OWN_TESTS = sorted((ROOT / "tests" / "kernels" / "cuda").glob("test_on_gpu*.py"))
DEVICE_VARIABLE = "UQLIB_TEST_DEVICE"  # read by those tests
PATHS = f"{ROOT}:{ROOT / 'kernels'}"

SANITIZERS = ("memcheck", "racecheck", "synccheck")
# Shares of the time that is left, and the most of it, in seconds.
BUILD_SHARE, CHECK_SHARE, SANITIZE_SHARE = 0.4, 0.4, 0.35
LEAST_SECONDS = 5.0


@dataclass
class Stage:
    """What came of a stage."""

    name: str
    ok: bool | None
    text: str
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)  # for the results
    table: list[list[str]] = field(default_factory=list)
    log: str = ""

    @property
    def result(self) -> str:
        """Return "passed", "failed" or "not run"."""
        return {True: "passed", False: "failed", None: "not run"}[self.ok]

    def as_dict(self) -> dict[str, Any]:
        """Return what is kept of it."""
        kept = ("name", "ok", "text", "seconds", "lines", "table")
        return {name: getattr(self, name) for name in kept}


# ---------------------------------------------------------------------------
# Build.

_KERNEL = re.compile(
    r"^(?P<name>\S.*?)\s+(?P<target>(?:sm|compute)_\S+)\s+(?P<numbers>\d+(?:\s+\d+){3})$"
)
KERNEL_HEADER = ["Kernel", "Target", "Registers", "Stack", "Spilled bytes", "Shared"]


def target_of(capability: Sequence[int]) -> str:
    """Return the target of nvcc for a device of a compute capability."""
    major, minor = capability
    return f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")


def kernels_of(text: str) -> list[list[str]]:
    """Return the rows of the table of kernels that the build prints."""
    found = []
    for line in text.splitlines():
        if match := _KERNEL.match(line.strip()):
            numbers = match["numbers"].split()
            found.append([match["name"], match["target"], *numbers])
    return found


def build(budget: Budget, target: str, dry: bool) -> Stage:
    """Build the library for one target."""
    given = (
        ["--help"] if dry else ["--arch", target, "--jobs", str(os.cpu_count() or 1)]
    )
    done = ran([sys.executable, str(BUILD), *given], budget.part(BUILD_SHARE))
    table = kernels_of(done.text)
    if done.status is None:
        stage = Stage("build", False, f"stopped after {done.seconds:.0f} s")
    elif done.status:
        stage = Stage("build", False, f"status {done.status}: {done.said}")
    elif dry:
        stage = Stage("build", None, "a dry run builds nothing")
    else:
        spilled = [row[0] for row in table if int(row[3]) or int(row[4])]
        text = f"{len(table)} kernels for {target}, {len(spilled)} of them spill"
        stage = Stage("build", True, text, lines=[f"Spills: {row}" for row in spilled])
    stage.table, stage.seconds, stage.log = table, done.seconds, done.text
    return stage


# ---------------------------------------------------------------------------
# Check. A configuration of its own: that of the project asks for things, a version of
# pytest for one, that need not hold on the machine with the GPU.

_CONFIGURATION = f"""[pytest]
pythonpath = {ROOT} {ROOT / "kernels"}
markers =
    gpu: needs a CUDA device
    slow: takes minutes
    dask: needs dask
"""
_COUNTS = ("tests", "failures", "errors", "skipped")


def counts_of(report: Path) -> dict[str, int]:
    """Return {"tests": n, "failures": n, ...} of a report of pytest."""
    try:
        suites = ET.parse(report).getroot().iter("testsuite")
        return {
            name: sum(int(suite.get(name, 0)) for suite in suites_)
            for suites_ in [list(suites)]
            for name in _COUNTS
        }
    except (OSError, ET.ParseError):
        return {}


def files_of_gpu() -> list[Path]:
    """Return the other files that have tests which need a GPU."""
    return [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if path not in OWN_TESTS
        and re.search(r"\bmark\.gpu\b", path.read_text(encoding="utf-8"))
    ]


def check(budget: Budget, device: str) -> list[Stage]:
    """Run the tests that need a GPU: those of the kernels, then all others."""
    # The tests of the kernels stand alone, and so want no conftest.py either.
    own = ["--noconftest", *map(str, OWN_TESTS)]
    stages = [tested("check kernels", own, budget.part(CHECK_SHARE), device)]
    others = [str(path) for path in files_of_gpu()]
    seconds = budget.part(0.5 * CHECK_SHARE)
    return [*stages, tested("check uqlib", others, seconds, device)]


def tested(name: str, given: Sequence[str], seconds: float, device: str) -> Stage:
    """Run tests that need a GPU, on a device or what stands for it."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "pytest.ini"
        configuration.write_text(_CONFIGURATION, encoding="utf-8")
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-c"]
        command += [str(configuration), f"--rootdir={ROOT}", "--import-mode=importlib"]
        command += ["-p", "no:cacheprovider", "-W", "default", "-rfEs", "--tb=short"]
        # After an error of the device all others fail, too.
        command += ["--maxfail=40"]
        command += [f"--junitxml={report}", *given]
        environment = {"PYTHONPATH": PATHS, DEVICE_VARIABLE: device}
        done = ran(command, seconds, environment, ROOT)
        return checked(name, done, counts_of(report))


def checked(name: str, done: Done, counts: dict[str, int]) -> Stage:
    """Return what tests came to: passed is what ran, and did not fail."""
    lines = [
        line.strip()
        for line in done.text.splitlines()
        if line.startswith(("FAILED", "ERROR", "SKIPPED", "E   "))
    ][:30]
    stage = Stage(name, False, "", done.seconds, lines, log=done.text)
    if done.status is None:
        said = [line for line in done.text.splitlines() if "::" in line]
        failed = [line for line in said if " FAILED" in line or " ERROR" in line]
        good = sum(" PASSED" in line for line in said)
        stage.text = f"stopped after {done.seconds:.0f} s: {good} passed, "
        stage.text += f"{len(failed)} failed, at {said[-1] if said else 'no test'}"
        stage.lines = failed[:30]
    elif not counts:
        stage.text = f"no report, status {done.status}: {done.said}"
    else:
        bad = counts["failures"] + counts["errors"]
        good = counts["tests"] - bad - counts["skipped"]
        stage.text = f"{good} passed, {bad} failed, {counts['skipped']} skipped"
        stage.ok = None if not (bad or good) else not bad and done.status == 0
    return stage


# ---------------------------------------------------------------------------
# Sanitize.

CLEAN = re.compile(r"SUMMARY: 0 (errors|hazards)\b")


def cuda_tool(name: str) -> str | None:
    """Return where a program of the CUDA toolkit is."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [name, *(f"{home}/bin/{name}" for home in homes if home)]
    places.append(f"/usr/local/cuda/bin/{name}")
    return next(filter(None, map(shutil.which, places)), None)


def sanitize(budget: Budget, device: str) -> list[Stage]:
    """Run a few small calls of every kernel under each tool."""
    tool, end = (
        cuda_tool("compute-sanitizer"),
        budget.left() - budget.part(SANITIZE_SHARE),
    )
    driver = [sys.executable, str(FOLDER / "_gpu_sanitized.py"), "--device", device]
    environment = {"PYTHONPATH": PATHS, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if device == "cpu":
        done = ran(driver, budget.left(), environment)
        ok = None if done.status == 0 else False
        return [Stage("sanitize", ok, done.said, done.seconds, log=done.text)]
    stages = []
    for k, name in enumerate(SANITIZERS):
        seconds = (budget.left() - end) / (len(SANITIZERS) - k)
        if tool is None or seconds < LEAST_SECONDS:
            why = "no time was left" if tool else "compute-sanitizer was not found"
            stages.append(Stage(name, None, why))
            continue
        # What libraries share among threads is no concern of ours, but memory is.
        given = [] if name == "memcheck" else ["--own"]
        command = [tool, "--tool", name, "--print-limit", "20", *driver, *given]
        done = ran(command, seconds, environment)
        stages.append(sanitized(name, done))
    return stages


def sanitized(name: str, done: Done) -> Stage:
    """Return what a tool found; without its summary nothing is known."""
    lines = [line.strip("= ").strip() for line in done.text.splitlines()]
    summary = [line for line in lines if "SUMMARY" in line]
    finished = any(line.startswith("sanitized:") for line in lines)
    ok: bool | None = None
    if summary:
        clean = all(CLEAN.search(line) for line in summary)
        ok = clean and finished and done.status == 0
    if done.status is None:
        text = f"stopped after {done.seconds:.0f} s"
    else:
        text = "; ".join(summary) or f"status {done.status}: {done.said}"
        text += "" if finished or not summary else "; the calls did not end"
    found = [line for line in done.text.splitlines() if line.startswith("=====")]
    return Stage(name, ok, text, done.seconds, found[:40], log=done.text)
