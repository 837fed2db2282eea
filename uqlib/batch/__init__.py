"""Statements about many new rows at once, with the exact law of their ranks."""

from uqlib._core.batch_statistics import Composition
from uqlib._core.order_law import count_above_bound, order_statistic_rank
from uqlib._core.rank_bands import (
    band_probability,
    batch_band,
    joint_order_probability,
)
from uqlib._core.rank_bounds import batch_bound
from uqlib._core.rank_law import grid_law, rank_sum_law
from uqlib.batch._inference import BatchPredictiveInference

__all__ = [
    "BatchPredictiveInference",
    "Composition",
    "band_probability",
    "batch_band",
    "batch_bound",
    "count_above_bound",
    "grid_law",
    "joint_order_probability",
    "order_statistic_rank",
    "rank_sum_law",
]
