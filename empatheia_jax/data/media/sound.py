"""Decodes the sound of a recording and mixes it down to one channel.

libsndfile reads the uncompressed formats, FFmpeg those that may be joined (mp3, ogg, flac: libsndfile stops after the
first part) and all others; where either cannot read a file, the other is asked.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable

import av.error
import numpy as np
import soundfile
import soxr

from empatheia_jax.data.media.completeness import checked_input
from empatheia_jax.data.media.errors import MediaError, media_errors
from empatheia_jax.data.media.streams import as_file, check_index, choose_stream, head_of, open_container

MAX_LOST_SHARE = 0.1  # of the frames of sound or of pictures may be damaged
MAX_PEAK = 8.0
"""Largest sample, full scale being 1: a recording that is too loud is clipped, integers in a float file are refused."""

_JOINABLE = (b"fLaC", b"OggS")
_MP3_HEAD = 8192  # bytes in which the count of frames is looked for
_SAMPLE_RATES = range(1000, 1_000_001)  # Hz
_FULL_SCALE = {"u1": 128.0, "i2": 2.0**15, "i4": 2.0**31}
_QUIET = 0.01  # of the loudest second: whether channels cancel in quieter ones does not matter
_BLOCK = 65_536  # samples that are decoded at a time
_SECTION = 16_384  # samples, about a second of speech: channels may cancel only there


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
    notes: list[str] = []
    parts = [
        (part.sample_rate, np.concatenate(part.blocks, axis=1))
        for source in _separate_flac(checked_input(path))
        for part in _decode(path, source, max_seconds, notes)
        if part.blocks
    ]
    parts = [(rate, channels) for rate, channels in parts if channels.size]
    if not parts:
        raise MediaError(path, "holds no audio samples; record it again", "without sound")
    check_seconds(path, sum(channels.shape[1] / rate for rate, channels in parts), max_seconds)
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


def _separate_flac(source: str | bytes) -> list[str | bytes]:
    """Return each of the files that are joined to a flac: FFmpeg would lose blocks where one ends."""
    if head_of(source, 4) != b"fLaC":
        return [source]
    content = head_of(source, -1)
    starts = [match.start() for match in re.finditer(rb"fLaC[\x00\x80]\x00\x00\x22", content)]
    return [content[start:end] for start, end in itertools.pairwise([*starts, len(content)])]


def _decode(path, source: str | bytes, max_seconds: float, notes: list[str]) -> list[_Part]:
    """Decode with the library that suits the format, and with the other where that fails."""
    decoders: list[Callable[..., list[_Part]]] = [_decode_libsndfile, _decode_ffmpeg]
    head = head_of(source, 4)
    if head in _JOINABLE or head[:3] == b"ID3" or head[:1] == b"\xff":  # the last two: mp3
        decoders.reverse()
    else:
        try:
            with soundfile.SoundFile(as_file(source)) as sound:
                if not sound.frames or not sound.seekable():  # a GSM has a block less than libsndfile counts
                    decoders.reverse()
        except (RuntimeError, ValueError, OSError):  # FFmpeg says why where it cannot read it either
            decoders.remove(_decode_libsndfile)
    errors: list[MediaError] = []
    for decoder in decoders:
        try:
            return decoder(path, source, max_seconds, notes)
        except MediaError as error:
            if error.problem != "unreadable":  # the other library would read a file that is cut as a shorter one
                raise
            errors.append(error)
    raise errors[0]


def _decode_libsndfile(path, source: str | bytes, max_seconds: float, _notes: list[str]) -> list[_Part]:
    with media_errors(path), soundfile.SoundFile(as_file(source)) as sound:
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


def _decode_ffmpeg(path, source: str | bytes, max_seconds: float, notes: list[str]) -> list[_Part]:
    decoder = _Decoder(path, max_seconds)
    with open_container(path, source) as container:
        stream = choose_stream(path, container, "audio")
        check_index(path, container, stream)
        with media_errors(path):
            for packet in container.demux(stream):
                decoder.decode(packet)
            counted = expected = 0
            if container.format.name == "flac" and stream.duration:
                counted, expected = decoder.samples, round(stream.duration * stream.time_base * stream.rate)
            elif container.format.name == "mp3":
                counted, expected = decoder.packets, _mp3_frames(head_of(source, _MP3_HEAD))
    if counted < expected or decoder.has_failed_last:
        counts = f": {counted:,} of {expected:,} frames of sound are there" if expected else ", in its last frame"
        raise MediaError(path, f"is cut short{counts}; copy it again", "cut short")
    if decoder.failures > MAX_LOST_SHARE * decoder.packets:
        lost = f"{decoder.failures} of {decoder.packets} frames of sound cannot be decoded"
        problem = "damaged" if decoder.samples else "unreadable"  # libsndfile is asked where nothing was decoded
        raise MediaError(path, f"is damaged: {lost}; record it again", problem)
    if decoder.failures:
        notes.append(f"{decoder.failures} of {decoder.packets} frames of its sound cannot be decoded and are left out")
    return decoder.parts


class _Decoder:
    """Decodes packets of sound in their order.

    Attributes:
      parts: what was decoded so far.
      packets: number of packets so far.
      samples: number of samples so far.
      failures: number of packets that could not be decoded, as where two files are joined.
      has_failed_last: the last packet could not be decoded.
    """

    def __init__(self, path, max_seconds: float):
        self.parts: list[_Part] = []
        self.packets = self.samples = self.failures = 0
        self.has_failed_last = False
        self._path, self._max_seconds = path, max_seconds

    def decode(self, packet) -> None:
        """Decode a packet; one that is damaged is counted."""
        self.packets += bool(packet.size)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.failures += 1
            self.has_failed_last = True
            return
        if packet.size:
            self.has_failed_last = False
        for frame in frames:
            _check_rate(self._path, frame.sample_rate)
            block = _as_float(frame)
            kind = frame.sample_rate, len(block)
            if not self.parts or (self.parts[-1].sample_rate, len(self.parts[-1].blocks[0])) != kind:
                self.parts.append(_Part(frame.sample_rate, []))
            self.parts[-1].blocks.append(block)
            self.samples += block.shape[1]
            check_seconds(self._path, self.samples / frame.sample_rate, self._max_seconds)


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
    loudest = int(np.argmax(channels.std(axis=1)))
    # In the differences of neighbours, speech is stronger than the hum that both channels may have in common.
    if any(_cancel(signals, loudest) for signals in (channels, np.diff(channels))):
        notes.append("its channels cancel each other (one is inverted): the louder one is heard")
        return np.ascontiguousarray(channels[loudest])
    return mean


def _cancel(channels: np.ndarray, loudest: int) -> bool:
    """Return whether the sum of the channels has, anywhere, less than half of the power of the loudest alone."""
    edges = range(0, channels.shape[1], _SECTION)
    total = channels.sum(axis=0)
    power = np.array([channels[loudest, at : at + _SECTION].var() for at in edges])
    mixed = np.array([total[at : at + _SECTION].var() for at in edges])
    return bool(np.any((mixed < power / 2) & (power > _QUIET**2 * power.max())))
