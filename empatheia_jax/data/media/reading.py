"""Reads audio and video files; no other module opens one (`writing` writes them).

Reading is strict: a bad file is one `MediaError` that names it. Audio becomes mono float32 at the requested rate, video
becomes RGB frames at 25 fps (AvaMERG's rate, section 3.3). What libsndfile can read goes through soundfile, everything
else (mp4) through PyAV.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import av
import av.container
import av.error
import numpy as np
import soundfile
import soxr

from empatheia_jax.data.media.containers import UnreadableError, readable_input, size_of

FPS = 25
MAX_DECODED_BYTES = 3 << 30
MAX_LOST_SHARE = 0.1  # of the frames may be damaged: the nearest decoded frame replaces each
TAGS = ("title", "artist", "comment", "copyright", "date", "genre", "album")
"""Metadata names that both a wav's LIST/INFO chunk and an mp4's ilst atom have; other tags are put into `comment`."""


class MediaError(ValueError):
    """A media file that cannot be used; the message names the file, what is wrong with it and what to do."""

    def __init__(self, path, message: str):
        super().__init__(f"{path}: {message}")
        self.path = str(path)


def read_audio(path, sample_rate: int, max_seconds: float = 60.0, max_megabytes: float = 50.0) -> np.ndarray:
    """Read the sound of a wav, flac, ogg, mp3, mp4 ... of any rate and channel count.

    Args:
      path: the file, or a recording in a container (`containers.Recording`).
      sample_rate: rate of the result, Hz.
      max_seconds: longest duration of one utterance.
      max_megabytes: largest file of one utterance.

    Returns:
      float32 [samples], mono, -1..1.

    Raises:
      MediaError: the file is missing, empty, unreadable, cut short, without samples, or over a limit.
    """
    _check_size(path, max_megabytes)
    try:
        _check_wav_complete(path)
        with soundfile.SoundFile(_input(path)) as sound:
            _check_seconds(path, sound.frames / max(sound.samplerate, 1), max_seconds)
            audio = sound.read(dtype="float32", always_2d=True).mean(axis=1)
            rate = sound.samplerate
    except soundfile.LibsndfileError:
        audio, rate = _read_audio_av(path, max_seconds)
    if not len(audio):
        raise MediaError(path, "holds no audio samples; record it again")
    if not np.isfinite(audio).all():
        raise MediaError(path, "holds samples that are not numbers (nan or inf); export it again")
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate)
    return np.ascontiguousarray(np.clip(audio, -1.0, 1.0), dtype=np.float32)


def read_video(
    path,
    count: int | None = None,
    *,
    max_seconds: float = 60.0,
    max_megabytes: float = 50.0,
    max_side: int | None = None,
    max_frames: int | None = None,
) -> np.ndarray:
    """Read the frames of a video, resampled to 25 fps by taking the nearest frame.

    Only the frames that are returned are converted to RGB, so `count=8` of a long clip is cheap.

    Args:
      path: as for `read_audio`; any frame rate (constant or not) and size.
      count: return this many frames, the middles of equal shares of the clip, instead of all; a clip with fewer frames
        repeats some.
      max_seconds: longest duration of one utterance.
      max_megabytes: largest file of one utterance.
      max_side: scale down so that neither side is longer than this, pixels.
      max_frames: return only the first frames, at most this many.

    Returns:
      uint8 [F, h, w, 3] RGB, upright (the rotation flag of a phone is applied).

    Raises:
      MediaError: the file is missing, empty, unreadable, cut short, without frames, or over a limit, or more than
        `MAX_LOST_SHARE` of the frames asked for cannot be decoded.
    """
    _check_size(path, max_megabytes)
    with _open(path) as container:
        if not container.streams.video:
            raise MediaError(path, "has no video stream; give a file with pictures")
        stream = container.streams.video[0]
        assert stream.time_base is not None  # FFmpeg gives every stream of a file one
        stamps, seconds = _packet_times(path, container, stream)
        _check_seconds(path, seconds, max_seconds)
        if not stamps:
            raise MediaError(path, "has a video stream but no frames; record it again")
        wanted = _nearest_stamps(stamps, float(stream.time_base), seconds, count)[:max_frames]
        height, width = _scaled_size(stream.codec_context.height, stream.codec_context.width, max_side)
        if len(wanted) * height * width * 3 > MAX_DECODED_BYTES:
            raise MediaError(path, f"{len(wanted)} frames of {width}x{height} do not fit; read fewer or smaller ones")
        container.seek(0)
        frames = _decode(path, stream, set(wanted), max_side)
    lost = len(set(wanted) - frames.keys())
    if lost > MAX_LOST_SHARE * len(wanted):
        raise MediaError(path, f"is damaged: {lost} of {len(set(wanted))} frames cannot be decoded; record it again")
    decoded = np.array(sorted(frames))
    nearest = decoded[np.abs(decoded[None] - np.array(wanted)[:, None]).argmin(axis=1)]
    return np.stack([frames[int(stamp)] for stamp in nearest])


def duration(path) -> tuple[float, float]:
    """Measure a file from the times of its packets, without decoding.

    Returns:
      Seconds of sound and seconds of video; 0.0 for a stream that the file does not have.

    Raises:
      MediaError: the file is missing, empty, cut short or unreadable.
    """
    _check_size(path, float("inf"))
    _check_wav_complete(path)
    with _open(path) as container:
        audio = container.streams.audio[0] if container.streams.audio else None
        video = container.streams.video[0] if container.streams.video else None
        spans = {stream.index: [np.inf, 0.0] for stream in (audio, video) if stream is not None}
        packets = dict.fromkeys(spans, 0)
        with _media_errors(path):
            for packet in container.demux():
                if packet.size and packet.stream.index in packets:
                    packets[packet.stream.index] += 1
                if packet.pts is None or packet.stream.index not in spans:
                    continue
                start = float(packet.pts * packet.time_base)
                span = spans[packet.stream.index]
                span[0] = min(span[0], start)
                span[1] = max(span[1], start + float((packet.duration or 0) * packet.time_base))
        for stream in (audio, video):
            if stream is not None:
                _check_complete(path, stream, packets[stream.index])
        # AAC priming lies before time 0 and is never played.
        lengths = {index: max(0.0, end - max(start, 0.0)) for index, (start, end) in spans.items()}
        # Still inside the `with`: streams cannot be used once the container is closed.
        seconds = [lengths[stream.index] if stream is not None else 0.0 for stream in (audio, video)]
        return seconds[0], seconds[1]


def read_metadata(path) -> dict[str, str]:
    """Read the tags of a wav or mp4 (`TAGS`, and any others that the container has).

    Raises:
      MediaError: the file is missing, empty or unreadable.
    """
    _check_size(path, float("inf"))
    try:
        with soundfile.SoundFile(_input(path)) as sound:
            return {key: value for key, value in sound.copy_metadata().items() if value}
    except soundfile.LibsndfileError:
        with _open(path) as container:
            return dict(container.metadata)


def _check_size(path, max_megabytes: float) -> None:
    if isinstance(path, str | Path) and not Path(path).is_file():
        raise MediaError(path, "there is no such file" if not Path(path).exists() else "is not a file")
    with _media_errors(path):
        size = size_of(Path(path) if isinstance(path, str) else path)
    if size == 0:
        raise MediaError(path, "is empty (0 bytes); record it again")
    if size > max_megabytes * 1e6:
        raise MediaError(path, f"is {size / 1e6:.1f} MB, over the limit of {max_megabytes:g} MB; shorten it")


def _check_wav_complete(path) -> None:
    """Compare a RIFF file's size with its header: libsndfile reads a file that is cut short as a shorter recording."""
    source = _input(path)
    with open(source, "rb") if isinstance(source, str) else source as file:
        head = file.read(8)
        if head[:4] != b"RIFF":
            return
        expected, actual = int.from_bytes(head[4:], "little") + 8, file.seek(0, os.SEEK_END)
    if actual < expected and expected < 2**32 - 1:  # a stream of unknown length has the largest number there
        raise MediaError(path, f"is cut short: {actual:,} of {expected:,} bytes are there; copy it again")


