"""Reads audio and video files; no other package opens one (`writing` writes them).

Reading is strict: a bad file is one `MediaError` that names it. Audio becomes mono float32 at the requested rate, video
becomes RGB frames at 25 fps (AvaMERG's rate, section 3.3). Measuring a file decodes it as reading does, so that all
commands agree on which files can be used.
"""

from pathlib import Path

import numpy as np
import soundfile

from empatheia_jax.data.media.completeness import checked_input
from empatheia_jax.data.media.containers import Recording, size_of
from empatheia_jax.data.media.errors import MediaError, media_errors
from empatheia_jax.data.media.pictures import decode_video
from empatheia_jax.data.media.sound import Sound, decode_sound, resample
from empatheia_jax.data.media.streams import as_file, open_container

FPS = 25
TAGS = ("title", "artist", "comment", "copyright", "date", "genre", "album")
"""Metadata names that both a wav's LIST/INFO chunk and an mp4's ilst atom have; other tags are put into `comment`."""

UNLIMITED = float("inf")


def read_audio(
    path,
    sample_rate: int,
    max_seconds: float = 60.0,
    max_megabytes: float = 50.0,
    *,
    notes: list[str] | None = None,
) -> np.ndarray:
    """Read the sound of a wav, flac, ogg, mp3, mp4 ... of any rate and channel count.

    Args:
      path: the file, or a recording in a container (`containers.Recording`).
      sample_rate: rate of the result, Hz.
      max_seconds: longest duration of one utterance.
      max_megabytes: largest file of one utterance.
      notes: gets a line that names the file where its channels cancel each other, so that only one is heard.

    Returns:
      float32 [samples], mono, -1..1 (clipped).

    Raises:
      MediaError: the file is missing, empty, unreadable, cut short, without samples, over a limit, or its samples are
        not numbers or not in -1..1 at all (`sound.MAX_PEAK`).
    """
    sound = _decode_sound(path, max_seconds, max_megabytes, notes)
    audio = resample(path, sound.samples, sound.sample_rate, sample_rate)
    return np.ascontiguousarray(np.clip(audio, -1.0, 1.0), dtype=np.float32)


def read_video(
    path,
    count: int | None = None,
    *,
    max_seconds: float = 60.0,
    max_megabytes: float = 50.0,
    max_side: int | None = None,
    max_frames: int | None = None,
    notes: list[str] | None = None,
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
      notes: gets a line that names the file where frames are damaged or change their size.

    Returns:
      uint8 [F, h, w, 3] RGB, upright (the rotation flag of a phone is applied), all of the first frame's size.

    Raises:
      MediaError: the file is missing, empty, unreadable, cut short, without frames, or over a limit, or more than
        `sound.MAX_LOST_SHARE` of its frames cannot be decoded.
    """
    recording = _checked_recording(path, max_megabytes)
    clip = decode_video(recording, FPS, count=count, max_seconds=max_seconds, max_side=max_side, max_frames=max_frames)
    _add_notes(path, clip.notes, notes)
    return clip.frames


def sound_seconds(
    path, *, max_seconds: float = UNLIMITED, max_megabytes: float = UNLIMITED, notes: list[str] | None = None
) -> float:
    """Measure the sound of a file, as `read_audio` would read it.

    Returns:
      Seconds.

    Raises:
      MediaError: as `read_audio`.
    """
    sound = _decode_sound(path, max_seconds, max_megabytes, notes)
    return len(sound.samples) / sound.sample_rate


def video_seconds(
    path, *, max_seconds: float = UNLIMITED, max_megabytes: float = UNLIMITED, notes: list[str] | None = None
) -> float:
    """Measure the video of a file, as `read_video` would read it.

    Returns:
      Seconds.

    Raises:
      MediaError: as `read_video`.
    """
    recording = _checked_recording(path, max_megabytes)
    clip = decode_video(recording, FPS, count=0, max_seconds=max_seconds, max_side=None, max_frames=None)
    _add_notes(path, clip.notes, notes)
    return clip.seconds


def duration(path) -> tuple[float, float]:
    """Measure the sound and the video of a file.

    Returns:
      Seconds of sound and seconds of video; 0.0 for a stream that the file does not have.

    Raises:
      MediaError: the file is missing, empty, cut short or unreadable.
    """
    seconds = []
    for measure in (sound_seconds, video_seconds):
        try:
            seconds.append(measure(path))
        except MediaError as error:
            if error.problem not in ("absent", "without sound", "without frames"):
                raise
            seconds.append(0.0)
    return seconds[0], seconds[1]


def read_metadata(path) -> dict[str, str]:
    """Read the tags of a wav or mp4 (`TAGS`, and any others that the container has).

    Raises:
      MediaError: the file is missing, empty or unreadable.
    """
    recording = _checked_recording(path, UNLIMITED)
    source = checked_input(recording)
    try:
        with soundfile.SoundFile(as_file(source)) as sound:
            return {key: value for key, value in sound.copy_metadata().items() if value}
    except (RuntimeError, ValueError, OSError):  # FFmpeg is asked, and says why where it cannot read it either
        with open_container(recording, source) as container:
            return dict(container.metadata)


def _decode_sound(path, max_seconds: float, max_megabytes: float, notes: list[str] | None) -> Sound:
    sound = decode_sound(_checked_recording(path, max_megabytes), max_seconds)
    _add_notes(path, sound.notes, notes)
    return sound


def _add_notes(path, lines: tuple[str, ...], notes: list[str] | None) -> None:
    if notes is not None:
        notes += [f"{path}: {line}" for line in lines]


def _checked_recording(path, max_megabytes: float) -> Recording:
    """Return the recording after checks of its size."""
    recording = Path(path) if isinstance(path, str) else path
    with media_errors(path):
        if isinstance(recording, Path) and not recording.is_file():
            raise MediaError(path, "there is no such file" if not recording.exists() else "is not a file")
        size = size_of(recording)
    if size == 0:
        raise MediaError(path, "is empty (0 bytes); record it again", "empty")
    if size > max_megabytes * 1e6:
        raise MediaError(
            path, f"is {size / 1e6:.1f} MB, over the limit of {max_megabytes:g} MB; shorten it", "too large"
        )
    return recording
