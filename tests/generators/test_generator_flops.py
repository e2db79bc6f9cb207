"""The formulas for the generators' FLOPs against the compiler's count, by part: published widths, few layers.

Shapes are abstract, so widths cost nothing. The two counts differ:

- The compiler leaves out products with the padding's zeros, the formulas do not: 4 % of a style encoder, whose last
  feature maps are 5 bands high; less where images are large and recordings long.
- The compiler counts norms and activations: 1 to 3 %, most in a HiFi-GAN of four stages (2.8 % at published sizes).
- A transposed convolution is a convolution of the dilated input; both leave out the zeros in it.
- Where an LSTM is one part of many, its loop is not unrolled (which would take long to compile), and the compiler
  counts one step of the product with the previous state. `uncounted_loops` is the rest.
- Operations that are equal in every evaluation of a denoiser are counted once by the compiler.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from empatheia_jax.generators.dreamtalk import networks
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.diffusion import Denoiser as MotionDenoiser
from empatheia_jax.generators.dreamtalk.renderer import EditingNet, MappingNet, Renderer, WarpingNet
from empatheia_jax.generators.styletts2 import networks as speech_networks
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import Decoder
from empatheia_jax.generators.styletts2.diffusion import Denoiser
from empatheia_jax.generators.styletts2.layers import BiLSTM
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.styletts2.prosody import ProsodyPredictor
from empatheia_jax.generators.styletts2.style import StyleEncoder
from empatheia_jax.generators.styletts2.text import PLBert, TextEncoder
from empatheia_jax.planning import generator_flops as flops
from empatheia_jax.planning.flops import attention, attention_block, linear
from support.compiled_flops import count_flops, unroll_loops

TOLERANCE = 0.03  # norms, activations and edges
EDGES = 0.06  # where feature maps are small
FEW = StyleTTS2Config(
    n_layer=2,
    plbert_layers=2,
    diffusion_layers=1,
    upsample_rates=(30, 10),
    upsample_kernel_sizes=(60, 20),
    resblock_kernel_sizes=(11,),
    resblock_dilation_sizes=((3,),),
)
VOCODERS = {
    "hifigan": FEW,
    "istftnet": dataclasses.replace(
        FEW, decoder_type="istftnet", upsample_rates=(10, 6), upsample_kernel_sizes=(20, 12)
    ),
}
P, L = 64, 64  # phonemes, frames of 25 ms
MOTION = DreamTalkConfig(layers=1)
FACE = RendererConfig(flow_widths=(64, 128, 256), flow_levels=1, edit_widths=(64, 128, 256), edit_blocks=1)
F = 6  # frames of 40 ms

close = functools.partial(pytest.approx, rel=TOLERANCE)


@pytest.fixture
def unrolled(monkeypatch):
    unroll_loops(monkeypatch)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def constructor(network, config):
    """Return the constructor that `count_flops` wants; the generators' networks take no random numbers."""
    return lambda rngs: network(config)


