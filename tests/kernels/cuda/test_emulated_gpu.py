"""Tests of a GPU, a part of them, on the emulated one: they ask of it what it does."""

import re
import sys

import pytest

from tests._public import ROOT
from tests.kernels.cuda import _emulated

torch = pytest.importorskip("torch", reason="torch is not installed")
sys.path.append(str(ROOT / "tests" / "benchmarks"))

import _gpu_stages as stages  # noqa: E402

# A few of each kind, which take some seconds; UQLIB_TEST_DEVICE=emulated and pytest's
# --noconftest run all of those files, which takes minutes.
CHOSEN = {
    "test_products_of_all_numbers_of_rows": "float32 and 17-",
    "test_products_of_ragged_shapes": "5-37-130 or 300-1-1-1",
    "test_zero_points_and_codebooks": "64-16-",
    "test_floats_of_every_number_of_bits": "2-2 or 30-1",
    "test_integers_are_those_of_the_cpu": "16-",
    "test_rows_are_rounded_as_is_asked_for": "[7-None-1] or 0.03-8]",
    "test_rows_that_are_not_finite_spoil_no_others": "20-",
    "test_leading_dimensions_and_strides": "",
    "test_no_rows": "shape1",
    "test_double_precision_is_taken": "",
    "test_the_same_bits_every_time": "1-linear_w4a32",
    "test_opcheck": "linear_integer or linear_w4a32",
    "test_errors": "",
    "test_weights_of_other_bits_are_refused": "",
    "test_a_codebook_is_no_integer": "",
    "test_no_gradient": "linear_w1 or linear_integer",
    "test_sorted_rows": "19-",
    "test_rows_with_nan": "19-",
    "test_isotonic_rows": "True-19-",
    "test_prediction_sets": "3-0.02-10]",
    "test_rows_of_any_strides_and_none": "",
    "test_errors_of_rows": "",
    "test_opcheck_of_rows": "",
}


def test_tests_of_a_gpu_pass_on_the_emulated_one():
    _emulated.emulated_binding(torch)  # compiled here, not while the tests run
    chosen = [f"({name}{f' and ({k})' if k else ''})" for name, k in CHOSEN.items()]
    given = ["--noconftest", *map(str, stages.OWN_TESTS), "-k", " or ".join(chosen)]
    stage = stages.tested("check kernels", given, 300.0, "emulated")
    assert stage.ok is True, f"{stage.text}\n{stage.log[-4000:]}"
    passed = set(re.findall(r"::(\w+)(?:\[.*\])? PASSED", stage.log))
    assert passed == set(CHOSEN)
