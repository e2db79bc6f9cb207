"""The torch backend on stand-in checkouts: equal to the Flax generators, and a clear error for anything missing."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from empatheia_jax.config import GeneratorConfig
from empatheia_jax.generators.avatars import avatar
from empatheia_jax.generators.build import build_generators, generator_widths
from empatheia_jax.generators.interfaces import video_frame_count
from empatheia_jax.generators.torch_backend.checkout import TorchBackendError
from support.comparison import relative_error
from support.programs import start_program
from support.stand_in_checkouts import write_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_quickly")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("originals")


@pytest.fixture(scope="module")
def settings(folder, seed):
    """Return the config of generators in Flax, and of the same through torch."""
    torch_settings = write_all(folder, seed)
    flax_config = GeneratorConfig(
        speech="styletts2",
        speech_weights=str(folder / "styletts2"),
        face="dreamtalk",
        face_weights=str(folder / "dreamtalk"),
    )
    return flax_config, dataclasses.replace(flax_config, speech="torch", face="torch", torch=torch_settings)


@pytest.fixture(scope="module")
def voices(settings):
    return tuple(build_generators(config)[0] for config in settings)


@pytest.fixture(scope="module")
def faces(settings):
    return tuple(build_generators(config)[1] for config in settings)


def draw(seed: int, *shape) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_voices_say_the_same(voices, settings, seed):
    flax, original = voices
    assert generator_widths(settings[0]) == generator_widths(settings[1])
    assert original.name == "torch" and original.identity == flax.identity
    ids = [np.array([0, *(20 + np.arange(n))], np.int32) for n in (9, 4, 15)]
    for content, torch_content in zip(flax.contents(ids), original.contents(ids), strict=True):
        assert relative_error(content, torch_content) < 1e-5
    mels = [draw(seed + n, 70 + n, 80) for n in range(3)]
    styles, torch_styles = flax.networks.style(mels), original.networks.style(mels)
    for style, torch_style in zip(styles, torch_styles, strict=True):
        assert relative_error(style, torch_style) < 1e-4
    golds = zip(flax.golds(mels, ids, [1.0] * 3), original.golds(mels, ids, [1.0] * 3), strict=True)
    for gold, torch_gold in golds:
        assert np.abs(gold["phoneme_frames"] - torch_gold["phoneme_frames"]).max() <= 1
    words = [draw(seed, 8, flax.config.plbert_hidden)]
    sampled, torch_sampled = (voice.networks.sample_style(words, [styles[0]], [5], 4, scale=1.0)[0] for voice in voices)
    assert relative_error(sampled, torch_sampled) < 1e-4
    contents = flax.contents(ids)
    for speech, torch_speech in zip(*(v.speak_many(contents, styles, ids) for v in voices), strict=True):
        np.testing.assert_array_equal(speech.phoneme_frames, torch_speech.phoneme_frames)
        assert len(speech.audio) == 600 * speech.phoneme_frames.sum()
        difference = speech.audio - torch_speech.audio  # F0's rounding becomes phase in the vocoder (goldens' README)
        assert np.sqrt(np.mean(difference**2)) <= 0.1 * np.sqrt(np.mean(torch_speech.audio**2))
    assert flax.agreement(contents[0], ids[0]) == original.agreement(contents[0], ids[0])


@pytest.mark.parametrize("compact", [True, False])
def test_the_faces_move_the_same(settings, seed, compact):
    face_content = "compact" if compact else "windows"
    flax, original = (build_generators(dataclasses.replace(c, face_content=face_content))[1] for c in settings)
    audio = 0.1 * draw(seed, 32_000)
    frames = np.array([10, 30, 40])
    contents = [face.content(audio, 16_000, np.arange(3), frames) for face in (flax, original)]
    assert relative_error(*contents) < 1e-4 and contents[0].shape == (video_frame_count(frames), flax.content_dim)
    clip = 0.5 * draw(seed + 1, 90, 64)
    assert relative_error(flax.style_from_expression(clip), original.style_from_expression(clip)) < 1e-4
    assert relative_error(flax.null_style(), original.null_style()) < 1e-4
    style = flax.style_from_expression(clip)
    rendered = [face.animate(contents[0][:10], style, avatar(1).portrait).astype(int) for face in (flax, original)]
    assert np.abs(rendered[0] - rendered[1]).max() <= 1 and rendered[0].std() > 0
    video = np.random.default_rng(seed).integers(0, 255, (3, 64, 48, 3), np.uint8)
    np.testing.assert_allclose(flax.style(video), original.style(video), rtol=1e-3, atol=1e-5)


def test_both_samplers_and_guidance(settings, seed):
    from empatheia_jax.generators.dreamtalk.networks import Networks
    from empatheia_jax.generators.torch_backend.dreamtalk import Original, TorchNetworks, build, load_published

    torch_config = settings[1].torch
    weights = settings[0].face_weights

    def build_original():
        networks = build(torch_config.dreamtalk_repo, True)
        load_published(*networks, torch_config.dreamtalk_checkpoint, torch_config.dreamtalk_renderer)
        return Original(*networks)

    for options in ({"scale": 1.7}, {"sampler": "ddpm"}, {"sampler": "ddpm", "scale": 1.7}, {"steps": 5}):
        flax = Networks(weights, **options)
        original = TorchNetworks(
            build_original, flax.folder, has_audio_encoder=False, identity="", device=torch.device("cpu"), **options
        )
        content, style = draw(seed, 70, 11, flax.config.width), draw(seed + 1, flax.config.width)
        actual, expected = (networks.sample_expression(content, style, 3) for networks in (original, flax))
        assert relative_error(actual, expected) < 1e-3, options


def test_what_is_missing_is_told(settings, folder, tmp_path):
    _, config = settings
    torch_config = config.torch

    def assert_refused(message, **changes):
        changed = dataclasses.replace(config, torch=dataclasses.replace(torch_config, **changes))
        with pytest.raises(TorchBackendError, match=message):
            speech, face = build_generators(changed)
            speech.contents([np.arange(4, dtype=np.int32)])
            face.null_style()

    assert_refused("git clone https://github.com/yl4579/StyleTTS2", styletts2_repo=str(tmp_path / "absent"))
    assert_refused("no models.py in it", styletts2_repo=str(tmp_path))
    assert_refused("models.py is not that of commit 5cedc71c", any_commit=False)
    assert_refused("--styletts2-checkpoint '-': give the published", styletts2_checkpoint="")
    assert_refused("git clone https://github.com/ali-vilab/dreamtalk", dreamtalk_repo="")
    assert_refused("--dreamtalk-renderer '-': give the published renderer.pt", dreamtalk_renderer="")
    assert_refused("give a directory of transformers", dreamtalk_wav2vec=str(tmp_path))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(torch_config.styletts2_checkpoint, alone / "v.pth")
    assert_refused("config.yml: not there", styletts2_checkpoint=str(alone / "v.pth"))
    shutil.copy(folder / "config.yml", alone / "config.yml")
    checkpoint = torch.load(alone / "v.pth", weights_only=True)
    del checkpoint["net"]["text_encoder"]["module.embedding.weight"]
    torch.save(checkpoint, alone / "v.pth")
    assert_refused("text_encoder.embedding.weight is missing", styletts2_checkpoint=str(alone / "v.pth"))
    (alone / "v.pth").write_bytes(b"nothing")
    assert_refused("torch cannot read it", styletts2_checkpoint=str(alone / "v.pth"))
    renderer = torch.load(torch_config.dreamtalk_renderer, weights_only=True)
    torch.save({"net_G": renderer["net_G_ema"]}, alone / "r.pt")
    assert_refused("no 'net_G_ema' in it", dreamtalk_renderer=str(alone / "r.pt"))


def test_a_missing_package_is_named(settings, tmp_path):
    """In a process of its own, since imported modules stay imported."""
    repo = tmp_path / "st2"
    shutil.copytree(settings[1].torch.styletts2_repo, repo)
    (repo / "munch.py").write_text("raise ModuleNotFoundError(\"No module named 'munch'\", name='munch')")
    settings_file = Path(settings[1].torch.styletts2_checkpoint).with_name("config.yml")
    process = start_program("build_original_styletts2", repo, settings_file)
    _, err = process.communicate()
    assert process.returncode and "needs munch: pip install munch" in err, err[-1500:]


def test_settings_can_be_saved(settings, tmp_path):
    from empatheia_jax.checkpoints.workdir import save_config, saved_config
    from empatheia_jax.config import Config

    config = Config(generators=settings[1])
    save_config(tmp_path, config)
    assert saved_config(tmp_path) == config and json.dumps(config.generators.target_backend)
