"""Methods of the literature as parameters of a scheme.

A recipe is data, so that what a method does here can be printed and one part of it
replaced. Where a paper's method has a part that is not a block here (a training
schedule, an architecture), the recipe is what remains of it after training.
"""

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "rtn": {"rounding": "rtn", "clip": "minmax", "correction": ()},
    # Frantar et al., arXiv:2210.17323.
    "gptq": {"rounding": "gptq", "target": "quantized", "correction": ()},
    # The same with the outputs of the float model as the target, arXiv:2504.02692.
    "gptaq": {"rounding": "gptq", "target": "fp", "correction": ()},
    "gptq+cd": {"rounding": "gptq+cd"},
    # Cyclic coordinate descent, arXiv:2309.01885.
    "quantease": {"rounding": "cd", "target": "quantized", "correction": ()},
    "quantease-outlier": {
        "rounding": "cd",
        "target": "quantized",
        "outliers": 0.01,
        "correction": (),
    },
    # Weights beyond some deviations stay in float, arXiv:2403.02775.
    "easyquant": {
        "rounding": "rtn",
        "clip": "learned",
        "outliers": 0.01,
        "correction": (),
    },
    "adaround": {"rounding": "adaround"},  # arXiv:2004.10568
    "flexround": {"rounding": "flexround", "target": "fp"},  # arXiv:2306.00317
    "discquant": {"rounding": "discquant", "target": "fp"},  # arXiv:2501.06417
    # Learned clipping, arXiv:2308.13137.
    "omniquant-lwc": {"rounding": "rtn", "clip": "learned", "correction": ()},
    # Half-quadratic zero points without data.
    "hqq": {
        "rounding": "rtn",
        "clip": "half_quadratic",
        "granularity": "group",
        "group_size": 64,
        "correction": (),
    },
    # Low-rank correction, arXiv:2303.08302.
    "lorc": {"rounding": "rtn", "correction": ("low_rank",), "rank": 4},
    "nupes": {"weights": "power4", "rounding": "rtn", "clip": "minmax"},
    "bfp-reorder": {
        "weights": "bfp4",
        "granularity": "group",
        "group_size": 16,
        "transform": ("reorder",),
        "rounding": "rtn",
    },
    "hadamard": {"transform": ("hadamard",)},
    "klt-hadamard": {"transform": ("klt", "hadamard")},  # arXiv:2501.13484
    "smoothquant": {  # arXiv:2211.10438
        "weights": "int8",
        "activations": "int8",
        "transform": ("smooth",),
        "rounding": "rtn",
    },
    "crossquant": {  # arXiv:2410.07505
        "weights": "int8",
        "activations": "int8",
        "activation_range": "cross",
        "rounding": "rtn",
    },
}
