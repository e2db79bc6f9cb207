"""Kokoro's tensors, by the manifest of the published file, against recorded outputs of the original StyleTTS 2.

Its networks are those of StyleTTS 2 with LJSpeech's sizes, so that weights regenerated under the same names must give
the values that the original gave for LJSpeech.
"""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from converters import kokoro
from converters.rules import abstract_network
from converters.tensors import Tensor
from empatheia_jax.checkpoints.named_arrays import named_arrays, with_arrays
from empatheia_jax.generators.styletts2 import decoder, prosody
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2
from support.comparison import channels_last, relative_error, run_compiled
from support.golden_weights import load_recipe

CONFIG = StyleTTS2Config.kokoro()
MANIFEST = json.loads((Path(__file__).parents[1] / "support" / "kokoro_manifest.json").read_text())["tensors"]


@pytest.fixture(scope="module")
def ljspeech(goldens):
    """Name -> shape of LJSpeech's published file, and the function that regenerates a tensor."""
    manifest = json.loads((goldens / "styletts2" / "manifest_ljspeech.json").read_text())
    shapes = {
        f"{network}.{key.removeprefix('module.')}": tuple(shape)
        for network, entries in manifest["net"].items()
        for key, shape, *_ in entries
    }
    make = functools.partial(load_recipe(goldens).tensor, salt=manifest["weights"]["salt"])
    return shapes, make


def regenerate(name: str, shapes: dict, make) -> np.ndarray:
    """Return a tensor of Kokoro, whose weight norm is folded, from LJSpeech's of the same name, where it is not."""
    if name in shapes:
        return make(name, shapes[name])
    gain, direction = (make(f"{name}_{part}", shapes[f"{name}_{part}"]).astype(np.float64) for part in "gv")
    length = np.linalg.norm(direction.reshape(len(direction), -1), axis=1).reshape(gain.shape)
    return (gain / length * direction).astype(np.float32)


@pytest.fixture(scope="module")
def fits(ljspeech):
    """Kokoro's tensors, regenerated when they are read, and what the table makes of them."""
    shapes, make = ljspeech
    tensors = {
        name: Tensor(
            tuple(shape),
            np.dtype(np.float32),
            Path("memory"),
            index,
            functools.partial(regenerate, name, shapes, make),
        )
        for index, (name, shape) in enumerate(MANIFEST.items())
    }
    return tensors, kokoro.FAMILY.fit(CONFIG, tensors)


def build(fits, *networks: str) -> StyleTTS2:
    """Build the model with these networks' weights, and zeros elsewhere."""
    tensors, entries = fits
    graphdef, shapes = abstract_network(StyleTTS2, CONFIG)
    arrays = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in named_arrays(shapes).items()}
    arrays |= {entry.name: jnp.asarray(entry.read(tensors)) for entry in entries if entry.name.startswith(networks)}
    return nnx.merge(graphdef, with_arrays(shapes, arrays))


def load(goldens, name: str) -> dict[str, np.ndarray]:
    with np.load(goldens / "styletts2" / f"{name}.npz") as arrays:
        return dict(arrays)


def test_the_table_takes_every_tensor_and_fills_every_parameter(fits):
    tensors, entries = fits
    used = [name for entry in entries for name in entry.sources]
    assert (len(tensors), len(entries)) == (457, 445)
    assert len(used) == len(set(used)) == 457 and set(used) == set(MANIFEST)
    shapes = named_arrays(abstract_network(StyleTTS2, CONFIG)[1])
    assert {entry.name for entry in entries} == shapes.keys()
    assert sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) == 81_128_376
    assert not any(name.startswith(("style_encoder", "predictor_encoder", "diffusion")) for name in shapes)