def uncounted_loops(steps: int, width: int, count: int = 1) -> float:
    """Return the FLOPs that the compiler misses in `count` BiLSTMs that stay loops: those of all steps but one."""
    return count * 2 * linear(steps - 1, width // 2, 4 * width // 2)


# StyleTTS 2 -----------------------------------------------------------------------------------------------------------


def test_lstm(unrolled):
    counted = count_flops(lambda rngs: BiLSTM(640, 512), lambda model, *x: model(*x), floats(1, 6, 640), integers(1))
    assert counted == close(flops.lstm(6, 640, 512))


def test_text_encoder():
    counted = count_flops(constructor(TextEncoder, FEW), lambda model, *x: model(*x), integers(1, P), integers(1))
    assert counted == close(flops.text_encoder(FEW, P) - uncounted_loops(P, FEW.hidden_dim))


def test_plbert(unrolled):
    counted = count_flops(constructor(PLBert, FEW), lambda model, *x: model(*x), integers(1, P), integers(1))
    assert counted == close(flops.plbert(FEW, P))


@pytest.mark.parametrize("multispeaker", [True, False])
def test_style_denoiser(multispeaker):
    config = dataclasses.replace(FEW, multispeaker=multispeaker)

    def call(model, *arrays):
        x, sigma, words, reference, lengths = arrays
        return model(x, sigma, words, reference if multispeaker else None, lengths=lengths)

    shapes = floats(1, 256), floats(), floats(1, P, 768), floats(1, 256), integers(1)
    assert count_flops(constructor(Denoiser, config), call, *shapes) == close(flops.style_denoiser(config, P))


def test_diffusion_runs_the_denoiser_so_often(unrolled):
    """Two evaluations per update, and twice as many with guidance."""
    steps = 2
    updates = jax.ShapeDtypeStruct((steps - 1,), jnp.int8)
    shapes = floats(1, P, 768), integers(1), floats(1, 256), integers(1), updates, floats()
    assert flops.denoiser_evaluations(steps, guided=True) == 2 * flops.denoiser_evaluations(steps) == 4
    expected = flops.denoiser_evaluations(steps, guided=True) * flops.style_denoiser(FEW, P)
    assert count_flops(constructor(StyleTTS2, FEW), speech_networks._sample_style_guided, *shapes) == close(expected)


def test_durations():
    expected = (
        flops.duration_encoder(FEW, P) + flops.durations(FEW, P) - uncounted_loops(P, FEW.hidden_dim, FEW.n_layer + 1)
    )
    shapes = floats(1, P, 1280), floats(1, 256), integers(1)
    assert count_flops(constructor(StyleTTS2, FEW), StyleTTS2.durations, *shapes) == close(expected)


def test_curves():
    shapes = floats(1, L, 640), floats(1, 128), integers(1)
    counted = count_flops(constructor(ProsodyPredictor, FEW), ProsodyPredictor.F0Ntrain, *shapes)
    assert counted == close(flops.f0_and_energy(FEW, L) - uncounted_loops(L, FEW.hidden_dim))


def test_decoder():
    shapes = floats(1, L, 512), floats(1, 2 * L), floats(1, 2 * L), floats(1, 128), integers(1)
    counted = count_flops(
        constructor(Decoder, FEW), lambda model, *x: model.features(*x[:-1], lengths=x[-1])[0], *shapes
    )
    assert counted == close(flops.decoder(FEW, L))


@pytest.mark.parametrize("kind", VOCODERS)
def test_vocoder(kind):
    config, frames = VOCODERS[kind], 8

    def call(model, *arrays):
        x, style, f0, noise, lengths = arrays
        return model.generator(x, style, model.source(f0, noise), 2 * lengths)

    shapes = floats(1, 2 * frames, 512), floats(1, 128), floats(1, 2 * frames), floats(1, 600 * frames, 9), integers(1)
    assert count_flops(constructor(Decoder, config), call, *shapes) == close(flops.vocoder(config, frames))


def test_style_encoder():
    counted = count_flops(constructor(StyleEncoder, FEW), lambda model, *x: model(*x), floats(1, 320, 80), integers(1))
    assert counted == pytest.approx(flops.style_encoder(FEW, 320), rel=EDGES)


def test_speech_at_published_sizes():
    """3 s: 40 symbols, 120 frames, 5 steps. LibriTTS's decoder and vocoder take 70 GFLOP per second of speech."""
    config = StyleTTS2Config.libritts()
    parts = flops.speech_parts(config, 40, 120, 5)
    assert sum(parts.values()) == flops.speech(config, 40, 120, 5) == pytest.approx(230.7e9, rel=1e-3)
    assert (parts["decoder"] + parts["vocoder"]) / 3 == pytest.approx(69.9e9, rel=1e-3)
    assert flops.speech(StyleTTS2Config.ljspeech(), 40, 120, 5) == pytest.approx(176.7e9, rel=1e-3)
    style_reading = flops.speech(config, 40, 120, 5, mel_frames=240) - flops.speech(config, 40, 120, 5)
    assert style_reading == 2 * flops.style_encoder(config, 240)


def test_speech_grows_as_it_should():
    """Linear in frames, quadratic in symbols by attention only, and guidance adds evaluations of the denoiser only."""
    config = StyleTTS2Config.libritts()
    by_frames = [flops.speech(config, 40, frames, 5) for frames in (100, 200, 300)]
    assert by_frames[2] - by_frames[1] == pytest.approx(by_frames[1] - by_frames[0])
    first, second, third = (flops.speech(config, symbols, 100, 5) for symbols in (20, 40, 60))
    inner, middle = config.plbert_hidden, config.diffusion_heads * config.diffusion_head_features
    scores = config.plbert_layers * attention(20, 20, inner)
    scores += flops.denoiser_evaluations(5) * config.diffusion_layers * attention(20, 20, middle)
    assert third - second - (second - first) == pytest.approx(2 * scores)
    guidance = flops.speech(config, 40, 100, 5, guided=True) - flops.speech(config, 40, 100, 5)
    assert guidance == pytest.approx(8 * flops.style_denoiser(config, 40))


# DreamTalk ------------------------------------------------------------------------------------------------------------


def test_content_encoder():
    shapes = floats(2 * F, 1024), integers(F, 11)
    counted = count_flops(constructor(MotionDenoiser, MOTION), lambda model, *x: model.content_encoder(*x), *shapes)
    assert counted == close(flops.content_encoder(MOTION, F))


def test_style_clip():
    shapes = floats(1, 256, 64), integers(1)
    counted = count_flops(constructor(MotionDenoiser, MOTION), lambda model, *x: model.style_encoder(*x), *shapes)
    assert counted == close(flops.style_clip_encoder(MOTION))


def test_motion_denoiser():
    shapes = floats(1, F, 64), integers(1), floats(1, F, 11, 256), floats(1, 256)
    counted = count_flops(constructor(MotionDenoiser, MOTION), lambda model, *x: model(*x), *shapes)
    assert counted == close(flops.motion_denoiser(MOTION, F))


def test_motion_runs_the_denoiser_so_often(unrolled):
    """Two evaluations per step with guidance.

    The compiler counts once: the first self-attention of both decoders and the queries from it, which depend on the
    style only; and, for both passes, the memory of the decoders with its keys and values.
    """
    steps, width = 2, MOTION.width
    sample = functools.partial(networks._sample_expression, sampler="ddim", steps=steps, scale=2.0)
    shapes = floats(F, 11, 256), floats(1, 256), jax.ShapeDtypeStruct((), jnp.uint32), integers()
    parts = flops.motion_parts(MOTION, F, steps, guided=True)
    expected = parts["denoiser"] + parts["style_encoder"] / 2  # the given style is encoded before
    expected -= (steps - 1) * 2 * F * 2 * (attention_block(11, 11, 11, width) + linear(11, width, width))
    memory = linear(11, width + MOTION.expression_dim, width) + (2 + 4 * MOTION.layers) * linear(11, width, width)
    assert count_flops(constructor(MotionDenoiser, MOTION), sample, *shapes) == close(expected - steps * F * memory)


def test_renderer():
    portrait, code, windows = floats(1, 256, 256, 3), floats(1, 256), floats(1, 27, 73)
    counted = count_flops(constructor(MappingNet, FACE), lambda model, *x: model(*x), windows)
    assert counted == close(flops.mapping_net(FACE))
    counted = count_flops(constructor(WarpingNet, FACE), lambda model, *x: model(*x), portrait, code)
    assert counted == close(flops.warping_net(FACE))
    counted = count_flops(constructor(EditingNet, FACE), lambda model, *x: model(*x), portrait, portrait, code)
    assert counted == close(flops.editing_net(FACE))


def test_rendering_frames():
    shapes = jax.ShapeDtypeStruct((256, 256, 3), jnp.uint8), floats(3, 27, 73)
    assert count_flops(constructor(Renderer, FACE), Renderer.__call__, *shapes) == close(flops.render(FACE, 3))


def test_motion_and_pictures_at_published_sizes():
    """A second, 25 frames: 39 GFLOP for motion, 2.5 TFLOP for rendering.

    101 GFLOP per frame, as in the original without its operations that have no effect.
    """
    config = DreamTalkConfig()
    plain, guided = (flops.motion(config, 25, 10, guided) for guided in (False, True))
    assert plain == pytest.approx(39.0e9, rel=1e-3)
    assert guided - plain == 10 * flops.motion_denoiser(config, 25) + flops.style_clip_encoder(config)
    by_frames = [flops.motion(config, frames, 10) for frames in (25, 50, 75)]
    assert by_frames[2] - by_frames[1] == pytest.approx(by_frames[1] - by_frames[0])
    assert flops.render(RendererConfig(), 25) == pytest.approx(25 * 101.4e9, rel=1e-3)
