"""Build, check, sanitize and time the kernels on a machine with a GPU, in one command.

    python tests/benchmarks/gpu.py

needs nothing installed but torch for CUDA, triton, numba, pytest and nvcc. Stages that
fail are part of the results, and the others go on; time that runs short is taken from
the last ones. The results are written to kernels/results, or to --output: a page for
the repository, the same as JSON, and the log. The exit status is 0 if what was built,
checked and sanitized is right, 1 if something is not, and 2 without a GPU.

--dry-run goes through all of it on a CPU with tiny sizes. --report FILES makes a page
of the JSON of several runs.
"""

import argparse
import datetime
import hashlib
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path[:0] = [path for path in (str(FOLDER),) if path not in sys.path]

from _gpu_goals import is_broken, is_wrong  # noqa: E402
from _gpu_process import Budget, Measured, ran, watched  # noqa: E402
from _gpu_report import as_rst, summary  # noqa: E402
from _gpu_stages import (  # noqa: E402
    LEAST_SECONDS,
    PATHS,
    Stage,
    build,
    check,
    cuda_tool,
    sanitize,
    target_of,
)

RESULTS = ROOT / "kernels" / "results"
STAGES = ("build", "check", "sanitize", "time")
LIBRARIES = ("torch", "triton", "numpy", "numba", "scikit-learn", "pytest")
NO_DEVICE = 2
# Seconds: kept for writing results; in which a worker has to write something.
RESERVE, STALL = 8.0, 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages that were asked for; return the exit status."""
    options = _options(arguments)
    if options.report:
        return _report(options)
    dry = options.dry_run
    why = "" if dry else no_device()
    if why:
        print(f"gpu.py needs a machine with a GPU of CUDA: {why}.", file=sys.stderr)
        print("--dry-run goes through it on a CPU.", file=sys.stderr)
        return NO_DEVICE
    budget = Budget(options.seconds)
    machine = described(dry, options.commit)
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "dry": dry,
        "machine": machine,
        "stages": [],
        "records": [],
    }
    log: list[str] = []
    for name in STAGES:
        if name not in options.stages:
            continue
        start = time.monotonic()
        for stage in guarded(name, budget, results, options):
            stage.seconds = stage.seconds or time.monotonic() - start
            results["stages"].append(stage.as_dict())
            log += [f"===== {stage.name}", stage.log]
            print(f"{stage.name}: {stage.result}, {stage.text}", flush=True)
        # Written after each stage: what comes later may take the process with it.
        written = write(results, log, options.output)
    print("\n".join(summary(results)))
    print(f"written to {written}")
    return status(results)


def guarded(
    name: str, budget: Budget, results: dict[str, Any], options: argparse.Namespace
) -> list[Stage]:
    """Return what came of a stage, whatever is raised in it."""
    if any(s["name"] == "build" and s["ok"] is False for s in results["stages"]):
        return [Stage(name, None, "the build failed")]
    if budget.left(RESERVE) < LEAST_SECONDS:
        return [Stage(name, None, "no time was left")]
    device = "cpu" if options.dry_run else "cuda"
    try:
        if name == "build":
            return [build(budget, target_of(_capability()), options.dry_run)]
        if name == "check":
            return check(budget, device)
        if name == "sanitize":
            return sanitize(budget, device)
        return [timed(budget, device, options.quick, results)]
    except Exception as error:
        return [Stage(name, False, f"{type(error).__name__}: {error}")]


def timed(budget: Budget, device: str, quick: bool, results: dict[str, Any]) -> Stage:
    """Time all cases that there is time for, and put the records into the results."""
    from _gpu_worker import case_names

    cases = case_names(quick, device == "cpu")

    def worker(lines: Path, left: Sequence[str], without: Sequence[str]) -> list[str]:
        until = str(time.time() + budget.left(RESERVE))
        command = [sys.executable, str(FOLDER / "_gpu_worker.py"), "--until", until]
        command += ["--lines", str(lines), "--device", device]
        command += [f"--without={layer}" for layer in without]
        return [*command, *(["--quick"] if quick else []), *left]

    found = watched(worker, cases, budget, RESERVE, STALL, {"PYTHONPATH": PATHS})
    results["records"] += found.records
    return summed(found, len(cases))


def summed(found: Measured, n_cases: int) -> Stage:
    """Return the stage of what was measured; peers may be missing, nothing of ours."""
    failed, left = len(found.failures), len(found.left)
    done = max(0, n_cases - failed - left)
    text = f"{done} of {n_cases} cases, {failed} failed, no time for {left}"
    wrong, broken = (sum(map(is_, found.records)) for is_ in (is_wrong, is_broken))
    text += f", {wrong} wrong results" if wrong else ""
    text += f", {broken} of our times are missing" if broken else ""
    ok = bool(found.records) and not (wrong or broken or failed)
    lines = [f"No time for: {', '.join(found.left)}"] if found.left else []
    return Stage("time", ok, text, lines=lines, log=found.text)


def status(results: dict[str, Any]) -> int:
    """Return 1 if a stage failed, or the kernels were neither built nor checked."""
    stages = results["stages"]
    needed = ("build", "check kernels")
    bad = any(stage["ok"] is False for stage in stages)
    idle = any(stage["ok"] is None and stage["name"] in needed for stage in stages)
    return int(bad or (idle and not results["dry"]))


# ---------------------------------------------------------------------------
# The machine.


def no_device() -> str:
    """Return why there is no GPU to run on, "" if there is one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported ({error})"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees none"
    return ""


