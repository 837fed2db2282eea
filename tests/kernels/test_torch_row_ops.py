"""Operations of torch on rows: the same numbers, and what torch asks of operations."""

import numpy as np
import pytest

from uqlib_kernels import rows, sets

torch = pytest.importorskip("torch")
from uqlib_kernels import _torch_row_ops  # noqa: E402, F401 - needs torch

OPERATIONS = torch.ops.uqlib_kernels
RNG = np.random.default_rng(0)
QUANTILES = RNG.normal(size=(40, 7))
QUANTILES[::2].sort(axis=1)
PROBA = RNG.dirichlet(np.ones(7), size=40)
WEIGHT = RNG.uniform(0.5, 2.0, size=7)
THRESHOLD = RNG.random(40)
THRESHOLD[:2] = [np.inf, -np.inf]
U = RNG.random(40)

every_type = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def tensors(*arrays):
    return [torch.tensor(array) for array in arrays]


def sorted_rows(matrix):
    return OPERATIONS.sort_rows(matrix)


def projected_rows(matrix):
    return OPERATIONS.isotonic_rows(matrix, torch.tensor(WEIGHT))


def mass_sets(matrix):
    # Numbers of any sign are no probabilities, and nothing is promised of them.
    return OPERATIONS.mass_sets(matrix.abs(), *tensors(THRESHOLD, U), 2, 0.01)


every_operation = pytest.mark.parametrize(
    "operation", [sorted_rows, projected_rows, mass_sets]
)

# ---------------------------------------------------------------------------
# The same numbers.


@every_type
def test_operations_are_the_functions_of_their_names(dtype):
    q, proba = QUANTILES.astype(dtype), PROBA.astype(dtype)
    for result, expected in (
        (sorted_rows(torch.tensor(q)), rows.sort_rows(q)),
        (OPERATIONS.isotonic_rows(torch.tensor(q)), rows.isotonic_rows(q)),
        (projected_rows(torch.tensor(q)), rows.isotonic_rows(q, WEIGHT)),
        (
            OPERATIONS.mass_sets(*tensors(proba, THRESHOLD, U)),
            sets.mass_sets(proba, THRESHOLD, U),
        ),
        (
            mass_sets(torch.tensor(proba)),
            sets.mass_sets(proba, THRESHOLD, U, 2, 0.01),
        ),
    ):
        np.testing.assert_array_equal(result.numpy(), expected, strict=True)


@every_operation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_half_precision(operation, dtype):
    x = torch.tensor(PROBA).to(dtype)
    result, wide = operation(x), operation(x.float())
    assert result.dtype == (torch.bool if operation is mass_sets else dtype)
    assert torch.equal(result, wide.to(result.dtype))


@every_operation
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.stack([x, -x], dim=2)[:, :, 1],
        lambda x: x[:1].expand(40, -1),
        lambda x: torch._neg_view(x),
        lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(40, 7),
    ],
)
def test_strides_do_not_matter(operation, view):
    x = view(torch.tensor(PROBA))
    before = x.clone()
    result = operation(x)
    assert result.is_contiguous()
    assert torch.equal(result, operation(before.contiguous()))
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_vectors_become_doubles(dtype):
    q = torch.tensor(QUANTILES)
    weight = torch.arange(1, 8).to(dtype)
    assert torch.equal(
        OPERATIONS.isotonic_rows(q, weight),
        OPERATIONS.isotonic_rows(q, weight.double()),
    )
    proba, t = torch.tensor(PROBA), torch.tensor(THRESHOLD[2:]).round().to(dtype)
    assert torch.equal(
        OPERATIONS.mass_sets(proba[2:], t, t),
        OPERATIONS.mass_sets(proba[2:], t.double(), t.double()),
    )


