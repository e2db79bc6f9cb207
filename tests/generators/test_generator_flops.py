"""FLOPs of the generators by hand against the compiler's count, part by part: published widths, few layers.

Shapes are abstract, so widths cost nothing. What the two count differently:

- The compiler leaves out the products with zeros beyond an edge, we do not: 4 % of a style encoder, whose last pictures
  are 5 bands high; less where pictures are large and sounds long.
- The compiler counts norms and activations: 1 to 3 %, most in a HiFi-GAN of four stages (2.8 % at published sizes).
- A transposed convolution is one of the stretched input; the compiler leaves out the zeros in it, as we do.
- An LSTM's loop stays a loop where it is one part of many (a body each step takes long to compile): the compiler then
  counts one step of the product with the state before. `loops` is what it does not see.
- What is the same in every evaluation of a denoiser is compiled once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from compiled_flops import counted, unroll

from empatheia_jax import flops_generators as flops
from empatheia_jax.flops import attention, block, linear
from empatheia_jax.generators.dreamtalk import networks
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.denoiser import Denoiser as MotionDenoiser
from empatheia_jax.generators.dreamtalk.editing import EditingNet
from empatheia_jax.generators.dreamtalk.mapping import MappingNet
from empatheia_jax.generators.dreamtalk.renderer import Renderer
from empatheia_jax.generators.dreamtalk.warping import WarpingNet
from empatheia_jax.generators.styletts2 import stages
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.decoder import Decoder
from empatheia_jax.generators.styletts2.denoiser import Denoiser
from empatheia_jax.generators.styletts2.layers import BiLSTM
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.styletts2.plbert import PLBert
from empatheia_jax.generators.styletts2.prosody import ProsodyPredictor
from empatheia_jax.generators.styletts2.style_encoder import StyleEncoder
from empatheia_jax.generators.styletts2.text_encoder import TextEncoder

TOLERANCE = 0.03  # norms, activations and edges
EDGES = 0.06  # where small pictures have much of them
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
    unroll(monkeypatch)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def whole(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def built(network, config):
    """What `counted` creates: networks of the generators ask for no random numbers."""
    return lambda rngs: network(config)


def loops(steps: int, width: int, count: int = 1) -> float:
    """What the compiler does not see of `count` BiLSTMs that stay loops: all steps but one."""
    return count * 2 * linear(steps - 1, width // 2, 4 * width // 2)


# StyleTTS 2 -----------------------------------------------------------------------------------------------------------


def test_lstm(unrolled):
    found = counted(lambda rngs: BiLSTM(640, 512), lambda model, *x: model(*x), floats(1, 6, 640), whole(1))
    assert found == close(flops.lstm(6, 640, 512))


def test_text_encoder():
    found = counted(built(TextEncoder, FEW), lambda model, *x: model(*x), whole(1, P), whole(1))
    assert found == close(flops.text_encoder(FEW, P) - loops(P, FEW.hidden_dim))


def test_plbert(unrolled):
    found = counted(built(PLBert, FEW), lambda model, *x: model(*x), whole(1, P), whole(1))
    assert found == close(flops.plbert(FEW, P))


@pytest.mark.parametrize("multispeaker", [True, False])
def test_style_denoiser(multispeaker):
    config = dataclasses.replace(FEW, multispeaker=multispeaker)

    def call(model, x, sigma, words, reference, lengths):
        return model(x, sigma, words, reference if multispeaker else None, lengths)

    given = floats(1, 256), floats(), floats(1, P, 768), floats(1, 256), whole(1)
    assert counted(built(Denoiser, config), call, *given) == close(flops.style_denoiser(config, P))


def test_diffusion_runs_the_denoiser_so_often(unrolled):
    """Twice an update, and with guidance twice that."""
    steps = 2
    updates = jax.ShapeDtypeStruct((steps - 1,), jnp.int8)
    given = floats(1, P, 768), whole(1), floats(1, 256), whole(1), updates, floats()
    assert flops.style_evaluations(steps, guided=True) == 2 * flops.style_evaluations(steps) == 4
    expected = flops.style_evaluations(steps, guided=True) * flops.style_denoiser(FEW, P)
    assert counted(built(StyleTTS2, FEW), stages._draw_guided, *given) == close(expected)


def test_durations():
    expected = flops.duration_encoder(FEW, P) + flops.durations(FEW, P) - loops(P, FEW.hidden_dim, FEW.n_layer + 1)
    given = floats(1, P, 1280), floats(1, 256), whole(1)
    assert counted(built(StyleTTS2, FEW), StyleTTS2.durations, *given) == close(expected)


def test_curves():
    given = floats(1, L, 640), floats(1, 128), whole(1)
    found = counted(built(ProsodyPredictor, FEW), ProsodyPredictor.F0Ntrain, *given)
    assert found == close(flops.curves(FEW, L) - loops(L, FEW.hidden_dim))


def test_decoder():
    given = floats(1, L, 512), floats(1, 2 * L), floats(1, 2 * L), floats(1, 128), whole(1)
    found = counted(built(Decoder, FEW), lambda model, *x: model.features(*x)[0], *given)
    assert found == close(flops.decoder(FEW, L))


@pytest.mark.parametrize("kind", VOCODERS)
def test_vocoder(kind):
    config, frames = VOCODERS[kind], 8

    def call(model, x, style, f0, noise, lengths):
        return model.generator(x, style, model.source(f0, noise), 2 * lengths)

    given = floats(1, 2 * frames, 512), floats(1, 128), floats(1, 2 * frames), floats(1, 600 * frames, 9), whole(1)
    assert counted(built(Decoder, config), call, *given) == close(flops.vocoder(config, frames))


def test_style_encoder():
    found = counted(built(StyleEncoder, FEW), lambda model, *x: model(*x), floats(1, 320, 80), whole(1))
    assert found == pytest.approx(flops.style_encoder(FEW, 320), rel=EDGES)


def test_speech_at_published_sizes():
    """3 s: 40 symbols, 120 frames, 5 steps. LibriTTS's decoder and vocoder take 70 GFLOP a second of speech."""
    config = StyleTTS2Config.libritts()
    parts = flops.speech_parts(config, 40, 120, 5)
    assert sum(parts.values()) == flops.speech(config, 40, 120, 5) == pytest.approx(230.7e9, rel=1e-3)
    assert (parts["decoder"] + parts["vocoder"]) / 3 == pytest.approx(69.9e9, rel=1e-3)
    assert flops.speech(StyleTTS2Config.ljspeech(), 40, 120, 5) == pytest.approx(176.7e9, rel=1e-3)
    read = flops.speech(config, 40, 120, 5, mel_frames=240) - flops.speech(config, 40, 120, 5)
    assert read == 2 * flops.style_encoder(config, 240)


