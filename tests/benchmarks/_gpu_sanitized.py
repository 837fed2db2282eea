"""A few small calls of every kernel, for compute-sanitizer to look at.

Numbers are drawn on the host, so that the device runs little but our kernels; each
tensor is memory of its own if PYTORCH_NO_CUDA_MEMORY_CACHING is set, so that what is
read or written beyond it is seen.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# A bare checkout is enough, as for the tests.
sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "kernels")]

from uqlib_kernels import pack, torch_ops  # noqa: E402

SHAPES = ((37, 130, 64), (48, 200, 32), (16, 320, 320))  # n_out, n_in, group
ROWS = (1, 3, 16, 17, 64)
MANY = (300,)  # these go through a library, too
OPERATIONS = {
    "linear_w8a8": 8,
    "linear_w4a8": 4,
    "linear_w2a8": 2,
    "linear_w1": 1,
    "linear_w4a32": 4,
    "linear_dequantized": 8,
    "linear_integer": 4,
}
ROUNDINGS = ((7, None), (127, 0.05))  # what linear_integer takes besides: top and scale


def make_known(device: str) -> None:
    """Make the operations known to torch, for a device."""
    torch_ops.register()
    if device == "cuda":
        from uqlib_kernels import cuda

        cuda.load()


def weights(rng: Any, operation: str) -> Iterator[Any]:
    """Yield weights of each shape: with one zero point, with several, a codebook."""
    bits = OPERATIONS[operation]
    packer = getattr(pack, f"pack_w{bits}")
    for n_out, n_in, group in SHAPES:
        codes = rng.integers(0, 2**bits, (n_out, n_in), dtype=np.uint8)
        scale = rng.random((n_out, -(-n_in // group))) + 0.5
        zero = rng.integers(0, 2**bits, scale.shape)
        yield packer(codes, group, scale=scale)
        yield packer(codes, group, scale=scale, zero_point=zero)
        if operation == "linear_w4a32":
            yield pack.pack_codebook(codes, np.arange(16.0) ** 2, group, scale=scale)


def products(device: str, sizes: Sequence[int]) -> Iterator[Any]:
    """Yield results of all products."""
    rng = np.random.default_rng(0)
    for operation in OPERATIONS:
        for packed in weights(rng, operation):
            weight = torch_ops.packed_tensors(packed, device=device)
            bias = torch.from_numpy(rng.normal(size=packed.n_out)).float().to(device)
            for rows in sizes:
                x = torch.from_numpy(rng.normal(size=(rows, packed.n_in)))
                for dtype in (torch.bfloat16, torch.float16, torch.float32):
                    placed = x.to(dtype).to(device)
                    own = bias if rows % 2 else None
                    if operation in torch_ops.OPERATIONS:
                        yield torch_ops.linear(placed, weight, own, operation=operation)
                        continue
                    for rounding in ROUNDINGS:
                        function = getattr(torch.ops.uqlib_kernels, operation)
                        yield function(placed, *weight, own, *rounding)


def row_results(device: str) -> Iterator[Any]:
    """Yield results of the operations on rows."""
    rng = np.random.default_rng(1)
    operations = torch.ops.uqlib_kernels
    for n_rows, n_levels in ((1, 1), (70, 19), (33, 100)):
        for dtype in (torch.float32, torch.float64):
            q = torch.from_numpy(rng.normal(size=(n_rows, n_levels))).to(dtype)
            q = q.to(device)
            weight = torch.from_numpy(rng.random(n_levels) + 0.5).to(device)
            yield operations.sort_rows(q)
            yield operations.isotonic_rows(q, None)
            yield operations.isotonic_rows(q, weight)
            proba = torch.from_numpy(rng.dirichlet(np.ones(n_levels), n_rows))
            proba = proba.to(dtype).to(device)
            limits = torch.from_numpy(rng.random((2, n_rows))).to(device)
            yield operations.mass_sets(
                proba, limits[0].clone(), limits[1].clone(), 1, 0.01
            )


def main() -> None:
    """Make all calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--own", action="store_true", help="no calls of libraries")
    parsed = parser.parse_args()
    make_known(parsed.device)
    sizes = ROWS if parsed.own else ROWS + MANY
    n_calls = 0
    for results in (products(parsed.device, sizes), row_results(parsed.device)):
        for result in results:
            if parsed.device == "cuda":
                torch.cuda.synchronize()
            values = result.cpu().float()
            if not torch.isfinite(values).all():
                raise SystemExit(f"call {n_calls}: a result is not finite")
            n_calls += 1
    print(f"sanitized: {n_calls} calls")


if __name__ == "__main__":
    main()
