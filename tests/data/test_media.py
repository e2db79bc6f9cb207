"""Reading and writing media: written files are inspected with PyAV and soundfile, not with our own reader."""

import av
import numpy as np
import pytest
import soundfile

from empatheia_jax.data.media.reading import MediaError, duration, read_audio, read_metadata, read_video
from empatheia_jax.data.media.writing import write_audio, write_video


def tone(seconds, sample_rate, hertz=440.0):
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * sample_rate)) / sample_rate)).astype(np.float32)


def counted_frames(count, size=64):
    """Return frames of which frame k has brightness 20 + 4 k, so that its number survives a lossy codec."""
    return np.broadcast_to((20 + 4 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, size, size, 3))


def frame_numbers(frames):
    return np.round((frames.astype(float).mean(axis=(1, 2, 3)) - 20) / 4).astype(int)


def peak_hertz(audio, sample_rate):
    return np.argmax(np.abs(np.fft.rfft(audio * np.hanning(len(audio))))) * sample_rate / len(audio)


@pytest.mark.parametrize(("seconds", "sample_rate"), [(2.0, 24000), (1.3, 22050), (2.9, 16000), (2.0, 12345)])
def test_mp4_is_h264_and_aac_of_equal_length(tmp_path, seconds, sample_rate):
    path = tmp_path / "clip.mp4"
    write_video(path, counted_frames(50), audio=tone(seconds, sample_rate), sample_rate=sample_rate)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert audio.codec_context.name == "aac"
        assert video.average_rate == 25
        video_seconds = sum(1 for _ in container.decode(video)) / 25
        container.seek(0)
        audio_seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(audio))
    assert abs(video_seconds - audio_seconds) <= 0.08
    assert video_seconds == pytest.approx(max(2.0, np.ceil(seconds * 25) / 25))
    assert np.allclose(duration(path), (video_seconds, video_seconds), atol=0.08)


def test_sound_survives_the_mp4(tmp_path):
    write_video(tmp_path / "clip.mp4", counted_frames(50), audio=tone(2, 24000, 523), sample_rate=24000)
    audio = read_audio(tmp_path / "clip.mp4", 16000)
    assert audio.dtype == np.float32
    assert peak_hertz(audio, 16000) == pytest.approx(523, abs=2)
    assert np.sqrt(np.mean(audio[4000:-4000] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.05)


def test_frames_come_back_in_order(tmp_path):
    write_video(tmp_path / "clip.mp4", counted_frames(40))
    frames = read_video(tmp_path / "clip.mp4")
    assert frames.shape == (40, 64, 64, 3)
    assert np.array_equal(frame_numbers(frames), np.arange(40))
    assert np.array_equal(frame_numbers(read_video(tmp_path / "clip.mp4", count=8)), np.arange(8) * 5 + 2)
    assert np.array_equal(frame_numbers(read_video(tmp_path / "clip.mp4", count=80)), np.repeat(np.arange(40), 2))
    assert read_video(tmp_path / "clip.mp4", count=2, max_side=32).shape == (2, 32, 32, 3)


def test_colours_come_back(tmp_path):
    colours = np.array([[200, 60, 60], [60, 180, 60], [70, 70, 190], [240, 240, 240]], np.uint8)
    frames = np.repeat(np.repeat(colours.reshape(2, 2, 3), 32, axis=0), 32, axis=1)[None].repeat(5, axis=0)
    write_video(tmp_path / "clip.mp4", frames)
    back = read_video(tmp_path / "clip.mp4")[2]
    centres = back[16::32, 16::32].reshape(4, 3)
    assert np.abs(centres.astype(int) - colours).max() <= 8


@pytest.mark.parametrize(("fps", "expected"), [(50, np.arange(0, 40, 2)), (10, None), (30, None)])
def test_other_rates_are_read_at_25_fps(tmp_path, fps, expected):
    write_video(tmp_path / "clip.mp4", counted_frames(40), fps=fps)
    numbers = frame_numbers(read_video(tmp_path / "clip.mp4"))
    assert len(numbers) == round(40 / fps * 25)
    if expected is not None:
        assert np.array_equal(numbers, expected)
    # the chosen frame is never further away than half its own duration; the last one is held to the end
    ticks = np.minimum(np.arange(len(numbers)) / 25, 39 / fps)
    assert np.abs(numbers / fps - ticks).max() <= 0.5 / fps + 1e-6


def test_wav_of_8_khz_stereo(tmp_path):
    left = tone(1.0, 8000, 300)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, 0.5 * left], axis=1), 8000)
    audio = read_audio(tmp_path / "stereo.wav", 16000)
    assert audio.shape == (16000,)
    assert peak_hertz(audio, 16000) == pytest.approx(300, abs=1)
    assert np.abs(audio).max() == pytest.approx(0.3, abs=0.01)


