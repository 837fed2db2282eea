"""Formats: optimal scales, granularity, powers of two, degenerate rows, sizes."""

import numpy as np
import pytest
from scipy.special import ndtri

from uqlib.quantized._codebooks import has_own_codebook
from uqlib.quantized._formats import fit_grid
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._scheme import CLIPS, QuantizationScheme

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_t(4, size=(5, 23)) + 0.2
FORMATS = [
    *(f"int{bits}" for bits in range(1, 9)),
    *(f"power{bits}" for bits in range(2, 9)),
    *(f"bfp{bits}" for bits in range(2, 9)),
    *(f"codebook{bits}" for bits in range(1, 9)),
    *("ternary", "nf4", "fp4", "fp8"),
]
RANGED = ["int2", "int3", "int4", "int8", "power2", "power4", "nf4", "fp4", "fp8"]
FORMATS_AND_CLIPS = [
    *((weights, "mse") for weights in FORMATS),
    *((weights, clip) for weights in RANGED for clip in CLIPS if clip != "mse"),
]


def scheme(weights="int4", clip="minmax", **parts):
    return QuantizationScheme(weights=weights, clip=clip, **parts)


def loss_of(grid, weight=WEIGHT):
    return np.sum((grid.nearest(weight) - weight) ** 2, axis=1)


def test_one_bit_is_the_best_pair_of_values():
    grid = fit_grid(WEIGHT, scheme("int1"))
    for row, loss in zip(WEIGHT, loss_of(grid), strict=True):
        splits = [
            np.var(np.sort(row)[:k]) * k + np.var(np.sort(row)[k:]) * (row.size - k)
            for k in range(1, row.size)
        ]
        assert loss == pytest.approx(min(splits), rel=1e-4)
        for mu in np.linspace(-2, 2, 41):
            for alpha in np.linspace(0.1, 4, 40):
                pair = np.where(row > mu, mu + alpha, mu - alpha)
                assert loss <= np.sum((pair - row) ** 2) * (1 + 1e-4)


def test_one_bit_without_a_zero_point():
    grid = fit_grid(WEIGHT, scheme("int1", symmetric=True))
    assert grid.zero_point is None
    exact = np.abs(WEIGHT).mean(axis=1)
    np.testing.assert_allclose(grid.scale[:, 0], exact, rtol=2.0**-11)
    for row, loss in zip(WEIGHT, loss_of(grid), strict=True):
        dense = [np.sum((np.abs(row) - a) ** 2) for a in np.linspace(0.01, 5, 500)]
        assert loss <= min(dense) * (1 + 1e-5)


def test_ternary_is_the_best_scale():
    grid = fit_grid(WEIGHT, scheme("ternary"))
    for row, loss in zip(WEIGHT, loss_of(grid), strict=True):
        for alpha in np.linspace(0.01, np.abs(row).max(), 500):
            legal = alpha * np.clip(np.rint(row / alpha), -1, 1)
            assert loss <= np.sum((legal - row) ** 2) * (1 + 1e-5)
        alpha = np.mean(np.abs(row))
        legal = alpha * np.clip(np.rint(row / alpha), -1, 1)
        assert loss <= np.sum((legal - row) ** 2) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("weights", "top"), [("int1", 0.79788), ("ternary", 1.22401), ("codebook2", 1.5104)]
)
def test_normal_weights_get_the_known_constants(weights, top):
    """Least squared error for N(0, 1): uniform with 2 and 3 values, any with 4."""
    row = ndtri((np.arange(100_000) + 0.5) / 100_000)[None]
    largest = np.abs(fit_grid(row, scheme(weights)).nearest(row)).max()
    assert largest == pytest.approx(top, rel=1e-3)


