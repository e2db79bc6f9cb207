"""Containers as phones, browsers and cameras write them: edit lists, remuxes, covers, streams that change."""

import io
import json
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from empatheia_jax.config import Config
from empatheia_jax.data.corpus.avamerg import read_examples
from empatheia_jax.data.corpus.check import check_data
from empatheia_jax.data.media.reading import MediaError, duration, read_audio, read_video
from empatheia_jax.encoders import build_encoders
from empatheia_jax.inference.request import encode_media

RATE, FPS, SECONDS = 24_000, 25, 2
SOUND = (0.4 * np.sin(2 * np.pi * np.cumsum(np.linspace(200, 800, RATE * SECONDS)) / RATE)).astype(np.float32)
NUMBERS = np.arange(FPS * SECONDS)
FRAMES = np.broadcast_to((20 + 4 * NUMBERS.astype(np.uint8))[:, None, None, None], (len(NUMBERS), 64, 48, 3))
"""Frame k has brightness 20 + 4 k, so that its number survives a lossy codec; the tone rises with time."""


def frame_numbers(frames):
    return np.round((frames.astype(float).mean(axis=(1, 2, 3)) - 20) / 4).astype(int)


def heard_at(audio, second, rate=RATE):
    """Return the frequency of the tone around a time, Hz."""
    piece = audio[int((second - 0.1) * rate) : int((second + 0.1) * rate)]
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 1 << 15))
    return spectrum.argmax() * rate / (1 << 15)


