"""Thresholds of groups: the conformal quantile of every group alone."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.conformal import conformal_quantile, group_quantiles
from uqlib.exceptions import InfiniteIntervalWarning

LEVELS = st.sampled_from([0.1, 0.5, 0.55, 0.9])


@pytest.mark.filterwarnings("ignore::uqlib.exceptions.InfiniteIntervalWarning")
@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 2.5, np.inf]), st.integers(0, 4))),
    LEVELS,
)
def test_every_group_alone(rows, level):
    scores = np.array([s for s, _ in rows])
    groups = np.array([g for _, g in rows], dtype=int)
    labels, thresholds = group_quantiles(scores, groups, level)
    assert labels.tolist() == sorted(set(groups.tolist()))
    expected = [conformal_quantile(scores[groups == g], level) for g in labels]
    assert thresholds.tolist() == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (["b", "a", "b"], ["a", "b"]),
        (np.array(["b", "a", "b"], dtype=object), ["a", "b"]),
        (pd.Categorical(["b", "a", "b"]), ["a", "b"]),
        (pd.Series(["b", "a", "b"]), ["a", "b"]),
        ([True, False, True], [False, True]),
        ([1.5, -2.0, 1.5], [-2.0, 1.5]),
    ],
)
def test_labels_of_any_kind(groups, expected):
    labels, thresholds = group_quantiles([1.0, 2.0, 3.0], groups, 0.5)
    assert labels.tolist() == expected
    assert thresholds.tolist() == [2.0, 3.0]


def test_one_warning_names_groups_and_rows_needed():
    with pytest.warns(InfiniteIntervalWarning, match="At least 9 are needed") as caught:
        _, thresholds = group_quantiles(np.arange(12.0), [0] * 9 + [1, 1, 2], 0.9)
    assert thresholds.tolist() == [8.0, np.inf, np.inf]
    assert len(caught) == 1
    assert "2 of 3 groups" in str(caught[0].message)
    assert "1, 2" in str(caught[0].message)


def test_many_small_groups_are_not_all_listed():
    with pytest.warns(InfiniteIntervalWarning, match=re.escape("0, 1, 2, 3, 4, ...")):
        group_quantiles(np.arange(9.0), range(9), 0.9)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_labels(missing):
    groups = np.array(["a", missing], dtype=object)
    with pytest.raises(ValueError, match="groups has missing labels in 1 rows"):
        group_quantiles([1.0, 2.0], groups, 0.5)


def test_bad_labels():
    with pytest.raises(ValueError, match="mixes labels of types"):
        group_quantiles([1.0, 2.0], np.array(["a", 1], dtype=object), 0.5)
    with pytest.raises(ValueError, match=re.escape("groups must have shape (2,)")):
        group_quantiles([1.0, 2.0], ["a"], 0.5)
    with pytest.raises(ValueError, match="scores contains NaN"):
        group_quantiles([1.0, np.nan], ["a", "b"], 0.5)