def test_no_rows():
    nothing = torch.empty(0, 3)
    assert OPERATIONS.sort_rows(nothing).shape == (0, 3)
    assert OPERATIONS.isotonic_rows(nothing).shape == (0, 3)
    empty = torch.empty(0)
    assert OPERATIONS.mass_sets(nothing, empty, empty).shape == (0, 3)


# ---------------------------------------------------------------------------
# What torch asks of an operation.


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck(dtype):
    q, proba, t, u, weight = tensors(QUANTILES, PROBA, THRESHOLD, U, WEIGHT)
    q, proba = q.to(dtype), proba.to(dtype)
    for name, arguments in (
        ("sort_rows", (q,)),
        ("sort_rows", (q.t().contiguous().t(),)),
        ("isotonic_rows", (q,)),
        ("isotonic_rows", (q[:0], weight)),
        ("mass_sets", (proba, t, u)),
        ("mass_sets", (proba, t, u, 3, 0.5)),
    ):
        torch.library.opcheck(getattr(OPERATIONS, name).default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_gives_the_same(backend):
    def function(x, t):
        proba = x.softmax(dim=1)
        ones = torch.ones_like(t)
        return (
            OPERATIONS.sort_rows(x) + 1,
            OPERATIONS.isotonic_rows(x * 2),
            ~OPERATIONS.mass_sets(proba, t, ones, 1, 0.01),
        )

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for n_rows in (5, 3, 2):  # from the second on with a symbolic size
        operands = torch.tensor(QUANTILES[:n_rows]), torch.tensor(THRESHOLD[:n_rows])
        for got, wanted in zip(compiled(*operands), function(*operands), strict=True):
            assert torch.equal(got, wanted)


@every_operation
def test_a_gradient_is_refused(operation):
    x = torch.tensor(PROBA, requires_grad=True)
    result = operation(x)
    if operation is not mass_sets:  # booleans have none to ask for
        with pytest.raises(NotImplementedError, match=r"_rows has no gradient"):
            result.sum().backward()
    with torch.no_grad():
        assert not operation(x).requires_grad


# ---------------------------------------------------------------------------
# Errors.


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("name", "shapes", "more", "message"),
    [
        ("sort_rows", [(3,)], (), r"q must be a matrix of a floating type, got shape"),
        ("isotonic_rows", [(2, 3, 4)], (), r"q must be a matrix"),
        ("isotonic_rows", [(2, 3), (2,)], (), r"level_weight must .* shape \(3,\)"),
        ("isotonic_rows", [(2, 3), (3, 1)], (), r"level_weight must .* shape \(3,\)"),
        ("mass_sets", [(3,), (3,), (3,)], (), r"proba must be a matrix"),
        ("mass_sets", [(2, 3), (3,), (2,)], (), r"threshold must .* shape \(2,\)"),
        ("mass_sets", [(2, 3), (2,), ()], (), r"u must .* shape \(2,\)"),
        ("mass_sets", [(2, 3), (2,), (2,)], (-1,), r"k_reg=-1 must be at least 0"),
        ("mass_sets", [(2, 3), (2,), (2,)], (0, -1.0), r"penalty=-1.0 must be finite"),
        (
            "mass_sets",
            [(2, 3), (2,), (2,)],
            (0, float("nan")),
            r"penalty=nan must be finite",
        ),
    ],
)
def test_operands_that_do_not_fit(name, shapes, more, message, device):
    operands = [torch.ones(shape, device=device) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        getattr(OPERATIONS, name)(*operands, *more)


@pytest.mark.parametrize("name", ["sort_rows", "isotonic_rows"])
def test_integers_are_refused(name):
    with pytest.raises(ValueError, match=r"q must be a matrix of a floating type"):
        getattr(OPERATIONS, name)(torch.ones(2, 3, dtype=torch.int64))


def test_nan_has_no_place_in_an_order():
    with pytest.raises(ValueError, match="q contains NaN"):
        OPERATIONS.sort_rows(torch.tensor([[1.0, float("nan"), 0.0]]))
