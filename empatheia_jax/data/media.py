"""Wav and mp4, in and out: the one place that opens a media file.

Reading is strict (a bad file is one `MediaError` that names it) and normalising: audio becomes mono float32 at the rate
asked for, video becomes RGB frames at 25 fps (AvaMERG's rate, section 3.3). Writing is atomic: a file is either whole
or not there. Wav goes through soundfile, everything else through PyAV (libsndfile does not read mp4).
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from empatheia_jax.data.containers import UnreadableError, size_of, source

FPS = 25
MAX_DECODED_BYTES = 3 << 30
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
TAGS = ("title", "artist", "comment", "copyright", "date", "genre", "album")
"""Metadata names that both a wav's LIST/INFO chunk and an mp4's ilst atom hold; others are folded into `comment`."""


class MediaError(ValueError):
    """A media file that cannot be used: names the file, what is wrong with it and what to do."""

    def __init__(self, path, message: str):
        super().__init__(f"{path}: {message}")
        self.path = str(path)


# Reading ==============================================================================================================


def read_audio(path, sample_rate: int, max_seconds: float = 60.0, max_megabytes: float = 50.0) -> np.ndarray:
    """Read the sound of a wav, flac, ogg, mp3, mp4 ... of any rate and channel count.

    Args:
      path: the file, or what else it is in (`containers.Recording`).
      sample_rate: rate of the result, Hz.
      max_seconds, max_megabytes: limits of one utterance.
    Returns:
      float32 [samples], mono, -1..1.
    Raises:
      MediaError: the file is missing, empty, unreadable, silent of samples, or over a limit.
    """
    _check_size(path, max_megabytes)
    try:
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
      MediaError: the file is missing, empty, unreadable, without pictures, or over a limit.
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
    if not pictures:
        raise MediaError(path, "none of its frames can be decoded; record it again")
    have = np.array(sorted(pictures))
    nearest = have[np.abs(have[None] - np.array(wanted)[:, None]).argmin(axis=1)]
    return np.stack([pictures[int(stamp)] for stamp in nearest])


def duration(path) -> tuple[float, float]:
    """Seconds of sound and of pictures of a file (0.0 for a stream it does not have), from its packets' times.

    Raises:
      MediaError: the file is missing, empty or unreadable.
    """
    _check_size(path, float("inf"))
    with _opened(path) as container:
        audio = container.streams.audio[0] if container.streams.audio else None
        video = container.streams.video[0] if container.streams.video else None
        span = {stream.index: [np.inf, 0.0] for stream in (audio, video) if stream is not None}
        with _named_errors(path):
            for packet in container.demux():
                if packet.pts is None or packet.stream.index not in span:
                    continue
                start = float(packet.pts * packet.time_base)
                ends = span[packet.stream.index]
                ends[0] = min(ends[0], start)
                ends[1] = max(ends[1], start + float((packet.duration or 0) * packet.time_base))
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
            for frame in container.decode(stream):
                for block in resampler.resample(frame):
                    blocks.append(block.to_ndarray()[0])
                    samples += block.samples
                    rate = block.sample_rate
                _check_seconds(path, samples / max(rate, 1), max_seconds)
            blocks.extend(block.to_ndarray()[0] for block in resampler.resample(None))
    return (np.concatenate(blocks) if blocks else np.zeros(0, np.float32)), rate


def _packet_times(path, container, stream) -> tuple[list[int], float]:
    """Presentation stamps of all frames, in order, and the seconds they span; nothing is decoded."""
    stamps, last = [], 0
    with _named_errors(path):
        for position, packet in enumerate(container.demux(stream)):
            if packet.size and not packet.is_discard:
                stamps.append(packet.pts if packet.pts is not None else position)
                last = packet.duration or last
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
    """Decode front to back, keeping RGB of the wanted stamps; a clip that breaks off keeps what came before."""
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


# Writing ==============================================================================================================


def write_audio(path, audio: np.ndarray, sample_rate: int, metadata: dict[str, str] | None = None) -> None:
    """Write mono 16-bit PCM wav with LIST/INFO tags.

    Args:
      path: where; its folder is made.
      audio: float [samples], -1..1 (clipped).
      sample_rate: Hz.
      metadata: tags (see `TAGS`).
    Raises:
      MediaError: there are no samples, or some are not numbers.
    """
    audio = _sound(path, audio)
    with _atomic(path) as temporary:
        with soundfile.SoundFile(temporary, "w", sample_rate, 1, "PCM_16", format="WAV") as sound:
            for key, value in _tags(metadata).items():
                setattr(sound, key, value)
            sound.write(audio)


def write_video(
    path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: int = FPS,
    audio: np.ndarray | None = None,
    sample_rate: int | None = None,
    metadata: dict[str, str] | None = None,
    preset: str = "veryfast",
    crf: int = 18,
) -> None:
    """Write an mp4 that plays everywhere: h264 yuv420p, and aac when there is sound.

    Sound and pictures end together: the shorter one is extended (by silence, or by holding the last frame). One encoder
    thread, so the same input gives the same bytes on every machine with the same libraries.

    Args:
      path: where; its folder is made.
      frames: uint8 [F, h, w, 3] RGB (h, w even), or an iterator of frames.
      fps: frames a second.
      audio, sample_rate: float [samples], -1..1, and its rate.
      metadata: tags (see `TAGS`).
      preset, crf: x264's speed and quality.
    Raises:
      MediaError: no frames, odd or changing sizes, sound without a rate or with values that are not numbers.
    """
    if audio is not None:
        if not sample_rate:
            raise MediaError(path, "sound needs its sample_rate")
        audio = _sound(path, audio)
    with _atomic(path) as temporary, av.open(str(temporary), "w", format="mp4", options=_MOVFLAGS) as container:
        container.metadata.update(_tags(metadata))
        video = container.add_stream("libx264", rate=fps, options={"preset": preset, "crf": str(crf), "threads": "1"})
        video.pix_fmt = "yuv420p"
        sound = None
        if audio is not None:  # the fast coder halves the time and, on speech, loses less
            sound = container.add_stream("aac", _aac_rate(sample_rate), layout="mono", options={"aac_coder": "fast"})
        written, last = 0, None
        for frame in frames:
            frame = _frame(path, frame, last)
            if last is None:
                video.height, video.width = frame.shape[:2]
            _encode_frame(container, video, frame, written)
            written, last = written + 1, frame
        if last is None:
            raise MediaError(path, "there are no frames to write")
        while sound is not None and written * sample_rate < len(audio) * fps:
            _encode_frame(container, video, last, written)
            written += 1
        container.mux(video.encode())
        if sound is not None:
            samples = -(-written * sample_rate // fps)
            _encode_sound(container, sound, np.pad(audio, (0, max(0, samples - len(audio))))[:samples], sample_rate)


_MOVFLAGS = {"movflags": "faststart"}


def _tags(metadata: dict[str, str] | None) -> dict[str, str]:
    """Names both containers know; the rest as "name: value" in the comment."""
    metadata = {key: str(value) for key, value in (metadata or {}).items()}
    tags = {key: value for key, value in metadata.items() if key in TAGS}
    rest = [f"{key}: {value}" for key, value in metadata.items() if key not in TAGS]
    if rest:
        tags["comment"] = "; ".join(([tags["comment"]] if tags.get("comment") else []) + rest)
    return tags


def _sound(path, audio) -> np.ndarray:
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not len(audio):
        raise MediaError(path, f"sound must be [samples] with at least one sample, not {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise MediaError(path, "sound to write holds values that are not numbers")
    return np.clip(audio, -1.0, 1.0)


def _frame(path, frame, last) -> np.ndarray:
    frame = np.ascontiguousarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
        raise MediaError(path, f"a frame must be uint8 [h, w, 3] with even h and w, not {frame.dtype} {frame.shape}")
    if last is not None and last.shape != frame.shape:
        raise MediaError(path, f"frames change size from {last.shape} to {frame.shape}")
    return frame


@contextlib.contextmanager
def _atomic(path) -> Iterator[Path]:
    """A temporary name beside `path`, moved onto it when all went well and removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except av.FFmpegError as error:
        raise MediaError(path, f"cannot be encoded ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _aac_rate(rate: int) -> int:
    return rate if rate in AAC_RATES else 48000


def _encode_frame(container, stream, frame: np.ndarray, index: int) -> None:
    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
    picture.pts = index
    picture.time_base = 1 / Fraction(stream.codec_context.framerate)
    container.mux(stream.encode(picture))


def _encode_sound(container, stream, audio: np.ndarray, sample_rate: int) -> None:
    block = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[None]), format="fltp", layout="mono")
    block.sample_rate = sample_rate
    block.pts = 0
    block.time_base = Fraction(1, sample_rate)
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=stream.rate, frame_size=1024)
    for part in [*resampler.resample(block), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode())
