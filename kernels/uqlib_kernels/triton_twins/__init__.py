r"""Twins of the CUDA kernels, written in Triton: what they compute, without how.

Each function here is a specification that runs, and a baseline to compare with; it is
not the fast path. The products read the very arrays that the CUDA kernels read, in the
order of ``csrc/layout.cuh``, an element at a time, and sum as those do:

    y[m, n] = sum_g s[n, g] sum_{k in g} (q[n, k] - z[n, g]) x[m, k] + b[n],

where the inner sums are of numbers of the type of x in single precision, or of
integers. Rows are sorted by counting, projected by pooling one pair of neighbors after
the other, and labels are ranked by comparing all with all.

Tensors lie on a GPU, or on the CPU if ``TRITON_INTERPRET=1`` was set in the environment
before triton was imported: the interpreter needs no GPU, and takes milliseconds for
every 16 x 32 weights. triton and torch are imported by the first call.
"""

from typing import Any, NamedTuple

from uqlib_kernels.cuda._arrange import DeviceColumns
from uqlib_kernels.pack import PackedWeight

__all__ = [
    "ArrangedTensors",
    "arranged_tensors",
    "integer_linear",
    "isotonic_rows",
    "linear",
    "mass_sets",
    "quantize_rows",
    "sort_rows",
]


class ArrangedTensors(NamedTuple):
    """A packed weight in the order of a GPU, as tensors on a device.

    Parameters
    ----------
    codes : Tensor of shape (n_out_padded, n_columns) or (n_tiles, n_steps, 32, 4)
        int8 for 8 bits, else int32, words.
    scale : Tensor of shape (n_tiles, n_groups, 16)
        float32.
    zero_point : Tensor of shape (n_tiles, n_groups, 16), or None
        float32; None if all are `uniform_zero`.
    codebook : Tensor of shape (16,), or None
        float32.
    bits, n_out : int
        As in `PackedWeight`.
    uniform_zero : float
        Zero point of all groups.
    columns : DeviceColumns
        Where the columns lie.
    """

    codes: Any
    scale: Any
    zero_point: Any
    codebook: Any
    bits: int
    n_out: int
    uniform_zero: float
    columns: DeviceColumns


def arranged_tensors(packed: PackedWeight, device: Any = "cpu") -> ArrangedTensors:
    """Return a packed weight as the kernels of a GPU read it.

    Parameters
    ----------
    packed : PackedWeight
        Of `uqlib_kernels.pack`.
    device : torch.device or str, default="cpu"
        Where the tensors lie.

    Returns
    -------
    ArrangedTensors
        Copies.

    Raises
    ------
    TypeError
        If `packed` is no packed weight.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.arranged_tensors(packed, device)


def linear(x: Any, weight: ArrangedTensors, bias: Any = None) -> Any:
    """Multiply rows of floats with a weight: y = x W^T + b.

    A specification and a baseline, not the fast path.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
        Rows of float16, bfloat16 or float32, of any strides.
    weight : ArrangedTensors
        Any; q - z, or the value of a codebook, is rounded to the type of x.
    bias : Tensor of shape (n_out,), default=None
        Added in single precision.

    Returns
    -------
    Tensor of shape (..., n_out)
        Of the type of x.

    Raises
    ------
    ValueError
        If shapes, types or devices do not fit.
    RuntimeError
        If tensors lie on the CPU and the interpreter is off.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.linear(x, weight, bias)


