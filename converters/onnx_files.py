"""The weights in an ONNX graph under torch's names: as floats, or in 8 bits as ONNX Runtime's dynamic quantisation.

torch's exporter keeps the names of some parameters ("encoder.F0_proj.weight") and folds others into nameless constants;
those have the name of the node that uses them ("/encoder/cnn.0/cnn.0.0/Conv"). Every initialiser of the graph is a
weight, belongs to one (its scale, its zero point), or is a constant of a kind that can be recognised; the rest is
returned to be explained or refused.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from converters.tensors import ConversionError, Tensor, need_package

KINDS = {
    "FLOAT": np.float32,
    "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16,
    "DOUBLE": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_FIELDS = {"FLOAT": "float_data", "DOUBLE": "double_data", "INT64": "int64_data"}  # where raw_data is not used
_PARAMETER = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_CODES = (np.dtype(np.int8), np.dtype(np.uint8))


@dataclasses.dataclass
class OnnxWeights:
    """What the initialisers of a graph are.

    Attributes:
      tensors: weights under torch's names.
      constants: what a constant is -> names of the initialisers.
      unexplained: name -> array of what is neither.
    """

    tensors: dict[str, Tensor]
    constants: dict[str, list[str]]
    unexplained: dict[str, np.ndarray]


def load_graph(path: Path) -> Any:
    """Read an ONNX file and return its graph; all initialisers have the bytes that their shapes need.

    Raises:
      ConversionError: not ONNX, damaged, with data in other files, or in formats that are not known.
      ConversionError: the package onnx is not installed.
    """
    onnx = need_package("onnx")
    try:
        model = onnx.load_model_from_string(Path(path).read_bytes())
    except Exception as error:  # protobuf's own errors, of several versions
        raise ConversionError(f"{path}: truncated, or not an ONNX file") from error
    graph, problems, names = model.graph, [], set()
    if not graph.node or not graph.initializer or not model.opset_import:
        raise ConversionError(f"{path}: truncated, or not an ONNX file: no nodes, no weights or no operator sets")
    if graph.sparse_initializer or any(a.HasField("g") or a.graphs for n in graph.node for a in n.attribute):
        raise ConversionError(f"{path}: sparse weights or graphs inside nodes, which are not known")
    size = Path(path).stat().st_size
    for initializer in graph.initializer:
        problem = _problem(onnx, initializer, size)
        if initializer.name in names:
            problem = "stands twice in it"
        if problem:
            problems.append(f"{initializer.name or 'a nameless initialiser'} {problem}")
        names.add(initializer.name)
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ConversionError(f"{path}: {'; '.join(problems[:5])}{more}")
    return graph


def _problem(onnx, initializer, size: int) -> str | None:
    """Return what is wrong with an initialiser, or None."""
    if initializer.external_data or initializer.data_location == onnx.TensorProto.EXTERNAL:
        location = next((entry.value for entry in initializer.external_data if entry.key == "location"), "?")
        return f"has its numbers in another file ({location!r}): save the model as one file"
    known = onnx.TensorProto.DataType.values()
    kind = onnx.TensorProto.DataType.Name(initializer.data_type) if initializer.data_type in known else "unknown"
    if kind not in KINDS:
        return f"is in the format {kind} ({initializer.data_type}); known are {', '.join(KINDS)}"
    count = math.prod(initializer.dims)
    if min(initializer.dims, default=0) < 0 or count > size:
        return f"has shape {list(initializer.dims)}, in a file of {size:,} bytes"
    if initializer.HasField("raw_data"):
        stored = len(initializer.raw_data) / np.dtype(KINDS[kind]).itemsize
    else:
        stored = len(getattr(initializer, _FIELDS.get(kind, "int32_data")))
    return None if stored == count else f"has shape {list(initializer.dims)} and {stored:g} numbers"


def read_weights(path: Path, rename: Callable[[str], str]) -> OnnxWeights:
    """Return the weights of an ONNX file by torch's names, and its constants.

    Args:
      path: the file.
      rename: the name in the graph -> that in the published torch file.
    Raises:
      ConversionError: as `load_graph`, or weights that are quantised in another way.
    """
    reader = _Reader(Path(path), load_graph(path), rename)
    reader.read_layers()
    reader.read_named()
    if reader.problems:
        raise ConversionError(f"{path}: {'; '.join(reader.problems[:5])}")
    return OnnxWeights(reader.tensors, *reader.sort_constants())


class _Reader:
    """Assigns the initialisers of one graph."""

    def __init__(self, path: Path, graph, rename: Callable[[str], str]):
        self.path, self.graph, self.rename = path, graph, rename
        self.to_array = need_package("onnx.numpy_helper").to_array
        self.initializers = {initializer.name: initializer for initializer in graph.initializer}
        self.positions = {name: position for position, name in enumerate(self.initializers)}
        self.users: dict[str, list] = {name: [] for name in self.initializers}
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name in self.users:
                    self.users[name].append((node, position))
        self.tensors: dict[str, Tensor] = {}
        self.used: set[str] = set()
        self.problems: list[str] = []

    def array(self, name: str) -> np.ndarray:
        """Return an initialiser's numbers."""
        return self.to_array(self.initializers[name])

    def read_layers(self) -> None:
        """Read the weights of convolutions, products and LSTMs, which may be quantised and without a name."""
        readers = {"Conv": self._conv, "ConvTranspose": self._conv, "ConvInteger": self._conv}
        readers |= {"MatMul": self._product, "Gemm": self._product, "MatMulInteger": self._product}
        readers |= {"LSTM": self._lstm, "DynamicQuantizeLSTM": self._lstm}
        for node in self.graph.node:
            if node.op_type in readers and len(node.input) > 1 and node.input[1] in self.initializers:
                if node.input[1] not in self.used:
                    try:
                        readers[node.op_type](node)
                    except (ValueError, IndexError):  # of shapes that such a layer cannot have
                        self.problems.append(f"{node.name}: its inputs are not those of a {node.op_type}")

    def read_named(self) -> None:
        """Read what the exporter left its name: norms, biases, embeddings."""
        for name in self.initializers:
            parameter = _own_name(name)
            if name in self.used or not parameter:
                continue
            if name.endswith("_quantized"):
                self._add(parameter, name, self._codes(name, None, axis=0))
            elif self._dtype(name).kind not in "iub" and not re.search(r"_(scale|zero_point)$", name):
                self._add(parameter, name, None)

    def _conv(self, node) -> None:
        name = node.input[1]
        zero = node.input[3] if node.op_type == "ConvInteger" and len(node.input) > 3 else None
        codes = self._codes(name, zero, axis=0) if node.op_type == "ConvInteger" else None
        self._add(self._parameter(name, node, "weight"), name, codes)
        if node.op_type != "ConvInteger":
            self._bias(node)

    def _product(self, node) -> None:
        """Read a weight [in, out], which torch's Linear has as [out, in]."""
        name = node.input[1]
        if node.op_type == "Gemm":
            transposed = not any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            self._bias(node)
        else:  # a Linear's weight loses its name when it is transposed; the quantiser transposes Gemm's and keeps it
            transposed = not _own_name(name) or "Gemm" in node.name.rpartition("/")[2]
        zero = node.input[3] if node.op_type == "MatMulInteger" and len(node.input) > 3 else None
        codes = self._codes(name, zero, axis=-1) if node.op_type == "MatMulInteger" else None
        self._add(self._parameter(name, node, "weight"), name, codes, (lambda array: array.T) if transposed else None)

    def _bias(self, node) -> None:
        if len(node.input) > 2 and node.input[2] in self.initializers and node.input[2] not in self.used:
            self._add(self._parameter(node.input[2], node, "bias"), node.input[2], None)

    def _lstm(self, node) -> None:
        """Read an LSTM's weights [directions, 4 H, in] (quantised: [directions, in, 4 H]) and biases."""
        inputs, quantized = list(node.input), node.op_type == "DynamicQuantizeLSTM"
        module = _module_path(node.name)
        if not set(inputs[1:4]) <= self.initializers.keys() or (len(inputs) > 7 and inputs[7]):
            self.problems.append(f"{node.name}: an LSTM without biases, with peepholes or with computed weights")
            return
        transposed = (lambda array: array.swapaxes(1, 2)) if quantized else (lambda array: array)
        for position, kind in ((1, "ih"), (2, "hh")):
            name, codes = inputs[position], None
            if quantized:
                scale, zero = inputs[6 + 2 * position : 8 + 2 * position]
                codes = self._codes(name, zero, axis=0, scale=scale, per_direction=True)
            whole = self._tensor(name, codes, transposed)
            for index, end in enumerate(self._directions(whole.shape[0])):
                self._add(f"{module}.weight_{kind}_l0{end}", name, codes, _gates_of(transposed, index))
        for index, end in enumerate(self._directions(self.initializers[inputs[3]].dims[0])):
            for half, kind in enumerate(("ih", "hh")):
                self._add(f"{module}.bias_{kind}_l0{end}", inputs[3], None, _bias_of(index, half))

    @staticmethod
    def _directions(count: int) -> tuple[str, ...]:
        return ("", "_reverse")[:count]

    def _parameter(self, name: str, node, leaf: str) -> str:
        """Return a parameter's name: its own, or that of the module whose node uses it (first: its shortest)."""
        if own := _own_name(name):
            return own
        paths = [_module_path(user.name) for user, _ in self.users[name] if user.op_type == node.op_type]
        return f"{min(paths, key=len)}.{leaf}"

    def _dtype(self, name: str) -> np.dtype:
        onnx = need_package("onnx")
        return np.dtype(KINDS[onnx.TensorProto.DataType.Name(self.initializers[name].data_type)])

    def _codes(self, name: str, zero: str | None, *, axis: int, scale: str | None = None, per_direction: bool = False):
        """Return the scale and zero point of a quantised weight, ready to be broadcast, or note a problem."""
        base = name.removesuffix("_quantized")
        scale, zero = scale or f"{base}_scale", zero or self._zero_point(name)
        shape = tuple(self.initializers[name].dims)
        if self._dtype(name) not in _CODES or not name.endswith("_quantized"):
            self.problems.append(f"{name} is {self._dtype(name)} in a quantised layer; known are int8 and uint8")
            return None
        if scale not in self.initializers or self._dtype(scale).kind != "f":
            self.problems.append(f"{name} is quantised without a scale {scale}")
            return None
        arrays = [self.array(scale)]
        if zero and zero in self.initializers:
            arrays.append(self.array(zero))
            self.used.add(zero)
        self.used.add(scale)
        if per_direction:
            sizes, target = {shape[0], shape[0] * shape[-1]}, (shape[0], 1, -1)
        else:
            sizes, target = {1, shape[axis]}, tuple(-1 if i == axis % len(shape) else 1 for i in range(len(shape)))
        if any(array.size not in sizes for array in arrays):
            counts = [array.size for array in arrays]
            self.problems.append(f"{name} {list(shape)} has {counts} scales and zero points, not one or one a channel")
            return None
        ready = [array.reshape(() if array.size == 1 and not per_direction else target) for array in arrays]
        return ready[0], ready[1] if len(ready) > 1 else np.zeros((), self._dtype(name))

    def _zero_point(self, name: str) -> str | None:
        """Return the zero point of an embedding: that of the node that dequantises what is gathered from it."""
        outputs = {output for node, _ in self.users[name] for output in node.output}
        for node in self.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in {*outputs, name} and len(node.input) > 2:
                return node.input[2]
        return None

    def _tensor(self, name: str, codes, change: Callable | None) -> Tensor:
        def read() -> np.ndarray:
            array = self.array(name)
            if codes is not None:
                scale, zero = codes
                with np.errstate(all="ignore"):  # scales that are not finite are found by `trained`
                    array = (array.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
            return array if change is None else change(array)

        dtype = self._dtype(name) if codes is None else np.dtype(np.float32)
        blank = np.broadcast_to(np.zeros((), dtype), tuple(self.initializers[name].dims))
        shape = blank.shape if change is None else change(blank).shape
        return Tensor(shape, dtype, self.path, self.positions[name], read)

    def _add(self, parameter: str, name: str, codes, change: Callable | None = None) -> None:
        self.used.add(name)
        parameter = self.rename(parameter)
        if parameter in self.tensors:
            self.problems.append(f"{parameter} stands twice in it, once as {name}")
            return
        try:
            self.tensors[parameter] = self._tensor(name, codes, change)
        except (ValueError, IndexError):
            self.problems.append(f"{name} has shape {list(self.initializers[name].dims)}, not that of its layer")

    def sort_constants(self) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
        """Return what is left: constants that are recognised, by what they are, and the rest."""
        constants: dict[str, list[str]] = {}
        unexplained: dict[str, np.ndarray] = {}
        for name in self.initializers:
            if name not in self.used:
                if kind := self._constant(name):
                    constants.setdefault(kind, []).append(name)
                else:
                    unexplained[name] = self.array(name)
        return constants, unexplained

    def _constant(self, name: str) -> str | None:
        dtype = self._dtype(name)
        if dtype in _CODES:
            return None
        if dtype.kind in "iub":
            return "integers: shapes, axes and indices"
        array = self.array(name)
        if array.size == 1:
            return "single numbers"
        if (array == 0).all() or (array == 1).all():
            return "zeros or ones: initial states, norms without parameters"
        if {user.op_type for user, _ in self.users[name]} == {"Resize"}:
            return "factors of resizing"
        module = self.rename(_module_path(name) + ".")
        siblings = [t.read() for n, t in self.tensors.items() if n.startswith(module) and t.shape == array.shape]
        if "Reciprocal" in name and any(np.allclose(array * sibling, 1, rtol=1e-5) for sibling in siblings):
            return "reciprocals of a weight"
        return None


def _own_name(name: str) -> str | None:
    """Return the name that a parameter had in torch, without what the quantiser appended, or None."""
    name = name.removesuffix("_quantized").removesuffix("_Transposed")
    return name if _PARAMETER.fullmatch(name) else None


def _module_path(node: str) -> str:
    """Return the module of a node: "/encoder/cnn.0/cnn.0.1/Conv_quant" -> "encoder.cnn.0.1"."""
    parts: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()  # a list's element repeats the list's name
        parts.append(part)
    return ".".join(parts)


def _to_torch_gates(array: np.ndarray) -> np.ndarray:
    """Return [4 H, ...] in torch's order, input, forget, cell, output, from ONNX's: input, output, forget, cell."""
    i, o, f, c = np.split(array, 4)
    return np.concatenate([i, f, c, o])


def _gates_of(transposed: Callable, direction: int) -> Callable:
    return lambda array: _to_torch_gates(transposed(array)[direction])


def _bias_of(direction: int, half: int) -> Callable:
    return lambda array: _to_torch_gates(np.split(array[direction], 2)[half])
