"""The originals from clones of them, at their sizes, beside ours in Flax: each network and what they make together."""

import os

import numpy as np
import pytest

pytest.importorskip("torch")

from published_files import write_dreamtalk, write_styletts2  # noqa: E402

from converters.convert import convert  # noqa: E402
from converters.dreamtalk_files import convert_all  # noqa: E402
from empatheia_jax.config import GeneratorConfig, TorchConfig  # noqa: E402
from empatheia_jax.generators.build import build_generators  # noqa: E402
from empatheia_jax.generators.dreamtalk.motion import motion_of  # noqa: E402

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, goldens):
    """((voice in Flax, the original's), (face in Flax, the original's))."""
    repos = [os.environ.get(f"EMPATHEIA_{name}_REPO") for name in ("STYLETTS2", "DREAMTALK")]
    if not all(repos):
        pytest.skip("no clones of the originals: set EMPATHEIA_STYLETTS2_REPO and EMPATHEIA_DREAMTALK_REPO")
    place = tmp_path_factory.mktemp("originals")
    voice = write_styletts2(goldens, place)
    files = write_dreamtalk(goldens, place, ("denoiser", "renderer", "wav2vec"))
    convert("styletts2", voice, place / "styletts2")
    convert_all(files, place / "dreamtalk")
    common = {"speech_weights": str(place / "styletts2"), "face_weights": str(place / "dreamtalk")}
    theirs = TorchConfig(
        styletts2_repo=repos[0],
        styletts2_checkpoint=str(voice),
        dreamtalk_repo=repos[1],
        dreamtalk_checkpoint=str(files["denoiser"]),
        dreamtalk_renderer=str(files["renderer"]),
        dreamtalk_wav2vec=str(files["wav2vec"]),
    )
    ours = build_generators(GeneratorConfig(speech="styletts2", face="dreamtalk", **common))
    original = build_generators(GeneratorConfig(speech="torch", face="torch", torch=theirs, **common))
    return tuple(zip(ours, original, strict=True))


def rel(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_the_voice(pairs, seed):
    (ours, theirs), rng = pairs[0], np.random.default_rng(seed)
    ids = [0, *rng.integers(20, 150, int(rng.integers(20, 40)))]
    ids, style = np.array(ids, np.int32), (0.1 * rng.normal(size=256)).astype(np.float32)
    content = ours.content(ids)
    assert rel(content, theirs.content(ids)) < 1e-4
    mel = rng.normal(size=(int(rng.integers(80, 160)), 80)).astype(np.float32)
    assert rel(ours.stages.style([mel])[0], theirs.stages.style([mel])[0]) < 1e-4
    for scale in (1.0, 1.7):
        drawn, other = (one.stages.draw([content[:, 512:]], [style], [3], 5, scale)[0] for one in (ours, theirs))
        assert rel(drawn, other) < 1e-3
    one, other = (voice.speak(content, style, ids) for voice in (ours, theirs))
    np.testing.assert_array_equal(one.phoneme_frames, other.phoneme_frames)
    assert np.sqrt(np.mean((one.audio - other.audio) ** 2)) <= 0.1 * np.sqrt(np.mean(other.audio**2))


def test_the_face(pairs, seed):
    (ours, theirs), rng = pairs[1], np.random.default_rng(seed)
    sound = (0.1 * rng.normal(size=16_000)).astype(np.float32)
    content = ours.content_of(sound, 16_000)
    assert rel(content, theirs.content_of(sound, 16_000)) < 1e-4
    clip = (0.3 * rng.normal(size=(90, 64))).astype(np.float32)
    style = ours.style_of(clip)
    assert rel(style, theirs.style_of(clip)) < 1e-4 and rel(ours.no_style(), theirs.no_style()) < 1e-4
    motion, other = (face.networks.motion(ours.windows_of(content), style) for face in (ours, theirs))
    assert rel(motion, other) < 1e-4
    portrait = rng.integers(0, 255, (256, 256, 3), np.uint8)
    shown = [np.stack(list(face.networks.render(portrait, motion_of(motion[:3])))) for face in (ours, theirs)]
    apart = np.abs(shown[0].astype(int) - shown[1])
    assert apart.max() <= 1 and np.mean(apart > 0) <= 1e-2