def test_written_wav_is_pcm16_and_close(tmp_path):
    audio = tone(0.5, 24000)
    write_audio(tmp_path / "a" / "tone.wav", audio, 24000, {"comment": "synthetic speech", "backend": "classical"})
    info = soundfile.info(tmp_path / "a" / "tone.wav")
    assert (info.samplerate, info.channels, info.subtype) == (24000, 1, "PCM_16")
    back, _ = soundfile.read(tmp_path / "a" / "tone.wav", dtype="float32")
    assert np.abs(back - audio).max() < 1e-4


@pytest.mark.parametrize("name", ["clip.wav", "clip.mp4"])
def test_metadata_says_what_it_is(tmp_path, name):
    tags = {"comment": "synthetic", "title": "answer", "backend": "classical", "weights": "none"}
    if name.endswith("wav"):
        write_audio(tmp_path / name, tone(0.2, 24000), 24000, tags)
    else:
        write_video(tmp_path / name, counted_frames(5), metadata=tags)
    read = read_metadata(tmp_path / name)
    assert read["title"] == "answer"
    assert read["comment"] == "synthetic; backend: classical; weights: none"


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, counted_frames(20), audio=tone(0.8, 24000), sample_rate=24000)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def _write_bad_files(folder):
    """Write files that are each bad in one way, and the intact one that a cut file is made from."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video " * 50)
    soundfile.write(folder / "nothing.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(folder / "nan.wav", np.full(100, np.nan, np.float32), 16000, subtype="FLOAT")
    soundfile.write(folder / "long.wav", np.zeros(16000 * 3, np.float32), 16000)
    write_video(folder / "silent.mp4", counted_frames(40))
    write_video(folder / "whole.mp4", counted_frames(40), audio=tone(1.6, 24000), sample_rate=24000)
    (folder / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:900])


@pytest.mark.parametrize(
    ("name", "reader", "message"),
    [
        ("gone.wav", "audio", "no such file"),
        (".", "audio", "not a file"),
        ("empty.wav", "audio", "empty"),
        ("empty.wav", "video", "empty"),
        ("text.mp4", "audio", "cannot be read"),
        ("text.mp4", "video", "cannot be read"),
        ("cut.mp4", "video", "cut.mp4"),
        ("nothing.wav", "audio", "no audio samples"),
        ("nan.wav", "audio", "not numbers"),
        ("long.wav", "audio", "over the limit of 2 s"),
        ("long.wav", "video", "no video stream"),
        ("silent.mp4", "audio", "no audio stream"),
    ],
)
def test_a_bad_file_is_one_error_that_names_it(tmp_path, name, reader, message):
    _write_bad_files(tmp_path)
    with pytest.raises(MediaError) as error:
        if reader == "audio":
            read_audio(tmp_path / name, 16000, max_seconds=2)
        else:
            read_video(tmp_path / name, max_seconds=2)
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_limits(tmp_path):
    write_video(tmp_path / "clip.mp4", counted_frames(40), audio=tone(1.6, 24000), sample_rate=24000)
    for read in (read_video, lambda path, **limits: read_audio(path, 16000, **limits)):
        assert len(read(tmp_path / "clip.mp4", max_seconds=1.7))
        with pytest.raises(MediaError, match="over the limit of 1 s"):
            read(tmp_path / "clip.mp4", max_seconds=1.0)
        with pytest.raises(MediaError, match="MB"):
            read(tmp_path / "clip.mp4", max_megabytes=0.001)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, counted_frames(10))
    before = path.read_bytes()

    def failing_frames():
        yield from counted_frames(5)
        raise RuntimeError("the renderer failed")

    with pytest.raises(RuntimeError):
        write_video(path, failing_frames())
    for frames in (
        [],
        np.zeros((3, 63, 64, 3), np.uint8),
        np.zeros((3, 64, 64, 3)),
        [*counted_frames(1)] + [*counted_frames(1, 32)],
    ):
        with pytest.raises(MediaError):
            write_video(path, frames)
    with pytest.raises(MediaError):
        write_video(path, counted_frames(5), audio=np.full(100, np.nan), sample_rate=16000)
    with pytest.raises(MediaError):
        write_audio(tmp_path / "none.wav", np.zeros(0), 16000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
