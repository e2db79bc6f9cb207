"""DreamTalk as a face generator: torch's warping, independence of chunks, audio-video sync, errors."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from empatheia_jax.cli import animate as command
from empatheia_jax.data.media.reading import read_audio, read_metadata, read_video
from empatheia_jax.data.media.writing import write_audio, write_video
from empatheia_jax.generators.avatars import avatar
from empatheia_jax.generators.classical.face import ClassicalFace
from empatheia_jax.generators.classical.portrait import PortraitError, read_portrait
from empatheia_jax.generators.dreamtalk import alignment, diffusion, renderer
from empatheia_jax.generators.dreamtalk.config import DreamTalkError
from empatheia_jax.generators.dreamtalk.face import DreamTalkFace
from empatheia_jax.generators.dreamtalk.motion import read_expression, read_pose
from empatheia_jax.generators.interfaces import Portrait
from empatheia_jax.inference.provenance import ConsentError
from empatheia_jax.testing.tiny_generators import write_dreamtalk_weights

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, seed):
    return write_dreamtalk_weights(tmp_path_factory.mktemp("dreamtalk") / "weights", seed)


@pytest.fixture(scope="module")
def face(weights):
    return DreamTalkFace(weights)


@pytest.fixture(scope="module")
def speech():
    """Return 2.2 s of a voice-like sound at 16 kHz."""
    time = np.arange(35_200) / 16_000
    tone = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 9))
    return (0.1 * tone * (1 + np.sin(2 * np.pi * 4 * time))).astype(np.float32)


# Warping --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", range(6))
def test_grid_sample_is_torchs(trial, seed):
    """Random grids with points inside the image, around and on its edges, and far outside."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng([seed, trial])
    batch, height, width = rng.integers(1, 4), *rng.integers(1, 12, 2)
    image = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    points = (rng.normal(size=(batch, *rng.integers(1, 9, 2), 2)) * rng.choice([0.5, 1.5, 1e4])).astype(np.float32)
    points[:, 0, 0] = rng.choice([-1.0, 1.0, 0.0], 2)
    if trial == 0:
        points = np.round(points)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(np.moveaxis(image, -1, 1).copy()),
        torch.from_numpy(points),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    result = np.moveaxis(np.asarray(renderer.grid_sample(image, points)), -1, 1)
    np.testing.assert_allclose(result, expected.numpy(), atol=2e-5)


def test_growing_is_torchs(seed):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(seed).normal(size=(2, 5, 7, 2)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()), (20, 28), mode="bilinear", align_corners=False
    )
    result = np.moveaxis(np.asarray(renderer.resize_bilinear(x, 20, 28)), -1, 1)
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)


# Chunks ---------------------------------------------------------------------------------------------------------------


def test_a_frame_hears_its_window_and_no_more(face, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(300, face.config.audio_dim)).astype(np.float32)
    full = face.networks.content(features, 150)
    # frames 40 to 59 see features 75 to 123
    part = face.networks.content(features[70:130], 30)
    np.testing.assert_allclose(part[5:25], full[40:60], atol=1e-5)
    beyond = face.networks.content(features, 160)
    np.testing.assert_allclose(beyond[:147], full[:147], atol=1e-5)
    assert len(beyond) == 160


def test_compact_content_is_what_the_layers_read(face, weights, speech):
    """Windows rebuilt from two features per frame agree, except at the end, where they see past the last frame."""
    compact = DreamTalkFace(weights, compact=True)
    assert compact.content_dim == 2 * compact.config.width
    frames = np.array([3, 40, 20, 25])  # 2.2 s of 25 ms: 55 frames
    short = compact.content(speech, 16_000, np.arange(4), frames)
    full = face.content(speech, 16_000, np.arange(4), frames)
    assert short.shape == (55, compact.content_dim)
    np.testing.assert_allclose(compact.content_windows(short)[:52], face.content_windows(full)[:52], atol=1e-5)
    style = face.null_style()
    expression, expected = (
        generator.networks.sample_expression(generator.content_windows(content), style)
        for generator, content in ((compact, short), (face, full))
    )
    np.testing.assert_allclose(expression[:52], expected[:52], atol=1e-4)


