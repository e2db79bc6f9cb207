"""The torch backend over stand-in checkouts: as the Flax generators; and one clear error for what is missing."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from stand_in_checkouts import write_all  # noqa: E402

from empatheia_jax.config import GeneratorConfig  # noqa: E402
from empatheia_jax.generators.build import build_generators, generator_widths  # noqa: E402
from empatheia_jax.generators.interfaces import video_frame_count  # noqa: E402
from empatheia_jax.generators.torch_backend.checkout import TorchBackendError  # noqa: E402
from empatheia_jax.inference.avatars import avatar  # noqa: E402

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("originals")


@pytest.fixture(scope="module")
def settings(place, seed):
    """Generators in Flax, and the same through torch."""
    torch_settings = write_all(place, seed)
    flax = GeneratorConfig(
        speech="styletts2",
        speech_weights=str(place / "styletts2"),
        face="dreamtalk",
        face_weights=str(place / "dreamtalk"),
    )
    return flax, dataclasses.replace(flax, speech="torch", face="torch", torch=torch_settings)


@pytest.fixture(scope="module")
def voices(settings):
    return tuple(build_generators(one)[0] for one in settings)


@pytest.fixture(scope="module")
def faces(settings):
    return tuple(build_generators(one)[1] for one in settings)


def rel(ours, theirs) -> float:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def draw(seed: int, *shape) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_voices_say_the_same(voices, settings, seed):
    ours, theirs = voices
    assert generator_widths(settings[0]) == generator_widths(settings[1])
    assert theirs.name == "torch" and theirs.identity == ours.identity
    ids = [np.array([0, *(20 + np.arange(n))], np.int32) for n in (9, 4, 15)]
    for one, other in zip(ours.contents(ids), theirs.contents(ids), strict=True):
        assert rel(one, other) < 1e-5
    mels = [draw(seed + n, 70 + n, 80) for n in range(3)]
    styles, others = ours.stages.style(mels), theirs.stages.style(mels)
    for one, other in zip(styles, others, strict=True):
        assert rel(one, other) < 1e-4
    golds = zip(ours.golds(mels, ids, [1.0] * 3), theirs.golds(mels, ids, [1.0] * 3), strict=True)
    for one, other in golds:
        assert np.abs(one["phoneme_frames"] - other["phoneme_frames"]).max() <= 1
    words = [draw(seed, 8, ours.config.plbert_hidden)]
    drawn, other = (voice.stages.draw(words, [styles[0]], [5], 4, 1.0)[0] for voice in voices)
    assert rel(drawn, other) < 1e-4
    contents = ours.contents(ids)
    for one, other in zip(*(v.speak_many(contents, styles, ids) for v in voices), strict=True):
        np.testing.assert_array_equal(one.phoneme_frames, other.phoneme_frames)
        assert len(one.audio) == 600 * one.phoneme_frames.sum()
        apart = one.audio - other.audio  # the goldens' README: what F0's rounding makes of the vocoder
        assert np.sqrt(np.mean(apart**2)) <= 0.1 * np.sqrt(np.mean(other.audio**2))
    assert ours.agreement(contents[0], ids[0]) == theirs.agreement(contents[0], ids[0])


@pytest.mark.parametrize("compact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_faces_move_the_same(settings, seed, compact):
    how = "compact" if compact else "windows"
    ours, theirs = (build_generators(dataclasses.replace(one, face_content=how))[1] for one in settings)
    sound = 0.1 * draw(seed, 32_000)
    frames = np.array([10, 30, 40])
    contents = [face.content(sound, 16_000, np.arange(3), frames) for face in (ours, theirs)]
    assert rel(*contents) < 1e-4 and contents[0].shape == (video_frame_count(frames), ours.content_dim)
    clip = 0.5 * draw(seed + 1, 90, 64)
    assert rel(ours.style_of(clip), theirs.style_of(clip)) < 1e-4
    assert rel(ours.no_style(), theirs.no_style()) < 1e-4
    style = ours.style_of(clip)
    shown = [face.animate(contents[0][:10], style, avatar(1).portrait).astype(int) for face in (ours, theirs)]
    assert np.abs(shown[0] - shown[1]).max() <= 1 and shown[0].std() > 0
    video = np.random.default_rng(seed).integers(0, 255, (3, 64, 48, 3), np.uint8)
    np.testing.assert_allclose(ours.style(video), theirs.style(video), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_both_samplers_and_guidance(settings, seed):
    from empatheia_jax.generators.dreamtalk.networks import Networks
    from empatheia_jax.generators.torch_backend.dreamtalk import Original, TorchNetworks, build, load_published

    place = settings[1].torch
    folder = settings[0].face_weights

    def make():
        pair = build(place.dreamtalk_repo, True)
        load_published(*pair, place.dreamtalk_checkpoint, place.dreamtalk_renderer)
        return Original(*pair)

    for how in ({"scale": 1.7}, {"draw": "ddpm"}, {"draw": "ddpm", "scale": 1.7}, {"steps": 5}):
        ours = Networks(folder, **how)
        theirs = TorchNetworks(make, ours.folder, False, "", torch.device("cpu"), **how)
        content, style = draw(seed, 70, 11, ours.config.width), draw(seed + 1, ours.config.width)
        assert rel(ours.motion(content, style, 3), theirs.motion(content, style, 3)) < 1e-3, how


def test_what_is_missing_is_told(settings, place, tmp_path):
    _, good = settings
    given = good.torch

    def told(says, kind="speech", **changes):
        changed = dataclasses.replace(good, torch=dataclasses.replace(given, **changes))
        with pytest.raises(TorchBackendError, match=says):
            made = build_generators(changed)
            made[0].contents([np.arange(4, dtype=np.int32)])
            made[1].no_style()

    told("git clone https://github.com/yl4579/StyleTTS2", styletts2_repo=str(tmp_path / "absent"))
    told("no models.py in it", styletts2_repo=str(tmp_path))
    told("models.py is not that of commit 5cedc71c", any_commit=False)
    told("--styletts2-checkpoint '-': give the published", styletts2_checkpoint="")
    told("git clone https://github.com/ali-vilab/dreamtalk", dreamtalk_repo="")
    told("--dreamtalk-renderer '-': give the published renderer.pt", dreamtalk_renderer="")
    told("give a directory of transformers", dreamtalk_wav2vec=str(tmp_path))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(given.styletts2_checkpoint, alone / "v.pth")
    told("config.yml: not there", styletts2_checkpoint=str(alone / "v.pth"))
    shutil.copy(place / "config.yml", alone / "config.yml")
    whole = torch.load(alone / "v.pth", weights_only=True)
    del whole["net"]["text_encoder"]["module.embedding.weight"]
    torch.save(whole, alone / "v.pth")
    told("text_encoder.embedding.weight is missing", styletts2_checkpoint=str(alone / "v.pth"))
    (alone / "v.pth").write_bytes(b"nothing")
    told("torch cannot read it", styletts2_checkpoint=str(alone / "v.pth"))
    renderer = torch.load(given.dreamtalk_renderer, weights_only=True)
    torch.save({"net_G": renderer["net_G_ema"]}, alone / "r.pt")
    told("no 'net_G_ema' in it", dreamtalk_renderer=str(alone / "r.pt"))


@pytest.mark.slow
def test_a_missing_package_is_named(settings, tmp_path):
    """In a process of its own: what is imported once stays."""
    import subprocess
    import sys

    repo = tmp_path / "st2"
    shutil.copytree(settings[1].torch.styletts2_repo, repo)
    (repo / "munch.py").write_text("raise ModuleNotFoundError(\"No module named 'munch'\", name='munch')")
    program = f"""
import json, pathlib, yaml
from empatheia_jax.generators.torch_backend.styletts2 import build
params = yaml.safe_load(pathlib.Path({settings[1].torch.styletts2_checkpoint!r}).with_name("config.yml").read_text())
build(pathlib.Path({str(repo)!r}), params["model_params"], any_commit=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode and "needs munch: pip install munch" in done.stderr, done.stderr[-1500:]


def test_settings_can_be_saved(settings, tmp_path):
    from empatheia_jax.config import Config
    from empatheia_jax.training.run import save_config, saved_config

    config = Config(generators=settings[1])
    save_config(tmp_path, config)
    assert saved_config(tmp_path) == config and json.dumps(config.generators.golds_of)
