"""Schemes: short names, recipes, errors, and that a scheme is a value."""

import copy
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone

from uqlib.quantized._recipes import RECIPES
from uqlib.quantized._scheme import (
    ACTIVATION_RANGES,
    CLIPS,
    CORRECTIONS,
    FIXED_FORMATS,
    GRANULARITIES,
    ROUNDINGS,
    SCALE_FORMATS,
    SIZED_FORMATS,
    TARGETS,
    TRANSFORMS,
    QuantizationScheme,
    format_at_bits,
    format_bits,
)

Scheme = QuantizationScheme
SIZED = [
    f"{family}{bits}"
    for family, (low, high) in SIZED_FORMATS.items()
    for bits in range(low, high + 1)
]
FORMATS = [*SIZED, *FIXED_FORMATS]
NAMES = [
    *((f"w{bits}", {"weights": f"int{bits}"}) for bits in range(1, 9)),
    *((f"wint{bits}", {"weights": f"int{bits}"}) for bits in range(1, 9)),
    *((f"wpow{bits}", {"weights": f"power{bits}"}) for bits in range(2, 9)),
    *((f"wbfp{bits}", {"weights": f"bfp{bits}"}) for bits in range(2, 9)),
    *((f"wcb{bits}", {"weights": f"codebook{bits}"}) for bits in range(1, 9)),
    *((f"w4a{bits}", {"activations": f"int{bits}"}) for bits in range(2, 9)),
    ("w1.58", {"weights": "ternary"}),
    ("wnf4", {"weights": "nf4"}),
    ("wfp4", {"weights": "fp4"}),
    ("wfp8", {"weights": "fp8"}),
    ("w16", {"weights": None}),
    ("w32", {"weights": None}),
    ("w4a16", {}),
    ("w4a32", {}),
    ("w3g16", {"weights": "int3", "granularity": "group", "group_size": 16}),
    ("w4a8g32", {"activations": "int8", "granularity": "group", "group_size": 32}),
    ("w1.58a4", {"weights": "ternary", "activations": "int4"}),
    ("wbfp4g16", {"weights": "bfp4", "granularity": "group", "group_size": 16}),
    ("wnf4g1", {"weights": "nf4", "granularity": "group", "group_size": 1}),
    (" W4A8 ", {"activations": "int8"}),
]
SCHEMES = [
    Scheme(),
    *(Scheme.parse(text) for text, _ in NAMES),
    *(Scheme.recipe(name) for name in RECIPES),
    Scheme(
        weights="codebook3",
        activations="int4",
        activation_range="percentile",
        granularity="group",
        group_size=7,
        symmetric=True,
        scale_format="pow2",
        clip="learned",
        transform=("smooth", "hadamard"),
        rounding="flexround",
        target="fp",
        correction=("bias", "low_rank"),
        rank=9,
        outliers=0.25,
        skip=("out", "it's"),
        layer_bits={"first": 8, "second": 1.58, "third": 16},
    ),
]


@pytest.mark.parametrize(("text", "parts"), NAMES)
def test_short_names(text, parts):
    assert Scheme.parse(text) == Scheme(**parts)


