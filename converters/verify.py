"""Compare a converted model with its original in torch: the same random input through both, in float32."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.convert import FAMILIES, open_source
from converters.rules import Source, abstract_network
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.weights import architecture, load_weights, read_index, read_metadata
from empatheia_jax.runtime.precision import float32_products

TOLERANCES = {"same": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest error allowed, relative to the output's largest value, by the format that stored weights are rounded to."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Largest errors of the outputs and of every layer's hidden states, relative to their largest value."""

    outputs: dict[str, float]
    layers: dict[str, float]
    tolerance: float

    @property
    def good(self) -> bool:
        return all(error <= self.tolerance for error in self.outputs.values())  # false for NaN

    def lines(self) -> list[str]:
        """Return one line an output, and one a layer where an output is wrong."""
        shown = self.outputs if self.good else self.layers | self.outputs
        marks = {name: "" if error <= self.tolerance else "  WRONG" for name, error in shown.items()}
        lines = [f"{name:16s} {error:.1e}{marks[name]}" for name, error in shown.items()]
        if not self.good:
            wrong = [name for name, error in self.layers.items() if not error <= self.tolerance]
            first = wrong[0] if wrong else "the last layer or after it"
            lines.append(f"wrong first in {first}")
        return [f"error relative to the largest value, at most {self.tolerance:g}:", *lines]


def verify(family: str, source: Path, output: Path, seed: int = 0) -> Report:
    """Run the transformers directory `source` and the converted `output` on the same random input.

    Args:
      family: a key of `convert.FAMILIES`.
      source: the transformers directory, or a GGUF file.
      output: the folder converted from it.
      seed: of the input.
    Raises:
      ConversionError: torch is not installed.
      ConversionError: checkpoint and folder have different architectures.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConversionError(
            f"--verify runs the original in torch, which is not installed ({error}): .[torch]"
        ) from error
    opened, metadata = open_source(family, source), read_metadata(output)
    if metadata["architecture"] != architecture(opened.config):
        raise ConversionError(f"{output}: not converted from the architecture of {source}")
    transformers.logging.set_verbosity_error()  # it would list the weights of a CLIP that its vision tower does not use
    # Out of a GGUF file transformers reads names, rotary order and quantised numbers by code of its own.
    file = {"gguf_file": Path(source).name} if Path(source).suffix == ".gguf" else {}
    original = (
        getattr(transformers, FAMILIES[family].model_class)
        .from_pretrained(opened.folder, dtype=torch.float32, attn_implementation="eager", **file)
        .eval()
    )
    config = dataclasses.replace(opened.config, compute_dtype="float32", param_dtype="float32")
    graphdef, parameters = abstract_network(FAMILIES[family].network, config)
    model = nnx.merge(graphdef, load_weights(output, parameters))
    with torch.no_grad(), float32_products():
        actual, expected = COMPARISONS[family](model, original, np.random.default_rng(seed), torch)
    (outputs, states), (expected_outputs, expected_states) = actual, expected
    names = ["embedding", *(f"layer {index}" for index in range(len(states) - 1))]
    # torch's last state may be before or after the final norm, so the output is compared in its place.
    layers = {name: _error(a, b) for name, a, b in zip(names[:-1], states, expected_states, strict=False)}
    return Report({n: _error(outputs[n], expected_outputs[n]) for n in outputs}, layers, _tolerance(opened, output))


def _tolerance(opened: Source, output: Path) -> float:
    """Return the tolerance for the folder's weights, which may be stored in a narrower format than the checkpoint's."""
    index = read_index(output)
    dtypes = {entry.name: opened.tensors[entry.sources[0]].dtype for entry in opened.fits}
    narrowed = {index[n]["dtype"] for n in index if np.dtype(index[n]["dtype"]).itemsize < dtypes[n].itemsize}
    return max(TOLERANCES[kind] for kind in narrowed or {"same"})


def _error(actual, expected) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        return math.inf
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def _compare_llama(model, original, rng, torch):
    tokens = rng.integers(0, model.config.vocab_size, (2, 33))
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    def run(tokens):
        embedded = model.embed(tokens)
        hidden = model(embedded, positions)[0]
        return {"last state": hidden, "logits": model.logits(hidden)}, model.hidden_states(embedded, positions)

    result = original(torch.tensor(tokens), output_hidden_states=True)
    outputs = {"last state": result.hidden_states[-1].numpy(), "logits": result.logits.numpy()}
    return jax.jit(run)(tokens), (outputs, [state.numpy() for state in result.hidden_states])


def _compare_speech(model, original, rng, torch):
    waveform = rng.normal(size=(1, 60 * math.prod(model.config.conv_stride) + 400)).astype(np.float32)
    lengths = jnp.array([waveform.shape[1]], jnp.int32)

    def run(waveform):
        return {"last state": model(waveform, lengths)[0]}, model.hidden_states(waveform, lengths)[0]

    result = original(torch.tensor(waveform), output_hidden_states=True)
    outputs = {"last state": result.last_hidden_state.numpy()}
    return jax.jit(run)(waveform), (outputs, [state.numpy() for state in result.hidden_states])


def _compare_clip(model, original, rng, torch):
    pixels = rng.normal(size=(2, 3, model.config.image_size, model.config.image_size)).astype(np.float32)

    def run(pixels):
        last, pooled = model(pixels)
        return {"last state": last, "pooled": pooled}, model.hidden_states(pixels)

    result = original(torch.tensor(pixels), output_hidden_states=True)
    outputs = {"last state": result.last_hidden_state.numpy(), "pooled": result.pooler_output.numpy()}
    return jax.jit(run)(pixels.transpose(0, 2, 3, 1)), (outputs, [state.numpy() for state in result.hidden_states])


COMPARISONS: dict[str, Callable] = {  # each returns (outputs, states) of the model and of the original
    "vicuna": _compare_llama,
    "hubert": _compare_speech,
    "wav2vec2": _compare_speech,
    "clip": _compare_clip,
}
