"""How products with more rows are cut, and where their inputs lie."""

import ctypes

import numpy as np
import pytest

from tests.kernels.cuda._emulated import HALF, INT8, Product, emulated


def _sizes(n_rows, n_out, n_columns):
    return Product(
        n_rows=n_rows,
        n_out=n_out,
        n_true_out=n_out,
        n_columns=n_columns,
        group_columns=n_columns,
        n_groups=1,
    )


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("multiprocessors", [1, 2, 3, 7, 108, 132])
def test_every_step_is_done_once(bits, multiprocessors):
    """Pieces cover all steps of all tiles; all parts are added, in order."""
    library = emulated("gemm")
    library.uqlib_gemm_runs.restype = ctypes.c_int64
    step = {8: 64, 4: 64, 2: 128, 1: 256}[bits]
    rng = np.random.default_rng(bits)
    shapes = [(64, 4096, 4096), (256, 8192, 4096), (17, 16, step), (200, 272, 5 * step)]
    for _ in range(12):
        steps = int(rng.integers(1, 40))
        shape = rng.integers(1, 300), 16 * rng.integers(1, 90), step * steps
        shapes.append(tuple(int(size) for size in shape))
    for shape in shapes:
        p = _sizes(*shape)
        key = ctypes.byref(p), bits, multiprocessors
        n_runs = library.uqlib_gemm_runs(*key)
        rows = 32 if shape[0] <= 32 else 64
        n_tiles, n_steps = -(-shape[0] // rows) * -(-shape[1] // 256), shape[2] // step
        assert n_runs <= multiprocessors * (2 if rows == 32 else 1)
        seen = np.zeros((n_tiles, n_steps), dtype=int)
        parts_of = {}
        piece = (ctypes.c_int64 * 4)()
        for run in range(n_runs):
            index = 0
            while library.uqlib_gemm_piece(
                *key, ctypes.c_int64(run), ctypes.c_int64(index), piece
            ):
                tile, first, last, part = piece
                seen[tile, first:last] += 1
                assert (part == -1) == (last - first == n_steps)
                if part >= 0:
                    parts_of.setdefault(tile, []).append((first, run, part))
                index += 1
            assert index > 0
        assert (seen == 1).all()
        parts = [part for found in parts_of.values() for _, _, part in found]
        assert len(set(parts)) == len(parts)
        n_floats = library.uqlib_gemm_parts(*key)
        assert n_floats >= (max(parts, default=-1) + 1) * 256 * rows
        shared = (ctypes.c_int64 * 3)()
        added = {}
        for before in range(n_runs - 1):
            if library.uqlib_gemm_shared(*key, ctypes.c_int64(before), shared):
                assert shared[0] not in added
                added[shared[0]] = list(range(shared[1], shared[2] + 1))
        assert added == {
            tile: [run for _, run, _ in sorted(found)]
            for tile, found in parts_of.items()
        }


@pytest.mark.parametrize(("type_", "bits"), [(HALF, 4), (HALF, 8), (INT8, 4)])
def test_inputs_are_read_without_conflicts(type_, bits):
    """Eight lanes that read 16 bytes at a time meet all 32 banks once."""
    library = emulated("gemm")
    runs = (0,) if type_ == INT8 else (0, 1)
    places = [
        library.uqlib_gemm_place(type_, bits, lane, run)
        for run in runs
        for lane in range(32)
    ]
    phases = np.array(places).reshape(-1, 8) % 8
    np.testing.assert_array_equal(
        np.sort(phases, axis=1), np.tile(range(8), (4 * len(runs), 1))
    )
    assert len(set(places)) == 32 * len(runs)