def test_motion_of_a_chunk_is_its_own(face, seed):
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(80, face.config.window, face.config.width)).astype(np.float32)
    style = rng.normal(size=face.style_dim).astype(np.float32)
    full = face.networks.sample_expression(content, style)
    np.testing.assert_allclose(face.networks.sample_expression(content[:64], style), full[:64], atol=1e-5)
    np.testing.assert_array_equal(face.networks.sample_expression(content, style), full)  # determined by the seed
    assert np.abs(face.networks.sample_expression(content, style, seed=1) - full).max() > 0


def test_styles_count_their_frames_and_the_first_256(face, seed):
    clip = np.random.default_rng(seed).normal(size=(300, 64)).astype(np.float32)
    long = face.style_from_expression(clip)
    np.testing.assert_array_equal(face.style_from_expression(clip[:256]), long)
    assert np.abs(face.style_from_expression(clip[:1]) - long).max() > 1e-3
    assert np.isfinite(face.style_from_expression(np.zeros((1, 64)))).all() and np.isfinite(face.null_style()).all()


@pytest.mark.slow
def test_guidance_and_both_samplers(weights, seed):
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(5, 11, 32)).astype(np.float32)
    style = rng.normal(size=32).astype(np.float32)
    ddim, guided, ddpm = (
        DreamTalkFace(weights, **options).networks.sample_expression(content, style)
        for options in ({}, {"scale": 2.0}, {"sampler": "ddpm", "scale": 1.0})
    )
    assert np.isfinite(ddpm).all() and np.abs(guided - ddim).max() > 1e-4
    with pytest.raises(ValueError, match="divisor of 1000"):
        DreamTalkFace(weights, steps=7)
    assert diffusion.ddim_steps(4)[0].tolist() == [751, 501, 251, 1]


# As a generator -------------------------------------------------------------------------------------------------------


def test_it_offers_what_generators_offer(face, speech, seed):
    frames = np.array([3, 40, 20, 25])  # 2.2 s of 25 ms
    content = face.content(speech, 16_000, np.array([0, 50, 51, 52]), frames)
    assert content.shape == (55, face.content_dim)
    video = np.random.default_rng(seed).integers(0, 255, (3, 64, 48, 3), np.uint8)
    style = face.style(video)
    assert style.shape == (face.style_dim,) and np.isfinite(style).all()
    rendered = face.animate(content, style, avatar(1).portrait)
    assert rendered.shape == (55, face.size, face.size, 3) and rendered.dtype == np.uint8 and rendered.std() > 0
    first = next(iter(face.frames(content, style, avatar(1).portrait)))
    np.testing.assert_array_equal(first, rendered[0])