def _capability() -> tuple[int, int]:
    import torch

    if not torch.cuda.is_available():
        return 9, 0
    return torch.cuda.get_device_capability(0)


def described(dry: bool, commit: str) -> dict[str, str]:
    """Return device, versions and commit, each if it can be known."""
    found = {"GPU": "none, a dry run" if dry else "unknown"}
    if not dry:
        found |= _device()
    found["nvcc"] = _first(
        r"release \S+ V\S+", [cuda_tool("nvcc") or "nvcc", "--version"]
    )
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    found["Python"] = f"{platform.python_version()}, {platform.system()}"
    revision = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found["sources of the kernels"] = _digest(ROOT / "kernels" / "csrc")
    found["uqlib"] = commit or _first(r"^[0-9a-z.-]+$", revision)
    return found


def _device() -> dict[str, str]:
    try:
        import torch

        device = torch.cuda.get_device_properties(0)
        cache = getattr(device, "L2_cache_size", 0)
        found = {
            "GPU": device.name,
            "memory": f"{device.total_memory / 2**30:.0f} GiB",
            "multiprocessors": str(device.multi_processor_count),
            "L2": f"{cache / 2**20:.0f} MiB",
            "CUDA of torch": str(torch.version.cuda),
        }
    except Exception as error:
        found = {"GPU": f"unknown: {error}"}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found["driver"] = _first(r"[0-9.]+", query)
    return found


def _digest(folder: Path) -> str:
    """Return what changes with a file of a folder, where git cannot tell."""
    key = hashlib.sha256()
    for path in sorted(folder.glob("*.*")):
        if path.is_file():
            key.update(path.name.encode() + path.read_bytes())
    return key.hexdigest()[:12]


def _first(pattern: str, command: Sequence[str]) -> str:
    """Return what a command says first of a form."""
    done = ran(command, 20.0)
    found = re.search(pattern, done.text, re.MULTILINE) if done.status == 0 else None
    return found[0] if found else "unknown"


# ---------------------------------------------------------------------------
# Files.


def stem_of(results: dict[str, Any]) -> str:
    """Return the name of the files of results."""
    gpu = results["machine"].get("GPU", "none")
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")[:60]
    return f"{results['date']}-{name}"


def write(results: dict[str, Any], log: Sequence[str], folder: Path) -> Path:
    """Write the page, the JSON and the log; return where the page is."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{stem_of(results)}.rst"
    page.with_suffix(".json").write_text(json.dumps(results), encoding="utf-8")
    if log:
        text = "\n".join(log)[-4_000_000:]
        page.with_suffix(".log").write_text(text, encoding="utf-8")
    page.write_text(as_rst(results), encoding="utf-8")
    return page


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several runs on one machine as one; later ones come last.

    A case or a stage that was run again is that of the last run.
    """
    records: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    for part in parts:
        for record in part["records"]:
            keys = ("table", "shape", "rows", "layer", "name", "case")
            records[json.dumps([record.get(key) for key in keys])] = record
        stages |= {stage["name"]: stage for stage in part["stages"]}
    last = {"stages": [*stages.values()], "records": [*records.values()]}
    return {**parts[-1], **last}


def _report(options: argparse.Namespace) -> int:
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in options.report]
    results = merged(parts)
    print("\n".join(summary(results)))
    print(f"written to {write(results, [], options.output)}")
    return status(results)


def _stages(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {','.join(STAGES)}")
    return names


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--stages", type=_stages, default=list(STAGES), help=",".join(STAGES))
    add("--quick", action="store_true", help="fewer shapes and replays")
    add("--dry-run", action="store_true", help="on the CPU, with tiny sizes")
    add("--seconds", type=float, default=540.0, help="for all stages (default: 540)")
    add("--output", type=Path, default=RESULTS, metavar="FOLDER", help="for results")
    add("--commit", default="", help="of uqlib, where git cannot tell")
    add("--report", type=Path, nargs="+", metavar="FILE", help="JSON of earlier runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except subprocess.SubprocessError as error:
        raise SystemExit(f"gpu.py: {error}") from error
