"""The choice among the online updates: names, defaults and checks."""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.online import check_step_size
from uqlib._core.online_experts import AgAciUpdate, DtAciUpdate
from uqlib._core.online_updates import AciUpdate, OnlineUpdate, PidUpdate

# The grids of the papers.
AGACI_GAMMAS = (
    *(0.0, 5e-6, 5e-5),
    *(1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4, 7e-4, 8e-4, 9e-4),
    *(1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3),
    *(1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2, 7e-2, 8e-2, 9e-2),
)
DTACI_GAMMAS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


def make_update(name: Any, level: Fraction, **parameters: Any) -> OnlineUpdate:
    """Return a new update by its name, or say which parameter is wrong.

    Parameters
    ----------
    name : str
        One of "aci", "agaci", "dtaci" and "pid".
    level : Fraction
        The coverage p.
    **parameters : object
        The parameters of all updates: gamma, gammas, horizon, learning_rate,
        integral_gain, saturation. Only those of the update are looked at.

    Returns
    -------
    OnlineUpdate
        Before its first step.
    """
    if name == "aci":
        return AciUpdate(level, check_step_size(parameters["gamma"]))
    if name == "agaci":
        return AgAciUpdate(level, _check_gammas(parameters["gammas"], AGACI_GAMMAS))
    if name == "dtaci":
        gammas = _check_gammas(parameters["gammas"], DTACI_GAMMAS)
        return DtAciUpdate(level, gammas, check_count(parameters["horizon"], "horizon"))
    if name == "pid":
        return PidUpdate(
            level,
            float(check_step_size(parameters["learning_rate"], "learning_rate")),
            _check_gain(parameters["integral_gain"]),
            _check_saturation(parameters["saturation"]),
        )
    raise ValueError(
        f"update={name!r} must be one of 'aci', 'agaci', 'dtaci' and 'pid'."
    )


def check_count(count: Any, name: str) -> int:
    """Return a positive integer, or say what is wrong.

    Parameters
    ----------
    count : int
        At least 1.
    name : str
        How the error calls it.

    Returns
    -------
    int
        The number.
    """
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise TypeError(f"{name} must be an integer >= 1, got {count!r}.")
    if count < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {count!r}.")
    return int(count)


def _check_gammas(gammas: Any, default: tuple[float, ...]) -> list[Fraction]:
    values = list(default if gammas is None else np.ravel(gammas).tolist())
    if not values:
        raise ValueError(
            "gammas must hold at least one step size, got none. Pass None for the "
            "grid of the paper."
        )
    return [check_step_size(value, "gammas") for value in values]


def _check_gain(gain: Any) -> float | None:
    if gain is None:
        return None
    advice = "the size of the scores; None takes the largest"
    return float(check_step_size(gain, "integral_gain", advice))


def _check_saturation(saturation: Any) -> float:
    value = float(check_step_size(saturation, "saturation", "0.1 to 10"))
    if value == 0:
        raise ValueError("saturation must be > 0, got 0. Typical values are 0.1 to 10.")
    return value
