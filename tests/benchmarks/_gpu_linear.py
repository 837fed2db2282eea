"""Times of linear layers on a GPU, their bytes, and their errors beside float64."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from _gpu_clock import Clock, interleaved, n_copies, reason
from _gpu_layers import GROUP, LAYERS, Layer, Matrix, Product

SHAPES = ((8192, 8192), (4096, 4096), (14336, 4096), (1024, 1024))
DRY_SHAPES = ((48, 128), (128, 256))
# First those that have a goal.
ROWS = (1, 16, 64, 512, 2048, 8, 32, 128, 256)
QUICK_ROWS = (1, 16, 64, 512)
DRY_ROWS = (1, 32)
ROUNDS, QUICK_ROUNDS, DRY_ROUNDS = 25, 20, 2
CHECKED_ROWS = 64

Record = dict[str, Any]


class LinearCases:
    """All layers of all shapes; weights stay on the device from case to case."""

    def __init__(
        self,
        clock: Clock,
        rounds: int,
        note: Callable[[str], None] = lambda name: None,
        without: Collection[str] = (),
    ) -> None:
        self.clock, self.rounds, self.note = clock, rounds, note
        self.layers = [layer for layer in LAYERS if layer.name not in without]
        self._matrices: dict[Any, Matrix] = {}
        self._products: dict[Any, Any] = {}

    def run(self, shape: tuple[int, int], rows: int) -> Iterator[Record]:
        """Yield the record of each layer that takes so many rows."""
        passes, records = {}, {}
        for layer in self.layers:
            if not layer.takes(rows):
                continue
            record = {"table": "linear", "shape": list(shape), "rows": rows}
            record |= {"layer": layer.name}
            records[layer.name] = record
            self.note(layer.name)
            try:
                products = self._of(layer, shape)
                record |= self._checked(layer, shape, products[0], rows)
                x = self._rows(layer, shape[1], rows)
                passes[layer.name] = [_call(product, x) for product in products]
            except Exception as error:
                record["failed"] = reason(error)
                self.clock.synchronize()
        seconds, failed = interleaved(self.clock, passes, self.rounds, self.note)
        for name, text in failed.items():
            records[name]["failed"] = text
        for name, times in seconds.items():
            records[name]["seconds"] = times
        yield from records.values()

    def _matrix(self, layer: Layer, shape: tuple[int, int]) -> Matrix:
        key = (shape, layer.bits, layer.codebook, layer.grouped)
        if key not in self._matrices:
            group = GROUP if layer.grouped else shape[1]
            self._matrices[key] = Matrix(*shape, layer.bits, group, layer.codebook)
        return self._matrices[key]

    def _of(self, layer: Layer, shape: tuple[int, int]) -> Any:
        key = (layer.name, shape)
        if key not in self._products:
            matrix = self._matrix(layer, shape)
            copies = n_copies(layer.n_bytes(matrix), self.clock.cache)
            try:
                self._products[key] = layer.make(matrix, self.clock.device, copies)
            # Whatever a library raises where it does not know the layer: once.
            except Exception as error:
                self._products[key] = error
        found = self._products[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _rows(self, layer: Layer, n_in: int, rows: int) -> Any:
        torch.manual_seed(rows)
        x = torch.randn(rows, n_in)
        if layer.dtype == "int8":
            return (40 * x).round().clamp(-127, 127).char().to(self.clock.device)
        return x.to(self.clock.device, getattr(torch, layer.dtype))

    def _checked(
        self, layer: Layer, shape: tuple[int, int], product: Product, rows: int
    ) -> Record:
        """Return bytes and the relative error of a call, in double precision."""
        matrix = self._matrix(layer, shape)
        x = self._rows(layer, shape[1], rows)
        y = product(x)
        some = slice(0, CHECKED_ROWS)
        values = matrix.values(self.clock.device, torch.float64)
        expected = x[some].double() @ values.t()
        if layer.exact:  # sums of codes: the scale of a row of weights is taken off
            scale = torch.from_numpy(matrix.scale[:, 0]).to(values)
            expected = (expected / scale).round()
        error = (y[some].double() - expected).norm() / expected.norm()
        n_bytes = layer.n_bytes(matrix)
        n_bytes += x.numel() * x.element_size() + y.numel() * y.element_size()
        relative = float(error)
        return {
            "bytes": n_bytes,
            "error": relative,
            # NaN is no right answer.
            "right": relative <= layer.tolerance and y.shape[0] == rows,
        }


def _call(product: Product, x: Any) -> Any:
    return lambda: product(x)
