"""The CUDA kernels on the host: libraries compiled with the emulation of a GPU.

`emulated(name)` compiles ``csrc/<name>.cu`` with the host's compiler, once for each
state of the sources, and loads it. Operands go in as `guarded` arrays, which end where
memory ends, so that a kernel that reads or writes behind one stops the test.
"""

import ctypes
import fcntl
import functools
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from uqlib_kernels.cuda._arrange import arranged_codes, device_columns

CSRC = Path(__file__).resolve().parents[3] / "kernels" / "csrc"
FLOAT, HALF, BFLOAT16, INT8 = range(4)
FLAGS = (
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-fno-gnu-unique",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
)
SEEDS = (0, 1, 2)
_LIBC = ctypes.CDLL(None, use_errno=True)


def compiler():
    """The host's compiler of C++; skips the test where there is none."""
    found = shutil.which("g++")
    if found is None:
        pytest.skip("needs g++, which compiles the emulation of a GPU")
    return found


def _text(path):
    """A source and all that it includes of this folder."""
    found, waiting = {}, [path]
    while waiting:
        part = waiting.pop()
        if part not in found and part.exists():
            found[part] = part.read_bytes()
            names = re.findall(rb'#include "([^"]+)"', found[part])
            waiting += [CSRC / name.decode() for name in names]
    return b"".join(found[part] for part in sorted(found))


def _made(name, key, command):
    """The file that a command makes, made once for a key by whoever comes first."""
    folder = Path(tempfile.gettempdir()) / f"uqlib-emulated-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(key + repr(command).encode()).hexdigest()[:16]
    path = folder / f"{name}-{digest}"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = folder / f"{path.name}.part"
            done = subprocess.run(
                [compiler(), *FLAGS, *command, "-o", str(made)],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert "warning" not in done.stderr, done.stderr
            made.replace(path)
    return path


def _object(source, *flags):
    """A source of ``csrc`` compiled with the emulation."""
    path = CSRC / source
    command = [*flags, "-DUQLIB_EMULATED", f"-I{CSRC}", "-c", "-x", "c++", str(path)]
    return _made(path.stem, _text(path), command)


@functools.cache
def emulated(*names):
    """The library of some files, with the emulated machine at its default state."""
    objects = [str(_object(f"{name}.cu")) for name in ("common", *names)]
    path = _made("-".join(("lib", *names)), b"", ["-shared", *objects])
    loaded = ctypes.CDLL(str(path))
    loaded.uqlib_error_string.restype = ctypes.c_char_p
    for name in ("uqlib_skinny_parts", "uqlib_gemm_parts"):
        if hasattr(loaded, name):
            getattr(loaded, name).restype = ctypes.c_int64
    return loaded


@functools.cache
def emulated_binding(torch):
    """Where the library of all kernels and the binding to torch lies."""
    home = Path(torch.__file__).parent
    flags = [
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
        "-isystem",
        str(home / "include"),
        "-isystem",
        str(home / "include/torch/csrc/api/include"),
    ]
    objects = [str(_object(path.name)) for path in sorted(CSRC.glob("*.cu"))]
    objects.append(str(_object("binding.cpp", *flags)))
    libraries = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10", "-Wl,--no-as-needed"]
    return _made("lib-binding", b"", ["-shared", *objects, *libraries])


def check(library, code):
    """Fail with the library's message if a launcher returned an error."""
    assert code == 0, library.uqlib_error_string(code).decode()


class _Memory:
    """Pages of which the last may not be touched."""

    def __init__(self, n_bytes):
        page = mmap.PAGESIZE
        self.size = (n_bytes + page - 1) // page * page + page
        self.map = mmap.mmap(-1, self.size)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        end = self.start + self.size - page
        assert _LIBC.mprotect(ctypes.c_void_p(end), page, 0) == 0

    def __del__(self):
        page = mmap.PAGESIZE
        _LIBC.mprotect(ctypes.c_void_p(self.start + self.size - page), page, 3)


def guarded_empty(shape, dtype):
    """An array that ends at the end of memory, every byte of which is 0xFF.

    Where its size is no multiple of 16 bytes up to 15 bytes follow it.
    """
    dtype = np.dtype(dtype)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    room = (n_bytes + 15) // 16 * 16
    memory = _Memory(max(room, 16))
    offset = memory.size - mmap.PAGESIZE - room
    flat = np.frombuffer(memory.map, np.uint8, n_bytes, offset) if n_bytes else None
    if flat is None:
        return np.empty(shape, dtype)
    flat[:] = 0xFF
    array = flat.view(dtype).reshape(shape)
    _KEPT.append(memory)
    return array


_KEPT = []  # memory that arrays lie in, until `free_guarded`


def free_guarded():
    """Give back the memory of all guarded arrays; nobody may use them afterwards."""
    _KEPT.clear()


def guarded(array):
    """A copy of an array as `guarded_empty` places it; None stays None."""
    if array is None:
        return None
    array = np.asarray(array)
    copy = guarded_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def pointer(array):
    """Where an array begins, for a launcher; None is a null pointer."""
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def to_bits(values, kind):
    """Floats as numbers of a type: uint16 for 16 bits, float32 for FLOAT."""
    values = np.asarray(values, dtype=np.float32)
    if kind == FLOAT:
        return values
    if kind == HALF:
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(bits, kind):
    """The inverse of `to_bits`, as float64."""
    if kind == FLOAT:
        return bits.astype(np.float64)
    if kind == HALF:
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


class Columns(ctypes.Structure):
    """``uqlib::Columns``."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            "n_in",
            "whole",
            "inner",
            "parts",
            "group_columns",
            "n_groups",
            "n_columns",
        )
    ]


class Product(ctypes.Structure):
    """``uqlib::Product``; `product` fills it."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                "x",
                "weight",
                "scale",
                "zero",
                "pairs",
                "bias",
                "row_scale",
                "group_sums",
                "y",
                "parts",
            )
        ),
        ("uniform_zero", ctypes.c_float),
        *(
            (name, ctypes.c_int)
            for name in (
                "n_rows",
                "n_out",
                "n_true_out",
                "n_columns",
                "group_columns",
                "n_groups",
            )
        ),
    ]


