"""Finds and loads the library of kernels, when a GPU is to be used and not before."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

from uqlib_kernels.torch_ops import register

__all__ = [
    "VARIABLE",
    "KernelUnavailableError",
    "is_available",
    "library_path",
    "load",
    "why_unavailable",
]

VARIABLE = "UQLIB_CUDA_LIBRARY"
_DEFAULT = Path(__file__).parent / "_lib" / "libuqlib_kernels_cuda.so"
_HOW = (
    "`python kernels/csrc/build.py` in a clone of uqlib builds it with nvcc; "
    f"the environment variable {VARIABLE} names one that lies elsewhere."
)

_lock = threading.RLock()
_loaded: list[Path] = []  # the one library of this process, once it is loaded


class KernelUnavailableError(RuntimeError):
    """The kernels of a GPU were asked for, and something that they need is missing.

    See Also
    --------
    why_unavailable : The same without an exception.

    Examples
    --------
    >>> from uqlib_kernels.cuda import KernelUnavailableError
    >>> issubclass(KernelUnavailableError, RuntimeError)
    True
    """


def library_path() -> Path | None:
    """Return where the library lies, None if there is none.

    Returns
    -------
    Path or None
        What ``UQLIB_CUDA_LIBRARY`` names, else the place where ``build.py`` writes it.
    """
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else _DEFAULT
    return path if path.is_file() else None


def load() -> None:
    """Load the kernels of GPUs into torch; a second call does nothing.

    From then on the operations of `uqlib_kernels.torch_ops` take tensors on a GPU.
    Functions that are given such tensors call it themselves.

    Raises
    ------
    KernelUnavailableError
        If torch, a GPU or the library is missing. The message says which, and how to
        build the library.

    See Also
    --------
    is_available : Ask first.

    Examples
    --------
    >>> from uqlib_kernels.cuda import is_available, load
    >>> if is_available():
    ...     load()
    """
    with _lock:
        if _loaded:
            return
        torch = _torch_with_gpu()
        path = library_path()
        if path is None:
            raise KernelUnavailableError(_missing())
        # The library says what operations do on a GPU, and not that there are any.
        register()
        try:
            torch.ops.load_library(str(path))
        except (OSError, RuntimeError) as error:
            raise KernelUnavailableError(
                f"the library of CUDA kernels {path} could not be loaded: {error}. If "
                f"it is not of this machine or older than uqlib, build it anew: {_HOW}"
            ) from error
        _loaded.append(path)


def is_available() -> bool:
    """Return whether the kernels of GPUs can be used; they are loaded if so.

    Returns
    -------
    bool
        Nothing is raised, whatever is missing.

    See Also
    --------
    why_unavailable : What is missing.

    Examples
    --------
    >>> from uqlib_kernels.cuda import is_available, why_unavailable
    >>> is_available() == (why_unavailable() is None)
    True
    """
    return why_unavailable() is None


def why_unavailable() -> str | None:
    """Return what keeps the kernels of GPUs from being used.

    Returns
    -------
    str or None
        The message that `load` raises; None if nothing does, and they are loaded then.

    See Also
    --------
    load : Raises it.

    Examples
    --------
    >>> from uqlib_kernels.cuda import why_unavailable
    >>> why_unavailable() or "nothing is missing"
    '...'
    """
    try:
        load()
    except KernelUnavailableError as error:
        return str(error)
    return None


def _torch_with_gpu() -> Any:
    try:
        import torch
    except (ImportError, OSError) as error:
        raise KernelUnavailableError(
            f"CUDA kernels need torch, which could not be imported ({error}): install "
            "torch 2.11 or later, built for CUDA."
        ) from error
    # A driver that is missing or too old is no reason to warn: the answer is the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.cuda.is_available()
    if not found:
        raise KernelUnavailableError(
            f"torch {torch.__version__} sees no GPU of CUDA: "
            + (
                "it is built without CUDA; install a build for CUDA."
                if torch.version.cuda is None
                else "the driver is missing or too old, or CUDA_VISIBLE_DEVICES hides "
                "the GPU."
            )
        )
    return torch


def _missing() -> str:
    named = os.environ.get(VARIABLE)
    if named:
        return f"{VARIABLE}={named!r} is no file: {_HOW}"
    return f"the library of CUDA kernels is not built ({_DEFAULT} is missing): {_HOW}"