def record(path, *, container=None, video="libx264", audio="aac", size=(48, 64), options=None, format_options=None):
    """Write FRAMES and SOUND with the given codecs (None leaves a stream out)."""
    with av.open(str(path), "w", format=container, options=format_options or {}) as file:
        pictures = sound = None
        if video:
            pictures = file.add_stream(video, rate=FPS, options=options or {})
            pictures.width, pictures.height, pictures.pix_fmt = *size, "yuvj420p" if video == "mjpeg" else "yuv420p"
        if audio:
            sound = file.add_stream(audio, rate=48_000 if audio == "libopus" else RATE, layout="mono")
        for number, frame in enumerate(FRAMES if pictures else ()):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            file.mux(pictures.encode(picture))
        if pictures:
            file.mux(pictures.encode(None))
        if sound:
            block = av.AudioFrame.from_ndarray(SOUND[None], "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
            resampler = av.AudioResampler(sound.format, "mono", sound.rate, frame_size=sound.frame_size or 1024)
            for part in [*resampler.resample(block), *resampler.resample(None)]:
                file.mux(sound.encode(part))
            file.mux(sound.encode(None))
    return path


def remux(source, target, *, container=None):
    """Copy all streams into another container, as `-c copy` does."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=container) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None or packet.pts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def boxes(content, start, end):
    while start < end:
        length, name = struct.unpack_from(">I4s", content, start)
        yield name, start, start + length
        start += length


def trim(content: bytes, start: float, seconds: float, repeat: int = 1) -> bytes:
    """Return an mp4 whose edit lists show only a part: all samples stay in the file."""
    content = bytearray(content)
    ((_, moov, end),) = [box for box in boxes(content, 0, len(content)) if box[0] == b"moov"]
    tracks = [box for box in boxes(content, moov + 8, end) if box[0] == b"trak"]
    (movie_scale,) = struct.unpack_from(">I", content, moov + 8 + 20)
    for _, track, track_end in tracks:
        inner = {name: at for name, at, _ in boxes(content, track + 8, track_end)}
        mdhd = next(at for name, at, _ in boxes(content, inner[b"mdia"] + 8, track_end) if name == b"mdhd")
        (scale,) = struct.unpack_from(">I", content, mdhd + 20)
        at = inner[b"edts"] + 8 + 16
        _, first = struct.unpack_from(">Ii", content, at)
        struct.pack_into(">Ii", content, at, round(seconds * movie_scale), first + round(start * scale))
    return bytes(content)


def check_whole(path, *, seconds=SECONDS, first=0.0, has_sound=True):
    """Check pictures and sound against what was recorded from `first` on, and that measuring agrees."""
    frames = frame_numbers(read_video(path))
    expected = NUMBERS[round(first * FPS) :][: round(seconds * FPS)]
    assert abs(len(frames) - len(expected)) <= 1
    size = min(len(frames), len(expected))
    assert np.abs(frames[:size] - expected[:size]).max() <= 1
    heard, seen = duration(path)
    assert seen == pytest.approx(len(expected) / FPS, abs=0.045)
    if has_sound:
        audio = read_audio(path, RATE)
        assert len(audio) / RATE == pytest.approx(seconds, abs=0.1) and heard == pytest.approx(
            len(audio) / RATE, abs=1e-3
        )
        for second in (0.3, seconds / 2, seconds - 0.3):
            assert heard_at(audio, second) == pytest.approx(200 + 300 * (first + second), abs=25)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Record an mp4 with key frames only at its start and B-frames, as phones do."""
    options = {"bf": "2", "g": "250"}
    return record(tmp_path_factory.mktemp("clip") / "clip.mp4", options=options)


@pytest.mark.parametrize(("start", "seconds"), [(0.5, 1.2), (0.0, 1.0), (1.0, 1.0), (0.24, 0.8)])
def test_an_edit_list_shows_and_sounds_a_part(clip, tmp_path, start, seconds):
    path = tmp_path / "trimmed.mov"
    path.write_bytes(trim(clip.read_bytes(), start, seconds))
    check_whole(path, seconds=seconds, first=start)


@pytest.mark.parametrize("container", ["matroska", "mov", "mpegts"])
def test_a_remux_is_read_as_the_file_it_was(clip, tmp_path, container):
    check_whole(remux(clip, tmp_path / "again", container=container))


def test_a_remux_and_back(clip, tmp_path):
    check_whole(remux(remux(clip, tmp_path / "a.mkv"), tmp_path / "b.mp4"))


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("pcm.avi", "mpeg4", "pcm_s16le"),
        ("mp2.avi", "mpeg4", "mp2"),
        ("pcm.mov", "libx264", "pcm_s16le"),
        ("big_endian.mov", "libx264", "pcm_s16be"),
        ("pcm.mkv", "libx264", "pcm_s16le"),
        ("flac.mkv", "libx264", "flac"),
        ("alac.mov", "libx264", "alac"),
        ("vp8.webm", "libvpx", "libopus"),
        ("vp9.webm", "libvpx-vp9", "libopus"),
        ("mjpeg.mov", "mjpeg", "pcm_s16le"),
        ("mjpeg.avi", "mjpeg", "pcm_u8"),
    ],
)
def test_frames_are_counted_by_their_packets(tmp_path, name, video, audio):
    """Headers count samples, chunks or bytes where others count frames; each file is read whole, refused when cut."""
    options = {"deadline": "realtime", "cpu-used": "8"} if video.startswith("libvpx") else {}
    path = record(tmp_path / name, video=video, audio=audio, options=options)
    check_whole(path)
    content = path.read_bytes()
    for share in (0.5, 0.8):
        path.write_bytes(content[: int(share * len(content))])
        for reader in (read_video, duration, lambda file: read_audio(file, RATE)):
            with pytest.raises(MediaError, match=name):
                reader(path)


@pytest.mark.parametrize(
    "flags", ["frag_keyframe+empty_moov", "faststart", "frag_keyframe+empty_moov+default_base_moof"]
)
def test_fragments_and_fast_starts(tmp_path, flags):
    path = record(tmp_path / "a.mp4", options={"g": "10"}, format_options={"movflags": flags})
    check_whole(path)
    content = path.read_bytes()
    path.write_bytes(content + bytes(64))
    check_whole(path)
    path.write_bytes(content[: int(0.7 * len(content))])
    with pytest.raises(MediaError, match="cut short"):
        read_video(path)


