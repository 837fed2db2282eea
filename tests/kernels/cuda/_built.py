"""The kernels as nvcc compiles them, once for all tests, and what is in their code."""

import fcntl
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.kernels.cuda._emulated import CSRC

FOLDER = Path(tempfile.gettempdir()) / f"uqlib-cuda-{os.getuid()}"
JOBS = 2


def load_build():
    """``build.py`` as a module, which is in no package."""
    spec = importlib.util.spec_from_file_location("uqlib_build", CSRC / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
REAL_TARGETS = tuple(target for target in build.TARGETS if target.startswith("sm_"))


@functools.cache
def nvcc():
    """The compiler; skips the test where there is none."""
    try:
        return build.compiler()
    except build.BuildError as error:
        pytest.skip(f"needs nvcc: {error}")


@functools.cache
def _outcome(make):
    """What a function gives, or its error: a failure is not tried again either."""
    FOLDER.mkdir(exist_ok=True)
    # One process at a time builds; the others find what it has built.
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return make(), None
        except build.BuildError as error:
            return None, str(error)


def _result(make):
    nvcc()
    result, error = _outcome(make)
    assert error is None, error
    return result


def cubins():
    """What each kernel takes of the machine; the code is in FOLDER."""
    return _result(_make_cubins)


def library(torch):
    """The library with PTX alone, not optimized: it is its host part that is tested."""
    return _result(_make_with_torch if torch else _make_without_torch)


def _make_cubins():
    kept = FOLDER / "build"
    return build.build_cubins(FOLDER, REAL_TARGETS, nvcc=nvcc(), jobs=JOBS, build=kept)


def _make_with_torch():
    return _make_library(FOLDER / "torch", True)


def _make_without_torch():
    return _make_library(FOLDER / "plain", False)


def _make_library(folder, torch):
    build.build_library(
        folder,
        ["compute_90"],
        nvcc=nvcc(),
        jobs=JOBS,
        build=FOLDER / "build",
        flags=(*build.FLAGS, "-Xcicc=-O0"),
        torch=torch,
    )
    return folder / build.LIBRARY


def _tool(name):
    """A tool of CUDA's toolkit, or the one that comes with triton."""
    folders = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [name, *(str(Path(folder) / "bin" / name) for folder in folders)]
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        triton = Path(spec.origin).parent
        places.append(str(triton / "backends" / "nvidia" / "bin" / name))
    return next(filter(None, map(shutil.which, places)), None)


@functools.cache
def opcodes(target):
    """How often each opcode is in each kernel: ``{mangled name: Counter}``."""
    kernels = cubins()
    tool = _tool("nvdisasm")
    if tool is None:
        pytest.skip("needs nvdisasm, which comes with CUDA's toolkit and with triton")
    found = {}
    for source in sorted({usage.source for usage in kernels}):
        cubin = FOLDER / f"{Path(source).stem}.{target}.cubin"
        done = subprocess.run(
            [tool, "-ndf", "-c", cubin], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            if match := re.match(r"\.text\.(\S+):", line):
                counter = found.setdefault(match[1], Counter())
            elif match := re.match(
                r"\s*/\*[0-9a-f]+\*/\s+(?:\{\s*)?(?:@!?\w+\s+)?([A-Z][\w.]*)", line
            ):
                counter[match[1]] += 1
    return found
