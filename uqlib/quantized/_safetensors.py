"""Read and write the safetensors format: numbers and a JSON header, no code.

A file is the length of the header (8 bytes, little-endian), the header and the numbers.
The header is a JSON object that gives every array its type, its shape and where its
numbers lie, and may have strings under "__metadata__". Nothing of a file is believed:
every length is compared with what is there before a number is read.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000
_MOST_DIMENSIONS = 32
_LARGEST_SIDE = 2**48


def type_name(dtype: np.dtype[Any]) -> str:
    """Return the name that the format has for a type.

    Parameters
    ----------
    dtype : dtype
        Floats of 16 to 64 bits, integers, booleans.

    Returns
    -------
    str
        As "F16".
    """
    name = _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise ValueError(
            f"Arrays of type {dtype} cannot be stored. Types are {', '.join(_TYPES)}."
        )
    return name


def to_bytes(arrays: Arrays, metadata: Mapping[str, str]) -> bytes:
    """Return arrays and strings in the format.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By name.
    metadata : mapping of str to str
        Anything.

    Returns
    -------
    bytes
        The largest types come first and the header is padded, so that every number lies
        at a multiple of its size.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    chunks, start = [], 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        if name == _METADATA:
            raise ValueError(f"An array cannot have the name {_METADATA!r}.")
        kind, shape = type_name(arrays[name].dtype), list(arrays[name].shape)
        chunk = arrays[name].astype(_TYPES[kind], copy=False).tobytes(order="C")
        stop = start + len(chunk)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}
        chunks.append(chunk)
        start = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *chunks])


def from_bytes(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and strings of a file.

    Parameters
    ----------
    data : bytes
        Of any origin.

    Returns
    -------
    arrays : dict of str to ndarray
        Copies.
    metadata : dict of str to str
        Empty if there is none.

    Raises
    ------
    ValueError
        If a byte is missing, too many, or not as the format wants it.
    """
    end = _LENGTH_BYTES + _header_length(data)
    header = parsed(data[_LENGTH_BYTES:end])
    metadata = _strings(header.pop(_METADATA, {}))
    _check_spans(header, len(data) - end)
    return {name: _array(data, end, entry) for name, entry in header.items()}, metadata


def parsed(text: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes.

    Parameters
    ----------
    text : bytes
        Of any origin.

    Returns
    -------
    dict
        Without names that occur twice in an object and without NaN and infinities.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if not text.startswith(b"{"):
        raise ValueError("the JSON does not begin with '{'.")
    try:
        found: dict[str, Any] = json.loads(
            text.decode(), object_pairs_hook=_unique, parse_constant=_refuse
        )
    except RecursionError:
        raise ValueError("the JSON is nested too deeply.") from None
    except ValueError as error:  # of decoding too
        raise ValueError(f"the JSON cannot be read: {error}.") from error
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _header_length(data: bytes) -> int:
    if len(data) < _LENGTH_BYTES:
        raise ValueError(f"it ends after {len(data)} bytes, within the first number.")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > min(_LARGEST_HEADER, len(data) - _LENGTH_BYTES):
        raise ValueError(
            f"the header should have {length} bytes, but {len(data) - _LENGTH_BYTES} "
            f"follow (and at most {_LARGEST_HEADER} are read)."
        )
    return length


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ValueError(f"{_METADATA} must be an object of strings.")
    return metadata


def _check_spans(header: Mapping[str, Any], n_bytes: int) -> None:
    """Check that the arrays lie one after the other and fill all bytes."""
    for name, entry in header.items():
        _check_entry(name, entry)
    last = 0
    for start, stop in sorted(entry["data_offsets"] for entry in header.values()):
        if start != last:
            raise ValueError(
                f"arrays overlap or leave a gap at byte {min(start, last)}."
            )
        last = stop
    if last != n_bytes:
        raise ValueError(f"the arrays take {last} bytes, but {n_bytes} are there.")


def _check_entry(name: str, entry: Any) -> None:
    if not isinstance(entry, dict) or set(entry) != _ENTRY:
        raise ValueError(f"array {name!r} must have {sorted(_ENTRY)} and nothing else.")
    kind, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"array {name!r} has the type {kind!r}, which is not read.")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"array {name!r} has no legal shape: {shape!r}.")
    if not _are_counts(span) or len(span) != 2:
        raise ValueError(f"array {name!r} has no legal offsets: {span!r}.")
    if span[1] - span[0] != math.prod(shape) * _TYPES[kind].itemsize:
        raise ValueError(
            f"array {name!r} of type {kind} and shape {shape} lies at bytes {span}, "
            "which is not its size."
        )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= _LARGEST_SIDE for value in values
    )


def _array(data: bytes, end: int, entry: Mapping[str, Any]) -> NDArray[Any]:
    start, stop = entry["data_offsets"]
    dtype = _TYPES[entry["dtype"]]
    raw = np.frombuffer(data[end + start : end + stop], dtype=np.uint8)
    if dtype.kind == "b" and raw.max(initial=0) > 1:
        raise ValueError("a boolean is neither 0 nor 1.")
    array = raw.view(dtype).reshape(entry["shape"])
    # A copy, which can be written to.
    return np.asarray(array.astype(dtype.newbyteorder("=")))
