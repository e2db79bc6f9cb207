"""A Kokoro of small sizes: its tensors, its .pth, and its ONNX graph with the node names of the published export.

The graph's layers are not connected: each has an input and an output of its own, which is all that a reader of weights
looks at.
"""

import collections
import re
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converters import kokoro
from empatheia_jax.checkpoints.weights import stored_arrays
from empatheia_jax.generators.styletts2 import decoder
from empatheia_jax.generators.styletts2.config import StyleTTS2Config

CONFIG = StyleTTS2Config(
    hidden_dim=16,
    n_layer=2,
    n_token=20,
    max_dur=6,
    style_dim=8,
    decoder_type="istftnet",
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3, 5),),
    upsample_rates=(10, 6),
    upsample_kernel_sizes=(20, 12),
    upsample_initial_channel=16,
    plbert_embedding=8,
    plbert_hidden=16,
    plbert_heads=2,
    plbert_mlp=24,
    plbert_layers=2,
    plbert_positions=32,
    style_networks=False,
)
_NEWER_SPELLINGS = re.compile(r"parametrizations|weight_(g|v|orig|u)$")
_WITHOUT_PREDICTOR = re.compile(r"^predictor\.(?=(F0|N)\.\d|(F0_proj|N_proj|shared)\.)")


def use_small_sizes(monkeypatch) -> None:
    """Make the converter read Kokoros of these sizes."""
    monkeypatch.setattr(decoder, "HIDDEN", 16)
    monkeypatch.setattr(decoder, "RESIDUAL", 4)
    monkeypatch.setattr(StyleTTS2Config, "kokoro", classmethod(lambda cls: CONFIG))


def tensors(seed: int) -> dict[str, np.ndarray]:
    """Return random weights under the published names, weight norm folded; call `use_small_sizes` before."""
    rng, arrays = np.random.default_rng(seed), {}
    rules = kokoro.FAMILY.rules(CONFIG, "")
    for parameter, layer, shape in stored_arrays(kokoro.FAMILY.parameters(CONFIG)).values():
        rule = next(
            rule
            for rule in rules
            if rule.target == parameter and not any(_NEWER_SPELLINGS.search(name) for name in rule.names(layer))
        )
        for name, size in zip(rule.names(layer), rule.transform.sources(shape), strict=True):
            is_scale = name.endswith((".gamma", "orm.weight", "norm.weight")) or "alpha" in name
            arrays[name] = (rng.normal(size=size) * 0.3 + is_scale).astype(np.float32)
    return arrays


def write_pth(path: Path, arrays: dict[str, np.ndarray], change=lambda nets: None) -> Path:
    """Write the published layout: a state dict a network, "module." before every name, weight norm not folded."""
    import torch

    networks = collections.defaultdict(collections.OrderedDict)
    for name, array in arrays.items():
        network, _, rest = name.partition(".")
        if rest.endswith(".weight") and array.ndim == 3 and "_proj" not in rest:
            length = np.sqrt(np.square(array.astype(np.float64)).sum(axis=(1, 2), keepdims=True))
            networks[network][f"module.{rest}_g"] = torch.from_numpy(length.astype(np.float32))
            networks[network][f"module.{rest}_v"] = torch.from_numpy((3 * array).astype(np.float32))
            continue
        networks[network][f"module.{rest}"] = torch.from_numpy(array)
    networks["bert"]["module.pooler.weight"] = torch.ones(CONFIG.plbert_hidden, CONFIG.plbert_hidden)
    networks["bert"]["module.pooler.bias"] = torch.ones(CONFIG.plbert_hidden)
    change(networks)
    torch.save(dict(networks), path)
    return path


# The graph ------------------------------------------------------------------------------------------------------------


class _Graph:
    def __init__(self):
        self.nodes, self.inputs, self.outputs, self.initializers = [], [], [], []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def layer(self, kind: str, path: str, shape: tuple[int, ...], weights: list[str], **attributes) -> str:
        """Add a node that reads an input of its own; return its output."""
        node, first = f"{path}/{kind}", f"{path}/{kind}_input"
        self.inputs.append(helper.make_tensor_value_info(first, TensorProto.FLOAT, shape))
        return self.node(kind, node, [first, *weights], **attributes)

    def node(self, kind: str, name: str, inputs: list[str], **attributes) -> str:
        output = f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def result(self, output: str, rank: int, kind=TensorProto.FLOAT) -> None:
        shape = [f"{output}_{axis}" for axis in range(rank)]
        self.outputs.append(helper.make_tensor_value_info(output, kind, shape))


def _scope(name: str) -> str:
    """Return the path of a module's nodes: text_encoder.cnn.0.0 -> /encoder/text_encoder/cnn.0/cnn.0.0."""
    name = _WITHOUT_PREDICTOR.sub("", name)
    parts: list[str] = []
    for part in name.split("."):
        if part.isdigit() and len(parts) > 1 and re.search(r"\.\d+$", parts[-1]):
            parts.append(f"{parts[-1]}.{part}")
        elif part.isdigit():
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return "/".join(["", "decoder" if name.startswith("decoder.") else "encoder", *parts])


def graph_name(name: str) -> str:
    """Return a parameter's name in the graph."""
    return f"decoder.{name}" if name.startswith("decoder.") else f"encoder.{name}"