def test_what_cannot_be_animated_is_refused(face, tmp_path, speech, seed):
    style, content = np.zeros(face.style_dim), np.zeros((4, face.content_dim))
    portrait = avatar(1).portrait
    for arguments, message in (
        ((content[:, 1:], style, portrait), "C_video must be"),
        ((content[:0], style, portrait), "at least 1"),
        ((content, style[1:], portrait), "S_video must be"),
        ((content * np.nan, style, portrait), "not numbers"),
        ((content, style, Portrait()), "appearance"),
        ((content, style, Portrait(image=np.zeros((10, 10, 3), np.uint8))), "no face found"),
        ((content, style, Portrait(image=np.zeros((90, 90, 4), np.uint8))), "uint8"),
    ):
        with pytest.raises(DreamTalkError, match=message):
            face.animate(*arguments)
    for clip, message in (
        (np.zeros((0, 64)), "at least 1"),
        (np.zeros((3, 60)), "a style clip is"),
        (np.full((3, 64), np.inf), "not numbers"),
    ):
        with pytest.raises(DreamTalkError, match=message):
            face.style_from_expression(clip)
    with pytest.raises(DreamTalkError, match="0.045"):
        face.content_from_audio(speech[:500], 16_000)
    assert len(face.content_from_audio(np.zeros(1600, np.float32), 16_000)) == 2  # 0.1 s of silence
    bare = write_dreamtalk_weights(tmp_path / "bare", seed, ("denoiser", "renderer"))
    with pytest.raises(DreamTalkError, match="no face3d in it"):
        DreamTalkFace(bare).style(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(DreamTalkError, match="no renderer in it"):
        DreamTalkFace(write_dreamtalk_weights(tmp_path / "half", seed, ("denoiser",)))


def test_files_of_coefficients(tmp_path, seed):
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=(9, 257)).astype(np.float32)
    transform = rng.normal(size=(9, 5)).astype(np.float32)
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"coeff": coefficients, "transform_params": transform})
    np.savez(tmp_path / "a.npz", coeff=coefficients, transform_params=transform)
    for name in ("a.mat", "a.npz"):
        np.testing.assert_array_equal(read_expression(tmp_path / name), coefficients[:, 80:144])
        assert read_pose(tmp_path / name).shape == (9, 9)
    np.savez(tmp_path / "short.npz", coeff=coefficients, transform_params=transform[:4])
    np.savez(tmp_path / "none.npz", coeff=coefficients[:0])
    (tmp_path / "no.mat").write_bytes(b"nothing")
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "changed.npz").write_bytes(content[:200] + bytes(50) + content[250:])
    np.savez(tmp_path / "words.npz", coeff=np.array(["a", "b"]))
    for name, message in (
        ("short.npz", r"no `transform_params` \[9, 5\]"),
        ("none.npz", "no `coeff`"),
        ("no.mat", "not a .mat or .npz"),
        ("gone.mat", "no such file"),
        ("cut.npz", r"cut\.npz: not a .mat or .npz"),  # zipfile's and zlib's errors are neither ValueError nor OSError
        ("changed.npz", r"changed\.npz: not a .mat or .npz"),
        ("words.npz", r"words\.npz: `coeff` holds no numbers"),
    ):
        with pytest.raises(DreamTalkError, match=message):
            read_pose(tmp_path / name)


def test_a_portrait_beyond_the_edge_is_stretched():
    picture = np.zeros((100, 100, 3), np.uint8)
    assert alignment.crop_face(picture, (40, 40, 95, 95), 32).shape == (32, 32, 3)


def render_avatar(number: int, size: int) -> np.ndarray:
    """Render an avatar at rest, uint8 [size, size, 3]."""
    face = ClassicalFace(size)
    return face.animate(np.zeros((1, face.content_dim)), np.zeros(face.style_dim), avatar(number).portrait)[0]


