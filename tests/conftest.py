"""What every test shares: hypothesis profiles, dataframe modules, hardware skips."""

import importlib.util
import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

# No test opens a window.
os.environ.setdefault("MPLBACKEND", "Agg")

# No deadline: the first call of a compiled kernel includes its compilation.
settings.register_profile("ci", max_examples=50, deadline=None, print_blob=True)
settings.register_profile("dev", max_examples=20, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _pandas_module():
    pd = pytest.importorskip("pandas")
    return SimpleNamespace(
        name="pandas",
        module=pd,
        DataFrame=pd.DataFrame,
        Series=pd.Series,
        make_dataframe=lambda columns: pd.DataFrame(dict(columns)),
        make_series=lambda values, name="y": pd.Series(values, name=name),
        column_names=lambda frame: list(frame.columns),
        to_numpy=lambda frame: np.asarray(frame.to_numpy()),
    )


def _polars_module():
    pl = pytest.importorskip("polars")
    return SimpleNamespace(
        name="polars",
        module=pl,
        DataFrame=pl.DataFrame,
        Series=pl.Series,
        make_dataframe=lambda columns: pl.DataFrame(dict(columns)),
        make_series=lambda values, name="y": pl.Series(name, values),
        column_names=lambda frame: list(frame.columns),
        to_numpy=lambda frame: np.asarray(frame.to_numpy()),
    )


@pytest.fixture(params=[_pandas_module, _polars_module], ids=["pandas", "polars"])
def df_module(request):
    """One dataframe library, as a namespace that is the same for each.

    ``make_dataframe(columns)`` and ``make_series(values, name)`` build, ``DataFrame``
    and ``Series`` are the types, ``column_names(frame)`` and ``to_numpy(frame)`` read,
    ``name`` is what ``set_output(transform=...)`` takes.
    """
    return request.param()


def _no_cuda():
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else "there is no CUDA device"


def _no_dask():
    if importlib.util.find_spec("distributed") is None:
        return "dask is not installed: pip install 'uqlib[distributed]'"
    return ""


def pytest_collection_modifyitems(items):
    """Skip what this machine cannot run, and say why."""
    for marker, find_reason in (("gpu", _no_cuda), ("dask", _no_dask)):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = find_reason() if marked else ""
        for item in marked:
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
