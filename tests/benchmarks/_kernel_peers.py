"""Linear layers of low bits: ours and those of torch, onnxruntime and torchao.

A layer is made from a `Weight`, then given rows; what comes back is a call without
arguments that computes the outputs, so that nothing else is timed. Each layer gets what
its library takes best: bfloat16 rows for torch's bfloat16 and 4-bit layers, inputs and
outputs that are bound beforehand for onnxruntime.
"""

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import numpy as np

Call = Callable[[], Any]
Layer = Callable[[np.ndarray], Call]

ZERO = {8: 128.0, 4: 8.0, 2: 2.0, 1: 0.5}


@dataclass(frozen=True)
class Weight:
    """Random codes and scales, w = (code - zero point) scale."""

    n: int
    bits: int
    group: int
    seed: int = 0

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        codes = rng.integers(0, 2**self.bits, (self.n, self.n), dtype=np.uint8)
        scale = rng.random((self.n, self.n // self.group)) + 0.5
        return codes, (scale / self.n).astype(np.float32)

    @property
    def codes(self) -> np.ndarray:
        """Of shape (n, n)."""
        return self._drawn[0]

    @property
    def scale(self) -> np.ndarray:
        """Of shape (n, n // group)."""
        return self._drawn[1]

    @cached_property
    def values(self) -> np.ndarray:
        """Of shape (n, n), float32."""
        signed = self.codes.astype(np.float32) - np.float32(ZERO[self.bits])
        return signed * np.repeat(self.scale, self.group, axis=1)


@dataclass(frozen=True)
class Kind:
    """A layer to be timed."""

    name: str
    bits: int  # of the codes that it is given
    stored: float  # bytes that it reads for a weight
    tolerance: float  # largest error, relative to the largest output
    make: Callable[[Weight], Layer]
    requires: str = ""  # a package
    few_rows: bool = False  # hopeless for thousands of rows: left out there


def missing(kinds: Sequence[Kind]) -> dict[str, str]:
    """Return {name: reason} for the layers of other libraries that are not here."""
    reasons = {}
    for kind in kinds:
        if not kind.requires:
            continue
        try:
            version(kind.requires)
            kind.make(Weight(128, kind.bits, 128))(np.ones((1, 128), np.float32))()
        # Whatever a library raises where it or its processor does not know the layer.
        except Exception as error:
            reasons[kind.name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return reasons


def as_array(outputs: Any) -> np.ndarray:
    """Return the outputs of a call."""
    if isinstance(outputs, np.ndarray):
        return outputs
    if hasattr(outputs, "copy_outputs_to_cpu"):  # of onnxruntime
        return outputs.copy_outputs_to_cpu()[0]
    return outputs.float().numpy()


# ---------------------------------------------------------------------------
# Ours.


def ours(operation: str, weight: Weight) -> Layer:
    """Return a layer of uqlib_kernels."""
    from uqlib_kernels import ops, pack

    function, zero = getattr(ops, operation), ZERO[weight.bits]
    codes, scale, group = weight.codes, weight.scale, weight.group
    if operation == "linear_w4a32":
        levels = np.arange(16) - zero  # of any values: the kernel looks them up
        packed = pack.pack_codebook(codes, levels, group, scale=scale)
    else:
        packer = getattr(pack, f"pack_w{weight.bits}")
        packed = packer(codes, group, scale=scale, zero_point=zero)
    return lambda x: lambda: function(x, packed)


# ---------------------------------------------------------------------------
# torch.


def torch_float(dtype: str, weight: Weight) -> Layer:
    """Return torch's linear layer in float32 or bfloat16."""
    import torch

    kind = getattr(torch, dtype)
    # A copy, since layers of one weight must not share memory.
    w = torch.tensor(weight.values).to(kind)

    def layer(x):
        rows = torch.tensor(x).to(kind)
        return lambda: torch.nn.functional.linear(rows, w)

    return layer


def torch_int4(weight: Weight) -> Layer:
    """Return torch's layer of 4-bit weights, which computes in bfloat16."""
    import torch

    aten = torch.ops.aten
    codes = torch.tensor(weight.codes.astype(np.int32))
    packed = aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scale = torch.tensor(weight.scale.T.copy()).bfloat16()
    scales_and_zeros = torch.stack([scale, torch.zeros_like(scale)], dim=-1)

    def layer(x):
        rows = torch.tensor(x).bfloat16()
        return lambda: aten._weight_int4pack_mm_for_cpu(
            rows, packed, weight.group, scales_and_zeros
        )

    return layer


def torch_dynamic(engine: str, weight: Weight) -> Layer:
    """Return torch's dynamic layer of 8 bits, of an engine."""
    import torch

    linear = torch.nn.Linear(weight.n, weight.n, bias=False)
    linear.weight = torch.nn.Parameter(torch.tensor(weight.values))
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this way of quantizing will go
        torch.backends.quantized.engine = engine
        try:
            model = torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(linear), {torch.nn.Linear}, dtype=torch.qint8
            )
        finally:
            torch.backends.quantized.engine = before

    def layer(x):
        rows = torch.tensor(x)
        # The weight was packed by the engine, which is what the call goes by.
        return lambda: model(rows)

    return layer


def torchao_int8(weight: Weight) -> Layer:
    """Return torchao's dynamic layer of 8 bits, as it is without a compiler."""
    import torch

    logging.getLogger("torchao").setLevel(logging.ERROR)
    quantization = importlib.import_module("torchao.quantization")
    linear = torch.nn.Linear(weight.n, weight.n, bias=False)
    linear.weight = torch.nn.Parameter(torch.tensor(weight.values))
    model = torch.nn.Sequential(linear)
    quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())

    def layer(x):
        rows = torch.tensor(x)
        return lambda: model(rows)

    return layer


# ---------------------------------------------------------------------------
# onnxruntime.


def onnx_nbits(level: int, weight: Weight) -> Layer:
    """Return MatMulNBits: level 4 computes in bytes, level 0 in float32."""
    from onnx import helper

    n, bits, per_byte = weight.n, weight.bits, 8 // weight.bits
    blocks = n // weight.group
    parts = weight.codes.reshape(n, blocks, weight.group // per_byte, per_byte)
    data = np.zeros(parts.shape[:-1], dtype=np.uint8)
    for k in range(per_byte):
        data |= parts[..., k] << np.uint8(bits * k)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scale"],
        ["y"],
        domain="com.microsoft",
        **{"K": n, "N": n, "bits": bits},
        block_size=weight.group,
        accuracy_level=level,
    )
    constants = {"codes": data, "scale": weight.scale.reshape(-1)}
    return _session([node], constants, n)


def onnx_int8(weight: Weight) -> Layer:
    """Return a product of bytes with rows that are quantized dynamically."""
    from onnx import TensorProto, helper

    signed = weight.codes.astype(np.int16) - 128
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "a_scale", "a_zero"]),
        helper.make_node("MatMulInteger", ["a", "codes", "a_zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a_scale", "scale"], ["scales"]),
        helper.make_node("Mul", ["floats", "scales"], ["y"]),
    ]
    codes = np.ascontiguousarray(signed.T.astype(np.int8))
    return _session(nodes, {"codes": codes, "scale": weight.scale[:, 0]}, weight.n)


