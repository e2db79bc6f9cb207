"""Recordings of every format, and where each keeps the lengths and counts of what it holds."""

import io
import re
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE, FPS = 16_000, 25
AUDIO = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
}
VIDEO = {
    "mp4": ("libx264", "aac", {"movflags": "faststart"}),
    "mov": ("libx264", "pcm_s16le", {}),
    "mkv": ("libx264", "flac", {}),
    "avi": ("mpeg4", "pcm_s16le", {}),
}
Field = tuple[int, str]
"""Offset and struct format of a number."""


def write_recording(kind: str, folder: Path, seconds: float = 1.2) -> bytes:
    """Return a recording of a rising tone, and of pictures that become brighter."""
    time_axis = np.arange(int(RATE * seconds)) / RATE
    sound = (0.4 * np.sin(2 * np.pi * (200 + 150 * time_axis) * time_axis)).astype(np.float32)
    if kind in AUDIO:
        file = io.BytesIO()
        soundfile.write(file, sound, RATE, AUDIO[kind][1], format=AUDIO[kind][0])
        return file.getvalue()
    video, audio, options = VIDEO[kind]
    path = folder / f"written.{kind}"
    with av.open(str(path), "w", options=options) as container:
        pictures = container.add_stream(video, rate=FPS, options={"g": "12"})
        pictures.width, pictures.height, pictures.pix_fmt = 48, 32, "yuv420p"
        track = container.add_stream(audio, rate=RATE, layout="mono")
        for number in range(round(seconds * FPS)):
            picture = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 + 5 * number, np.uint8), "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        block = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        resampler = av.AudioResampler(track.format, "mono", RATE, frame_size=track.frame_size or 1024)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(track.encode(part))
        container.mux(track.encode(None))
    return path.read_bytes()


def _after(content: bytes, name: bytes, offset: int, kind: str) -> list[Field]:
    return [(match.start() + offset, kind) for match in re.finditer(re.escape(name), content)]


def length_fields(kind: str, content: bytes) -> list[Field]:
    """Return where a recording keeps lengths in bytes and counts of samples or frames, which its content must bear out.

    Counts of an index (which samples are where) and rates are not among them: they are what they say.
    """
    fields: dict[str, list[tuple[bytes, int, str]]] = {
        "wav": [(b"RIFF", 4, "<I"), (b"data", 4, "<I")],
        "rf64": [(b"RF64", 4, "<I"), (b"data", 4, "<I"), (b"ds64", 8, "<Q"), (b"ds64", 16, "<Q"), (b"ds64", 24, "<Q")],
        "w64": [(b"riff\x2e\x91\xcf\x11", 16, "<Q"), (b"data\xf3\xac\xd3\x11", 16, "<Q")],
        "aiff": [(b"FORM", 4, ">I"), (b"COMM", 10, ">I"), (b"SSND", 4, ">I")],
        "caf": [(b"data", 4, ">q")],
        "au": [(b".snd", 8, ">I")],
        "mp3": [(b"Info", 12, ">I"), (b"Xing", 12, ">I")],  # of bytes; that of frames says where padding is cut out
        "mp4": [(b"mdat", -4, ">I"), (b"mvhd", 20, ">I"), (b"tkhd", 24, ">I"), (b"mdhd", 20, ">I")],
        "mkv": [(b"\x44\x89\x88", 3, ">Q"), (b"\x18\x53\x80\x67", 4, ">Q")],
        "avi": [(b"RIFF", 4, "<I"), (b"movi", -4, "<I"), (b"avih", 24, "<I"), (b"strh", 40, "<I")],
    }
    fields["mov"] = fields["mp4"]
    return [field for name, offset, form in fields.get(kind, []) for field in _after(content, name, offset, form)]


def patch(content: bytes, field: Field, number: int) -> bytes:
    """Return the content with another number in a field, modulo its size."""
    at, kind = field
    size = struct.calcsize(kind)
    order = "little" if kind[0] == "<" else "big"
    return content[:at] + (number % 256**size).to_bytes(size, order) + content[at + size :]


def number_at(content: bytes, field: Field) -> int:
    """Return the number in a field."""
    return struct.unpack_from(field[1], content, field[0])[0]
