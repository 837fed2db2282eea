"""What a quantization cost and saved."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from sklearn.utils import Bunch

from uqlib.quantized._open import OpenedModel

COLUMNS = (
    "part",
    "layer",
    "n_out",
    "n_in",
    "weights",
    "activations",
    "rounding",
    "bits",
    "nbytes",
    "relative_error",
    "op",
)


class Report(NamedTuple):
    """The fitted attributes that describe a quantized model."""

    layers: Any
    summary: Any
    skipped: list[str]
    nbytes: int
    effective_bits: float
    compression_ratio: float


def fitted_report(
    opened: OpenedModel, parts: Mapping[str, Any], backend: str = "auto"
) -> Report:
    """Return what the fitted attributes say.

    Parameters
    ----------
    opened : OpenedModel
        The float model.
    parts : mapping of name to quantized part
        Its parts.
    backend : {"auto", "cuda", "numba", "reference"}, default="auto"
        What computes the predictions.

    Returns
    -------
    Report
        Sizes of networks are compared with a float32 for every parameter, whatever type
        the float model holds them in; those of trees with what their library reads.
    """
    rows = [
        {"part": name, **row}
        for name, part in parts.items()
        for row in part.table(backend)
    ]
    left = [*opened.skipped]
    for part in parts.values():
        left += part.skipped
    skipped = [f"{layer.name or 'model'}: {layer.reason}" for layer in left]
    # What was not opened stays in float; 0 where its size is not known.
    n_beside = sum(layer.n_parameters for layer in opened.skipped)
    nbytes = 4 * n_beside + sum(part.nbytes for part in parts.values())
    n_parameters = n_beside + sum(part.n_parameters for part in parts.values())
    float_nbytes = 4 * n_beside + sum(part.float_nbytes for part in parts.values())
    bits = 8 * nbytes / n_parameters if n_parameters else 32.0
    ratio = float_nbytes / nbytes if nbytes else 1.0
    summary = Bunch(
        n_parameters=n_parameters,
        nbytes=nbytes,
        float_nbytes=float_nbytes,
        effective_bits=bits,
        compression_ratio=ratio,
        skipped=skipped,
    )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return Report(table, summary, skipped, nbytes, bits, ratio)
