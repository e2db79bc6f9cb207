"""Decodes the sound of a recording and mixes it down to one channel.

libsndfile reads the uncompressed formats, FFmpeg those that may be joined (mp3, ogg, flac: libsndfile stops after the
first part) and all others; where either cannot read a file, the other is asked.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import soundfile
import soxr

from empatheia_jax.data.media.completeness import check_complete
from empatheia_jax.data.media.containers import readable_input
from empatheia_jax.data.media.errors import MediaError, media_errors
from empatheia_jax.data.media.streams import check_index, choose_stream, head_of, open_container

MAX_PEAK = 8.0
"""Largest sample, full scale being 1: a recording that is too loud is clipped, integers in a float file are refused."""

_JOINABLE = ("FLAC", "OGG", "MP3")
_MP3_HEAD = 8192  # bytes in which the count of frames is looked for
_SAMPLE_RATES = range(1000, 1_000_001)  # Hz
_FULL_SCALE = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31}
_QUIET = 0.01  # of the loudest second: whether channels cancel in quieter ones does not matter
_BLOCK = 65_536  # samples that are decoded at a time


@dataclasses.dataclass(frozen=True)
class Sound:
    """Decoded sound.

    Attributes:
      samples: float32 [samples], mono.
      sample_rate: Hz, that of the file.
      notes: what was done to it that its listener should know.
    """

    samples: np.ndarray
    sample_rate: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass
class _Part:
    """Samples of one rate and number of channels; joined files have several."""

    sample_rate: int
    blocks: list[np.ndarray]  # float32 [channels, samples]


def decode_sound(path, max_seconds: float) -> Sound:
    """Decode the whole sound of a recording.

    Args:
      path: the file, or a recording in a container.
      max_seconds: longest duration.

    Raises:
      MediaError: unreadable, cut short, without sound or samples, too long, or with samples that are no sound.
    """
    check_complete(path)
    parts = [
        (part.sample_rate, np.concatenate(part.blocks, axis=1)) for part in _decode(path, max_seconds) if part.blocks
    ]
    parts = [(rate, channels) for rate, channels in parts if channels.size]
    if not parts:
        raise MediaError(path, "holds no audio samples; record it again", "without sound")
    notes: list[str] = []
    rate, samples = parts[0][0], []
    for part_rate, channels in parts:
        _check_samples(path, channels)
        samples.append(resample(path, _mix(channels, notes), part_rate, rate))
    return Sound(np.concatenate(samples), rate, tuple(dict.fromkeys(notes)))


def resample(path, samples: np.ndarray, sample_rate: int, wanted_rate: int) -> np.ndarray:
    """Resample float32 [samples] from one rate to another, both in Hz.

    Raises:
      MediaError: a rate that no recording has.
    """
    if sample_rate == wanted_rate:
        return samples
    with media_errors(path):
        return soxr.resample(samples, sample_rate, wanted_rate)


def check_seconds(path, seconds: float, limit: float) -> None:
    """Check a length against the limit of one utterance.

    Raises:
      MediaError: it is over the limit.
    """
    if seconds > limit:
        raise MediaError(path, f"lasts {seconds:.1f} s, over the limit of {limit:g} s; shorten it", "too long")


def _decode(path, max_seconds: float) -> list[_Part]:
    """Decode with the library that suits the format, and with the other where that fails."""
    decoders: list[Callable[..., list[_Part]]] = [_decode_libsndfile, _decode_ffmpeg]
    with media_errors(path):
        source = readable_input(path)
    try:
        with soundfile.SoundFile(source) as sound:
            if sound.format in _JOINABLE or not sound.frames or not sound.seekable():  # GSM: it counts a block too many
                decoders.reverse()
    except (RuntimeError, ValueError, OSError):
        decoders.remove(_decode_libsndfile)
    errors: list[MediaError] = []
    for decoder in decoders:
        try:
            return decoder(path, max_seconds)
        except MediaError as error:
            if error.problem != "unreadable":  # the other library would read a file that is cut as a shorter one
                raise
            errors.append(error)
    raise errors[0]


def _decode_libsndfile(path, max_seconds: float) -> list[_Part]:
    with media_errors(path), soundfile.SoundFile(readable_input(path)) as sound:
        _check_rate(path, sound.samplerate)
        part, samples = _Part(sound.samplerate, []), 0
        while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
            part.blocks.append(block.T)
            samples += len(block)
            check_seconds(path, max(samples, sound.frames) / sound.samplerate, max_seconds)
    return [part]


def _check_rate(path, rate: int) -> None:
    if rate not in _SAMPLE_RATES:
        raise MediaError(path, f"gives its sample rate as {rate:,} Hz, which no recording has; export it again")


def _decode_ffmpeg(path, max_seconds: float) -> list[_Part]:
    parts: list[_Part] = []
    packets = samples = 0
    with open_container(path) as container:
        stream = choose_stream(path, container, "audio")
        check_index(path, container, stream)
        with media_errors(path):
            for packet in container.demux(stream):
                packets += bool(packet.size)
                for frame in packet.decode():
                    block = _as_float(frame)
                    _check_rate(path, frame.sample_rate)
                    if not parts or (parts[-1].sample_rate, len(parts[-1].blocks[0])) != (
                        frame.sample_rate,
                        len(block),
                    ):
                        parts.append(_Part(frame.sample_rate, []))
                    parts[-1].blocks.append(block)
                    samples += block.shape[1]
                    check_seconds(path, samples / frame.sample_rate, max_seconds)
            counted, expected = 0, 0
            if container.format.name == "flac" and stream.duration:
                counted, expected = samples, round(stream.duration * stream.time_base * stream.rate)
            elif container.format.name == "mp3":
                counted, expected = packets, _mp3_frames(head_of(path, _MP3_HEAD))
    if counted < expected:
        raise MediaError(
            path, f"is cut short: {counted:,} of {expected:,} frames of sound are there; copy it again", "cut short"
        )
    return parts


def _as_float(frame) -> np.ndarray:
    """Return the samples of a decoded frame, float32 [channels, samples]."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    kind = array.dtype.str[1:]
    offset = 128.0 if kind == "u1" else 0.0
    return ((array - offset) / _FULL_SCALE.get(kind, 1.0)).astype(np.float32)


