"""The parametric face: the requested style can be measured in encoded video, age and gender too."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from empatheia_jax.data.emotions import AGES, AVATAR_EMOTIONS, GENDERS
from empatheia_jax.data.media.reading import read_video
from empatheia_jax.data.media.writing import write_video
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.appearance import appearance_for
from empatheia_jax.generators.classical.expression import STYLE_NAMES
from empatheia_jax.generators.classical.face import ClassicalFace
from empatheia_jax.generators.classical.face_geometry import measure_brow_height, measure_mouth_curve
from empatheia_jax.generators.classical.face_style import face_style_for
from empatheia_jax.generators.classical.portrait import (
    PortraitError,
    appearance_from_portrait,
    find_faces,
    read_portrait,
)
from empatheia_jax.generators.classical.visemes import CONTENT_NAMES, sample_content
from empatheia_jax.generators.interfaces import Portrait, video_frame_count
from empatheia_jax.generators.phonemes import SYMBOL_ID

PROFILES = [Profile(age, gender, "mid") for age in AGES for gender in GENDERS]


def avatar(profile, number):
    return Portrait(appearance=appearance_for(profile, number))


def ids(symbols):
    return np.array([SYMBOL_ID[symbol] for symbol in symbols], np.int32)


@pytest.fixture(scope="module")
def measured_clips(tmp_path_factory):
    """8 profiles x 2 avatars x 7 emotions, speaking, through h264: requested style, measured style, labels."""
    rng, face = np.random.default_rng(3), ClassicalFace(128)
    path = tmp_path_factory.mktemp("face") / "clip.mp4"
    requested, measured, labels = [], [], []
    for number, profile in enumerate(PROFILES * 2):
        for emotion in AVATAR_EMOTIONS:
            style = face_style_for(profile, emotion, 400 + number)
            frames = face.animate(sample_content(rng, 25), style, avatar(profile, 400 + number))
            write_video(path, frames, preset="ultrafast", crf=23)
            requested.append(style)
            measured.append(face.style(read_video(path)))
            labels.append((number, profile.age, profile.gender, emotion))
    return np.array(requested), np.array(measured), labels


def test_frames_are_as_promised():
    face, portrait = ClassicalFace(96), avatar(PROFILES[3], 1)
    content = sample_content(np.random.default_rng(0), 12)
    frames = face.animate(content, np.zeros(face.style_dim), portrait)
    assert frames.shape == (12, 96, 96, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, face.animate(content, np.zeros(face.style_dim), portrait))
    assert face.animate(content[:0], np.zeros(face.style_dim), portrait).shape == (0, 96, 96, 3)
    assert (face.content_dim, face.style_dim) == (len(CONTENT_NAMES), len(STYLE_NAMES))


def test_any_size_shows_the_same_picture():
    content, style = np.zeros((1, 5)), face_style_for(PROFILES[2], "happy", 5)
    small, large = (ClassicalFace(size).animate(content, style, avatar(PROFILES[2], 5))[0] for size in (128, 512))
    reduced = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - small).mean() < 4


def test_a_style_may_change_over_the_clip():
    face, portrait = ClassicalFace(96), avatar(PROFILES[2], 5)
    content = np.zeros((4, 5))
    first, second = (face_style_for(PROFILES[2], emotion, 5) for emotion in ("happy", "sad"))
    mixed = face.animate(content, np.stack([first, first, second, second]), portrait)
    assert np.array_equal(mixed[:2], face.animate(content, first, portrait)[:2])
    assert np.array_equal(mixed[2:], face.animate(content, second, portrait)[2:])


def test_bad_input_is_a_value_error():
    face, portrait = ClassicalFace(64), avatar(PROFILES[0], 1)
    good = np.zeros((3, face.content_dim)), np.zeros(face.style_dim), portrait
    for position, bad in [(0, np.zeros((3, 2))), (0, np.full((3, 5), np.nan)), (1, np.zeros(4)), (2, Portrait())]:
        arguments = [*good]
        arguments[position] = bad
        with pytest.raises(ValueError):
            face.animate(*arguments)
    for size in (63, 8, 4096):
        with pytest.raises(ValueError):
            ClassicalFace(size)
    for frames in (np.zeros((0, 64, 64, 3), np.uint8), np.zeros((2, 64, 64, 3)), np.zeros((64, 64), np.uint8)):
        with pytest.raises(ValueError):
            face.style(frames)
    with pytest.raises(ValueError, match="bored"):
        face_style_for(PROFILES[0], "bored", 1)
    with pytest.raises(ValueError, match="ancient"):
        appearance_for(Profile("ancient", "male", "mid"), 1)


# Content ==============================================================================================================


def test_mouth_shapes_follow_phonetics():
    face = ClassicalFace(64)
    durations = np.full(7, 8, np.int32)
    content = face.content(None, 0, ids(".ɑmusi."), durations)
    assert content.shape == (video_frame_count(durations), face.content_dim)
    assert content.min() >= 0 and content.max() <= 1
    middle = {symbol: content[int((k + 0.5) * 5)] for k, symbol in enumerate("<ɑmusi>")}
    opened, wide, rounded, teeth, press = range(5)
    assert middle["ɑ"][opened] > 0.8 > 0.1 > middle["m"][opened]
    assert middle["m"][press] > 0.8 > 0.3 > middle["ɑ"][press]
    assert middle["u"][rounded] > 0.8 and middle["i"][wide] > 0.8 > middle["u"][wide]
    assert middle["s"][teeth] > 0.8
    assert max(middle["<"][opened], middle[">"][opened]) < 0.05


def test_marks_do_not_move_the_mouth():
    face = ClassicalFace(64)
    plain = face.content(None, 0, ids("$ɑm."), np.array([0, 8, 8, 8]))
    marked = face.content(None, 0, ids("$ˈɑːm."), np.array([0, 0, 8, 0, 8, 8]))
    assert np.array_equal(plain, marked)
    # a mark that lasts is a transition between its neighbours, not a rest
    transition = face.content(None, 0, ids("ɑˈɑ"), np.array([8, 8, 8]))
    assert transition[:, 0].min() > 0.9


def test_loudness_changes_little():
    """C_video must stay predictable from the phonemes: the recording explains less than a fifth of its variance."""
    rng, face = np.random.default_rng(1), ClassicalFace(64)
    symbols = [str(s) for s in rng.choice(list("ɑmusitæfloʊðkɪn "), 40)]
    durations = rng.integers(2, 6, 40)
    audio = rng.standard_normal(int(durations.sum() * 600)) * np.repeat(rng.uniform(0.05, 1, 40), durations * 600)
    with_audio = face.content(audio.astype(np.float32), 24000, ids(symbols), durations)
    without_audio = face.content(None, 0, ids(symbols), durations)
    assert ((with_audio - without_audio) ** 2).sum() < 0.2 * ((with_audio - with_audio.mean(0)) ** 2).sum()
    assert not np.array_equal(with_audio, without_audio)


def test_content_needs_matching_lengths():
    with pytest.raises(ValueError):
        ClassicalFace(64).content(None, 0, ids("ɑm"), np.array([3]))
    with pytest.raises(ValueError):
        ClassicalFace(64).content(None, 0, ids("ɑm"), np.array([0, 0]))


def test_speech_moves_the_mouth_and_nothing_above_it():
    face, portrait = ClassicalFace(128), avatar(PROFILES[2], 8)
    closed, opened = np.zeros((1, 5)), np.array([[1.0, 0, 0, 0, 0]])
    still, moved = (face.animate(c, np.zeros(face.style_dim), portrait)[0].astype(int) for c in (closed, opened))
    change = np.abs(still - moved).sum(axis=(1, 2))
    assert change[:75].sum() == 0
    assert change[75:115].sum() > 5000


# Style ================================================================================================================


@pytest.mark.slow
def test_asked_style_is_recovered_from_video(measured_clips):
    requested, measured, _ = measured_clips
    explained = 1 - ((requested - measured) ** 2).sum(0) / ((requested - requested.mean(0)) ** 2).sum(0)
    assert explained.mean() > 0.88, dict(zip(STYLE_NAMES, explained.round(2), strict=True))
    assert explained.min() > 0.75, dict(zip(STYLE_NAMES, explained.round(2), strict=True))
    assert 0.3 < requested.std() < 1.5  # standardised to order 1


@pytest.mark.slow
def test_profile_and_emotion_explain_the_style(measured_clips):
    """S_video must be predictable for avatars never seen: fit on half of the avatars, judged on the other half."""
    _, measured, labels = measured_clips
    known = np.array(
        [
            [*(age == a for a in AGES), gender == "male", *(emotion == e for e in AVATAR_EMOTIONS)]
            for _, age, gender, emotion in labels
        ],
        float,
    )
    held_out = np.array([number >= len(PROFILES) for number, *_ in labels])
    weights = np.linalg.lstsq(known[~held_out], measured[~held_out], rcond=None)[0]
    residual = measured[held_out] - known[held_out] @ weights
    total = measured[held_out] - measured[~held_out].mean(axis=0)
    assert 1 - (residual**2).sum() / (total**2).sum() > 0.85


@pytest.mark.slow
def test_emotions_are_told_apart(measured_clips):
    _, measured, labels = measured_clips
    emotion = np.array([AVATAR_EMOTIONS.index(label[3]) for label in labels])
    held_out = np.array([label[0] >= len(PROFILES) for label in labels])
    centres = np.stack([measured[~held_out & (emotion == e)].mean(axis=0) for e in range(7)])
    nearest = ((measured[held_out][:, None] - centres) ** 2).sum(-1).argmin(axis=1)
    assert (nearest == emotion[held_out]).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "measure"), [("brow_raise", measure_brow_height), ("mouth_curve", measure_mouth_curve)]
)
def test_geometry_follows_the_style(name, measure):
    """Independent of the calibrated measurement: pixels must move the way the style says, in every kind of face."""
    face, values = ClassicalFace(128), np.linspace(-1.2, 1.2, 7)
    correlations = []
    for number, profile in enumerate(PROFILES):
        style = np.zeros(face.style_dim)
        heights = []
        for value in values:
            style[STYLE_NAMES.index(name)] = value
            heights.append(measure(face.animate(np.zeros((3, 5)), style, avatar(profile, 40 + number))))
        correlations.append(np.corrcoef(values, heights)[0, 1])
    assert np.median(correlations) > 0.97, correlations
    assert min(correlations) > 0.8, correlations


def test_head_tilt_and_drop_move_the_whole_head():
    face, portrait = ClassicalFace(128), avatar(PROFILES[2], 8)
    style = np.zeros(face.style_dim)
    rest = face.animate(np.zeros((1, 5)), style, portrait)[0]
    for name in ("head_tilt", "head_drop"):
        style = np.zeros(face.style_dim)
        style[STYLE_NAMES.index(name)] = 1.0
        changed = np.abs(face.animate(np.zeros((1, 5)), style, portrait)[0].astype(int) - rest).sum(axis=2) > 30
        assert changed[10:45].any() and changed[50:90].any()


# Appearance ===========================================================================================================


def coarse(frame):
    """A colour grid and a grid of edge strengths: what any encoder sees at least."""
    grid = cv2.resize(frame, (14, 14), interpolation=cv2.INTER_AREA).astype(float).ravel() / 255
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = [np.abs(cv2.Sobel(grey, cv2.CV_32F, *direction)) for direction in ((1, 0), (0, 1))]
    return np.concatenate([grid, *(cv2.resize(e, (14, 14), interpolation=cv2.INTER_AREA).ravel() / 255 for e in edges)])


def test_age_and_gender_are_seen_in_the_face():
    """A linear classifier on coarse features, judged on avatars it has not seen, in emotions it has."""
    face, rows, labels = ClassicalFace(64), [], []
    for number in range(160):
        profile = PROFILES[number % 8]
        style = face_style_for(profile, AVATAR_EMOTIONS[number % 7], number)
        rows.append(coarse(face.animate(np.zeros((1, 5)), style, avatar(profile, 2000 + number))[0]))
        labels.append((AGES.index(profile.age), GENDERS.index(profile.gender)))
    x, labels = np.array(rows), np.array(labels)
    x = np.concatenate([x - x[:112].mean(axis=0), np.ones((len(x), 1))], axis=1)
    gram = x[:112].T @ x[:112] + 1.0 * np.eye(x.shape[1])
    for column, classes, least in ((0, 4, 0.85), (1, 2, 0.9)):
        weights = np.linalg.solve(gram, x[:112].T @ np.eye(classes)[labels[:112, column]])
        assert ((x[112:] @ weights).argmax(axis=1) == labels[112:, column]).mean() >= least


def test_an_avatar_always_looks_the_same_and_avatars_differ():
    looks = [appearance_for(PROFILES[2], number) for number in range(30)]
    assert looks == [appearance_for(PROFILES[2], number) for number in range(30)]
    assert len(set(looks)) == 30


# Portraits ============================================================================================================


def test_colours_are_taken_from_a_drawn_portrait():
    """A drawn face is the portrait: its colours are known."""
    original = appearance_for(PROFILES[2], 3)
    image = ClassicalFace(512).animate(np.zeros((1, 5)), np.zeros(13), Portrait(appearance=original))[0]
    base = appearance_for(PROFILES[7], 4)
    appearance, notes = appearance_from_portrait(image, base)
    for colour, expected in (
        (appearance.skin, original.skin),
        (appearance.hair, original.hair),
        (appearance.background, original.background),
    ):
        assert np.abs(np.subtract(colour, expected)).max() < 40
    assert (appearance.age, appearance.hair_style, notes) == (base.age, base.hair_style, [])
    assert ClassicalFace(64).animate(np.zeros((2, 5)), np.zeros(13), Portrait(image=image)).shape == (2, 64, 64, 3)


def test_two_faces_take_the_larger_and_say_so():
    first, second = (
        ClassicalFace(size).animate(np.zeros((1, 5)), np.zeros(13), avatar(PROFILES[2], number))[0]
        for size, number in ((512, 3), (256, 11))
    )
    image = np.full((512, 800, 3), 255, np.uint8)
    image[:, :512] = first
    image[128:384, 530:786] = second
    appearance, notes = appearance_from_portrait(image)
    assert len(notes) == 1 and "2 faces" in notes[0]
    assert np.abs(np.subtract(appearance.skin, appearance_from_portrait(first)[0].skin)).max() < 8


def test_a_faceless_portrait_is_an_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    with pytest.raises(PortraitError, match="no face"):
        appearance_from_portrait(noise)
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png", "gone.png"):
        with pytest.raises(PortraitError, match=name):
            read_portrait(tmp_path / name)


def test_transparent_and_grey_pictures_are_read(tmp_path):
    cv2.imwrite(str(tmp_path / "clear.png"), np.zeros((8, 8, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((8, 8), 90, np.uint8))
    assert np.all(read_portrait(tmp_path / "clear.png") == 255)
    assert read_portrait(tmp_path / "grey.png").shape == (8, 8, 3)


KINDS = {
    "png": "L,LA,P,P clear,RGB,RGBA,1,I;16,RGB;16,RGBA;16",
    "jpg": "L,RGB,CMYK",
    "tiff": "L,LA,RGB,RGBA,CMYK,1,I;16,F",
    "webp": "RGB,RGBA",
}
"""Pillow's modes that a format has, with 16 bits a channel where that is said."""


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("suffix, kind", [(suffix, kind) for suffix in KINDS for kind in KINDS[suffix].split(",")])
def test_pictures_of_every_depth_and_channel_count_are_upright(tmp_path, suffix, kind, orientation):
    """A picture with a bright upper left quarter comes back with it there, whatever the camera wrote."""
    upright = np.zeros((40, 60), np.uint8)
    upright[:20, :30] = 255
    undo = {1: lambda x: x, 3: lambda x: np.rot90(x, 2), 6: np.rot90, 8: lambda x: np.rot90(x, -1), 5: np.transpose}
    stored = np.ascontiguousarray(undo[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture.{suffix}"
    mode, _, depth = kind.partition(";")
    if depth and mode != "I":  # Pillow writes colour of 8 bits only
        channels = [stored.astype(np.uint16) * 257] * 3 + [np.full_like(stored, 65535, np.uint16)] * (mode == "RGBA")
        _, content = cv2.imencode(".png", np.stack(channels, axis=-1))
        path.write_bytes(with_exif_chunk(content.tobytes(), exif.tobytes().removeprefix(b"Exif\0\0")))
    else:
        picture = Image.fromarray(stored.astype(np.uint16) * 257 if depth else stored)
        clear = {"transparency": 0} if kind == "P clear" else {}
        picture = picture if depth else picture.convert(mode.split()[0])
        picture.save(path, exif=exif, **clear)
    image = read_portrait(path)
    assert image.shape == (40, 60, 3) and image.dtype == np.uint8
    bright = image[4:16, 4:26].mean(), image[24:, :].mean(), image[:, 34:].mean()
    assert bright[0] > 247 and (kind == "P clear" or max(bright[1:]) < 8)


def with_exif_chunk(png: bytes, exif: bytes) -> bytes:
    """Put an eXIf chunk before the pixels of a png."""
    place = png.index(b"IDAT") - 4
    body = b"eXIf" + exif
    return png[:place] + struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body)) + png[place:]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif"])
def test_damaged_pictures_are_one_error_with_their_name(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    for spoilt in (whole[: len(whole) // 2], whole[:20], bytes(len(whole))):
        path.write_bytes(spoilt)
        with pytest.raises(PortraitError, match=f"picture.{suffix}: not a picture"):
            read_portrait(path)


def real_portraits():
    folder = os.environ.get("EMPATHEIA_PORTRAITS")
    root = Path(__file__).resolve().parents[3]
    folders = [Path(folder)] if folder else sorted(root.glob("*/data/dreamtalk_samples/portrait"))
    return [path for folder in folders for path in sorted(folder.iterdir())]


def test_real_portraits():
    paths = real_portraits()
    if not paths:
        pytest.skip("no real portraits here: set EMPATHEIA_PORTRAITS to a folder of some")
    for path in paths:
        image = read_portrait(path)
        assert find_faces(image), path
        appearance, _ = appearance_from_portrait(image)
        red, green, blue = appearance.skin
        assert red > green > blue  # skin of any complexion
        assert sum(appearance.hair) < sum(appearance.skin)
