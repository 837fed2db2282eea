"""Every branch on a library's version, and private classes of scikit-learn."""

# What all searches over parameters have in common.
from sklearn.model_selection._search import BaseSearchCV

# Gives meta-estimators over a list of (name, estimator) pairs their nested
# parameters. Private, but unchanged since scikit-learn 0.18 and used by many.
from sklearn.utils.metaestimators import _BaseComposition as BaseComposition

__all__ = ["BaseComposition", "BaseSearchCV"]