class Pipe(io.RawIOBase):
    """A file that cannot be sought, so that lengths in headers stay open."""

    def __init__(self):
        self.content = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.content += data
        return len(data)


@pytest.mark.parametrize("kind", ["webm", "matroska", "mpegts", "avi"])
def test_what_was_written_to_a_pipe_is_read_whole(clip, tmp_path, kind):
    source = clip
    if kind == "avi":
        source = record(tmp_path / "a.avi", video="mpeg4", audio="pcm_s16le")
    elif kind == "webm":
        source = record(tmp_path / "a.webm", video="libvpx", audio="libopus", options={"deadline": "realtime"})
    pipe = Pipe()
    with av.open(str(source)) as old, av.open(pipe, "w", format=kind) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    path = tmp_path / "piped"
    path.write_bytes(pipe.content)
    check_whole(path)


@pytest.mark.parametrize(
    ("codec", "name", "fps"), [("libx264", "a.h264", 25), ("libx264", "b.h264", 50), ("mpeg4", "c.m4v", 25)]
)
def test_a_stream_without_a_container(tmp_path, codec, name, fps):
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 48, 64, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, fps), fps
    content = b""
    for number, frame in enumerate(FRAMES):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        picture.pts = number
        content += b"".join(bytes(packet) for packet in encoder.encode(picture))
    content += b"".join(bytes(packet) for packet in encoder.encode(None))
    path = tmp_path / name
    path.write_bytes(content)
    frames = frame_numbers(read_video(path))
    np.testing.assert_array_equal(frames, NUMBERS[:: fps // 25])
    assert duration(path) == (0.0, pytest.approx(len(NUMBERS) / fps))
    assert len(read_video(path, count=8)) == 8


@pytest.mark.parametrize(
    ("codec", "sides"), [("libvpx", [(48, 64), (24, 32)]), ("libvpx", [(48, 64), (64, 48), (96, 128)])]
)
def test_pictures_that_change_their_size(tmp_path, codec, sides):
    """A sender of WebRTC changes the size for its bandwidth, or the phone is turned: faces keep their shape."""
    path, share = tmp_path / "a.webm", len(FRAMES) // len(sides)
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=FPS)
        (stream.width, stream.height), stream.pix_fmt = sides[0], "yuv420p"
        stream.time_base = Fraction(1, 1000)
        for part, (width, height) in enumerate(sides):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, 1000), FPS
            encoder.options = {"lag-in-frames": "0", "deadline": "realtime"}
            for number in range(part * share, (part + 1) * share):
                picture = np.full((height, width, 3), 20 + 4 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number * 40, Fraction(1, 1000)
                for packet in [
                    *encoder.encode(frame),
                    *(encoder.encode(None) if number == (part + 1) * share - 1 else []),
                ]:
                    packet.stream = stream
                    container.mux(packet)
    notes: list[str] = []
    frames = read_video(path, notes=notes)
    assert frames.shape == (share * len(sides), 64, 48, 3)
    assert np.abs(frame_numbers(frames[:, 30:34, 20:28]) - NUMBERS[: len(frames)]).max() <= 1
    assert len(notes) == 1 and "a.webm: its pictures change size" in notes[0]
    turned = frames[share + 2]
    assert (turned[:10].mean() < 5) == ((64, 48) in sides)  # black above and beneath a picture that lies
    assert read_video(path, max_side=32).shape[1:3] == (32, 24)


def with_cover(path, audio):
    """Write a song with a cover, which FFmpeg shows as a stream of pictures."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 16, 16, "yuvj420p", Fraction(1, 1)
    grey = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 99, np.uint8), "rgb24").reformat(format="yuvj420p")
    (picture,) = [*encoder.encode(grey), *encoder.encode(None)]
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as file:
        sound, cover = file.add_stream(audio, rate=RATE, layout="mono"), file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        block = av.AudioFrame.from_ndarray(SOUND[None], "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        resampler = av.AudioResampler(sound.format, "mono", sound.rate, frame_size=sound.frame_size or 1024)
        file.start_encoding()
        packet = av.Packet(bytes(picture))
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        packet.time_base = Fraction(1, 1)
        file.mux(packet)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            file.mux(sound.encode(part))
        file.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("name", "audio"), [("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.flac", "flac")])
def test_a_cover_is_not_a_video(tmp_path, name, audio):
    path = with_cover(tmp_path / name, audio)
    with av.open(str(path)) as container:
        assert container.streams.video, "the file has no cover: nothing is tested"
    assert len(read_audio(path, RATE)) / RATE == pytest.approx(SECONDS, abs=0.1)
    assert duration(path) == (pytest.approx(SECONDS, abs=0.1), 0.0)
    with pytest.raises(MediaError, match=f"{name}: has no video stream"):
        read_video(path)


# The commands agree -----------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(clip, tmp_path, make_dialogue):
    """Return a function that makes a corpus whose one dialogue has the given file as its speaker's recording."""

    def make(content: bytes, suffix: str):
        folder = tmp_path / "corpus"
        media = folder / ("audio_v5_0" if suffix == "wav" else "video_v5_0")
        media.mkdir(parents=True, exist_ok=True)
        (folder / "train.json").write_text(json.dumps([make_dialogue(1, turns=1)]))
        (media / f"dia00001utt0_28.{suffix}").write_bytes(content)
        return folder

    return make


def judged(folder, suffix, config, encoders):
    """Return what check-data and respond say of the one recording: "" or the reason."""
    _, report = check_data(folder)
    (media,) = report["media"]
    checked = "; ".join(f"{problem}: {names}" for problem, names in media["unusable"].items())
    example = next(e for split in ("train", "validation") for e in read_examples(folder, split, allow_empty=True)[0])
    notes: list[str] = []
    try:
        encode_media(example, config, encoders, notes)
        answered = ""
    except MediaError as error:
        answered = str(error)
    return checked, answered, notes


def test_check_data_and_respond_agree(clip, tmp_path, corpus):
    config = Config()
    encoders = build_encoders(config.encoders)
    whole = clip.read_bytes()
    record(tmp_path / "deaf.mp4", audio=None)
    usable = {
        "whole": whole,
        "trimmed": trim(whole, 0.5, 1.2),
        "deaf": (tmp_path / "deaf.mp4").read_bytes(),
        "remuxed": remux(clip, tmp_path / "a.mkv").read_bytes(),
    }
    for kind, content in usable.items():
        checked, answered, notes = judged(corpus(content, "mp4"), "mp4", config, encoders)
        assert (checked, answered) == ("", ""), kind
        assert any("heard the sound track" in note for note in notes) == (kind != "deaf"), kind
    damaged = bytearray(whole)
    at = whole.index(b"mdat") + 4
    damaged[at : at + len(whole) // 2] = np.random.default_rng(0).bytes(len(whole) // 2)
    for content in (whole[: len(whole) // 2], bytes(damaged), b"no video"):
        checked, answered, _ = judged(corpus(content, "mp4"), "mp4", config, encoders)
        assert checked and answered and "dia00001utt0_28.mp4" in answered


def test_sound_that_cannot_be_heard_is_noted(clip, tmp_path, corpus):
    """The pictures are answered, and the person is told that the voice was not heard."""
    content = clip.read_bytes().replace(b"mp4a", b"apac").replace(b"esds", b"free")
    config = Config()
    _, answered, notes = judged(corpus(content, "mp4"), "mp4", config, build_encoders(config.encoders))
    assert not answered and len(notes) == 1 and "the sound track is not heard" in notes[0] and ".mp4" in notes[0]


@pytest.mark.parametrize(
    ("case", "heard", "seen"),
    [("trimmed_mov/trimmed.mov", 1.2, 1.2), ("raw_h264/a.h264", 0, 2.44), ("webm_resize/resize.webm", 0, 2.44)],
)
def test_field_cases(real_data, case, heard, seen):
    assert duration(real_data("field_cases") / case) == (pytest.approx(heard, abs=0.02), pytest.approx(seen))
