r"""Products with packed weights, and rows of quantiles, as operations of torch.

Once `register` was called there are ``torch.ops.uqlib_kernels.linear_w8a8`` and one
more for each function of `uqlib_kernels.ops`, and of those on rows below. Products are
all of the same form,

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

__all__ = [
    "OPERATIONS",
    "PackedTensors",
    "isotonic_rows",
    "linear",
    "mass_sets",
    "packed_tensors",
    "register",
    "sort_rows",
]

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
    # The modules register when they are imported, which happens once a process.
    import uqlib_kernels._torch_ops
    import uqlib_kernels._torch_row_ops  # noqa: F401


def packed_tensors(packed: PackedWeight, device: Any = None) -> PackedTensors:
    """Return a packed weight as tensors and numbers.

    Parameters
    ----------
    packed : PackedWeight
        Of `uqlib_kernels.pack`.
    device : torch.device or str, default=None
        Where they are to be; None is the CPU.

    Returns
    -------
    PackedTensors
        On the CPU tensors share the memory of `packed`. Keep them, as buffers of a
        module for instance: the first call for tensors that were not seen before costs
        more than later ones. On a GPU codes lie in another order, and so does a
        codebook: tensors of one device are not to be moved to another.

    Raises
    ------
    ImportError
        If torch is not installed.
    KernelUnavailableError
        If `device` is a GPU and its kernels are not built; see `uqlib_kernels.cuda`.
    ValueError
        If there are no kernels for such a device.

    See Also
    --------
    linear : Multiply rows with them.
    """
    from uqlib_kernels import _torch_ops

    return _torch_ops.tensors_on(packed, _torch_ops.device_of(device))


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
        packed = _torch_ops.tensors_on(packed, x.device)
    name = operation
    if name is None:
        name = _OF_BITS[packed.bits] if packed.codebook is None else "linear_w4a32"
    if name not in OPERATIONS:
        raise ValueError(f"operation={name!r} must be one of {list(OPERATIONS)}.")
    return _torch_ops.operation(name)(x, *packed, bias)


def sort_rows(q: Any) -> Any:
    r"""Sort each row of a tensor: :math:`q_{i(1)} \le \dots \le q_{i(m)}`.

    Rows that are non-decreasing already come back bitwise equal.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        Quantiles, of any floating type and any strides; on a GPU at most 4096 levels.

    Returns
    -------
    Tensor of shape (n_samples, n_quantiles)
        Contiguous, of the type of `q`; without a gradient.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If `q` is no matrix of floats or, on the CPU, contains NaN. On a GPU, where
        finding out would wait for the result, a row with NaN comes back as NaN.

    See Also
    --------
    isotonic_rows : The closest monotone rows instead.

    Examples
    --------
    >>> import torch
    >>> from uqlib_kernels.torch_ops import sort_rows
    >>> sort_rows(torch.tensor([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]]))
    tensor([[1., 2., 3.],
            [0., 1., 2.]])
    """
    return _row_operation("sort_rows", q)(q)


def isotonic_rows(q: Any, level_weight: Any = None) -> Any:
    r"""Project each row on the non-decreasing rows, in weighted least squares.

    .. math:: \operatorname*{arg\,min}_{v_1 \le \dots \le v_m}
              \sum_{k=1}^{m} w_k (q_{ik} - v_k)^2

    Rows that are non-decreasing already come back bitwise equal.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        Quantiles, of any floating type and any strides; on a GPU at most 4096 levels.
    level_weight : Tensor of shape (n_quantiles,), default=None
        Weights of the levels, positive and finite; None weights them equally.

    Returns
    -------
    Tensor of shape (n_samples, n_quantiles)
        Contiguous, of the type of `q`, computed in double precision (from float32 for
        narrower types); without a gradient. A pool that mixes +inf and -inf is NaN, and
        a row with NaN has at least one.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If `q` is no matrix of floats, or `level_weight` does not fit it.

    See Also
    --------
    sort_rows : Keep all values of a row instead.

    Examples
    --------
    >>> import torch
    >>> from uqlib_kernels.torch_ops import isotonic_rows
    >>> isotonic_rows(torch.tensor([[1.0, 3.0, 2.0], [0.0, 1.0, 2.0]]))
    tensor([[1.0000, 2.5000, 2.5000],
            [0.0000, 1.0000, 2.0000]])
    """
    return _row_operation("isotonic_rows", q)(q, level_weight)


def mass_sets(
    proba: Any, threshold: Any, u: Any, *, k_reg: int = 0, penalty: float = 0.0
) -> Any:
    r"""Labels whose penalized cumulative mass is at most a threshold.

    .. math:: b_{ij} + u_i \, r(p_{ij}) + \lambda \max(0, o_{ij} - k) \le t_i,

    with the mass b of the labels ranked before a label, its rank o from 1, and r, which
    rounds to multiples of 2^-52: the sets are the same on every device.

    Parameters
    ----------
    proba : Tensor of shape (n_samples, n_classes)
        Class probabilities, of any floating type and any strides: finite and not
        negative, in rows that sum to less than 2, which is not checked.
    threshold : Tensor of shape (n_samples,)
        The t, infinities included.
    u : Tensor of shape (n_samples,)
        Share of its own mass that counts for a label, in [0, 1].
    k_reg : int, default=0
        The k: so many labels are not penalized.
    penalty : float, default=0.0
        The lambda, finite and not negative.

    Returns
    -------
    Tensor of shape (n_samples, n_classes), bool
        The sets.

    Raises
    ------
    ImportError
        If torch is not installed.
    ValueError
        If shapes do not fit, `k_reg` is negative, or `penalty` is negative or not
        finite.

    Examples
    --------
    >>> import torch
    >>> from uqlib_kernels.torch_ops import mass_sets
    >>> proba = torch.tensor([[0.25, 0.5, 0.25]])
    >>> mass_sets(proba, torch.tensor([0.75]), torch.ones(1))
    tensor([[ True,  True, False]])
    """
    return _row_operation("mass_sets", proba)(proba, threshold, u, k_reg, penalty)


def _row_operation(name: str, rows: Any) -> Any:
    import torch

    # What is traced must not load anything: the first call comes before.
    if not torch.compiler.is_compiling():
        register()
        if rows.device.type == "cuda":
            from uqlib_kernels import cuda

            cuda.load()
    return getattr(torch.ops.uqlib_kernels, name)
