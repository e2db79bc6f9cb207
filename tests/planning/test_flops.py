"""FLOPs from formulas against the compiler's count of the unrolled program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.config import Config, LatentConfig, LlamaConfig, LoraConfig, ProjectorConfig
from empatheia_jax.config.load import load_config
from empatheia_jax.data.schema import Widths
from empatheia_jax.encoders.clip import ClipVision, ClipVisionConfig
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.latents.content_synchronizer import ContentSynchronizer
from empatheia_jax.latents.style_disentangler import StyleDisentangler
from empatheia_jax.llm.block_attention import spans
from empatheia_jax.llm.llama import Llama
from empatheia_jax.model.projector import Projector
from empatheia_jax.planning import flops
from empatheia_jax.testing.tiny import replace_fields
from empatheia_jax.training.stages import resolve_stages
from support.compiled_flops import count_flops, unroll_loops

WIDTHS = Widths((8, 96), (4, 160), 178, 320, 192, 64, 48)
LLM = LlamaConfig(
    vocab_size=512,
    width=256,
    layers=3,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mlp_width=512,
    max_length=256,
    compute_dtype="float32",
    param_dtype="float32",
    remat="none",
)
LATENTS = LatentConfig(width=128, heads=4, mlp_width=384, encoder_layers=2, decoder_layers=3, dropout=0.0)
TOLERANCE = 0.06  # norms, softmax and activations, which the formulas leave out


@pytest.fixture(autouse=True)
def unrolled(monkeypatch):
    """Unroll loops: the compiler counts the body of a scan once."""
    unroll_loops(monkeypatch)


def count_llama(trained: str):
    """Return (the compiler's count, LoRA settings) for a row of 128 targets; `trained`: nothing, adapters or base."""
    lora = LoraConfig(rank=8, dropout=0.0, targets=("q_proj", "v_proj", "down_proj"))
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Llama(LLM, lora, rngs=nnx.Rngs(0))))
    kinds = {"nothing": nnx.Nothing(), "adapters": nnx.LoRAParam, "base": nnx.Not(nnx.LoRAParam)}
    train, frozen = nnx.split_state(state, kinds[trained], ...)

    def loss(train, frozen, x):
        model = nnx.merge(graphdef, train, frozen)
        hidden, _ = model(x, jnp.arange(128)[None])
        return jnp.sum(model.logits(hidden))

    function = loss if trained == "nothing" else jax.grad(loss)
    x = jax.ShapeDtypeStruct((1, 128, LLM.width), jnp.float32)
    return jax.jit(function).lower(train, frozen, x).compile().cost_analysis()["flops"], lora


@pytest.mark.parametrize("trained", ["nothing", "adapters", "base"])
def test_llama(trained):
    """4 per weight and token for LoRA, 6 for the base.

    Attention computes whole blocks, more than the mask leaves, and five products in the backward pass where the forward
    has two: one of them recomputes the scores. The first layer's input needs no gradient, so its q, k and v have none.
    """
    actual, lora = count_llama(trained)
    weights, pairs, attention = {"nothing": (1, 1, 1), "adapters": (2, 3, 3.5), "base": (3, 2, 3.5)}[trained]
    context = sum((end - start) * (end - first) for first, start, end in spans(128, 128)) / 128
    expected = (
        weights * flops.llama_projections(LLM, 128)
        + pairs * flops.adapters(LLM, lora, 128)
        + attention * flops.llama_attention(LLM, 128, context)
        + min(weights, 3) * flops.lm_head(LLM, 128)
    )
    if trained != "nothing":
        expected -= flops.linear(128, LLM.width, (LLM.heads + 2 * LLM.kv_heads) * LLM.head_dim)
    assert actual == pytest.approx(expected, rel=TOLERANCE)


def test_lora_is_4n(monkeypatch):
    """At published sizes the adapters' step is close to 4 FLOPs a weight and token, the whole LLM's to 6."""
    config = load_config("configs/vicuna_7b.py")
    load = flops.Load(tokens=1000.0, context=0.0, targets=0.0, examples=2.0, slots=(0.0, 0.0))
    n = flops.llama_projections(config.llm, 1.0) / 2
    assert n == pytest.approx(6.476e9, rel=1e-3)  # Llama-2-7B's layers
    assert flops.training_step(config, resolve_stages(config)[1], None, load) / 1000 / n == pytest.approx(4.0, abs=0.05)
    assert flops.training_step(config, resolve_stages(config)[0], None, load) / 1000 / n == pytest.approx(6.0, abs=0.05)