def test_portraits_of_every_kind(face, tmp_path):
    """Two people, transparency, 16 bit, dark, rotated, huge, tiny."""
    single = render_avatar(3, 512)
    portrait, notes = face.crop_portrait(single)
    assert not notes and portrait.shape == (face.size, face.size, 3)
    pair = np.full((512, 800, 3), 255, np.uint8)
    pair[:, :512], pair[128:384, 530:786] = single, render_avatar(11, 256)
    from_two, notes = face.crop_portrait(pair)
    assert "2 faces" in notes[0] and np.abs(from_two.astype(int) - portrait).mean() < 12
    swapped = cv2.cvtColor(single, cv2.COLOR_RGB2BGR)
    clear = np.dstack([swapped, np.full((512, 512), 255, np.uint8)])
    pictures = {
        "clear.png": clear,
        "deep.png": swapped.astype(np.uint16) * 257,
        "huge.png": cv2.resize(swapped, (8000, 8000), interpolation=cv2.INTER_NEAREST),
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / name), picture)
        cropped, notes = face.crop_portrait(read_portrait(tmp_path / name))
        assert not notes and np.abs(cropped.astype(int) - portrait).mean() < (6 if name == "huge.png" else 1e-9), name
    dark = (swapped // 4).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "dark.png"), dark)
    np.testing.assert_array_equal(read_portrait(tmp_path / "dark.png"), single // 4)  # brightness is not normalised
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    Image.fromarray(np.rot90(single)).save(tmp_path / "side.jpg", exif=exif, quality=98)
    upright = read_portrait(tmp_path / "side.jpg")
    assert np.abs(upright.astype(int) - single).mean() < 3
    with pytest.raises(DreamTalkError, match="10 x 10"):
        face.crop_portrait(np.zeros((10, 10, 3), np.uint8))


def test_points_may_come_from_a_users_own_detector(weights, face, seed):
    """Faces are aligned by the points that the user's detector returns."""
    frames = np.random.default_rng(seed).integers(0, 255, (6, 120, 160, 3), np.uint8)
    detected = []

    def detect_points(frame):
        detected.append(frame)
        return None if len(detected) > 1 else np.array([[60, 40], [90, 40], [75, 55], [64, 72], [86, 72.0]])

    other = DreamTalkFace(weights, detect_points=detect_points)
    aligned = other.prepare(frames)
    # Detection in every fourth frame; without a face the points stay.
    assert len(detected) == 2 and aligned.shape == (6, 224, 224, 3)
    upward = np.array([[60, 79], [90, 79], [75, 64], [64, 47], [86, 47.0]])
    np.testing.assert_array_equal(aligned[5], alignment.align(frames[5], upward).image)
    assert not np.array_equal(aligned, face.prepare(frames))


# The command ----------------------------------------------------------------------------------------------------------


def click(seconds: float, rate: int) -> np.ndarray:
    """Return silence with a click in its middle."""
    audio = np.zeros(int(seconds * rate), np.float32)
    audio[len(audio) // 2 : len(audio) // 2 + rate // 200] = 0.9
    return audio


def test_the_command(weights, speech, tmp_path, seed):
    rng = np.random.default_rng(seed)
    write_audio(tmp_path / "a.wav", speech, 16_000)
    cv2.imwrite(str(tmp_path / "me.png"), rng.integers(0, 255, (32, 32, 3), np.uint8))
    np.savez(
        tmp_path / "clip.npz",
        coeff=rng.normal(size=(9, 257)).astype(np.float32),
        transform_params=rng.normal(size=(9, 5)).astype(np.float32),
    )
    arguments = [
        "--checkpoint",
        str(weights),
        "--audio",
        str(tmp_path / "a.wav"),
        "--portrait",
        str(tmp_path / "me.png"),
        "--output",
        str(tmp_path / "out.mp4"),
    ]
    with pytest.raises(ConsentError, match="pass --consent"):
        command(arguments)
    assert not (tmp_path / "out.mp4").exists()
    clip = str(tmp_path / "clip.npz")
    assert command([*arguments, "--consent", "--style", clip, "--pose", clip]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["frames"] == 54 and "agreed" in report["consent"] and report["style"].endswith("clip.npz")
    assert len(read_video(tmp_path / "out.mp4")) >= 54
    assert any("synthetic: true" in value for value in read_metadata(tmp_path / "out.mp4").values())
    cv2.imwrite(str(tmp_path / "me.png"), np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises((DreamTalkError, PortraitError), match="no face found"):
        command([*arguments, "--consent"])


@pytest.mark.slow
def test_a_minute_stays_together(weights, tmp_path):
    """The click stays in the middle, and the last frame is within 40 ms of the sound's end."""
    seconds = 60.0
    write_audio(tmp_path / "a.wav", click(seconds, 16_000), 16_000)
    cv2.imwrite(str(tmp_path / "me.png"), np.full((32, 32, 3), 90, np.uint8))
    command(
        [
            "--checkpoint",
            str(weights),
            "--audio",
            str(tmp_path / "a.wav"),
            "--portrait",
            str(tmp_path / "me.png"),
            "--consent",
            "--output",
            str(tmp_path / "out.mp4"),
        ]
    )
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert abs(frames / 25 - seconds) <= 0.04
    audio = read_audio(tmp_path / "out.mp4", 16_000, max_seconds=120)
    assert abs(len(audio) / 16_000 - seconds) <= 0.12  # the codec pads to its frame size
    assert abs(np.abs(audio).argmax() / 16_000 - seconds / 2) <= 0.04


def test_a_style_can_be_read_from_a_video(weights, face, tmp_path, seed):
    frames = np.random.default_rng(seed).integers(0, 255, (4, 64, 64, 3), np.uint8)
    write_video(tmp_path / "v.mp4", frames)
    assert face.style(read_video(tmp_path / "v.mp4")).shape == (face.style_dim,)
