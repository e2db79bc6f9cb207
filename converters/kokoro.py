"""Kokoro-82M: its .pth, or an ONNX export of it -> `generators.styletts2.model.StyleTTS2` without its style networks.

The networks are StyleTTS 2's, and so is the table of rules (styletts2.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters import styletts2
from converters.kokoro_voices import TABLE_FILE, mean_voices, pack_voices
from converters.onnx_files import OnnxWeights, read_weights
from converters.rules import Family, Source
from converters.tensors import ConversionError, Tensor
from converters.torch_files import open_torch
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2

_COMPUTED = {  # constants of the exported graph, by the end of their module's name, which our code computes
    "generator": "the window of the Fourier transform",
    "l_sin_gen": "the numbers of the harmonics",
}
_EXPORT_ONLY = r"decoder\.generator\.stft\..*"  # the inverse Fourier transform as a convolution
_NORM_SCALE = re.compile(r".*\.(norm\d|adain\d\.\d)\.norm\.(weight|bias)")  # an export's, which must change nothing


def check(config: StyleTTS2Config, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return problems with the unused tensors: the shape of PL-BERT's pooler, norms that must be the identity."""
    width, problems = config.plbert_hidden, []
    for name, shape in (("bert.pooler.weight", (width, width)), ("bert.pooler.bias", (width,))):
        if name in tensors and tensors[name].shape != shape:
            problems.append(f"{name} has shape {list(tensors[name].shape)}, PL-BERT's is {list(shape)}")
    for name, tensor in tensors.items():
        if _NORM_SCALE.fullmatch(name) and not (tensor.read() == name.endswith("weight")).all():
            problems.append(f"{name} is not {int(name.endswith('weight'))}: our norm has no parameters of its own")
    return problems


FAMILY = Family(
    StyleTTS2,
    styletts2.rules,
    (r"bert\.embeddings\.position_ids", r"bert\.pooler\.(weight|bias)", _EXPORT_ONLY, _NORM_SCALE.pattern),
    check,
)


def rename(name: str) -> str:
    """Return the published name of a parameter of the exported graph."""
    name = re.sub(r"^encoder\.", "", re.sub(r"^decoder\.decoder\.", "decoder.", name))
    # The predictor's parts are called one by one, so that nodes lack its name.
    return f"predictor.{name}" if re.match(r"(F0|N)\.\d|(F0_proj|N_proj|shared)\.", name) else name


def open_files(source: Path, voices: Path | None = None) -> Source:
    """Open the published file and assign its tensors to parameters.

    Args:
      source: `kokoro-v1_0.pth`, or an ONNX export, as floats or in 8 bits.
      voices: a folder of voices, whose mean rows are written beside the weights.
    Raises:
      ConversionError: files that do not fit; the message lists everything that is wrong.
    """
    source, settings, counts = Path(source), {}, {}
    if not source.is_file():
        raise ConversionError(f"{source}: not a file")
    if source.suffix == ".onnx":
        weights = read_weights(source, rename)
        constants = _explain(source, weights)
        tensors, settings = weights.tensors, {"graph_constants": constants}
        counts = {"constants_of_the_graph": sum(map(len, constants.values()))}
    else:
        tensors = styletts2.strip_module(open_torch(source, ""), source)
    config = StyleTTS2Config.kokoro()
    fits = FAMILY.fit(config, tensors)
    generated = {} if voices is None else {TABLE_FILE: pack_voices(mean_voices(Path(voices)))}
    return Source("kokoro", source.parent, settings, config, tensors, "", fits, generated, counts)


def _explain(source: Path, weights: OnnxWeights) -> dict[str, list[str]]:
    """Return the constants of the graph, what they are -> names.

    Raises:
      ConversionError: initialisers that are no weights of the network and no known constants.
    """
    constants, unknown = dict(weights.constants), []
    config = StyleTTS2Config.kokoro()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.gen_istft_n_fft) / config.gen_istft_n_fft)
    expected = {"generator": window, "l_sin_gen": np.arange(1, 10)}
    for name, array in weights.unexplained.items():
        module = name.strip("/").split("/")[-2] if "/" in name.strip("/") else ""
        values = expected.get(module, np.zeros(0))
        if array.size == values.size and np.allclose(array.reshape(-1), values, atol=1e-6):
            constants.setdefault(_COMPUTED[module], []).append(name)
        else:
            unknown.append(f"{name} {list(array.shape)}")
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ConversionError(f"{source}: not a weight of Kokoro and no known constant: {', '.join(unknown[:5])}{more}")
    return constants
