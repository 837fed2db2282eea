"""Figures of a prototype, and what was asked for before there was a library.

The prototype's networks were trained in torch, on other noise; its layers were drawn
from the same laws as those here.
"""

FLOAT_RMSE, FLOAT_ACCURACY = 0.387, 0.949
# RMSE, width ratio, stale coverage, share of the excess RMSE of RTN that is removed.
REFERENCE = {
    "RTN": {
        4: (0.403, 1.041, 0.886, None),
        3: (0.441, 1.123, 0.855, None),
        2: (0.641, 1.673, 0.676, None),
    },
    "GPTQ": {
        4: (0.391, 1.011, 0.895, 0.74),
        3: (0.412, 1.064, 0.882, 0.53),
        2: (0.506, 1.344, 0.803, 0.53),
    },
    "QuantEase (CD)": {
        4: (0.391, 1.014, 0.897, 0.72),
        3: (0.413, 1.065, 0.878, 0.51),
        2: (0.493, 1.282, 0.811, 0.58),
    },
    "CD, 1 % outliers": {
        4: (0.391, 1.015, 0.898, 0.72),
        3: (0.403, 1.054, 0.889, 0.70),
        2: (0.465, 1.223, 0.835, 0.69),
    },
    "GPTQ, fp target": {
        4: (0.389, 1.005, 0.898, 0.85),
        3: (0.396, 1.024, 0.891, 0.83),
        2: (0.455, 1.190, 0.843, 0.73),
    },
    "FlexRound": {
        4: (0.388, 1.000, 0.898, 0.92),
        3: (0.396, 1.014, 0.892, 0.83),
        2: (0.445, 1.165, 0.853, 0.77),
    },
    "DiscQuant": {
        4: (0.392, 1.011, 0.896, 0.70),
        3: (0.406, 1.043, 0.884, 0.64),
        2: (0.465, 1.225, 0.835, 0.69),
    },
}
# What was asked for: of which figure, at least (+1) or at most (-1), how much.
QUALITY_LIMITS = {
    ("GPTQ", 3): ("removed", 1, 0.40),
    ("GPTQ, fp target", 3): ("removed", 1, 0.65),
    ("FlexRound", 3): ("removed", 1, 0.65),
    ("DiscQuant", 3): ("removed", 1, 0.50),
    ("GPTQ + CD (default)", 4): ("width ratio", -1, 1.03),
    ("GPTQ, fp target", 2): ("width ratio", -1, 1.30),
    ("RTN", 2): ("width ratio", 1, 1.45),
}
# Accuracy, set size ratio, stale coverage.
DIGITS_REFERENCE = {
    "RTN": (0.798, 1.69, 0.817),
    "GPTQ": (0.916, 1.143, 0.927),
    "GPTQ, fp target": (0.919, 1.131, 0.929),
    "QuantEase (CD)": (0.934, 1.072, 0.945),
    "FlexRound": (0.942, 1.017, 0.951),
    "DiscQuant": (0.945, 0.993, 0.952),
}
DIGITS_LIMITS = {
    ("QuantEase (CD)", 2): ("accuracy", 1, 0.92),
    ("FlexRound", 2): ("accuracy", 1, 0.93),
    ("DiscQuant", 2): ("accuracy", 1, 0.93),
}
# Loss beside RTN with min-max scales: normal weights, weights of a t4 law.
LAYER_REFERENCE = {
    "RTN, MSE scales": {4: (0.90, 0.91), 3: (0.76, 0.77), 2: (0.59, 0.59)},
    "GPTQ, columns in order": {
        4: (0.178, 0.178),
        3: (0.155, 0.158),
        2: (0.139, 0.150),
    },
    "GPTQ": {4: (0.110, 0.108), 3: (0.095, 0.095), 2: (0.107, 0.105)},
    "QuantEase (CD)": {4: (0.128, 0.126), 3: (0.108, 0.111), 2: (0.088, 0.101)},
    "GPTQ + CD": {4: (0.106, 0.105), 3: (0.091, 0.092), 2: (0.083, 0.091)},
    "CD, 1 % outliers": {4: (0.106, 0.068), 3: (0.095, 0.061), 2: (0.084, 0.062)},
    "RTN, low rank 8": {4: (0.184, 0.179), 3: (0.154, 0.155), 2: (0.107, 0.114)},
    "EasyQuant": {4: (0.92, 0.46), 3: (0.76, 0.38), 2: (0.64, 0.38)},
    "Hadamard, RTN": {4: (0.88, 0.42), 3: (0.71, 0.37), 2: (0.54, 0.36)},
    "NUPES": {4: (1.18, 0.93), 3: (1.38, 1.23), 2: (2.2, 1.7)},
}
LAYER_SLACK = 1.15