def columns_of(packed):
    """The `Columns` of a packed weight."""
    return Columns(*device_columns(packed.bits, packed.n_in, packed.group_size))


def placed(rows, packed, dtype=None):
    """Rows (n_rows, n_in) in the padded columns of a weight, with zeros between."""
    columns = device_columns(packed.bits, packed.n_in, packed.group_size)
    k = np.arange(columns.n_in)
    within = k % columns.whole
    group = k // columns.whole * columns.parts + within // columns.inner
    out = np.zeros((len(rows), columns.n_columns), dtype=dtype or rows.dtype)
    out[:, group * columns.group_columns + within % columns.inner] = rows
    return out


def input_order(codes, bits):
    """Placed rows of bytes in the order in which tiles of a weight take them."""
    if bits == 8:
        return codes
    k = np.arange(64)
    i = k % 8
    swapped = (i & 1) << 1 | (i & 2) << 1 | (i & 4) >> 2
    if bits == 4:
        swapped = (i & 4) | (i & 1) << 1 | (i & 2) >> 1
    place = 16 * (k % 32 // 8) + 8 * (k // 32) + swapped
    tiles = codes.reshape(len(codes), -1, 64)
    out = np.empty_like(tiles)
    out[..., place] = tiles
    return out.reshape(codes.shape)


def pairs_of(codebook, kind):
    """The table of pairs of values of a codebook, of shape (256,)."""
    values = to_bits(codebook, kind).astype(np.uint32)
    i = np.arange(256)
    return values[i % 16] | values[i // 16] << np.uint32(16)


def product(packed, x, y, **arrays):
    """A `Product` of a packed weight and placed rows; it keeps its arrays alive.

    `x` are the placed rows as the kernel takes them, `y` is what it fills; `arrays` are
    bias, row_scale, group_sums, pairs and parts, where there are any.
    """
    columns = device_columns(packed.bits, packed.n_in, packed.group_size)
    arrays = {
        "x": x,
        "y": y,
        "weight": guarded(arranged_codes(packed)),
        "scale": guarded(packed.scale),
        "zero": guarded(packed.zero_point),
        **arrays,
    }
    made = Product(
        **{name: pointer(array) for name, array in arrays.items()},
        uniform_zero=packed.twice_zero / 2,
        n_rows=len(x),
        n_out=packed.n_tiles * 16,
        n_true_out=packed.n_out,
        n_columns=columns.n_columns,
        group_columns=columns.group_columns,
        n_groups=columns.n_groups,
    )
    made.arrays = arrays
    return made