def float_model(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the graph with weights as floats."""
    graph, count = _Graph(), 0
    modules = {name.removesuffix(".weight"): array.ndim for name, array in arrays.items() if name.endswith(".weight")}
    inside = [f"{module}.bias" for module, ndim in modules.items() if ndim == 3 or ndim == 2 and module.endswith(".fc")]
    done = set(inside)  # biases that are inputs of their weight's node
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        scope, own, count = _scope(module), graph_name(name), count + 1
        if name in done:
            continue
        if ".lstm" in name and "_l0" in leaf or "shared." in name:
            _lstm(
                graph, scope, {n.rpartition(".")[2]: a for n, a in arrays.items() if n.startswith(f"{module}.")}, count
            )
            done |= {n for n in arrays if n.startswith(f"{module}.")}
        elif leaf == "weight" and array.ndim == 3:
            bias = f"{module}.bias"
            weights = [graph.constant(f"{scope.rpartition('/')[0]}/Mul_{count}_output_0", array)]
            weights += [graph.constant(graph_name(bias), arrays[bias])] if bias in arrays else []
            kind = "ConvTranspose" if ".ups." in name or ".pool" in name else "Conv"
            group = array.shape[0] if ".pool" in name else 1
            channels = array.shape[0] if kind == "ConvTranspose" else array.shape[1]
            attributes = {"kernel_shape": [array.shape[2]], "group": group}
            graph.result(graph.layer(kind, scope, (1, channels, 40), weights, **attributes), 3)
        elif "_embeddings." in name or name.endswith("embedding.weight"):
            ids = graph.constant(f"{scope}/ids", np.zeros((1, 3), np.int64))
            graph.result(graph.node("Gather", f"{scope}/Gather", [graph.constant(own, array), ids]), 3)
        elif leaf == "weight" and array.ndim == 2 and module.endswith(".fc"):
            bias = f"{module}.bias"
            weights = [graph.constant(own, array), graph.constant(graph_name(bias), arrays[bias])]
            graph.result(graph.layer("Gemm", scope, (1, array.shape[1]), weights, transB=1), 2)
        elif leaf == "weight" and array.ndim == 2:
            weight = graph.constant(f"onnx::MatMul_{count}", array.T)
            graph.result(graph.layer("MatMul", scope, (1, 3, array.shape[1]), [weight]), 3)
        elif "alpha" in name:
            reciprocal = f"{scope.rpartition('/')[0]}/Reciprocal_{count}_output_0"
            graph.constant(reciprocal, 1 / array)
            graph.result(graph.node("Mul", f"{scope}/Mul", [graph.constant(own, array), reciprocal]), 3)
        else:  # norms and biases of products
            graph.result(graph.node("Identity", f"{scope}/{leaf}/Identity", [graph.constant(own, array)]), array.ndim)
    _add_constants(graph)
    proto = helper.make_graph(graph.nodes, "small_kokoro", graph.inputs, graph.outputs, graph.initializers)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _lstm(graph: _Graph, scope: str, arrays: dict[str, np.ndarray], count: int) -> None:
    """Add a bidirectional LSTM, its gates in ONNX's order: input, output, forget, cell."""

    def gates(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])

    ends = ("", "_reverse")
    weights = [np.stack([gates(arrays[f"weight_{kind}_l0{end}"]) for end in ends]) for kind in ("ih", "hh")]
    biases = [np.concatenate([gates(arrays[f"bias_{kind}_l0{end}"]) for kind in ("ih", "hh")]) for end in ends]
    hidden, width = weights[1].shape[2], weights[0].shape[2]
    names = [graph.constant(f"onnx::LSTM_{count}{part}", array) for part, array in zip("wr", weights, strict=True)]
    names += [graph.constant(f"onnx::LSTM_{count}b", np.stack(biases)), ""]
    names += [graph.constant(f"{scope}/ConstantOfShape_output_0", np.zeros((2, 1, hidden), np.float32))] * 2
    attributes = {"direction": "bidirectional", "hidden_size": hidden}
    graph.result(graph.layer("LSTM", scope, (3, 1, width), names, **attributes), 4)


def _add_constants(graph: _Graph) -> None:
    """Add what the published graph has besides weights."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(20) / 20)
    generator = "/decoder/decoder/generator"
    constants = {
        "splits": np.array([8, 8], np.int64),
        "/encoder/bert/Constant_20_output_0": np.float32(1e-5),
        "/encoder/predictor/text_encoder/lstms.1/Constant_7_output_0": np.ones(16, np.float32),
        f"{generator}/Constant_17_output_0": window.astype(np.float32),
        f"{generator}/m_source/l_sin_gen/Constant_output_0": np.arange(1, 10, dtype=np.float32)[None, :, None],
        "decoder.decoder.generator.stft.istft.stft.window_sum": np.full(20, 1.5, np.float32),
    }
    for name, array in constants.items():
        kind = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        graph.result(graph.node("Identity", f"{name}_user", [graph.constant(name, array)]), array.ndim, kind)


def quantized_model(model: onnx.ModelProto, folder: Path, *, per_channel: bool) -> onnx.ModelProto:
    """Return the graph after ONNX Runtime's own dynamic quantisation: products, convolutions, LSTMs and embeddings."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    logging.disable(logging.WARNING)  # it recommends to pre-process
    try:
        kind = QuantType.QInt8 if per_channel else QuantType.QUInt8
        quantize_dynamic(source, target, per_channel=per_channel, weight_type=kind)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)