def test_speech_grows_as_it_should():
    """Linear in frames; quadratic in symbols by attention alone; with steps by the denoiser alone."""
    config = StyleTTS2Config.libritts()
    of_frames = [flops.speech(config, 40, frames, 5) for frames in (100, 200, 300)]
    assert of_frames[2] - of_frames[1] == pytest.approx(of_frames[1] - of_frames[0])
    first, second, third = (flops.speech(config, symbols, 100, 5) for symbols in (20, 40, 60))
    inner, middle = config.plbert_hidden, config.diffusion_heads * config.diffusion_head_features
    scores = config.plbert_layers * attention(20, 20, inner)
    scores += flops.style_evaluations(5) * config.diffusion_layers * attention(20, 20, middle)
    assert third - second - (second - first) == pytest.approx(2 * scores)
    more = flops.speech(config, 40, 100, 5, guided=True) - flops.speech(config, 40, 100, 5)
    assert more == pytest.approx(8 * flops.style_denoiser(config, 40))


# DreamTalk ------------------------------------------------------------------------------------------------------------


def test_content_encoder():
    given = floats(2 * F, 1024), whole(F, 11)
    found = counted(built(MotionDenoiser, MOTION), lambda model, *x: model.content_encoder(*x), *given)
    assert found == close(flops.content_encoder(MOTION, F))


def test_style_clip():
    given = floats(1, 256, 64), whole(1)
    found = counted(built(MotionDenoiser, MOTION), lambda model, *x: model.style_encoder(*x), *given)
    assert found == close(flops.style_clip(MOTION))


def test_motion_denoiser():
    given = floats(1, F, 64), whole(1), floats(1, F, 11, 256), floats(1, 256)
    found = counted(built(MotionDenoiser, MOTION), lambda model, *x: model(*x), *given)
    assert found == close(flops.motion_denoiser(MOTION, F))


def test_motion_runs_the_denoiser_so_often(unrolled):
    """With guidance twice a step. Compiled once: the first self-attention of both decoders, which reads a style and
    nothing that changes, and the queries from it; and for both passes what the decoders read, with its keys and values.
    """
    steps, width = 2, MOTION.width
    draw = functools.partial(networks._draw, draw="ddim", steps=steps, scale=2.0)
    given = floats(F, 11, 256), floats(1, 256), jax.ShapeDtypeStruct((), jnp.uint32), whole()
    parts = flops.motion_parts(MOTION, F, steps, guided=True)
    expected = parts["denoiser"] + parts["style_encoder"] / 2  # the given style is encoded before
    expected -= (steps - 1) * 2 * F * 2 * (block(11, 11, 11, width) + linear(11, width, width))
    read = linear(11, width + MOTION.expression_dim, width) + (2 + 4 * MOTION.layers) * linear(11, width, width)
    assert counted(built(MotionDenoiser, MOTION), draw, *given) == close(expected - steps * F * read)


def test_renderer():
    portrait, code, windows = floats(1, 256, 256, 3), floats(1, 256), floats(1, 27, 73)
    found = counted(built(MappingNet, FACE), lambda model, *x: model(*x), windows)
    assert found == close(flops.mapping_net(FACE))
    found = counted(built(WarpingNet, FACE), lambda model, *x: model(*x), portrait, code)
    assert found == close(flops.warping_net(FACE))
    found = counted(built(EditingNet, FACE), lambda model, *x: model(*x), portrait, portrait, code)
    assert found == close(flops.editing_net(FACE))


def test_rendering_frames():
    given = jax.ShapeDtypeStruct((256, 256, 3), jnp.uint8), floats(3, 27, 73)
    assert counted(built(Renderer, FACE), Renderer.__call__, *given) == close(flops.render(FACE, 3))


def test_motion_and_pictures_at_published_sizes():
    """A second, 25 frames: 39 GFLOP to move the face, 2.5 TFLOP to draw it; 101 GFLOP a frame, as in the original
    without what has no effect there."""
    config = DreamTalkConfig()
    once, twice = (flops.motion(config, 25, 10, guided) for guided in (False, True))
    assert once == pytest.approx(39.0e9, rel=1e-3)
    assert twice - once == 10 * flops.motion_denoiser(config, 25) + flops.style_clip(config)
    of_frames = [flops.motion(config, frames, 10) for frames in (25, 50, 75)]
    assert of_frames[2] - of_frames[1] == pytest.approx(of_frames[1] - of_frames[0])
    assert flops.render(RendererConfig(), 25) == pytest.approx(25 * 101.4e9, rel=1e-3)
