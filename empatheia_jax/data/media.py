"""Wav and mp4 read: the one place that opens a media file (`data.media_writing` makes them).

Reading is strict (a bad file is one `MediaError` that names it) and normalising: audio becomes mono float32 at the rate
asked for, video becomes RGB frames at 25 fps (AvaMERG's rate, section 3.3). Wav goes through soundfile, everything else
through PyAV (libsndfile does not read mp4).
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from empatheia_jax.data.containers import UnreadableError, size_of, source

FPS = 25
MAX_DECODED_BYTES = 3 << 30
MOST_LOST = 0.1  # share of frames that may be damaged: their neighbours stand in for them
TAGS = ("title", "artist", "comment", "copyright", "date", "genre", "album")
"""Metadata names that both a wav's LIST/INFO chunk and an mp4's ilst atom hold; others are folded into `comment`."""


class MediaError(ValueError):
    """A media file that cannot be used: names the file, what is wrong with it and what to do."""

    def __init__(self, path, message: str):
        super().__init__(f"{path}: {message}")
        self.path = str(path)


def read_audio(path, sample_rate: int, max_seconds: float = 60.0, max_megabytes: float = 50.0) -> np.ndarray:
    """Read the sound of a wav, flac, ogg, mp3, mp4 ... of any rate and channel count.

    Args:
      path: the file, or what else it is in (`containers.Recording`).
      sample_rate: rate of the result, Hz.
      max_seconds, max_megabytes: limits of one utterance.
    Returns:
      float32 [samples], mono, -1..1.
    Raises:
      MediaError: the file is missing, empty, unreadable, cut short, silent of samples, or over a limit.
    """
    _check_size(path, max_megabytes)
    try:
        _check_whole_wav(path)
        with soundfile.SoundFile(_source(path)) as sound:
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
    max_seconds: float = 60.0,
    max_megabytes: float = 50.0,
    max_side: int | None = None,
    first: int | None = None,
) -> np.ndarray:
    """Read the pictures of a video, put onto a 25 fps clock by nearest frame.

    Only the frames that are returned are converted to RGB, so `count=8` of a long clip is cheap.

    Args:
      path: as for `read_audio`; any rate (constant or not) and size.
      count: return this many frames spaced evenly over the clip (middles of equal shares) instead of all; a clip with
        fewer repeats some.
      max_seconds, max_megabytes: limits of one utterance.
      max_side: scale down so that neither side is longer than this, pixels.
      first: of what would be returned only so many from the beginning.
    Returns:
      uint8 [F, h, w, 3] RGB, upright (a phone's rotation flag is applied).
    Raises:
      MediaError: the file is missing, empty, unreadable, cut short, without pictures, or over a limit, or more than
        `MOST_LOST` of the frames asked for cannot be decoded.
    """
    _check_size(path, max_megabytes)
    with _opened(path) as container:
        if not container.streams.video:
            raise MediaError(path, "has no video stream; give a file with pictures")
        stream = container.streams.video[0]
        stamps, seconds = _packet_times(path, container, stream)
        _check_seconds(path, seconds, max_seconds)
        if not stamps:
            raise MediaError(path, "has a video stream but no frames; record it again")
        wanted = _nearest(stamps, float(stream.time_base), seconds, count)[:first]
        height, width = _scaled(stream.codec_context.height, stream.codec_context.width, max_side)
        if len(wanted) * height * width * 3 > MAX_DECODED_BYTES:
            raise MediaError(path, f"{len(wanted)} frames of {width}x{height} do not fit; read fewer or smaller ones")
        container.seek(0)
        pictures = _decode(path, container, stream, set(wanted), max_side)
    lost = len(set(wanted) - pictures.keys())
    if lost > MOST_LOST * len(wanted):
        raise MediaError(path, f"is damaged: {lost} of {len(set(wanted))} frames cannot be decoded; record it again")
    have = np.array(sorted(pictures))
    nearest = have[np.abs(have[None] - np.array(wanted)[:, None]).argmin(axis=1)]
    return np.stack([pictures[int(stamp)] for stamp in nearest])


def duration(path) -> tuple[float, float]:
    """Seconds of sound and of pictures of a file (0.0 for a stream it does not have), from its packets' times.

    Raises:
      MediaError: the file is missing, empty, cut short or unreadable.
    """
    _check_size(path, float("inf"))
    _check_whole_wav(path)
    with _opened(path) as container:
        audio = container.streams.audio[0] if container.streams.audio else None
        video = container.streams.video[0] if container.streams.video else None
        span = {stream.index: [np.inf, 0.0] for stream in (audio, video) if stream is not None}
        packets = dict.fromkeys(span, 0)
        with _named_errors(path):
            for packet in container.demux():
                if packet.size and packet.stream.index in packets:
                    packets[packet.stream.index] += 1
                if packet.pts is None or packet.stream.index not in span:
                    continue
                start = float(packet.pts * packet.time_base)
                ends = span[packet.stream.index]
                ends[0] = min(ends[0], start)
                ends[1] = max(ends[1], start + float((packet.duration or 0) * packet.time_base))
        for stream in (audio, video):
            if stream is not None:
                _check_whole(path, stream, packets[stream.index])
        # AAC priming sits before time 0 and is never played. Streams are gone once the container is closed.
        lengths = {index: max(0.0, end - max(start, 0.0)) for index, (start, end) in span.items()}
        return tuple(lengths[stream.index] if stream is not None else 0.0 for stream in (audio, video))


def read_metadata(path) -> dict[str, str]:
    """The tags of a wav or mp4 (`TAGS` and whatever else the container names).

    Raises:
      MediaError: the file is missing, empty or unreadable.
    """
    _check_size(path, float("inf"))
    try:
        with soundfile.SoundFile(_source(path)) as sound:
            return {key: value for key, value in sound.copy_metadata().items() if value}
    except soundfile.LibsndfileError:
        with _opened(path) as container:
            return dict(container.metadata)


def _check_size(path, max_megabytes: float) -> None:
    if isinstance(path, str | Path) and not Path(path).is_file():
        raise MediaError(path, "there is no such file" if not Path(path).exists() else "is not a file")
    with _named_errors(path):
        size = size_of(Path(path) if isinstance(path, str) else path)
    if size == 0:
        raise MediaError(path, "is empty (0 bytes); record it again")
    if size > max_megabytes * 1e6:
        raise MediaError(path, f"is {size / 1e6:.1f} MB, over the limit of {max_megabytes:g} MB; shorten it")


def _check_whole_wav(path) -> None:
    """A RIFF file says how long it is; libsndfile reads one that is cut short as a shorter recording."""
    given = _source(path)
    with open(given, "rb") if isinstance(given, str) else given as file:
        head = file.read(8)
        if head[:4] != b"RIFF":
            return
        promised, there = int.from_bytes(head[4:], "little") + 8, file.seek(0, os.SEEK_END)
    if there < promised and promised < 2**32 - 1:  # a stream's unknown length is written as the most
        raise MediaError(path, f"is cut short: {there:,} of {promised:,} bytes are there; copy it again")


def _check_whole(path, stream, packets: int) -> None:
    """An mp4 says how many packets a stream has; FFmpeg reads one that is cut short as a shorter one."""
    if stream.frames and packets < stream.frames:
        found = f"{packets} of {stream.frames} {stream.type} frames"
        raise MediaError(path, f"is cut short: {found} are there; copy it again")


def _source(path):
    with _named_errors(path):
        return source(Path(path) if isinstance(path, str) else path)


def _check_seconds(path, seconds: float, limit: float) -> None:
    if seconds > limit:
        raise MediaError(path, f"lasts {seconds:.1f} s, over the limit of {limit:g} s; shorten it")


@contextlib.contextmanager
def _named_errors(path):
    """FFmpeg's errors (and PyAV's for foreign bytes) and those of containers as ours."""
    try:
        yield
    except UnreadableError as error:
        raise MediaError(path, str(error).removeprefix(f"{path}: ")) from error
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(path, f"cannot be read as media ({error}); is it a whole audio or video file?") from error


@contextlib.contextmanager
def _opened(path) -> Iterator[av.container.InputContainer]:
    with _named_errors(path):
        container = av.open(_source(path), metadata_errors="ignore")
    with container:
        yield container


def _read_audio_av(path, max_seconds: float) -> tuple[np.ndarray, int]:
    """Mono float32 [samples] at the file's own rate, by FFmpeg."""
    with _opened(path) as container:
        if not container.streams.audio:
            raise MediaError(path, "has no audio stream; give a file with sound")
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate or 0
        blocks, samples = [], 0
        with _named_errors(path):
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate or None)
            packets = 0
            for packet in container.demux(stream):
                packets += bool(packet.size)
                for block in (block for frame in packet.decode() for block in resampler.resample(frame)):
                    blocks.append(block.to_ndarray()[0])
                    samples += block.samples
                    rate = block.sample_rate
                _check_seconds(path, samples / max(rate, 1), max_seconds)
            _check_whole(path, stream, packets)
            blocks.extend(block.to_ndarray()[0] for block in resampler.resample(None))
    return (np.concatenate(blocks) if blocks else np.zeros(0, np.float32)), rate