def integer_linear(x: Any, weight: ArrangedTensors, bias: Any = None) -> Any:
    """Multiply rows, rounded as `quantize_rows` does, with a weight of integers.

    A specification and a baseline, not the fast path. The sums over a group are exact.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
        Rows of float16, bfloat16 or float32. They are rounded to signed bytes, for
        a weight of one bit to integers up to 31.
    weight : ArrangedTensors
        Not of a codebook.
    bias : Tensor of shape (n_out,), default=None
        Added in single precision.

    Returns
    -------
    Tensor of shape (..., n_out)
        Of the type of x; NaN in rows that hold NaN or infinity.

    Raises
    ------
    ValueError
        If shapes, types or devices do not fit, or `weight` holds a codebook.
    RuntimeError
        If tensors lie on the CPU and the interpreter is off.

    See Also
    --------
    uqlib_kernels.ops : The same on the CPU.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.integer_linear(x, weight, bias)


def quantize_rows(x: Any, weight: ArrangedTensors, top: int = 127) -> Any:
    r"""Round rows to signed bytes, each with a scale of its own.

    .. math:: t_m = \max_k |x_{mk}| / top, \qquad a_{mk} = rint(x_{mk} / t_m)

    A specification and a baseline, not the fast path.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
        Rows of float16, bfloat16 or float32.
    weight : ArrangedTensors
        Gives the order of the bytes.
    top : int, default=127
        Largest code, between 1 and 127.

    Returns
    -------
    codes : Tensor of shape (n_rows, n_columns)
        int8, where tiles of the weight take them; zeros in the padding.
    sums : Tensor of shape (n_rows, n_groups)
        int32, sums of the codes of a group.
    row_scale : Tensor of shape (n_rows,)
        float32; 1 for a row of zeros, and NaN, with codes of 0, for a row that holds
        NaN or infinity.

    Raises
    ------
    ValueError
        If `top` is out of range, or shapes or types do not fit.
    RuntimeError
        If tensors lie on the CPU and the interpreter is off.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.quantize_rows(x, weight, top)


def sort_rows(q: Any) -> Any:
    """Sort each row in ascending order; equal values stay in theirs.

    A specification and a baseline, not the fast path.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        float32 or float64.

    Returns
    -------
    Tensor of shape (n_samples, n_quantiles)
        Of the type of q; rows that were sorted keep their bits.

    Raises
    ------
    TypeError
        If `q` is no matrix of floats.
    ValueError
        If `q` contains NaN.
    RuntimeError
        If tensors lie on the CPU and the interpreter is off.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.sort_rows(q)


def isotonic_rows(q: Any, level_weight: Any = None) -> Any:
    r"""Project each row on the non-decreasing rows, in weighted least squares.

    .. math:: \operatorname*{arg\,min}_{v_1 \le \dots \le v_m}
              \sum_{k=1}^{m} w_k (q_{ik} - v_k)^2

    A specification and a baseline, not the fast path.

    Parameters
    ----------
    q : Tensor of shape (n_samples, n_quantiles)
        float32 or float64.
    level_weight : Tensor of shape (n_quantiles,), default=None
        Weights of the levels, positive and finite; None weights them equally.

    Returns
    -------
    Tensor of shape (n_samples, n_quantiles)
        Of the type of q, computed in double precision; levels outside any pool keep
        their bits. NaN in a pool of both infinities, and in a row with NaN.

    Raises
    ------
    TypeError
        If `q` is no matrix of floats.
    ValueError
        If shapes do not fit.
    RuntimeError
        If tensors lie on the CPU and the interpreter is off.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.isotonic_rows(q, level_weight)


def mass_sets(
    proba: Any, threshold: Any, u: Any, k_reg: int = 0, penalty: float = 0.0
) -> Any:
    r"""Labels whose penalized cumulative mass is at most a threshold.

    .. math:: b_{ij} + u_i \, r(p_{ij}) + \lambda \max(0, o_{ij} - k) \le t_i,

    as in `uqlib_kernels.sets.mass_sets`, bit for bit. A specification and a baseline,
    not the fast path.

    Parameters
    ----------
    proba : Tensor of shape (n_samples, n_classes)
        float32 or float64; probabilities, which are not checked.
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
    Tensor of shape (n_samples, n_classes)
        bool, the sets.

    Raises
    ------
    TypeError
        If `proba` is no matrix of floats.
    ValueError
        If shapes do not fit.
    RuntimeError
        If tensors lie on the CPU and the interpreter is off.
    """
    from uqlib_kernels.triton_twins import _torch_launch

    return _torch_launch.mass_sets(proba, threshold, u, k_reg, penalty)
