"""Compare converted Kokoro weights with the ONNX export in ONNX Runtime: the same sentence and voice through both.

The export computes in 8 bits, so that outputs are compared by correlation. What comes after a step that amplifies
small differences is computed from the export's own values: F0 and energy from its whole durations, log-magnitudes from
its F0, energy and harmonic source (whose noise it leaves out).
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.onnx_files import load_graph
from converters.rules import abstract_network
from converters.tensors import ConversionError, need_package
from empatheia_jax.checkpoints.weights import load_weights, read_architecture
from empatheia_jax.generators import styletts2
from empatheia_jax.generators.phonemes import encode
from empatheia_jax.generators.styletts2.config import SAMPLES_PER_FRAME, StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.styletts2.prosody import expand_to_frames
from empatheia_jax.runtime.precision import float32_products

LEAST = 0.999  # correlation
SENTENCE, VOICE = "aɪm sˌoʊ sˈɑːɹi tə hˈɪɹ ðˈæt; dˈuː juː wˈɔnt tə tˈɔːk ɐbˈaʊt ɪt?", "af_heart"
_OUTPUTS = {  # of the exported graph
    "durations": "/encoder/Div_output_0",
    "frames": "/encoder/Clip_output_0",
    "F0": "/encoder/F0_proj/Conv_output_0",
    "energy": "/encoder/N_proj/Conv_output_0",
    "source": "/decoder/decoder/generator/m_source/l_tanh/Tanh_output_0",
    "log-magnitudes": "/decoder/decoder/generator/Slice_1_output_0",
}


@dataclasses.dataclass(frozen=True)
class Correlations:
    """Correlation of each output with the original's."""

    values: dict[str, float]

    @property
    def good(self) -> bool:
        return all(value >= LEAST for value in self.values.values())  # false for NaN

    def lines(self) -> list[str]:
        """Return one line an output."""
        marks = {name: "" if value >= LEAST else "  WRONG" for name, value in self.values.items()}
        return [
            f"correlation with ONNX Runtime, at least {LEAST:g}:",
            *(f"{name:16s} {value:.6f}{marks[name]}" for name, value in self.values.items()),
        ]


def verify_kokoro(source: Path, output: Path) -> Correlations:
    """Run the ONNX export `source` and the converted `output` on the same symbols and style.

    Args:
      source: an ONNX export of Kokoro; the weights may have been converted from it or from the .pth.
      output: the converted folder.
    Raises:
      ConversionError: no ONNX file, not the graph that is known, or another network in the folder.
      ConversionError: onnx or onnxruntime is not installed.
    """
    if Path(source).suffix != ".onnx":
        raise ConversionError(
            f"{source}: --verify runs an ONNX export; name one as --input, with the folder as --output"
        )
    family, sizes = read_architecture(Path(output))
    if family != StyleTTS2Config.__name__ or sizes.get("style_networks", True):
        raise ConversionError(f"{output}: not converted from Kokoro")
    symbols = np.append(encode(SENTENCE), 0).astype(np.int32)[None]
    style = _read_style(VOICE)[None]
    expected = run_export(Path(source), symbols, style)
    graphdef, parameters = abstract_network(StyleTTS2, StyleTTS2Config(**sizes))
    model = nnx.merge(graphdef, load_weights(Path(output), parameters))
    with float32_products():
        actual = _run_model(model, symbols, style, expected)
    return Correlations({name: _correlation(value, expected[name]) for name, value in actual.items()})


def run_export(source: Path, symbols: np.ndarray, style: np.ndarray) -> dict[str, np.ndarray]:
    """Run an ONNX export and return what it computes on the way.

    Args:
      source: the ONNX file.
      symbols: int [1, P].
      style: float32 [1, 256].
    Returns:
      "durations" [P], "frames" int [P], "F0" and "energy" [2 L], "source" [600 L], "log-magnitudes" [120 L + 1, 11].
    Raises:
      ConversionError: not the graph that is known.
    """
    onnx, onnxruntime = need_package("onnx"), need_package("onnxruntime")
    missing = set(_OUTPUTS.values()) - {name for node in load_graph(source).node for name in node.output}
    if missing:
        raise ConversionError(f"{source}: not the graph of Kokoro that is known: no {', '.join(sorted(missing))}")
    model = onnx.load(source)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _OUTPUTS.values())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != 3:
        raise ConversionError(f"{source}: its inputs are {', '.join(names)}, not symbols, style and speed")
    values = (symbols.astype(np.int64), style, np.ones(1, np.float32))
    results = session.run(list(_OUTPUTS.values()), dict(zip(names, values, strict=True)))
    arrays = {name: np.asarray(result) for name, result in zip(_OUTPUTS, results, strict=True)}
    magnitudes = arrays.pop("log-magnitudes")[0].T
    return {name: array.reshape(-1) for name, array in arrays.items()} | {"log-magnitudes": magnitudes}


def _run_model(model: StyleTTS2, symbols: np.ndarray, style: np.ndarray, export: dict) -> dict[str, np.ndarray]:
    frames = export["frames"].astype(np.int32)[None]
    total, lengths = int(frames.sum()), jnp.array([symbols.shape[1]], jnp.int32)
    curves = [export[name].reshape(1, 2 * total) for name in ("F0", "energy")]
    source = export["source"].reshape(1, total * SAMPLES_PER_FRAME)

    def run(*arrays):
        symbols, style, frames, f0, energy, source = arrays
        totals = jnp.sum(frames, axis=1)
        content = model.encode_text(symbols, lengths)
        acoustic, prosodic = jnp.split(style, 2, axis=-1)
        projected = model.bert_encoder(content[..., model.config.hidden_dim :])
        encoding = model.predictor.text_encoder(projected, prosodic, lengths)
        en, asr = (expand_to_frames(x, frames, total) for x in (encoding, content[..., : model.config.hidden_dim]))
        our_f0, our_energy = model.predictor.F0Ntrain(en, prosodic, totals)
        x, _ = model.decoder.features(asr, f0, energy, acoustic, lengths=totals)
        generator = model.decoder.generator
        harmonics = generator.harmonics(source, SAMPLES_PER_FRAME * totals)
        spectrum, _ = generator.spectrum(x, acoustic, harmonics, 2 * totals)
        magnitudes = spectrum[0, :, : spectrum.shape[-1] // 2]
        return model.durations(content, style, lengths)[0], our_f0[0], our_energy[0], magnitudes

    results = jax.jit(run)(symbols, style, frames, *curves, source)
    names = ("durations", "F0", "energy", "log-magnitudes")
    return {name: np.asarray(result) for name, result in zip(names, results, strict=True)}


def _read_style(voice: str) -> np.ndarray:
    with np.load(Path(styletts2.__file__).parent / "kokoro_voices.npz") as voices:
        return voices[voice]


def _correlation(actual: np.ndarray, expected: np.ndarray) -> float:
    if actual.shape != expected.shape:
        return float("nan")
    return float(np.corrcoef(actual.reshape(-1), expected.reshape(-1))[0, 1])