def test_the_published_tensors_are_those_of_styletts_2(ljspeech):
    shapes, _ = ljspeech
    for name, shape in MANIFEST.items():
        published = shapes[name] if name in shapes else shapes[f"{name}_v"]
        assert tuple(shape) == published, name
    networks = {name.partition(".")[0] for name in MANIFEST}
    assert networks == {"bert", "bert_encoder", "predictor", "decoder", "text_encoder"}
    harmless = ("bert.pooler.weight", "bert.pooler.bias", "bert.embeddings.position_ids")
    folded = {name for name in MANIFEST if name not in shapes}
    spelled = set(MANIFEST) - folded | {f"{name}_{part}" for name in folded for part in "gv"}
    whole = {name for name in shapes if name.partition(".")[0] in networks}
    assert whole - spelled <= set(harmless)


def encode(model: StyleTTS2, tokens, style, lengths):
    """Return the encoding d [B, P, 640] of tokens [B, P] in a prosodic style [B, 128]."""
    return model.predictor.text_encoder(model.bert_encoder(model.bert(tokens, lengths)), style, lengths)


def test_durations_are_those_of_the_original(goldens, fits):
    golden = load(goldens, "e2e_ljspeech")
    model = build(fits, "bert/", "bert_encoder/", "predictor/text_encoder/", "predictor/lstm/", "predictor/duration")
    lengths = np.array([golden["in_tokens"].shape[1]])

    def run(tokens, style):
        logits = model.predictor.duration_logits(encode(model, tokens, style, lengths), lengths)
        return jnp.sum(jax.nn.sigmoid(logits), axis=-1)

    durations = run_compiled(run, golden["in_tokens"], golden["mid_style_prosody"])
    assert relative_error(durations, golden["mid_duration"]) <= 2e-4


@pytest.mark.slow
def test_f0_and_energy_are_those_of_the_original(goldens, fits):
    golden = load(goldens, "e2e_ljspeech")
    model = build(fits, "bert/", "bert_encoder/", "predictor/")
    lengths, frames = np.array([golden["in_tokens"].shape[1]]), golden["mid_frames"][None].astype(np.int32)
    total = int(frames.sum())

    def run(tokens, style):
        d = encode(model, tokens, style, lengths)
        en = prosody.expand_to_frames(d, jnp.asarray(frames), total)
        return model.predictor.F0Ntrain(en, style, np.array([total]))

    f0, energy = run_compiled(run, golden["in_tokens"], golden["mid_style_prosody"])
    assert relative_error(f0, golden["mid_F0"]) <= 5e-4
    assert relative_error(energy, golden["mid_N"]) <= 5e-4


def test_the_whole_model_speaks_in_the_shapes_of_its_interface():
    graphdef, shapes = abstract_network(StyleTTS2, CONFIG)

    def speak(state, tokens, style, frames, noise, lengths):
        model = nnx.merge(graphdef, state)
        content = model.encode_text(tokens, lengths)
        return content, model.speak(content, style, frames, noise, lengths=lengths)

    integers = jax.ShapeDtypeStruct((2, 9), jnp.int32)
    floats = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 256), (2, 600 * 40, decoder.HARMONICS))]
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    content, wave = jax.eval_shape(speak, shapes, integers, floats[0], integers, floats[1], lengths)
    assert content.shape == (2, 9, 1280) and wave.shape == (2, 24_000)


@pytest.mark.slow
def test_the_decoder_is_that_of_the_original(goldens, fits):
    golden = load(goldens, "decoder_istftnet")
    model = build(fits, "decoder/")
    asr = channels_last(golden["in_asr"])
    lengths, style = np.array([asr.shape[1]]), golden["in_s"]
    features = functools.partial(model.decoder.features, lengths=lengths)
    x, encoded = run_compiled(features, asr, golden["in_F0"], golden["in_N"], style)
    assert relative_error(encoded, channels_last(golden["mid_encode"])) <= 1e-5
    recorded = (channels_last(golden["mid_har_mag"]), channels_last(golden["mid_har_phase"]))
    output, _ = run_compiled(model.decoder.generator.spectrum, x, style, recorded, 2 * lengths)
    assert relative_error(output, channels_last(golden["mid_conv_post"])) <= 1e-4