def _mp3_frames(head: bytes) -> int:
    """Return the count of frames that an encoder has written into the first frame of an mp3, or 0."""
    start = 0
    if head[:3] == b"ID3" and len(head) >= 10:
        start = 10 + sum((byte & 0x7F) << 7 * (9 - index) for index, byte in enumerate(head[6:10], start=6))
    first_frame = head[start : start + 200]
    at = max(first_frame.find(b"Xing"), first_frame.find(b"Info"))
    if at < 0 or len(first_frame) < at + 12 or not first_frame[at + 7] & 1:
        return 0
    return int.from_bytes(first_frame[at + 8 : at + 12])


def _check_samples(path, channels: np.ndarray) -> None:
    if not np.isfinite(channels).all():
        raise MediaError(path, "holds samples that are not numbers (nan or inf); export it again")
    peak = float(np.abs(channels).max())
    if peak > MAX_PEAK:
        scale = next((scale for scale in (2**7, 2**15, 2**23) if peak <= scale), 2**31)
        raise MediaError(
            path, f"its samples reach {peak:,.0f} where full scale is 1; divide them by {scale:,} and save it again"
        )


def _mix(channels: np.ndarray, notes: list[str]) -> np.ndarray:
    """Mix float32 [channels, samples] to [samples]: their mean, or the louder one where they cancel each other."""
    mean = channels.mean(axis=0)
    if len(channels) == 1:
        return mean
    loudest = channels[np.argmax(channels.std(axis=1))]
    edges = range(0, channels.shape[1], _BLOCK)
    power = np.array([loudest[at : at + _BLOCK].var() for at in edges])
    mixed = np.array([len(channels) ** 2 * mean[at : at + _BLOCK].var() for at in edges])
    if np.any((mixed < power / 2) & (power > _QUIET**2 * power.max())):
        notes.append("its channels cancel each other (one is inverted): the louder one is heard")
        return np.ascontiguousarray(loudest)
    return mean
