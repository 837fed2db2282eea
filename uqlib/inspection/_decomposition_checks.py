"""What a picture of two kinds of uncertainty is made of, checked."""

from typing import Any

import numpy as np

from uqlib._core.checks import as_1d, check_not_a_date, check_rows
from uqlib._typing import FloatArray
from uqlib.inspection._coverage_points import check_groups


def check_size(values: Any, name: str) -> FloatArray:
    """Return numbers that have a place on the axes."""
    check_not_a_date(values, name)
    array = as_1d(values, name)
    if array.size and not 0 <= array.min() <= array.max() < np.inf:
        raise ValueError(
            f"{name} must be finite and at least 0, got values from "
            f"{float(array.min())!r} to {float(array.max())!r}. Clip rounding errors "
            f"by np.maximum({name}, 0), take np.abs of what has a sign, and leave out "
            "rows without a finite value: they have no place on the axes."
        )
    return array


def check_errors(errors: Any, n_samples: int) -> Any:
    """Return booleans as they are, and sizes of errors as floats."""
    if errors is None:
        return None
    array = np.asarray(errors)
    if array.dtype.kind != "b" or array.ndim != 1:
        array = check_size(errors, "errors")
    check_rows(n_samples, array.size, "errors", "aleatoric")
    return array


def check_group_of_rows(mondrian_groups: Any, n_samples: int) -> Any:
    """Return one group a row, none of them missing."""
    if mondrian_groups is None:
        return None
    groups = np.asarray(mondrian_groups, dtype=object)
    if groups.ndim == 1:
        check_rows(n_samples, groups.size, "mondrian_groups", "aleatoric")
    check_groups(groups, n_samples)
    return groups


def check_one_color(errors: Any, mondrian_groups: Any) -> None:
    """Refuse two colors of a point."""
    if errors is not None and mondrian_groups is not None:
        raise ValueError(
            "Both errors and mondrian_groups are given, but a point has one color. "
            "Pass one of them; from_estimator makes errors of y."
        )


def check_unit(unit: Any) -> tuple[str | None, str | None]:
    """Return the units of both kinds."""
    if unit is None or isinstance(unit, str):
        return unit, unit
    is_pair = isinstance(unit, tuple | list) and len(unit) == 2
    if not is_pair or not all(u is None or isinstance(u, str) for u in unit):
        raise ValueError(
            "unit must be a string, or a tuple of two for the aleatoric and the "
            f"epistemic uncertainty, got {unit!r}. Pass for example unit='nats'."
        )
    return unit[0], unit[1]


def check_bars(display: Any, scale: str) -> None:
    """Refuse bars that cannot be stacked or colored."""
    remedy = "Pass kind='scatter'."
    if scale != "linear":
        raise ValueError(f"scale={scale!r} is none for bars that are stacked. {remedy}")
    if display.mondrian_groups is not None:
        raise ValueError(
            f"mondrian_groups color points, but kind='bars' has none. {remedy}"
        )
    if display.unit[0] != display.unit[1]:
        raise ValueError(
            f"Bars of {display.unit[0]!r} and of {display.unit[1]!r} cannot be "
            f"stacked: there is no sum of different units. {remedy}"
        )


def own_unit(fields: Any) -> tuple[str, str] | None:
    """Return the units of a model of `uqlib.spa`, known by its `sds`."""
    if "sds" not in fields:
        return None
    if np.ndim(fields["sds"]) == 1:  # side means, and the root of their discrepancy
        return ("units of the target",) * 2
    return ("nats", "no unit")
