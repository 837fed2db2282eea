"""Kernels for GPUs of CUDA, as operations of torch.

They come as a library that ``python kernels/csrc/build.py`` builds, since a machine
without a GPU has no use for it and seldom has nvcc. It is loaded when it is first
needed; `load` does so at once, and says what is missing where it cannot. The operations
are those of `uqlib_kernels.torch_ops`, for tensors on a GPU.

torch is imported by the functions of this module and not with it.
"""

from uqlib_kernels.cuda._library import (
    KernelUnavailableError,
    is_available,
    load,
    why_unavailable,
)

__all__ = ["KernelUnavailableError", "is_available", "load", "why_unavailable"]
