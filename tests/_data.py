"""Real data for tests, read from a folder beside the checkout where there is one."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]


def data_folder():
    """Where the real data sets lie: ``UQLIB_DATA``, else beside the checkout."""
    return Path(os.environ.get("UQLIB_DATA", ROOT.parent / "shared" / "data"))


def load_real_data(name):
    """Return ``X`` (n_samples, n_features) and ``y`` (n_samples,) of one data set.

    Skips the calling test where the file is absent, so that a user's clone passes.
    """
    path = data_folder() / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(
            f"real data set {name!r} is not at {path}: "
            "set UQLIB_DATA to the folder that holds it"
        )
    table = pd.read_csv(path)
    X = table.drop(columns="target").to_numpy(dtype=np.float64)
    return X, table["target"].to_numpy(dtype=np.float64)
