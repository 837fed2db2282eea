"""Tree ensembles as they are stored: arrays and JSON numbers, nothing to execute.

A node costs two bits for the shape of its tree (see `_tree_packing`), its column and
its bin in as few bits as the largest needs; thresholds are stored once for each column.
Leaves that repeat (as those of deep forests do) are stored once and numbered where that
is smaller.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._tree_assembly import starts
from uqlib.quantized._tree_inputs import TreeInputs
from uqlib.quantized._tree_leaves import leaf_values
from uqlib.quantized._tree_packing import (
    bits_of,
    demand,
    packed,
    shape_bits,
    shape_from_bits,
    smallest,
    unpacked,
)
from uqlib.quantized._trees import (
    LINKS,
    SOURCES,
    ZERO_LEFT,
    BinColumns,
    Ints,
    LeafGrid,
    TreeEnsemble,
)

Arrays = dict[str, NDArray[Any]]
_FORMAT = 1
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def stored_trees(ensemble: TreeEnsemble) -> tuple[dict[str, Any], Arrays]:
    """Return what is stored of trees.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.

    Returns
    -------
    settings : dict
        Numbers, strings and lists of them, as JSON takes them.
    arrays : dict of str to ndarray
        Integers and floats.
    """
    arrays = {
        "tree_shape": np.packbits(shape_bits(ensemble)),
        "node_column": packed(ensemble.node_column),
        "node_bin": packed(ensemble.node_bin),
        "baseline": ensemble.baseline,
        **_column_arrays(ensemble.columns),
        **_leaf_arrays(ensemble),
    }
    if ensemble.n_outputs > 1 and ensemble.leaf_width == 1:
        arrays["tree_output"] = smallest(ensemble.tree_output)
    settings: dict[str, Any] = {
        "format": _FORMAT,
        "n_trees": ensemble.n_trees,
        "n_nodes": int(ensemble.node_bin.size),
        "column_bits": bits_of(ensemble.node_column),
        "bin_bits": bits_of(ensemble.node_bin),
        "leaf_width": ensemble.leaf_width,
        "divisor": ensemble.divisor,
        "link": ensemble.link,
        "link_scale": ensemble.link_scale,
        "source": ensemble.source,
        "source_nbytes": ensemble.source_nbytes,
        "classes": _listed(ensemble.classes),
        "inputs": _input_settings(ensemble.inputs),
    }
    return settings, arrays


def trees_nbytes(ensemble: TreeEnsemble) -> int:
    """Return the bytes stored for trees, without the settings.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.

    Returns
    -------
    int
        Sum over the arrays of `stored_trees`.
    """
    return sum(array.nbytes for array in stored_trees(ensemble)[1].values())


def trees_from_stored(
    settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> TreeEnsemble:
    """Return trees from what was stored, whose predictions are the same bit for bit.

    Parameters
    ----------
    settings : mapping
        As `stored_trees` gives them, of any origin.
    arrays : mapping of str to ndarray
        As `stored_trees` gives them, of any origin.

    Returns
    -------
    TreeEnsemble
        The trees.

    Raises
    ------
    ValueError
        If they do not fit together.
    """
    try:
        return _rebuilt(settings, arrays)
    except _DAMAGE as error:
        raise ValueError(f"the stored trees are damaged: {error!r}.") from error


def _rebuilt(settings: Mapping[str, Any], arrays: Mapping[str, Any]) -> TreeEnsemble:
    demand(settings["format"] == _FORMAT, f"format {settings['format']!r} is unknown")
    n_nodes, n_trees = int(settings["n_nodes"]), int(settings["n_trees"])
    columns = _stored_columns(arrays)
    shape = shape_from_bits(arrays["tree_shape"], n_nodes, n_trees)
    node_start, leaf_start, left, right = shape
    grid, value = _stored_leaves(arrays, leaf_start, int(settings["leaf_width"]))
    node_column = unpacked(arrays["node_column"], settings["column_bits"], n_nodes)
    node_bin = unpacked(arrays["node_bin"], settings["bin_bits"], n_nodes)
    inputs = _stored_inputs(settings["inputs"])
    _check_columns(columns, inputs)
    output = arrays.get("tree_output", np.zeros(n_trees, np.uint8))
    baseline = np.asarray(arrays["baseline"])
    _check_nodes(columns, node_column, node_bin)
    demand(
        output.shape == (n_trees,)
        and output.dtype.kind == "u"
        and bool(np.all(output < baseline.size))
        and value.shape[1] in (1, baseline.size),
        "outputs do not fit the trees",
    )
    demand(settings["link"] in LINKS, f"link {settings['link']!r} is unknown")
    demand(settings["source"] in SOURCES, f"source {settings['source']!r} is unknown")
    return TreeEnsemble(
        columns=columns,
        node_start=node_start,
        leaf_start=leaf_start,
        node_column=node_column.astype(np.int32),
        node_bin=node_bin.astype(columns.bin_dtype),
        left=left,
        right=right,
        leaf_value=value.astype(baseline.dtype, copy=False),
        tree_output=output.astype(np.int32),
        baseline=baseline,
        divisor=int(settings["divisor"]),
        link=str(settings["link"]),
        link_scale=float(settings["link_scale"]),
        source=str(settings["source"]),
        inputs=inputs,
        classes=_unlisted(settings["classes"]),
        source_nbytes=int(settings["source_nbytes"]),
        leaf_grid=grid,
    )


# ---------------------------------------------------------------------------
# Columns.


def _check_nodes(
    columns: BinColumns, node_column: NDArray[Any], node_bin: NDArray[Any]
) -> None:
    demand(bool(np.all(node_column < columns.n_columns)), "a node has no such column")
    n_bins = np.diff(columns.threshold_start) + (np.diff(columns.table_start) > 0)
    demand(bool(np.all(node_bin < n_bins[node_column])), "a node has no such threshold")


def _column_arrays(columns: BinColumns) -> Arrays:
    arrays = {
        "column_feature": smallest(columns.feature),
        "column_missing": columns.missing,
        "threshold_count": np.diff(columns.threshold_start).astype(np.uint16),
        "thresholds": columns.thresholds,
    }
    if columns.tables.size:
        arrays["table_count"] = np.diff(columns.table_start).astype(np.uint32)
        arrays["tables"] = np.packbits(columns.tables)
    return arrays


def _stored_columns(arrays: Mapping[str, Any]) -> BinColumns:
    feature, missing = arrays["column_feature"], arrays["column_missing"]
    thresholds, counts = arrays["thresholds"], arrays["threshold_count"]
    entries = arrays.get("table_count", np.zeros(feature.size, np.uint32))
    packed_tables = arrays.get("tables", np.empty(0, np.uint8))
    n_entries = int(entries.sum(dtype=np.int64))
    demand(
        counts.dtype.kind == entries.dtype.kind == feature.dtype.kind == "u"
        and feature.shape == missing.shape == counts.shape == entries.shape
        and thresholds.shape == (int(counts.sum(dtype=np.int64)),)
        and packed_tables.shape == (-(-n_entries // 8),)
        and int(missing.max(initial=0)) <= ZERO_LEFT,
        "columns do not fit their thresholds",
    )
    return BinColumns(
        feature=feature.astype(np.int32),
        missing=missing.astype(np.uint8),
        threshold_start=starts(counts),
        thresholds=np.asarray(thresholds),
        table_start=starts(entries),
        tables=np.unpackbits(packed_tables, count=n_entries),
    )


def _check_columns(columns: BinColumns, inputs: TreeInputs) -> None:
    ends = columns.threshold_start[1:-1]
    rises = columns.thresholds[1:] > columns.thresholds[:-1]
    rises[ends[(ends > 0) & (ends < columns.thresholds.size)] - 1] = True
    demand(
        columns.thresholds.dtype == inputs.dtype
        and bool(rises.all())
        and bool(np.all(columns.feature < inputs.n_features)),
        "thresholds do not rise or features do not exist",
    )


# ---------------------------------------------------------------------------
# Leaves.


def _leaf_arrays(ensemble: TreeEnsemble) -> Arrays:
    grid = ensemble.leaf_grid
    if grid is None:
        return _once_or_all(ensemble.leaf_value)
    scales: Arrays = {"leaf_scale": grid.scale, "leaf_offset": grid.offset}
    return scales | _once_or_all(grid.codes)


def _once_or_all(leaves: NDArray[Any]) -> Arrays:
    """Return all leaves or, where that is smaller, the distinct ones and numbers.

    Leaves are the same if they are so bit for bit.
    """
    rows = np.ascontiguousarray(leaves).view(f"u{leaves.dtype.itemsize}")
    distinct, number = np.unique(rows, axis=0, return_inverse=True)
    number = smallest(number.reshape(-1))
    if distinct.nbytes + number.nbytes >= leaves.nbytes:
        return {"leaf": leaves}
    return {"leaf": distinct.view(leaves.dtype), "leaf_number": number}


def _stored_leaves(
    arrays: Mapping[str, Any], leaf_start: Ints, width: int
) -> tuple[LeafGrid | None, FloatArray]:
    leaves = np.asarray(arrays["leaf"])
    if "leaf_number" in arrays:
        number = arrays["leaf_number"]
        demand(number.dtype.kind == "u", "leaf numbers are not unsigned")
        leaves = leaves[number]
    demand(leaves.shape == (leaf_start[-1], width), "leaves do not fit the trees")
    if leaves.dtype.kind == "f":
        return None, leaves
    demand(leaves.dtype in (np.uint8, np.uint16), "leaf codes are not bytes")
    grid = LeafGrid(leaves, arrays["leaf_scale"], arrays["leaf_offset"])
    n_trees = leaf_start.size - 1
    demand(grid.scale.shape == grid.offset.shape == (n_trees,), "scales do not fit")
    return grid, leaf_values(grid, np.diff(leaf_start))


# ---------------------------------------------------------------------------
# Settings.


def _listed(values: NDArray[Any] | None) -> dict[str, Any] | None:
    """Return an array of numbers or strings as JSON takes it."""
    if values is None:
        return None
    kind = "O" if values.dtype.kind == "O" else values.dtype.str
    return {"dtype": kind, "values": values.tolist()}


def _unlisted(settings: Mapping[str, Any] | None) -> NDArray[Any] | None:
    if settings is None:
        return None
    return np.array(settings["values"], dtype=np.dtype(settings["dtype"]))


def _input_settings(inputs: TreeInputs) -> dict[str, Any]:
    settings = asdict(inputs)
    frame = inputs.frame_categories
    settings["categories"] = [
        [feature, _listed(values)] for feature, values in inputs.categories.items()
    ]
    settings["frame_categories"] = (
        None if frame is None else [_listed(values) for values in frame]
    )
    settings["feature_names"] = (
        None if inputs.feature_names is None else list(inputs.feature_names)
    )
    # JSON has no NaN: None stands for no value beside it.
    settings["missing"] = None if np.isnan(inputs.missing) else inputs.missing
    return settings


def _stored_inputs(settings: Mapping[str, Any]) -> TreeInputs:
    given = dict(settings)
    names, frame = given.pop("feature_names"), given.pop("frame_categories")
    missing = given.pop("missing")
    categories = {
        int(feature): np.asarray(_unlisted(values))
        for feature, values in given.pop("categories")
    }
    return TreeInputs(
        **given,
        categories=categories,
        feature_names=None if names is None else tuple(names),
        frame_categories=(
            None
            if frame is None
            else tuple(np.asarray(_unlisted(values)) for values in frame)
        ),
        missing=float("nan") if missing is None else float(missing),
    )
