"""C++ files of this folder as libraries of the host, compiled once for each state."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.kernels.cuda._emulated import CSRC, FLAGS, compiler

HERE = Path(__file__).resolve().parent
OF_NVCC = ("-std=c++17", "-x", "cu", "-O1", "-shared", "-Xcompiler=-fPIC")


@functools.cache
def host_library(name, nvcc=None):
    """The library of ``<name>.cpp``; nvcc compiles it for the host if it is given."""
    source = HERE / f"{name}.cpp"
    headers = sorted(p for p in CSRC.iterdir() if p.suffix in (".cuh", ".hpp", ".h"))
    command = [compiler(), *FLAGS, "-shared", "-DUQLIB_EMULATED"]
    if nvcc is not None:
        command = [nvcc, *OF_NVCC]
    text = b"".join(path.read_bytes() for path in [source, *headers])
    key = hashlib.sha256(text + " ".join(command).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"uqlib-emulated-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{name}-{key}.so"
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [*command, f"-I{CSRC}", str(source), "-o", str(made)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr, done.stderr
        made.replace(library)
    return ctypes.CDLL(str(library))


def nvcc_or_none():
    """The path of nvcc, None where there is none."""
    return shutil.which("nvcc")
