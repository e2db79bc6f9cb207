"""Decodes the pictures of a video, every one of them, and keeps those nearest to the ticks of a clock."""

import dataclasses

import av.error
import numpy as np

from empatheia_jax.data.media.completeness import checked_input
from empatheia_jax.data.media.errors import MediaError, media_errors
from empatheia_jax.data.media.sound import MAX_LOST_SHARE, check_seconds
from empatheia_jax.data.media.streams import check_index, choose_stream, open_container

MAX_DECODED_BYTES = 3 << 30


@dataclasses.dataclass(frozen=True)
class Clip:
    """Decoded pictures.

    Attributes:
      frames: uint8 [F, h, w, 3] RGB, those asked for.
      seconds: length of the whole video.
      notes: what was done to it that its viewer should know.
    """

    frames: np.ndarray
    seconds: float
    notes: tuple[str, ...] = ()


def decode_video(
    path, fps: float, count: int | None, *, max_seconds: float, max_side: int | None, max_frames: int | None
) -> Clip:
    """Decode a video; only the frames that are kept are converted to RGB.

    Whether a video can be used depends on all its frames, not on those asked for.

    Args:
      path: the file, or a recording in a container.
      fps: frames per second of the result.
      count: keep this many frames, the middles of equal shares of the clip; None keeps all, 0 only measures.
      max_seconds: longest duration.
      max_side: scale down so that neither side is longer than this, pixels.
      max_frames: keep at most this many, the first.

    Raises:
      MediaError: unreadable, cut short, without pictures, too long or damaged.
    """
    with open_container(path, checked_input(path)) as container:
        stream = choose_stream(path, container, "video")
        check_index(path, container, stream)
        with media_errors(path):
            packets = list(container.demux(stream))
        clock = _read_clock(packets, stream)
        check_seconds(path, clock.seconds, max_seconds)
        if not clock.stamps:
            raise MediaError(path, "has a video stream but no frames; record it again", "without frames")
        wanted = _nearest_stamps(clock, fps, count)[:max_frames]
        height, width = _scaled_size(stream.codec_context.height, stream.codec_context.width, max_side)
        if len(wanted) * height * width * 3 > MAX_DECODED_BYTES:
            raise MediaError(path, f"{len(wanted)} frames of {width}x{height} do not fit; read fewer or smaller ones")
        decoder = _Decoder(set(wanted), clock.is_stamped, max_side)
        with media_errors(path):
            for packet in packets:
                decoder.decode(packet)
    total = len(clock.stamps)
    lost = max(total - decoder.decoded, 0)
    if lost > MAX_LOST_SHARE * total or not decoder.decoded:
        raise MediaError(path, f"is damaged: {lost} of {total} frames cannot be decoded; record it again", "damaged")
    notes = list(decoder.notes)
    if decoder.failures:
        notes.append(f"{decoder.failures} of its {total} frames cannot be decoded: the nearest stand in for them")
    if not wanted or not decoder.frames:
        return Clip(np.zeros((0, *decoder.canvas, 3), np.uint8), clock.seconds, tuple(notes))
    kept = np.array(sorted(decoder.frames))
    nearest = kept[np.abs(kept[None] - np.array(wanted)[:, None]).argmin(axis=1)]
    return Clip(np.stack([decoder.frames[int(stamp)] for stamp in nearest]), clock.seconds, tuple(notes))


@dataclasses.dataclass(frozen=True)
class _Clock:
    """When the frames are shown.

    Attributes:
      stamps: times of all frames, in order, in units of `time_base`.
      time_base: seconds.
      seconds: from the first frame to the end of the last.
      is_stamped: the file gives the times; else the stamps are positions (a stream without a container has no times).
    """

    stamps: list[int]
    time_base: float
    seconds: float
    is_stamped: bool


def _read_clock(packets: list, stream) -> _Clock:
    shown = [packet for packet in packets if packet.size and not packet.is_discard]  # an edit list discards some
    stamps = sorted(packet.pts for packet in shown if packet.pts is not None)
    if len(stamps) < len(shown):
        time_base = 1 / float(stream.guessed_rate or stream.average_rate or 25)
        return _Clock(list(range(len(shown))), time_base, len(shown) * time_base, False)
    if not stamps:
        return _Clock([], 1.0, 0.0, True)
    length = next((packet.duration for packet in reversed(shown) if packet.duration), 0)
    length = length or (stamps[-1] - stamps[0]) // max(len(stamps) - 1, 1)
    time_base = float(stream.time_base)
    return _Clock(stamps, time_base, (stamps[-1] - stamps[0] + length) * time_base, True)


def _nearest_stamps(clock: _Clock, fps: float, count: int | None) -> list[int]:
    """Return the stamps of the frames nearest to the ticks of a clock of `fps` that starts with the first frame."""
    total = max(1, round(clock.seconds * fps))
    ticks = np.arange(total) if count is None else ((np.arange(count) + 0.5) / count * total).astype(int)
    times = (np.array(clock.stamps) - clock.stamps[0]) * clock.time_base
    right = np.clip(np.searchsorted(times, ticks / fps), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    index = np.where(np.abs(times[left] - ticks / fps) <= np.abs(times[right] - ticks / fps), left, right)
    return [clock.stamps[i] for i in index]


def _scaled_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    scale = 1.0 if max_side is None else min(1.0, max_side / max(height, width, 1))
    return max(1, round(height * scale)), max(1, round(width * scale))


class _Decoder:
    """Decodes packets in their order and keeps the frames with the wanted stamps, upright and of one size.

    Attributes:
      frames: uint8 [h, w, 3] RGB by stamp.
      canvas: height and width, those of the first frame.
      decoded: number of frames so far.
      failures: number of packets that could not be decoded.
      notes: gets a line where pictures had to be brought to the size of the first.
    """

    def __init__(self, wanted: set[int], is_stamped: bool, max_side: int | None):
        self.frames: dict[int, np.ndarray] = {}
        self.canvas = self._first_size = (0, 0)
        self.decoded = self.failures = 0
        self.notes: list[str] = []
        self._wanted, self._is_stamped, self._max_side = wanted, is_stamped, max_side

    def decode(self, packet) -> None:
        """Decode a packet; one that is damaged is counted."""
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.failures += 1
            return
        for frame in frames:
            self._keep(frame, frame.pts if self._is_stamped and frame.pts is not None else self.decoded)
            self.decoded += 1

    def _keep(self, frame, stamp: int) -> None:
        turns = round(frame.rotation / 90)
        height, width = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        if not self.decoded:
            self._first_size, self.canvas = (height, width), _scaled_size(height, width, self._max_side)
        size = self.canvas
        if (height, width) != self._first_size:
            self.notes = [f"its pictures change size: all are shown in {self._first_size[1]}x{self._first_size[0]}"]
            scale = min(self.canvas[0] / height, self.canvas[1] / width)
            size = max(1, round(height * scale)), max(1, round(width * scale))
        if stamp not in self._wanted:
            return
        height, width = size[::-1] if turns % 2 else size
        picture = np.rot90(frame.to_ndarray(format="rgb24", width=width, height=height), turns)
        if size != self.canvas:  # black around it, so that faces keep their shape
            top, left = (self.canvas[0] - size[0]) // 2, (self.canvas[1] - size[1]) // 2
            canvas = np.zeros((*self.canvas, 3), np.uint8)
            canvas[top : top + size[0], left : left + size[1]] = picture
            picture = canvas
        self.frames[stamp] = picture
