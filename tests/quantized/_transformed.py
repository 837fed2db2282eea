"""Inputs and weights of a layer, and the transforms that a scheme makes of them."""

import numpy as np

from uqlib.quantized._problem import input_moments
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._transforms import make_transforms


def rows(n_in, n_rows=50, seed=0, spread=2.0):
    """Correlated columns in units that differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n_rows, n_in)) @ rng.normal(size=(n_in, n_in))
    return mixed * 10.0 ** rng.uniform(-spread, spread, size=n_in)


def moments_of(q, f=None, weight=None):
    return input_moments([(q, q if f is None else f, weight)], q.shape[1])


def weights(n_in, n_out=5, seed=1):
    return np.random.default_rng(seed).normal(size=(n_out, n_in))


def made(names, x, weight=None, seed=0, **parameters):
    scheme = QuantizationScheme(transform=names, **parameters)
    weight = weights(x.shape[1]) if weight is None else weight
    return make_transforms(scheme, weight, moments_of(x), seed)


def dense(transform, n_in):
    """Return the matrix T."""
    return transform.inputs(np.eye(n_in)).T
