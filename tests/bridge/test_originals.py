"""The original implementations, from clones, against the Flax generators at published sizes."""

import os

import numpy as np
import pytest

pytest.importorskip("torch")

from converters.convert import convert, convert_dreamtalk
from empatheia_jax.config import GeneratorConfig, TorchConfig
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.dreamtalk.motion import build_motion
from support.comparison import relative_error
from support.published_files import write_dreamtalk, write_styletts2

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, goldens):
    """Return (voice in Flax, the original's) and (face in Flax, the original's)."""
    repos = [os.environ.get(f"EMPATHEIA_{name}_REPO") for name in ("STYLETTS2", "DREAMTALK")]
    if not all(repos):
        pytest.skip("no clones of the originals: set EMPATHEIA_STYLETTS2_REPO and EMPATHEIA_DREAMTALK_REPO")
    folder = tmp_path_factory.mktemp("originals")
    voice = write_styletts2(goldens, folder)
    files = write_dreamtalk(goldens, folder, ("denoiser", "renderer", "wav2vec"))
    convert("styletts2", voice, folder / "styletts2")
    convert_dreamtalk(files, folder / "dreamtalk")
    common = {"speech_weights": str(folder / "styletts2"), "face_weights": str(folder / "dreamtalk")}
    torch_config = TorchConfig(
        styletts2_repo=repos[0],
        styletts2_checkpoint=str(voice),
        dreamtalk_repo=repos[1],
        dreamtalk_checkpoint=str(files["denoiser"]),
        dreamtalk_renderer=str(files["renderer"]),
        dreamtalk_wav2vec=str(files["wav2vec"]),
    )
    flax = build_generators(GeneratorConfig(speech="styletts2", face="dreamtalk", **common))
    original = build_generators(GeneratorConfig(speech="torch", face="torch", torch=torch_config, **common))
    return tuple(zip(flax, original, strict=True))


def test_the_voice(pairs, seed):
    (flax, original), rng = pairs[0], np.random.default_rng(seed)
    ids = [0, *rng.integers(20, 150, int(rng.integers(20, 40)))]
    ids, style = np.array(ids, np.int32), (0.1 * rng.normal(size=256)).astype(np.float32)
    content = flax.content(ids)
    assert relative_error(content, original.content(ids)) < 1e-4
    mel = rng.normal(size=(int(rng.integers(80, 160)), 80)).astype(np.float32)
    assert relative_error(flax.networks.style([mel])[0], original.networks.style([mel])[0]) < 1e-4
    for scale in (1.0, 1.7):
        words = [content[:, 512:]]
        sampled, expected = (
            voice.networks.sample_style(words, [style], [3], 5, scale=scale)[0] for voice in (flax, original)
        )
        assert relative_error(sampled, expected) < 1e-3
    speech, expected = (voice.speak(content, style, ids) for voice in (flax, original))
    np.testing.assert_array_equal(speech.phoneme_frames, expected.phoneme_frames)
    assert np.sqrt(np.mean((speech.audio - expected.audio) ** 2)) <= 0.1 * np.sqrt(np.mean(expected.audio**2))


def test_the_face(pairs, seed):
    (flax, original), rng = pairs[1], np.random.default_rng(seed)
    audio = (0.1 * rng.normal(size=16_000)).astype(np.float32)
    content = flax.content_from_audio(audio, 16_000)
    assert relative_error(content, original.content_from_audio(audio, 16_000)) < 1e-4
    clip = (0.3 * rng.normal(size=(90, 64))).astype(np.float32)
    style = flax.style_from_expression(clip)
    assert (
        relative_error(style, original.style_from_expression(clip)) < 1e-4
        and relative_error(flax.null_style(), original.null_style()) < 1e-4
    )
    expression, expected = (
        face.networks.sample_expression(flax.content_windows(content), style) for face in (flax, original)
    )
    assert relative_error(expression, expected) < 1e-4
    portrait = rng.integers(0, 255, (256, 256, 3), np.uint8)
    frames = [np.stack(list(face.networks.render(portrait, build_motion(expression[:3])))) for face in (flax, original)]
    difference = np.abs(frames[0].astype(int) - frames[1])
    assert difference.max() <= 1 and np.mean(difference > 0) <= 1e-2