@pytest.mark.parametrize("bits", range(2, 9))
def test_block_floats_against_loops(bits):
    weight = RNG.normal(size=(3, 37)) * np.exp(RNG.normal(size=37))
    weight[1, :16] = 0.0
    weight[2, 0], weight[2, 1:16] = -4.0, 0.25
    grid = fit_grid(weight, scheme(f"bfp{bits}", granularity="tensor"))
    assert grid.scale.shape == (3, 3)
    half = 2 ** (bits - 1)
    for i in range(3):
        for start in range(0, 37, 16):
            block = weight[i, start : start + 16]
            largest = max(abs(v) for v in block)
            e = np.floor(np.log2(largest)) if largest else bits - 2
            s = 2.0 ** (e - (bits - 2))
            legal = np.clip(np.rint(block / s), -half, half - 1) * s
            rounded = grid.nearest(weight)[i, start : start + 16]
            np.testing.assert_array_equal(rounded, legal)
            assert float(grid.parameters(None)[0][i, start]) == s


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("group_size", [None, 1, 4, 23, 99])
def test_every_format_gives_the_nearest_level(weights, group_size):
    granularity = "channel" if group_size is None else "group"
    grid = fit_grid(
        WEIGHT, scheme(weights, granularity=granularity, group_size=group_size)
    )
    scale, z = grid.parameters(None)
    legal = (grid.codebook.astype(float) - z[:, :, None]) * scale[:, :, None]
    legal = np.broadcast_to(legal, (*WEIGHT.shape, grid.n_levels))
    least = np.abs(legal - WEIGHT[:, :, None]).min(axis=2)
    nearest = grid.nearest(WEIGHT)
    np.testing.assert_allclose(np.abs(nearest - WEIGHT), least, atol=1e-12)
    np.testing.assert_array_equal(grid.nearest(nearest), nearest)
    below, above = (grid.decode(codes) for codes in grid.neighbors(WEIGHT))
    closer = np.minimum(np.abs(below - WEIGHT), np.abs(above - WEIGHT))
    np.testing.assert_allclose(closer, least, atol=1e-12)
    assert np.all(np.diff(grid.codebook) > 0)
    assert grid.codebook.dtype == np.float32
    assert grid.code_bits <= np.ceil(scheme(weights).bits)


@pytest.mark.parametrize("weights", [name for name in FORMATS if name[:3] != "bfp"])
def test_granularity(weights):
    one = fit_grid(WEIGHT, scheme(weights, granularity="tensor"))
    assert one.scale.shape == (1, 1)
    row = fit_grid(WEIGHT, scheme(weights))
    assert row.scale.shape == (5, 1)
    part = fit_grid(WEIGHT, scheme(weights, granularity="group", group_size=10))
    assert (part.scale.shape, part.group_size) == ((5, 3), 10)
    if not has_own_codebook(weights):
        # A tensor is one long row, and groups are rows of their own.
        flat = fit_grid(WEIGHT.reshape(1, -1), scheme(weights))
        np.testing.assert_array_equal(one.scale, flat.scale)
        for k, columns in enumerate((slice(0, 10), slice(10, 20), slice(20, 23))):
            alone = fit_grid(WEIGHT[:, columns], scheme(weights))
            np.testing.assert_array_equal(
                alone.nearest(WEIGHT[:, columns]),
                part.nearest(WEIGHT)[:, columns],
                err_msg=str(k),
            )
    wide = fit_grid(WEIGHT, scheme(weights, granularity="group", group_size=50))
    np.testing.assert_array_equal(wide.nearest(WEIGHT), row.nearest(WEIGHT))


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_weights_that_are_not_included_do_not_matter(weights, granularity):
    parts = {"granularity": granularity, "group_size": 7}
    included = RNG.random(WEIGHT.shape) < 0.7
    included[1] = False
    grids = [
        fit_grid(
            np.where(included, WEIGHT, other), scheme(weights, "mse", **parts), included
        )
        for other in (0.0, 1e9, np.nan)
    ]
    for grid in grids[1:]:
        for name in ("scale", "zero_point", "codebook"):
            np.testing.assert_array_equal(getattr(grid, name), getattr(grids[0], name))


@pytest.mark.parametrize(("weights", "clip"), FORMATS_AND_CLIPS)
@pytest.mark.parametrize("size", [1e-300, 1e-44, 1e-30, 1e-5, 1e30, 1e38])
def test_tiny_and_huge_weights(weights, clip, size):
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        weight = WEIGHT / np.abs(WEIGHT).max() * size
        weight[2] = 0.0
        grid = fit_grid(weight, scheme(weights, clip))
        rounded = grid.nearest(weight)
    assert np.all(np.isfinite(rounded))
    scale, _ = grid.parameters(None)
    assert np.all(scale > 0)
    assert np.all(np.isfinite(scale))
    if size >= 1e-30:
        assert np.all(np.abs(rounded - weight) <= 2 * size)


