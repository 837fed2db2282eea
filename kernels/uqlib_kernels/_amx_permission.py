"""Ask Linux for the tile registers of AMX, which it grants to a process on request."""

import ctypes
import platform
import sys
from functools import cache

__all__ = ["request_tiles"]

# arch_prctl(2): the state component of tile data is number 18 of the extended state.
_ARCH_PRCTL = 158
_GET_PERMISSION, _REQUEST_PERMISSION = 0x1022, 0x1023
_TILE_DATA = 18


@cache
def request_tiles() -> bool:
    """Return whether this process may use tile registers, asking for them if need be.

    The permission holds for all threads of the process and for its children. Without it
    the first tile instruction ends the process.

    Returns
    -------
    bool
        False on other systems than Linux on x86-64, and where Linux refuses.
    """
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    system.syscall.restype = ctypes.c_long
    mask = ctypes.c_ulong(0)
    arguments = (ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_REQUEST_PERMISSION))
    if system.syscall(*arguments, ctypes.c_ulong(_TILE_DATA)) != 0:
        return False
    asked = (ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_GET_PERMISSION))
    if system.syscall(*asked, ctypes.byref(mask)) != 0:
        return False
    return bool(mask.value >> _TILE_DATA & 1)