def test_content_synchronizer():
    k, r, p, f = 2, 40, 64, 96  # Examples, response tokens, phonemes, frames
    arrays = (
        np.zeros((k, r, 256), np.float32),
        np.zeros((k, r), bool),
        np.zeros((k, p), np.int32),
        np.zeros((k, p), np.int32),
        np.zeros(k, np.int32),
    )

    def call(model, r_t, mask, phonemes, *frame_counts):
        speech, _ = model.speech_content(r_t, mask, phonemes)
        counts = dict(zip(("phoneme_frames", "video_frames"), frame_counts, strict=True))
        return speech, model.video_content(r_t, mask, phonemes, **counts, frames=f)[0]

    def create(rngs):
        return ContentSynchronizer(
            LATENTS,
            256,
            WIDTHS.symbols,
            speech_dim=WIDTHS.content_speech,
            video_dim=WIDTHS.content_video,
            rngs=rngs,
        )

    expected = k * flops.content_synchronizer(LATENTS, 256, WIDTHS, response=r, phonemes=p, frames=f)
    assert count_flops(create, call, *arrays) == pytest.approx(expected, rel=TOLERANCE)


def test_style_disentangler():
    arrays = [np.zeros((4, 16, 256), np.float32)] * 2

    def call(model, r_s, r_v):
        style = model(r_s, r_v)
        return style.speech, style.video, style.logits

    def create(rngs):
        return StyleDisentangler(LATENTS, 256, WIDTHS.style_speech, WIDTHS.style_video, rngs=rngs)

    expected = 4 * flops.style_disentangler(LATENTS, 256, WIDTHS)
    assert count_flops(create, call, *arrays) == pytest.approx(expected, rel=TOLERANCE)


def test_projector():
    config = ProjectorConfig(tokens=4, width=128, heads=4)
    features = np.zeros((6, *WIDTHS.audio), np.float32)
    actual = count_flops(
        lambda rngs: Projector(config, WIDTHS.audio, 256, rngs=rngs), lambda model, x: model(x), features
    )
    assert actual == pytest.approx(6 * flops.projector(config, WIDTHS.audio, 256), rel=TOLERANCE)


def test_hubert():
    config = dataclasses.replace(HubertConfig.small(), width=256, mlp_width=512, conv_dim=(128,) * 7)
    waveform, lengths = np.zeros((1, 48_000), np.float32), np.full(1, 48_000, np.int32)
    actual = count_flops(lambda rngs: Hubert(config, rngs=rngs), lambda model, *x: model(*x)[0], waveform, lengths)
    assert actual == pytest.approx(flops.hubert(config, 48_000), rel=0.1)  # its norms and GELUs run at 10 kHz


def test_clip():
    config = dataclasses.replace(ClipVisionConfig.small(), width=256, mlp_width=512)
    pixels = np.zeros((2, 96, 96, 3), np.float32)
    actual = count_flops(lambda rngs: ClipVision(config, rngs=rngs), lambda model, x: model(x)[1], pixels)
    assert actual == pytest.approx(flops.clip(config, 2), rel=TOLERANCE)


def test_stages_add_up():
    """Stage 4 does what 1, 2 and 3 do, the LLM once; cached states leave stage 2 the synchronizer alone."""
    config = Config(llm=LLM, latents=LATENTS)
    load = flops.Load(1000.0, 200.0, 300.0, 3.0, (6.0, 6.0), 20.0, 60.0, 90.0)
    step = {n: flops.training_step(config, resolve_stages(config)[n], WIDTHS, load) for n in range(5)}
    slots = flops.training_step(config, resolve_stages(config)[3], WIDTHS, dataclasses.replace(load, tokens=0.0))
    assert step[4] == pytest.approx(step[1] + step[2] + slots)
    uncached = resolve_stages(dataclasses.replace(config, cache_states=False))[2]
    forward = flops.llama_projections(LLM, 1000) + flops.llama_attention(LLM, 1000, 200)
    forward += flops.adapters(LLM, config.lora, 1000)
    assert flops.training_step(config, uncached, WIDTHS, load) == pytest.approx(step[2] + forward)


def test_peaks():
    assert flops.peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and flops.peak_flops("TPU v5 lite") == 197e12
    assert flops.peak_flops("TPU v5p") == 459e12 and flops.peak_flops("cpu") is None
    assert (
        flops.memory_bandwidth("NVIDIA H100 80GB HBM3") == 3.35e12 and flops.memory_bandwidth("TPU v5 lite") == 0.82e12
    )
    assert flops.memory_bandwidth("TPU v5p") == 2.77e12 and flops.memory_bandwidth("NVIDIA H100 PCIe") is None
    assert flops.mfu(989e12, 2.0, "NVIDIA H200") == pytest.approx(0.5)
    assert flops.hfu(989e12, 989e12, 4.0, "NVIDIA H200", devices=2) == pytest.approx(0.25)
    assert flops.mfu(1.0, 1.0, "cpu") is None


def test_recomputation_is_a_forward_pass_of_the_llm():
    config = replace_fields(Config(), "llm", remat="full")
    load = flops.Load(100.0, 50.0, 10.0, 1.0, (0.0, 0.0))
    recomputed = flops.recomputed(config, resolve_stages(config)[1], load)
    forward = flops.llama_projections(config.llm, 100) + flops.llama_attention(config.llm, 100, 50)
    assert recomputed == pytest.approx(forward + flops.adapters(config.llm, config.lora, 100))
    assert flops.recomputed(Config(), resolve_stages(Config())[1], load) == 0.0