def _check_complete(path, stream, packets: int) -> None:
    """Compare the number of packets with an mp4's header: FFmpeg reads a file that is cut short as a shorter one."""
    if stream.frames and packets < stream.frames:
        counts = f"{packets} of {stream.frames} {stream.type} frames"
        raise MediaError(path, f"is cut short: {counts} are there; copy it again")


def _input(path):
    with _media_errors(path):
        return readable_input(Path(path) if isinstance(path, str) else path)


def _check_seconds(path, seconds: float, limit: float) -> None:
    if seconds > limit:
        raise MediaError(path, f"lasts {seconds:.1f} s, over the limit of {limit:g} s; shorten it")


@contextlib.contextmanager
def _media_errors(path):
    """Turn errors of FFmpeg, of PyAV (for bytes that are not UTF-8) and of containers into a MediaError."""
    try:
        yield
    except UnreadableError as error:
        raise MediaError(path, str(error).removeprefix(f"{path}: ")) from error
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(path, f"cannot be read as media ({error}); is it a whole audio or video file?") from error


@contextlib.contextmanager
def _open(path) -> Iterator[av.container.InputContainer]:
    with _media_errors(path):
        container = av.open(_input(path), "r", metadata_errors="ignore")
    with container:
        yield container


def _read_audio_av(path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Decode the sound with FFmpeg: float32 [samples], mono, and its rate, that of the file."""
    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError(path, "has no audio stream; give a file with sound")
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate or 0
        blocks, samples = [], 0
        with _media_errors(path):
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate or None)
            packets = 0
            for packet in container.demux(stream):
                packets += bool(packet.size)
                for block in (block for frame in packet.decode() for block in resampler.resample(frame)):
                    blocks.append(block.to_ndarray()[0])
                    samples += block.samples
                    rate = block.sample_rate
                _check_seconds(path, samples / max(rate, 1), max_seconds)
            _check_complete(path, stream, packets)
            blocks.extend(block.to_ndarray()[0] for block in resampler.resample(None))
    return (np.concatenate(blocks) if blocks else np.zeros(0, np.float32)), rate


def _packet_times(path, container, stream) -> tuple[list[int], float]:
    """Return the presentation stamps of all frames, in order, and the seconds they span; nothing is decoded."""
    stamps, length, packets = [], 0, 0  # length: of the last frame, in the stream's time base
    with _media_errors(path):
        for position, packet in enumerate(container.demux(stream)):
            packets += bool(packet.size)
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts if packet.pts is not None else position)
                length = packet.duration or length
    _check_complete(path, stream, packets)
    stamps.sort()
    if not stamps:
        return [], 0.0
    if not length:
        length = (stamps[-1] - stamps[0]) // max(len(stamps) - 1, 1)
    return stamps, float((stamps[-1] - stamps[0] + length) * stream.time_base)


def _nearest_stamps(stamps: list[int], time_base: float, seconds: float, count: int | None) -> list[int]:
    """Return the stamps of the frames nearest to the ticks of a 25 fps clock that starts with the first frame."""
    total = max(1, round(seconds * FPS))
    ticks = np.arange(total) if count is None else ((np.arange(count) + 0.5) / count * total).astype(int)
    times = (np.array(stamps) - stamps[0]) * time_base
    right = np.clip(np.searchsorted(times, ticks / FPS), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    index = np.where(np.abs(times[left] - ticks / FPS) <= np.abs(times[right] - ticks / FPS), left, right)
    return [stamps[i] for i in index]


def _scaled_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    scale = 1.0 if max_side is None else min(1.0, max_side / max(height, width, 1))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _decode(path, stream, wanted: set[int], max_side: int | None) -> dict[int, np.ndarray]:
    """Decode a stream from its start and keep the frames with the wanted stamps: uint8 [h, w, 3] RGB by stamp.

    Where decoding breaks off, the frames before that are returned.
    """
    frames = {}
    try:
        for position, frame in enumerate(stream.container.decode(stream)):
            stamp = frame.pts if frame.pts is not None else position
            if stamp in wanted:
                height, width = _scaled_size(frame.height, frame.width, max_side)
                pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
                frames[stamp] = np.rot90(pixels, round(frame.rotation / 90)) if frame.rotation else pixels
                if len(frames) == len(wanted):
                    break
    except av.error.FFmpegError as error:
        if not frames:
            raise MediaError(path, f"its frames cannot be decoded ({error})") from error
    return frames
