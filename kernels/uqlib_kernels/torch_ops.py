r"""Products with packed weights as operations of torch.

Once `register` was called there are ``torch.ops.uqlib_kernels.linear_w8a8`` and one
more for each function of `uqlib_kernels.ops`, all of the same form,

    operation(x, codes, scale, zero_point, codebook, bits, n_out, n_in, group_size,
              twice_zero, bias) -> y,

since torch hands tensors and numbers to an operation and no objects: what stands
between x and bias is a `PackedTensors`. On the CPU they are the functions of
`uqlib_kernels.ops`, on the memory of the tensors themselves. ``torch.compile`` sees
each as one node. They have no gradient.

torch is imported by the functions of this module and not with it.
"""

from typing import Any, NamedTuple

from uqlib_kernels.pack import PackedWeight

__all__ = ["OPERATIONS", "PackedTensors", "linear", "packed_tensors", "register"]

OPERATIONS = (
    "linear_dequantized",
    "linear_w1",
    "linear_w2a8",
    "linear_w4a8",
    "linear_w4a32",
    "linear_w8a8",
)
_OF_BITS = {8: "linear_w8a8", 4: "linear_w4a8", 2: "linear_w2a8", 1: "linear_w1"}


class PackedTensors(NamedTuple):
    """A packed weight as an operation of torch takes it, in the order of its arguments.

    Parameters
    ----------
    codes : Tensor of shape (n_tiles, n_groups, n_words, 16, 4)
        uint8.
    scale : Tensor of shape (n_tiles, n_groups, 16)
        float32.
    zero_point : Tensor of shape (n_tiles, n_groups, 16), or None
        float32.
    codebook : Tensor of shape (16,), or None
        float32.
    bits, n_out, n_in, group_size, twice_zero : int
        As in `PackedWeight`.
    """

    codes: Any
    scale: Any
    zero_point: Any
    codebook: Any
    bits: int
    n_out: int
    n_in: int
    group_size: int
    twice_zero: int


def register() -> None:
    """Make the operations known to torch; a second call does nothing.

    Raises
    ------
    ImportError
        If torch is not installed.

    Examples
    --------
    >>> import torch
    >>> from uqlib_kernels.torch_ops import register
    >>> register()
    >>> torch.ops.uqlib_kernels.linear_w8a8.default.name()
    'uqlib_kernels::linear_w8a8'
    """
    # The module registers when it is imported, which happens once a process.
    import uqlib_kernels._torch_ops  # noqa: F401


def packed_tensors(packed: PackedWeight) -> PackedTensors:
    """Return a packed weight as tensors and numbers.

    Parameters
    ----------
    packed : PackedWeight
        Of `uqlib_kernels.pack`.

    Returns
    -------
    PackedTensors
        On the CPU; tensors share the memory of `packed`. Keep them, as buffers of a
        module for instance: the first call for tensors that were not seen before costs
        more than later ones.

    Raises
    ------
    ImportError
        If torch is not installed.

    See Also
    --------
    linear : Multiply rows with them.
    """
    from uqlib_kernels import _torch_ops

    return _torch_ops.tensors_of(packed)


def linear(
    x: Any,
    packed: PackedWeight | PackedTensors,
    bias: Any = None,
    *,
    operation: str | None = None,
) -> Any:
    r"""Multiply rows of a tensor with a packed weight: y = x W^T + b.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
        Rows, of any floating type and any strides.
    packed : PackedWeight or PackedTensors
        The weight. In code that torch compiles it must be `PackedTensors`.
    bias : Tensor of shape (n_out,), default=None
        Added.
    operation : str, default=None
        One of `OPERATIONS`; None for ``linear_w4a32`` with a codebook, else for
        the one of integers with as many bits.

    Returns
    -------
    Tensor of shape (..., n_out)
        Computed in single precision and given the type of x; without a gradient.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If `operation` is unknown or does not take such a weight, or shapes do not fit.

    See Also
    --------
    packed_tensors : What to keep between calls.

    Examples
    --------
    >>> import torch
    >>> from uqlib_kernels.pack import pack_w8
    >>> from uqlib_kernels.torch_ops import linear, packed_tensors
    >>> weight = packed_tensors(pack_w8([[2.0, 127.0]]))
    >>> linear(torch.tensor([[[127.0, 1.0]]]), weight)
    tensor([[[381.]]])
    """
    from uqlib_kernels import _torch_ops

    if isinstance(packed, PackedWeight):
        packed = _torch_ops.tensors_of(packed)
    name = operation
    if name is None:
        name = _OF_BITS[packed.bits] if packed.codebook is None else "linear_w4a32"
    if name not in OPERATIONS:
        raise ValueError(f"operation={name!r} must be one of {list(OPERATIONS)}.")
    return _torch_ops.operation(name)(x, *packed, bias)