@pytest.mark.parametrize(("weights", "clip"), FORMATS_AND_CLIPS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_degenerate_rows(weights, clip, symmetric):
    parts = {"symmetric": symmetric}
    weight = np.array([[0.0, 0.0, 0.0], [0.7, 0.7, 0.7], [-0.7, -0.7, -0.7]])
    grid = fit_grid(weight, scheme(weights, clip, **parts))
    rounded = grid.nearest(weight)
    no_zero = weights.startswith("codebook") or (weights == "int1" and symmetric)
    np.testing.assert_allclose(rounded[0], 0.0, atol=1e-4 if no_zero else 0)
    np.testing.assert_allclose(rounded[1:], weight[1:], atol=0.2)
    if not no_zero:
        assert np.all(grid.parameters(None)[0][0] == 1)
    for lonely in ([[0.3]], [[-0.3]], [[0.0]]):
        single = fit_grid(np.array(lonely), scheme(weights, clip, **parts))
        alone = single.nearest(np.array(lonely))
        np.testing.assert_allclose(alone, lonely, atol=0.11)
    zeros = np.zeros((2, 3))
    rounded = fit_grid(zeros, scheme(weights, clip, **parts)).nearest(zeros)
    np.testing.assert_allclose(rounded, 0.0, atol=1e-4 if no_zero else 0)


@pytest.mark.parametrize(
    ("mean", "atol"), [(1.0, 2e-3), (1e2, 2e-3), (1e4, 2e-3), (1e8, 10.0)]
)
def test_one_bit_far_from_zero(mean, atol):
    row = np.array([[mean - 1, mean - 1, mean + 1]]) * 1.01
    grid = fit_grid(row, scheme("int1"))
    np.testing.assert_allclose(grid.nearest(row), row, rtol=0, atol=atol)


@pytest.mark.parametrize("weights", FORMATS)
def test_powers_of_two_as_scales(weights):
    grid = fit_grid(WEIGHT, scheme(weights, "mse", scale_format="pow2"))
    scale, _ = grid.parameters(None)
    exponent = np.log2(scale)
    np.testing.assert_array_equal(exponent, np.rint(exponent))
    plain = fit_grid(WEIGHT, scheme(weights, "mse"))
    ratio = scale / plain.parameters(None)[0]
    assert np.all((ratio > 0.5 * (1 - 1e-9)) & (ratio < 2 * (1 + 1e-9)))


@pytest.mark.parametrize("weights", ["int2", "int4", "int8", "int1"])
def test_zero_stays_zero_with_an_integer_zero_point(weights):
    weight = WEIGHT + 3
    weight[:, 4] = 0.0
    grid = fit_grid(weight, scheme(weights, "mse"))
    if weights != "int1":
        assert grid.zero_point.dtype == np.uint8
        np.testing.assert_array_equal(grid.nearest(weight)[:, 4], 0.0)
    else:
        assert grid.zero_point.dtype == np.float16


@pytest.mark.parametrize(
    ("weights", "parts", "bits"),
    [
        ("int4", {}, 4 + (16 + 8) / 96),
        ("int3", {"granularity": "group", "group_size": 32}, 3 + (16 + 8) / 32),
        ("int4", {"symmetric": True}, 4 + 16 / 96),
        ("int4", {"granularity": "tensor"}, 4 + (16 + 8) / (4 * 96)),
        ("int1", {}, 1 + (16 + 16) / 96),
        ("ternary", {}, 2 + 16 / 96),
        ("nf4", {"granularity": "group", "group_size": 16}, 4 + 16 / 16),
        ("fp8", {}, 8 + 16 / 96),
        ("power4", {}, 4 + 16 / 96 + 15 * 32 / (4 * 96)),
        ("codebook2", {}, 2 + 16 / 96 + 4 * 32 / (4 * 96)),
    ],
)
def test_effective_bits(weights, parts, bits):
    weight = np.random.default_rng(0).normal(size=(4, 96))
    grid = fit_grid(weight, scheme(weights, "mse", **parts))
    details = {"named_codebook": not has_own_codebook(weights)}
    layer = QuantizedLayer("layer", grid.encode(weight), grid, details=details)
    assert layer.weight_bits == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize("weights", FORMATS)
def test_more_bits_are_nearer(weights):
    coarse = loss_of(fit_grid(WEIGHT, scheme(weights, "learned")))
    finest = loss_of(fit_grid(WEIGHT, scheme("int8", "learned")))
    if scheme(weights).bits <= 4:
        assert finest.sum() < coarse.sum()


def test_input_is_left_alone():
    weight, included = WEIGHT.copy(), np.ones(WEIGHT.shape, bool)
    weight.setflags(write=False)
    included.setflags(write=False)
    for weights in FORMATS:
        fit_grid(weight, scheme(weights, "learned"), included)
    single = fit_grid(WEIGHT.astype(np.float32)[:, ::2], scheme())
    exact = fit_grid(WEIGHT.astype(np.float32)[:, ::2].astype(float), scheme())
    np.testing.assert_array_equal(single.scale, exact.scale)


@pytest.mark.parametrize("weights", FORMATS)
def test_formats_without_a_range_ignore_the_clip(weights):
    grids = [fit_grid(WEIGHT, scheme(weights, clip)) for clip in CLIPS]
    same = [np.array_equal(grid.scale, grids[0].scale) for grid in grids]
    ranged = weights[:3] in ("int", "pow", "nf4", "fp4", "fp8") and weights != "int1"
    assert all(same) == (not ranged)


def test_no_format_has_no_grid():
    with pytest.raises(ValueError, match=r"weights=None has no grid\. Name a format"):
        fit_grid(WEIGHT, scheme(None))
