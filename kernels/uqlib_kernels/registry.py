"""Which instructions the kernels may use, chosen before anything is compiled.

Three levels, best first:

- ``"amx"``: tiles of bytes (AMX-INT8), and all of ``"vnni"``. The kernel of the system
  must grant the process the tiles.
- ``"vnni"``: vectors of 512 bits with products of bytes and permutations of bytes
  (AVX-512 F, BW, CD, DQ, VL, VNNI and VBMI: Ice Lake, Zen 4 and later).
- ``"portable"``: plain loops, for every machine.

The environment variable ``UQLIB_ISA`` forces a level, for tests and comparisons; a
level that the machine does not have is an error. What counts as the machine is what
Numba compiles for: with ``NUMBA_CPU_NAME=generic`` or ``NUMBA_CPU_FEATURES`` set, only
the features named there. LLVM ends the process when it has to write an instruction that
its target lacks, so no kernel of a higher level is ever handed to it.
"""

import os
import platform
from functools import cache
from typing import Any

import numba
from llvmlite import binding

from uqlib_kernels._amx_permission import request_tiles

__all__ = ["LEVELS", "available_isas", "isa"]

LEVELS = ("amx", "vnni", "portable")
VARIABLE = "UQLIB_ISA"

_VNNI = frozenset(
    f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "vnni", "vbmi")
)
_AMX = frozenset({"amx-tile", "amx-int8"})

_CONFIG: Any = numba.config  # its attributes are made while it is imported


@cache
def isa() -> str:
    """Return the level of instructions that the kernels use in this process.

    Returns
    -------
    {"amx", "vnni", "portable"}
        The best that there is, or the one that ``UQLIB_ISA`` names. It is found once.

    Raises
    ------
    ValueError
        If ``UQLIB_ISA`` is no level, or one that this machine does not have.

    See Also
    --------
    available_isas : All levels of this machine.

    Examples
    --------
    >>> from uqlib_kernels.registry import available_isas, isa
    >>> isa() in available_isas()
    True
    """
    forced = os.environ.get(VARIABLE, "")
    if not forced:
        return available_isas()[0]
    if forced not in LEVELS:
        raise ValueError(f"{VARIABLE}={forced!r} must be one of {list(LEVELS)}.")
    if not _has(forced):
        raise ValueError(
            f"{VARIABLE}={forced!r} asks for instructions that this machine, or the "
            f"target that Numba is told to compile for, does not have. It has "
            f"{list(available_isas())}; unset the variable to take the best of them."
        )
    return forced


@cache
def available_isas() -> tuple[str, ...]:
    """Return the levels of instructions that this process can use, best first.

    Returns
    -------
    tuple of str
        Ends in "portable".

    See Also
    --------
    isa : The level that is used.

    Examples
    --------
    >>> from uqlib_kernels.registry import available_isas
    >>> available_isas()[-1]
    'portable'
    """
    return tuple(level for level in LEVELS if _has(level))


def _has(level: str) -> bool:
    if level == "portable":
        return True
    features = target_features()
    if level == "vnni" or not features >= _VNNI:
        return features >= _VNNI
    return features >= _AMX and request_tiles() and _tiles_are_right()


def _tiles_are_right() -> bool:
    # Imported here: it compiles instructions of this level, for the first time.
    from uqlib_kernels._amx_gemm import amx_works

    return amx_works()


def target_features() -> frozenset[str]:
    """Return the features of the processor that Numba compiles for.

    Returns
    -------
    frozenset of str
        Names as LLVM has them, as "avx512vnni". Empty on processors other than x86-64,
        where Numba is told a processor but not its features, and where it compiles
        nothing (NUMBA_DISABLE_JIT=1).
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if not is_x86 or _CONFIG.DISABLE_JIT:
        return frozenset()
    try:
        has = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not know this system's processors
        return frozenset()
    host = frozenset(name for name, present in has.items() if present)
    if _CONFIG.CPU_FEATURES is None and _CONFIG.CPU_NAME is None:
        return host if _CONFIG.ENABLE_AVX else _without_avx(host)
    told: set[str] = set()
    for part in (_CONFIG.CPU_FEATURES or "").split(","):
        change = told.add if part.startswith("+") else told.discard
        change(part[1:])
    # Told or not, what the processor itself lacks would stop the process later.
    return host & told


def _without_avx(features: frozenset[str]) -> frozenset[str]:
    # As Numba itself leaves out these families when NUMBA_ENABLE_AVX=0.
    return frozenset(name for name in features if not name.startswith(("avx", "amx")))