def _session(nodes: list[Any], constants: dict[str, np.ndarray], n: int) -> Layer:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n])
        for name in ("x", "y")
    )
    arrays = [numpy_helper.from_array(part, name) for name, part in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "layer", [x], [y], arrays),
        opset_imports=[
            helper.make_opsetid("", 17),
            helper.make_opsetid("com.microsoft", 1),
        ],
        ir_version=9,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.inter_op_num_threads = 1
    # Threads that wait in a loop would take the cores from whoever is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def layer(rows):
        binding = session.io_binding()
        out = np.empty((len(rows), n), dtype=np.float32)
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        binding.bind_ortvalue_input("x", value(rows))
        binding.bind_ortvalue_output("y", value(out))

        def call():
            session.run_with_iobinding(binding)
            return binding

        return call

    return layer


# ---------------------------------------------------------------------------

F32, BF16, INT4 = "torch float32", "torch bfloat16", "torch int4"
ONEDNN, X86 = "torch dynamic int8, onednn", "torch dynamic int8, x86"
TORCHAO = "torchao int8, eager"
ORT8, ORT4, ORT2 = (f"onnxruntime {bits}-bit" for bits in (8, 4, 2))
ORT4_FLOAT = "onnxruntime 4-bit, float32"

PEERS = [
    Kind(F32, 8, 4, 1e-5, partial(torch_float, "float32"), "torch"),
    Kind(BF16, 8, 2, 2e-2, partial(torch_float, "bfloat16"), "torch"),
    Kind(INT4, 4, 0.5, 3e-2, torch_int4, "torch", few_rows=True),
    Kind(ONEDNN, 8, 1, 5e-2, partial(torch_dynamic, "onednn"), "torch"),
    Kind(X86, 8, 1, 5e-2, partial(torch_dynamic, "x86"), "torch"),
    Kind(TORCHAO, 8, 1, 5e-2, torchao_int8, "torchao"),
    Kind(ORT8, 8, 1, 5e-2, onnx_int8, "onnxruntime"),
    Kind(ORT4, 4, 0.5, 3e-2, partial(onnx_nbits, 4), "onnxruntime"),
    Kind(ORT4_FLOAT, 4, 0.5, 1e-4, partial(onnx_nbits, 0), "onnxruntime"),
    Kind(ORT2, 2, 0.25, 3e-2, partial(onnx_nbits, 4), "onnxruntime"),
]
OURS = [
    Kind("W8A8", 8, 1, 3e-2, partial(ours, "linear_w8a8")),
    Kind("W4A8", 4, 0.5, 3e-2, partial(ours, "linear_w4a8")),
    Kind("W4A32", 4, 0.5, 1e-5, partial(ours, "linear_w4a32")),
    Kind("W2A8", 2, 0.25, 3e-2, partial(ours, "linear_w2a8")),
    Kind("W1A6", 1, 0.125, 1e-1, partial(ours, "linear_w1")),
    Kind("W4, dequantized", 4, 0.5, 1e-5, partial(ours, "linear_dequantized")),
]
