"""Writes wav and mp4 files; after an interruption a file is either complete or not there."""

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import soundfile

from empatheia_jax.data.media.reading import FPS, TAGS, MediaError
from empatheia_jax.runtime.atomic import replacing

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def write_audio(path, audio: np.ndarray, sample_rate: int, metadata: dict[str, str] | None = None) -> None:
    """Write mono 16-bit PCM wav with LIST/INFO tags.

    Args:
      path: file to write; its folder is made.
      audio: float [samples], -1..1 (clipped).
      sample_rate: Hz.
      metadata: tags (see `TAGS`).

    Raises:
      MediaError: there are no samples, or some are not finite.
    """
    audio = _checked_audio(path, audio)
    with _atomic(path) as temporary:
        with soundfile.SoundFile(temporary, "w", sample_rate, 1, "PCM_16", format="WAV") as sound:
            for key, value in _tags(metadata).items():
                setattr(sound, key, value)
            sound.write(audio)


def write_video(
    path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: int = FPS,
    *,
    audio: np.ndarray | None = None,
    sample_rate: int | None = None,
    metadata: dict[str, str] | None = None,
    preset: str = "veryfast",
    crf: int = 18,
) -> None:
    """Write an mp4 that plays everywhere: h264 yuv420p, and aac when there is sound.

    Sound and video end together: the shorter one is extended (by silence, or by holding the last frame). One encoder
    thread is used, so the same input gives the same bytes on every machine with the same libraries.

    Args:
      path: file to write; its folder is made.
      frames: uint8 [F, h, w, 3] RGB (h, w even), or an iterator of frames.
      fps: frames per second.
      audio: float [samples], -1..1 (clipped); None writes a silent video.
      sample_rate: rate of `audio`, Hz.
      metadata: tags (see `TAGS`).
      preset: x264's preset, speed against size.
      crf: x264's constant rate factor; smaller is better.

    Raises:
      MediaError: no frames, odd or changing sizes, sound without a rate or with values that are not finite.
    """
    track: tuple[np.ndarray, int] | None = None  # sound and its rate
    if audio is not None:
        if not sample_rate:
            raise MediaError(path, "sound needs its sample_rate")
        track = _checked_audio(path, audio), sample_rate
    with _atomic(path) as temporary, av.open(str(temporary), "w", format="mp4", options=_MOVFLAGS) as container:
        container.metadata.update(_tags(metadata))
        video = container.add_stream("libx264", rate=fps, options={"preset": preset, "crf": str(crf), "threads": "1"})
        video.pix_fmt = "yuv420p"
        sound = None
        if track is not None:  # the fast coder takes half the time and, on speech, loses less
            sound = container.add_stream("aac", _aac_rate(track[1]), layout="mono", options={"aac_coder": "fast"})
        written, last = 0, None
        for frame in frames:
            frame = _checked_frame(path, frame, last)
            if last is None:
                video.height, video.width = frame.shape[:2]
            _encode_frame(container, video, frame, written)
            written, last = written + 1, frame
        if last is None:
            raise MediaError(path, "there are no frames to write")
        while track is not None and written * track[1] < len(track[0]) * fps:
            _encode_frame(container, video, last, written)
            written += 1
        container.mux(video.encode())
        if track is not None:
            (waveform, rate), samples = track, -(-written * track[1] // fps)
            _encode_sound(container, sound, np.pad(waveform, (0, max(0, samples - len(waveform))))[:samples], rate)


_MOVFLAGS = {"movflags": "faststart"}


def _tags(metadata: dict[str, str] | None) -> dict[str, str]:
    """Return the tags by names that both containers have; the others become "name: value" in the comment."""
    metadata = {key: str(value) for key, value in (metadata or {}).items()}
    tags = {key: value for key, value in metadata.items() if key in TAGS}
    others = [f"{key}: {value}" for key, value in metadata.items() if key not in TAGS]
    if others:
        tags["comment"] = "; ".join(([tags["comment"]] if tags.get("comment") else []) + others)
    return tags


def _checked_audio(path, audio) -> np.ndarray:
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not len(audio):
        raise MediaError(path, f"sound must be [samples] with at least one sample, not {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise MediaError(path, "sound to write holds values that are not numbers")
    return np.clip(audio, -1.0, 1.0)


def _checked_frame(path, frame, last) -> np.ndarray:
    frame = np.ascontiguousarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape[0] % 2 or frame.shape[1] % 2:
        raise MediaError(path, f"a frame must be uint8 [h, w, 3] with even h and w, not {frame.dtype} {frame.shape}")
    if last is not None and last.shape != frame.shape:
        raise MediaError(path, f"frames change size from {last.shape} to {frame.shape}")
    return frame


@contextlib.contextmanager
def _atomic(path) -> Iterator[Path]:
    """Make the folder, write through `replacing`, and turn the encoder's errors into a MediaError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            yield temporary
    except av.error.FFmpegError as error:
        raise MediaError(path, f"cannot be encoded ({error})") from error


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
