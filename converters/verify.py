"""Does the converted model compute what the torch original does? The same random input through both, in float32."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.convert import FAMILIES, open_source
from converters.readers import ConversionError
from empatheia_jax.weights import architecture, load_weights, read_facts, read_index

TOLERANCES = {"same": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference allowed, as a part of the output's scale: float32's own, or that of a narrower format on disk."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Errors as parts of the outputs' scale: of the outputs, and of what every layer gives."""

    outputs: dict[str, float]
    layers: dict[str, float]
    tolerance: float

    @property
    def good(self) -> bool:
        return all(error <= self.tolerance for error in self.outputs.values())  # false for NaN

    def lines(self) -> list[str]:
        """One line an output; where one is wrong, one a layer too."""
        shown = self.outputs if self.good else self.layers | self.outputs
        marks = {name: "" if error <= self.tolerance else "  WRONG" for name, error in shown.items()}
        lines = [f"{name:16s} {error:.1e}{marks[name]}" for name, error in shown.items()]
        if not self.good:
            wrong = [name for name, error in self.layers.items() if not error <= self.tolerance]
            first = wrong[0] if wrong else "the last layer or behind it"
            lines.append(f"wrong first in {first}")
        return [f"error as part of the scale, at most {self.tolerance:g}:", *lines]


def verify(family: str, source: Path, output: Path, seed: int = 0) -> Report:
    """Run the transformers directory `source` and the converted `output` on the same random input.

    Raises:
      ConversionError: no torch here, or a checkpoint and a folder of different architectures.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConversionError(f"--verify runs the original in torch, which is not here ({error}): .[torch]") from error
    opened, facts = open_source(family, source), read_facts(output)
    if facts["architecture"] != architecture(opened.config):
        raise ConversionError(f"{output}: converted from another architecture than {source}")
    transformers.logging.set_verbosity_error()  # it lists what the tower of a whole CLIP does not use
    original = (
        getattr(transformers, FAMILIES[family].CLASS)
        .from_pretrained(opened.folder, dtype=torch.float32, attn_implementation="eager")
        .eval()
    )
    config = dataclasses.replace(opened.config, compute_dtype="float32", param_dtype="float32")
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: FAMILIES[family].NETWORK(config, rngs=nnx.Rngs(0))))
    model = nnx.merge(graphdef, load_weights(output, abstract))
    with torch.no_grad():
        ours, theirs = _RUNS[family](model, original, np.random.default_rng(seed), torch)
    (their_outputs, their_states), (outputs, states) = theirs, ours
    names = ["embedding", *(f"layer {index}" for index in range(len(states) - 1))]
    # torch's last state may be before or after the final norm: the output speaks for it.
    layers = {name: _error(a, b) for name, a, b in zip(names[:-1], states, their_states, strict=False)}
    return Report({n: _error(outputs[n], their_outputs[n]) for n in outputs}, layers, _tolerance(opened, output))


def _tolerance(opened, output: Path) -> float:
    """float32's own where the folder holds the checkpoint's numbers as they are."""
    index = read_index(output)
    sources = {one.name: opened.tensors[one.sources[0]].dtype for one in opened.fits}
    narrowed = {index[n]["dtype"] for n in index if np.dtype(index[n]["dtype"]).itemsize < sources[n].itemsize}
    return max(TOLERANCES[kind] for kind in narrowed or {"same"})


def _error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return math.inf
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def _llama(model, original, rng, torch):
    tokens = rng.integers(0, model.config.vocab_size, (2, 33))
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    def run(tokens):
        embedded = model.embed(tokens)
        hidden = model(embedded, positions)[0]
        return {"last state": hidden, "logits": model.logits(hidden)}, model.hidden_states(embedded, positions)

    found = original(torch.tensor(tokens), output_hidden_states=True)
    outputs = {"last state": found.hidden_states[-1].numpy(), "logits": found.logits.numpy()}
    return jax.jit(run)(tokens), (outputs, [state.numpy() for state in found.hidden_states])


def _speech(model, original, rng, torch):
    waveform = rng.normal(size=(1, 60 * math.prod(model.config.conv_stride) + 400)).astype(np.float32)
    lengths = jnp.array([waveform.shape[1]], jnp.int32)

    def run(waveform):
        return {"last state": model(waveform, lengths)[0]}, model.hidden_states(waveform, lengths)[0]

    found = original(torch.tensor(waveform), output_hidden_states=True)
    outputs = {"last state": found.last_hidden_state.numpy()}
    return jax.jit(run)(waveform), (outputs, [state.numpy() for state in found.hidden_states])


def _clip(model, original, rng, torch):
    pixels = rng.normal(size=(2, 3, model.config.image_size, model.config.image_size)).astype(np.float32)

    def run(pixels):
        last, pooled = model(pixels)
        return {"last state": last, "pooled": pooled}, model.hidden_states(pixels)

    found = original(torch.tensor(pixels), output_hidden_states=True)
    outputs = {"last state": found.last_hidden_state.numpy(), "pooled": found.pooler_output.numpy()}
    return jax.jit(run)(pixels.transpose(0, 2, 3, 1)), (outputs, [state.numpy() for state in found.hidden_states])


_RUNS: dict[str, Callable] = {"vicuna": _llama, "hubert": _speech, "wav2vec2": _speech, "clip": _clip}
