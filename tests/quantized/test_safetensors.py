"""The safetensors format: layout by hand, round trips, and every way to be damaged."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from uqlib.quantized._safetensors import from_bytes, parsed, to_bytes, type_name

TYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "?",
}
ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "codes": np.array([[1, 2, 3]], dtype=np.uint8),
    "none": np.empty((0, 4), dtype=np.int64),
    "one": np.array(2.5),
}


def assert_same_arrays(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()  # NaN payloads too


def file_of(header, data=b""):
    """Write a file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def slowly_read(data):
    """Read a file that is right, without any check."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        raw = data[8 + length + start : 8 + length + stop]
        dtype = np.dtype(TYPES[entry["dtype"]]).newbyteorder("<")
        arrays[name] = np.frombuffer(raw, dtype).reshape(entry["shape"])
    return arrays, metadata


# ---------------------------------------------------------------------------
# What is right.


@given(
    st.dictionaries(
        st.text(max_size=5).filter(lambda name: name != "__metadata__"),
        st.sampled_from(sorted(TYPES.values())).flatmap(
            lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0))
        ),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
)
def test_round_trip(arrays, metadata):
    data = to_bytes(arrays, metadata)
    found, strings = from_bytes(data)
    assert strings == metadata
    assert_same_arrays(found, arrays)
    by_hand, strings = slowly_read(data)
    assert strings == metadata
    assert_same_arrays(by_hand, arrays)


def test_layout_by_hand():
    header = {
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        "a": {"dtype": "BOOL", "shape": [1, 1], "data_offsets": [4, 5]},
    }
    data = struct.pack("<ee?", 1.5, -2.0, True)
    arrays, metadata = from_bytes(file_of(header, data))
    assert metadata == {}
    assert_same_arrays(
        arrays, {"b": np.array([1.5, -2.0], np.float16), "a": np.array([[True]])}
    )


def test_numbers_are_aligned_and_arrays_own_their_memory():
    data = to_bytes(ARRAYS, {"x": "y"})
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    for name, array in ARRAYS.items():
        assert header[name]["data_offsets"][0] % array.itemsize == 0
    found, _ = from_bytes(data)
    for array in found.values():
        array[...] = 0  # can be written to


def test_other_byte_orders_and_layouts():
    arrays = {
        "big": np.arange(6.0).astype(">f8"),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(9, dtype=np.int32)[::2],
    }
    found, _ = from_bytes(to_bytes(arrays, {}))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype.isnative


@pytest.mark.parametrize(("name", "kind"), TYPES.items())
def test_type_names(name, kind):
    assert type_name(np.dtype(kind)) == name


@pytest.mark.parametrize("kind", ["c8", "O", "U3", "M8[s]"])
def test_types_that_cannot_be_stored(kind):
    with pytest.raises(ValueError, match="cannot be stored"):
        to_bytes({"a": np.zeros(1).astype(kind)}, {})


def test_reserved_name():
    with pytest.raises(ValueError, match="__metadata__"):
        to_bytes({"__metadata__": np.zeros(1)}, {})


# ---------------------------------------------------------------------------
# What is wrong.


ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
WRONG = {
    "empty": b"",
    "short": b"\0" * 7,
    "no header": struct.pack("<Q", 0),
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "header longer than file": struct.pack("<Q", 3) + b"{}",
    "no object": file_of(b"[]"),
    "leading space": file_of(b" {}"),
    "not JSON": file_of(b"{'a': 1}"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "nested": file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "NaN": file_of(b'{"a": NaN}'),
    "long integer": file_of(b'{"a": ' + b"9" * 5000 + b"}"),
    "name twice": file_of(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "key twice": file_of(
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}}),
    "metadata no object": file_of({"__metadata__": "a"}),
    "entry no object": file_of({"a": 1}),
    "entry without shape": file_of({"a": {"dtype": "U8", "data_offsets": [0, 0]}}),
    "entry with more": file_of({"a": ENTRY | {"x": 1}}, b"ab"),
    "unknown type": file_of({"a": ENTRY | {"dtype": "F8_E4M3"}}, b"ab"),
    "type of objects": file_of({"a": ENTRY | {"dtype": "object"}}, b"ab"),
    "type is a list": file_of({"a": ENTRY | {"dtype": ["U8"]}}, b"ab"),
    "negative side": file_of({"a": ENTRY | {"shape": [-1, -2]}}, b"ab"),
    "side is a float": file_of({"a": ENTRY | {"shape": [2.0]}}, b"ab"),
    "side is a bool": file_of({"a": ENTRY | {"shape": [True, 2]}}, b"ab"),
    "side is huge": file_of({"a": ENTRY | {"shape": [2**60, 0]}}, b"ab"),
    "shape no list": file_of({"a": ENTRY | {"shape": 2}}, b"ab"),
    "too many sides": file_of({"a": ENTRY | {"shape": [2] + [1] * 40}}, b"ab"),
    "product overflows": file_of({"a": ENTRY | {"shape": [2**33, 2**33]}}, b"ab"),
    "one offset": file_of({"a": ENTRY | {"data_offsets": [0]}}, b"ab"),
    "three offsets": file_of({"a": ENTRY | {"data_offsets": [0, 2, 2]}}, b"ab"),
    "offsets backwards": file_of({"a": ENTRY | {"data_offsets": [2, 0]}}, b"ab"),
    "negative offset": file_of({"a": ENTRY | {"data_offsets": [-2, 0]}}, b"ab"),
    "offset beyond": file_of({"a": ENTRY | {"data_offsets": [1, 3]}}, b"ab"),
    "size disagrees": file_of({"a": ENTRY | {"dtype": "U16"}}, b"ab"),
    "gap before": file_of({"a": ENTRY | {"data_offsets": [1, 3]}}, b"abc"),
    "bytes left over": file_of({"a": ENTRY}, b"abc"),
    "bytes missing": file_of({"a": ENTRY}, b"a"),
    "overlap": file_of({"a": ENTRY, "b": ENTRY | {"data_offsets": [1, 3]}}, b"abc"),
    "gap between": file_of(
        {"a": ENTRY, "b": ENTRY | {"data_offsets": [3, 5]}}, b"abcde"
    ),
    "same bytes twice": file_of({"a": ENTRY, "b": ENTRY}, b"ab"),
    "no boolean": file_of({"a": ENTRY | {"dtype": "BOOL"}}, b"\0\2"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_damaged_files(kind):
    with pytest.raises(ValueError, match=r"\.$"):
        from_bytes(WRONG[kind])


def test_right_neighbors_of_the_damaged_files():
    """The same entries without the damage are read."""
    arrays, _ = from_bytes(file_of({"a": ENTRY}, b"ab"))
    assert arrays["a"].tobytes() == b"ab"
    both = {"b": ENTRY | {"data_offsets": [2, 4]}, "a": ENTRY}
    assert from_bytes(file_of(both, b"abcd"))[0]["b"].tobytes() == b"cd"
    assert from_bytes(file_of(b"{}")) == ({}, {})


def test_every_truncation():
    data = to_bytes(ARRAYS, {"key": "value"})
    for end in range(len(data)):
        with pytest.raises(ValueError, match=r"\.$"):
            from_bytes(data[:end])
    with pytest.raises(ValueError, match="are there"):
        from_bytes(data + b"\0")


@given(st.data())
def test_any_bytes_are_read_or_refused(data):
    good = bytearray(to_bytes(ARRAYS, {"key": "value"}))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays, _ = from_bytes(bytes(good))
    except ValueError:
        return
    assert sum(array.nbytes for array in arrays.values()) == sum(
        array.nbytes for array in ARRAYS.values()
    )


@given(st.binary(max_size=60))
def test_noise(data):
    try:
        from_bytes(struct.pack("<Q", max(0, len(data) - 8)) + data)
    except ValueError:
        return


def test_json_is_an_object():
    assert parsed(b'{"a": [1, null]}') == {"a": [1, None]}
    for text in (b"", b"1", b"{} {}", b'{"a": Infinity}', b'{"a":1,"a":2}'):
        with pytest.raises(ValueError, match="JSON"):
            parsed(text)


def test_the_library_of_the_format_agrees():
    library = pytest.importorskip("safetensors.numpy")
    assert_same_arrays(library.load(to_bytes(ARRAYS, {"x": "y"})), ARRAYS)
    found, metadata = from_bytes(library.save(ARRAYS, {"x": "y"}))
    assert metadata == {"x": "y"}
    assert_same_arrays(found, ARRAYS)