NO_NAMES = ["int4", "w4 a8", "x4", "wzz4", 4, None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "w",
        "wa8",
        "w4a",
        "w4g",
        "w4g8a8",
        "w1.5",
        "w4.0",
        "w-4",
        "w4a8g-1",
        *NO_NAMES,
    ],
)
def test_what_is_no_short_name(text):
    with pytest.raises(ValueError, match=r"is no name of a scheme\. Write 'w' and the"):
        Scheme.parse(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("w0", "weights='int0' must be None or one of 'int1' to 'int8'"),
        ("w9", "weights='int9' must be"),
        ("wpow1", "weights='power1' must be"),
        ("wbfp1", "weights='bfp1' must be"),
        ("wcb9", "weights='codebook9' must be"),
        ("wpow16", "weights='power16' must be"),
        ("w4a1", "activations='int1' must be None or one of 'int2' to 'int8'"),
        ("w4a9", "activations='int9' must be"),
        ("w4g0", "group_size must be an integer of at least 1, got 0"),
        ("wnf3", r"names no number format: 'nf' exists as \['nf4'\]"),
        ("wfp6", r"names no number format: 'fp' exists as \['fp4', 'fp8'\]"),
    ],
)
def test_short_names_out_of_range(text, match):
    with pytest.raises(ValueError, match=match):
        Scheme.parse(text)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"weights": "int0"}, "weights='int0' must be None or one of 'int1' to 'int8'"),
        ({"weights": "int"}, "weights='int' must be"),
        ({"weights": "nf5"}, "weights='nf5' must be"),
        ({"weights": 4}, "weights=4 must be"),
        ({"weights": "power1"}, "'power2' to 'power8'.*'ternary'"),
        ({"activations": "int1"}, "activations='int1' must be None or one of 'int2'"),
        ({"activations": "nf4"}, "activations='nf4' must be"),
        (
            {"activation_range": "max"},
            "activation_range='max' must be one of 'dynamic'",
        ),
        (
            {"granularity": "row"},
            "granularity='row' must be one of 'tensor', 'channel'",
        ),
        ({"granularity": "group"}, "granularity='group' needs group_size, for example"),
        ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
        ({"group_size": 2.0}, "group_size must be an integer of at least 1, got 2.0"),
        ({"group_size": True}, "group_size must be an integer of at least 1, got True"),
        ({"scale_format": "int"}, "scale_format='int' must be one of 'float', 'pow2'"),
        ({"clip": "max"}, "clip='max' must be one of 'minmax', 'mse'"),
        ({"transform": "dct"}, "transform='dct' must be one of 'input_scale'"),
        ({"transform": ("smooth", "x")}, "transform='x' must be one of"),
        ({"transform": (1,)}, r"transform must be a tuple of names, got \(1,\)"),
        ({"skip": [None]}, r"skip must be a tuple of names, got \[None\]"),
        ({"rounding": "floor"}, "rounding='floor' must be one of 'rtn', 'gptq'"),
        ({"target": "float"}, "target='float' must be one of 'fp', 'quantized', None"),
        ({"correction": "rows"}, "correction='rows' must be one of 'bias'"),
        ({"rank": 0}, "rank must be an integer of at least 1, got 0"),
        ({"rank": 1.5}, "rank must be an integer of at least 1, got 1.5"),
        ({"outliers": -0.1}, r"outliers must be a share in \[0, 0.5\], got -0.1"),
        ({"outliers": 0.6}, r"outliers must be a share in \[0, 0.5\], got 0.6"),
        ({"outliers": True}, r"outliers must be a share in \[0, 0.5\], got True"),
        ({"outliers": np.nan}, r"outliers must be a share in \[0, 0.5\], got nan"),
        ({"layer_bits": {"a": 9}}, "bits must be an integer from 1 to 8, or 1.58"),
        ({"layer_bits": {"a": "4"}}, "bits must be a number from 1 to 8, or 1.58, got"),
    ],
)
def test_errors_name_the_part_and_what_is_legal(parts, match):
    with pytest.raises(ValueError, match=match):
        Scheme(**parts)


@pytest.mark.parametrize(
    ("parameter", "legal"),
    [
        ("weights", (*FORMATS, None)),
        ("activation_range", ACTIVATION_RANGES),
        ("granularity", GRANULARITIES),
        ("scale_format", SCALE_FORMATS),
        ("clip", CLIPS),
        ("transform", tuple((name,) for name in TRANSFORMS)),
        ("rounding", ROUNDINGS),
        ("target", (*TARGETS, None)),
        ("correction", tuple((name,) for name in CORRECTIONS)),
    ],
)
def test_all_legal_names_construct(parameter, legal):
    for value in legal:
        assert getattr(Scheme(**{parameter: value}, group_size=8), parameter) == value


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_a_value(scheme):
    for twin in (
        eval(repr(scheme), {"QuantizationScheme": Scheme}),
        pickle.loads(pickle.dumps(scheme)),
        copy.deepcopy(scheme),
        Scheme(**{part.name: getattr(scheme, part.name) for part in fields(scheme)}),
    ):
        assert twin == scheme
        assert hash(twin) == hash(scheme)
        assert repr(twin) == repr(scheme)
    assert scheme != replace(scheme, rank=scheme.rank + 1)
    assert scheme != repr(scheme)


def test_different_schemes_differ():
    assert len(set(SCHEMES)) == len({repr(s) for s in SCHEMES})