def _packet_times(path, container, stream) -> tuple[list[int], float]:
    """Presentation stamps of all frames, in order, and the seconds they span; nothing is decoded."""
    stamps, last, packets = [], 0, 0
    with _named_errors(path):
        for position, packet in enumerate(container.demux(stream)):
            packets += bool(packet.size)
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts if packet.pts is not None else position)
                last = packet.duration or last
    _check_whole(path, stream, packets)
    stamps.sort()
    if not stamps:
        return [], 0.0
    if not last:
        last = (stamps[-1] - stamps[0]) // max(len(stamps) - 1, 1)
    return stamps, float((stamps[-1] - stamps[0] + last) * stream.time_base)


def _nearest(stamps: list[int], time_base: float, seconds: float, count: int | None) -> list[int]:
    """Stamps of the frames nearest to the ticks of a 25 fps clock that starts with the first frame."""
    total = max(1, round(seconds * FPS))
    ticks = np.arange(total) if count is None else ((np.arange(count) + 0.5) / count * total).astype(int)
    times = (np.array(stamps) - stamps[0]) * time_base
    right = np.clip(np.searchsorted(times, ticks / FPS), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    index = np.where(np.abs(times[left] - ticks / FPS) <= np.abs(times[right] - ticks / FPS), left, right)
    return [stamps[i] for i in index]


def _scaled(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    scale = 1.0 if max_side is None else min(1.0, max_side / max(height, width, 1))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _decode(path, container, stream, wanted: set[int], max_side: int | None) -> dict[int, np.ndarray]:
    """Decode front to back, keeping RGB of the wanted stamps; of a clip that breaks off, those before."""
    pictures = {}
    try:
        for position, frame in enumerate(container.decode(stream)):
            stamp = frame.pts if frame.pts is not None else position
            if stamp in wanted:
                height, width = _scaled(frame.height, frame.width, max_side)
                picture = frame.to_ndarray(format="rgb24", width=width, height=height)
                pictures[stamp] = np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture
                if len(pictures) == len(wanted):
                    break
    except av.FFmpegError as error:
        if not pictures:
            raise MediaError(path, f"its frames cannot be decoded ({error})") from error
    return pictures
