"""StyleTTS 2 against recorded outputs of the original (float64, regenerable weights); tolerances from their README."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.generators.phonemes import SYMBOLS
from empatheia_jax.generators.styletts2 import decoder, diffusion, prosody, style
from empatheia_jax.testing.tiny import FAST
from support.comparison import channels_last, relative_error, run_compiled
from support.styletts2_goldens import build

MODELS = ("libritts", "ljspeech")
QUICK = ("libritts", pytest.param("ljspeech", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def folder(goldens):
    assert (goldens / "styletts2").is_dir(), f"{goldens}: no styletts2 goldens to compare with"
    return goldens / "styletts2"


@pytest.fixture(scope="module")
def models(goldens):
    """Return a function of a name to (model, manifest), each built once."""
    return functools.cache(lambda name: build(goldens, name))


@pytest.fixture(params=MODELS)
def pair(request, models):
    return models(request.param)


@pytest.fixture(scope="module")
def libritts(models):
    return models("libritts")[0]


def load(folder, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


# Text and audio -------------------------------------------------------------------------------------------------------


def test_symbols(folder):
    record = json.loads((folder / "symbols.json").read_text())
    assert list(SYMBOLS) == record["symbols"]


def test_log_mel(folder):
    golden = load(folder, "mel")
    assert np.abs(style.filterbank() - golden["mid_filterbank"]).max() <= 2e-6
    assert np.abs(style.log_mel(golden["in_wave"]) - golden["out_logmel"][0].T).max() <= 2e-5


# Encoders -------------------------------------------------------------------------------------------------------------


def test_text_encoder(folder, libritts):
    golden = load(folder, "text_encoder")
    h_text = run_compiled(libritts.text_encoder, golden["in_tokens"], golden["in_lengths"])
    assert relative_error(h_text, channels_last(golden["out"])) <= 1e-5


def test_plbert_and_its_projection(folder, libritts):
    golden = load(folder, "plbert")
    lengths = golden["in_attention_mask"].sum(axis=1)
    hidden = run_compiled(libritts.bert, golden["in_tokens"], lengths)
    assert relative_error(hidden, golden["out_hidden"]) <= 1e-5
    assert relative_error(run_compiled(libritts.bert_encoder, hidden), channels_last(golden["out_d_en"])) <= 1e-5


@pytest.mark.parametrize("length", ["even", "odd"])
def test_style_encoders(folder, libritts, length):
    golden = load(folder, "style")
    log_mel = np.swapaxes(golden[f"in_mel_{length}"][:, 0], 1, 2)
    style = run_compiled(libritts.style, log_mel, np.array([log_mel.shape[1]]))
    assert relative_error(style[:, :128], golden[f"out_style_{length}"]) <= 1e-5
    assert relative_error(style[:, 128:], golden[f"out_prosody_{length}"]) <= 1e-5


# Prosody --------------------------------------------------------------------------------------------------------------


def test_durations(folder, libritts):
    golden, predictor = load(folder, "prosody"), libritts.predictor
    lengths = golden["in_lengths"]
    d = run_compiled(predictor.text_encoder, channels_last(golden["in_d_en"]), golden["in_style"], lengths)
    assert relative_error(d, golden["out_d"]) <= 2e-5
    assert relative_error(run_compiled(predictor.lstm, d, lengths), golden["out_lstm"]) <= 2e-5
    logits = run_compiled(predictor.duration_logits, d, lengths)
    assert relative_error(logits, golden["out_logits"]) <= 2e-5
    assert relative_error(np.sum(1 / (1 + np.exp(-logits)), axis=-1), golden["out_duration"]) <= 2e-5


def test_f0_and_energy(folder, libritts):
    golden, predictor = load(folder, "prosody"), libritts.predictor
    en, lengths = channels_last(golden["in_en"]), np.array([golden["in_en"].shape[-1]])
    assert relative_error(run_compiled(predictor.shared, en, lengths), golden["mid_shared"]) <= 1e-5
    f0, energy = run_compiled(predictor.F0Ntrain, en, golden["in_style_f0"], lengths)
    assert relative_error(f0, golden["out_F0"]) <= 1e-5
    assert relative_error(energy, golden["out_N"]) <= 1e-5


# Style diffusion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_denoiser_and_sampler(folder, models, name):
    golden, model = load(folder, f"diffusion_{name}"), models(name)[0]
    denoiser = model.diffusion
    assert denoiser.sigma_data == pytest.approx(float(golden["in_sigma_data"]))
    words, features = golden["in_embedding"], golden.get("in_features")
    lengths, x = np.array([words.shape[1]]), golden["in_x"][:, 0]
    scale = float(golden["in_embedding_scale"])
    assert relative_error(run_compiled(denoiser.mapping, golden["in_time"], features), golden["mid_mapping"]) <= 1e-5
    network = functools.partial(denoiser.network, lengths=lengths)
    output = run_compiled(network, x, golden["in_time"], words, features)
    assert relative_error(output, golden["out_net"][:, 0]) <= 1e-5
    for guidance, expected in ((1.0, "out_denoised"), (scale, "out_denoised_cfg")):

        def step(sigma, guidance=guidance):
            return denoiser(x * sigma, sigma, words, features, lengths=lengths, embedding_scale=guidance)

        denoised = run_compiled(lambda sigmas, step=step: jax.lax.map(step, sigmas), golden["in_sigma"])
        assert relative_error(denoised, golden[expected][:, :, 0]) <= 1e-5
    # The recorded schedule ends with a 0 that the sampler never uses.
    steps = len(golden["in_step_noise"]) + 1
    np.testing.assert_allclose(diffusion.noise_levels(steps), golden["mid_sigmas"][:steps], rtol=1e-6)
    np.testing.assert_allclose(diffusion.update_levels(steps)[:, 1:], golden["mid_sigma_up_down_mid"], rtol=1e-5)
    for guidance, expected in ((1.0, "out_s"), (scale, "out_s_cfg")):

        def denoise(x, sigma, guidance=guidance):
            return denoiser(x, sigma, words, features, lengths=lengths, embedding_scale=guidance)

        style, path = run_compiled(
            lambda noise, step_noise, denoise=denoise: diffusion.sample(denoise, noise, step_noise),
            golden["in_noise"][:, 0],
            golden["in_step_noise"][:, :, 0],
        )
        assert relative_error(style, golden[expected][:, 0]) <= 1e-5
        if guidance == 1.0:
            assert relative_error(path, golden["mid_x"][:, :, 0]) <= 1e-5


# Decoders -------------------------------------------------------------------------------------------------------------


def sine_noise(golden, samples: int, kind: str = "seeded") -> np.ndarray:
    if kind == "zero":
        return np.zeros((1, samples, decoder.HARMONICS), np.float32)
    rng = np.random.RandomState(int(golden["in_sine_noise_seed"]))
    return rng.standard_normal((1, samples, decoder.HARMONICS)).astype(np.float32)


# HiFi-GAN is compared from text to waveform below.
@pytest.mark.parametrize("kind", [pytest.param("hifigan", marks=pytest.mark.slow), "istftnet"])
def test_decoder(folder, models, kind):
    golden = load(folder, f"decoder_{kind}")
    model = next(m for m in (models(name)[0] for name in MODELS) if m.config.decoder_type == kind)
    decoder, asr = model.decoder, channels_last(golden["in_asr"])
    lengths, style, f0 = np.array([asr.shape[1]]), golden["in_s"], golden["in_F0"]
    features = functools.partial(decoder.features, lengths=lengths)
    x, encoded = run_compiled(features, asr, f0, golden["in_N"], style)
    assert relative_error(encoded, channels_last(golden["mid_encode"])) <= 1e-5
    assert relative_error(x, channels_last(golden["mid_decode"])) <= 1e-5
    generate = jax.jit(decoder.generator, compiler_options=FAST)
    for name in (n.removeprefix("mid_source_") for n in golden if n.startswith("mid_source_")):
        recorded = golden[f"mid_source_{name}"]
        noise = sine_noise(golden, recorded.shape[1], name)
        assert relative_error(run_compiled(decoder.source, f0, noise), recorded) <= 5e-5  # exact phase
        assert relative_error(generate(x, style, recorded, 2 * lengths), golden[f"out_wave_{name}"][:, 0]) <= 1e-4
    if kind == "istftnet":
        recorded = golden["mid_source_seeded"]
        harmonics = run_compiled(decoder.generator.harmonics, recorded, np.array([recorded.shape[1]]))
        assert relative_error(harmonics[0], channels_last(golden["mid_har_mag"])) <= 1e-5
        phase = channels_last(golden["mid_har_phase"])
        difference = np.abs(np.angle(np.exp(1j * (harmonics[1] - phase))))  # on the circle
        loud = channels_last(golden["mid_har_mag"]) > 1e-3 * golden["mid_har_mag"].max()
        assert difference[loud].max() <= 1e-2
        recorded = (channels_last(golden["mid_har_mag"]), phase)
        output, frames = run_compiled(decoder.generator.spectrum, x, style, recorded, 2 * lengths)
        assert int(frames[0]) == golden["mid_conv_post"].shape[-1]
        assert relative_error(output, channels_last(golden["mid_conv_post"])) <= 1e-4


# End to end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_end_to_end(folder, models, name):
    golden, model = load(folder, f"e2e_{name}"), models(name)[0]
    tokens = golden["in_tokens"]
    lengths = np.array([tokens.shape[1]])
    text = run_compiled(model.text_encoder, tokens, lengths)
    words = run_compiled(model.bert, tokens, lengths)
    reference = None
    if "in_mel" in golden:
        log_mel = np.swapaxes(golden["in_mel"][:, 0], 1, 2)
        reference = run_compiled(model.style, log_mel, np.array([log_mel.shape[1]]))
        assert relative_error(reference, golden["mid_ref_s"]) <= 1e-5

    def sample(noise, step_noise):
        denoise = lambda x, sigma: model.diffusion(x, sigma, words, reference, lengths=lengths)  # noqa: E731
        return diffusion.sample(denoise, noise, step_noise)[0]

    style = run_compiled(sample, golden["in_noise"][:, 0], golden["in_step_noise"][:, :, 0])
    assert relative_error(style, golden["mid_s_pred"]) <= 1e-5
    acoustic, prosodic = style[:, :128], style[:, 128:]
    if reference is not None:
        alpha, beta = float(golden["in_alpha"]), float(golden["in_beta"])
        acoustic = alpha * acoustic + (1 - alpha) * reference[:, :128]
        prosodic = beta * prosodic + (1 - beta) * reference[:, 128:]
    assert relative_error(acoustic, golden["mid_style_acoustic"]) <= 1e-5
    assert relative_error(prosodic, golden["mid_style_prosody"]) <= 1e-5
    d = run_compiled(model.predictor.text_encoder, run_compiled(model.bert_encoder, words), prosodic, lengths)
    logits = run_compiled(model.predictor.duration_logits, d, lengths)
    durations = np.sum(1 / (1 + np.exp(-logits)), axis=-1)
    assert relative_error(durations, golden["mid_duration"]) <= 2e-4
    frames = np.maximum(np.round(durations), 1).astype(np.int32)
    if name == "ljspeech":
        frames[:, -1] += 5  # as upstream's notebook does
    np.testing.assert_array_equal(frames[0], golden["mid_frames"])
    total = int(frames.sum())
    expanded = [run_compiled(lambda x: prosody.expand_to_frames(x, jnp.asarray(frames), total), x) for x in (d, text)]
    if model.config.decoder_type == "hifigan":
        expanded = [np.asarray(prosody.delay_one_frame(x)) for x in expanded]
    en, asr = expanded
    f0, energy = run_compiled(model.predictor.F0Ntrain, en, prosodic, np.array([total]))
    assert relative_error(f0, golden["mid_F0"]) <= 5e-4
    assert relative_error(energy, golden["mid_N"]) <= 5e-4
    # The waveform is chaotic in F0: from here on with the recorded curves and source.
    noise = sine_noise(golden, golden["mid_source"].shape[1])
    assert relative_error(run_compiled(model.decoder.source, golden["mid_F0"], noise), golden["mid_source"]) <= 1e-4
    features = functools.partial(model.decoder.features, lengths=np.array([total]))
    x, _ = run_compiled(features, asr, golden["mid_F0"], golden["mid_N"], acoustic)
    wave = run_compiled(model.decoder.generator, x, acoustic, golden["mid_source"], np.array([2 * total]))[0]
    assert relative_error(wave[: len(golden["out_wave"])], golden["out_wave"]) <= 5e-4