def test_clone_of_an_estimator_with_a_scheme():
    class Holder(BaseEstimator):
        def __init__(self, scheme=None):
            self.scheme = scheme

    for scheme in SCHEMES:
        assert clone(Holder(scheme)).scheme == scheme


def test_a_scheme_cannot_be_changed():
    scheme = Scheme()
    with pytest.raises(FrozenInstanceError):
        scheme.weights = "int2"


def test_what_tuples_may_be_given_as():
    assert Scheme(transform="smooth") == Scheme(transform=["smooth"])
    assert Scheme(correction=None) == Scheme(correction=())
    assert Scheme(layer_bits={"a": 3}) == Scheme(layer_bits=[["a", 3]])
    assert Scheme(layer_bits=None) == Scheme()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("bits", [None, *range(1, 9), 1.58, 16])
def test_recipes(name, bits):
    scheme = Scheme.recipe(name, bits=bits)
    if bits is not None:
        assert scheme.bits == {16: 32.0}.get(bits, bits)
    for part, value in RECIPES[name].items():
        if part != "weights" and (part, bits) != ("activations", 16):
            assert getattr(scheme, part) == value
    changed = Scheme.recipe(name, bits, rank=7, clip="percentile")
    assert changed == replace(scheme, rank=7, clip="percentile")


def test_an_unknown_recipe_lists_all():
    with pytest.raises(ValueError, match="There is no recipe 'awq'") as raised:
        Scheme.recipe("awq")
    assert all(name in str(raised.value) for name in RECIPES)
    with pytest.raises(TypeError, match="speed"):
        Scheme.recipe("gptq", speed=3)


@pytest.mark.parametrize(
    ("family", "bits", "expected"),
    [
        ("int4", 3, "int3"),
        ("int4", 1, "int1"),
        ("power4", 3, "power3"),
        ("power4", 1, "int1"),
        ("bfp4", 1, "int1"),
        ("bfp4", 8, "bfp8"),
        ("codebook4", 1, "codebook1"),
        ("nf4", 4, "nf4"),
        ("nf4", 3, "int3"),
        ("fp4", 8, "fp8"),
        ("fp8", 4, "fp4"),
        ("fp8", 2, "int2"),
        ("ternary", 4, "int4"),
        ("int4", 1.58, "ternary"),
        ("nf4", 16, None),
        ("nf4", 32, None),
        (None, 4, "int4"),
        ("int4", np.int64(5), "int5"),
        ("int4", 5.0, "int5"),
    ],
)
def test_other_bits_in_the_same_family(family, bits, expected):
    assert format_at_bits(family, bits) == expected
    assert Scheme(weights=family).at_bits(bits) == Scheme(weights=expected)


@pytest.mark.parametrize("weights", [*FORMATS, None])
@pytest.mark.parametrize("bits", [1, 1.58, 2, 5, 8, 16])
def test_a_format_at_bits_has_these_bits(weights, bits):
    at_bits = format_at_bits(weights, bits)
    assert format_bits(at_bits) == (32.0 if bits == 16 else bits)
    assert format_at_bits(at_bits, bits) == at_bits


@pytest.mark.parametrize("bits", [0, 9, 2.5, -1, 64, np.inf, np.nan])
def test_bits_that_no_format_has(bits):
    with pytest.raises(
        ValueError, match=r"bits must be an integer from 1 to 8, or 1\.58"
    ):
        Scheme().at_bits(bits)


@pytest.mark.parametrize("bits", ["4", None, True, [4]])
def test_bits_that_are_no_number(bits):
    with pytest.raises(
        ValueError, match=r"bits must be a number from 1 to 8, or 1\.58"
    ):
        Scheme().at_bits(bits)


def test_nominal_bits():
    assert {name: Scheme(weights=name).bits for name in FIXED_FORMATS} == FIXED_FORMATS
    for name in SIZED:
        assert Scheme(weights=name).bits == float(name[-1])
    assert Scheme(weights=None).bits == 32.0


def test_the_target_that_none_stands_for():
    assert Scheme.parse("w3").effective_target == "fp"
    assert Scheme.parse("w1").effective_target == "fp"
    assert Scheme(weights="int2", target="fp").effective_target == "fp"
    assert Scheme(target="quantized").effective_target == "quantized"
