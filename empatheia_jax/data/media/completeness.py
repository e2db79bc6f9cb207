"""Judges whether a recording is all there, by the length of the part of its format that holds the media.

The total in a header says what its writer believed: recorders add the header's own bytes to it, pipes leave a
placeholder in it. So only the part with the samples counts: a file is cut short where that part ends beyond the file.
A length that was never written (0, -1, the largest numbers) means "to the end"; one that is too large by the bytes of
the header is a slip of the writer. Formats that carry a count of what is inside (flac, mp3) are judged when decoded.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from empatheia_jax.data.media.containers import readable_input
from empatheia_jax.data.media.errors import MediaError, media_errors

_UNKNOWN = 2**31 - 2**25  # from here on a length is a placeholder: no utterance has two gigabytes
_RIFF_LENGTH_SLIP = 8
_LONGEST_HEADER = 128  # bytes before the samples that a writer may have counted as samples
_OTHER_FORMAT = "holds a second recording of another format; save each as a file of its own"
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"styp", b"free", b"skip", b"wide", b"pnot", b"uuid")
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_FRAGMENTED_OR_WHOLE = {b"moov", b"moof"}
_SEGMENT = 0x18538067  # of Matroska


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """How a format of chunks (name, length, content) writes them."""

    first: int  # offset of the first chunk
    media: bytes  # how the name of the chunk with the samples begins
    name: int = 4  # bytes of a name
    length: str = "<I"
    is_header_counted: bool = False  # in the length
    alignment: int = 2


_CHUNKS = {
    (b"RIFF", b"WAVE"): _Chunks(12, b"data"),
    (b"RIFX", b"WAVE"): _Chunks(12, b"data", length=">I"),
    (b"RF64", b"WAVE"): _Chunks(12, b"data"),
    (b"BW64", b"WAVE"): _Chunks(12, b"data"),
    (b"RIFF", b"AVI "): _Chunks(12, b"movi"),
    (b"FORM", b"AIFF"): _Chunks(12, b"SSND", length=">I"),
    (b"FORM", b"AIFC"): _Chunks(12, b"SSND", length=">I"),
    (b"caff", b""): _Chunks(8, b"data", length=">q", alignment=1),
    (b"riff", b""): _Chunks(40, b"data", name=16, length="<Q", is_header_counted=True, alignment=8),  # W64
}


def checked_input(path) -> str | bytes:
    """Check that the part of a file that holds the media ends within the file.

    Args:
      path: the file, or a recording in a container.

    Returns:
      What the libraries read: the file's name, or the content of a recording in a container or of a file whose lengths
      no library reads around; there they are filled in.

    Raises:
      MediaError: the file is cut short, or holds a second recording or samples that its length leaves out.
    """
    with media_errors(path):
        source = readable_input(path)
        with open(source, "rb") if isinstance(source, str) else source as file:
            size = file.seek(0, os.SEEK_END)
            problem = _problem(file, size)
            patches = [] if problem else _missing_lengths(file, size)
            content = _read(file, 0, size) if patches or not isinstance(source, str) else b""
    if problem:
        raise MediaError(path, problem, "cut short" if "is cut short" in problem else "damaged")
    if isinstance(source, str) and not patches:
        return source
    content = bytearray(content)
    for at, number in patches:
        struct.pack_into("<Q", content, at, number)
    return bytes(content)


def _problem(file: BinaryIO, size: int) -> str:
    head = _read(file, 0, 16)
    chunks = _CHUNKS.get((head[:4], head[8:12])) or _CHUNKS.get((head[:4], b""))
    if chunks is not None:
        return _problem_of_chunks(file, size, chunks)
    if head[:4] == b".snd":
        start, length = struct.unpack(">II", head[4:12])
        is_more = 0 < length < size - start - min(start, _LONGEST_HEADER)
        if is_more:
            return _problem_of_rest(file, length, start + length, size)
        return _problem_of_length(start, length, size)
    if head[4:8] in _BOXES:
        return _problem_of_boxes(file, size)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _problem_of_matroska(file, size)
    return _problem_of_pages(file, size) if head[:4] == b"OggS" else ""


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _cut(missing: int, size: int) -> str:
    return f"is cut short: {size:,} of {size + missing:,} bytes are there; copy it again"


def _problem_of_rest(file: BinaryIO, length: int, end: int, size: int) -> str:
    """Judge what follows all that the format knows of: padding and tags are no part of the recording."""
    rest = _read(file, end, size - end)
    if rest.startswith(_TAGS) or not rest.strip(b"\x00"):
        return ""
    return f"is damaged: its header counts {length:,} bytes of media, and {len(rest):,} that it leaves out follow"


def _problem_of_length(start: int, length: int, size: int) -> str:
    """Judge a length that counts the samples from `start` on; a slip of the header's own bytes is none."""
    missing = start + length - size
    is_slip = missing in (_RIFF_LENGTH_SLIP, start - _RIFF_LENGTH_SLIP, start)
    return "" if missing <= 0 or length >= _UNKNOWN or is_slip else _cut(missing, size)


# Chunks: RIFF (wav, avi), RF64, W64, AIFF, CAF --------------------------------------------------------------------


def _walk(file: BinaryIO, size: int, chunks: _Chunks, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of the content, its length) of each chunk from `at` on."""
    head = chunks.name + struct.calcsize(chunks.length)
    while at + head <= size:
        name = _read(file, at, chunks.name)
        (length,) = struct.unpack(chunks.length, file.read(head - chunks.name))
        length -= head if chunks.is_header_counted else 0
        yield name, at + head, length
        if length < 0:
            return
        at += head + length
        at += -at % chunks.alignment


def _problem_of_chunks(file: BinaryIO, size: int, chunks: _Chunks) -> str:
    long_length = None  # RF64 holds the length of its samples in a chunk of its own
    for name, start, length in _walk(file, size, chunks, chunks.first):
        if name == b"ds64" and length >= 16:
            _, long_length = struct.unpack("<QQ", _read(file, start, 16))
        if name == b"LIST":
            name = _read(file, start, 4)
        if name[:4] != chunks.media:
            continue
        if long_length is not None and (not length or length >= _UNKNOWN):
            length = long_length
        if length < 0 or length >= _UNKNOWN:
            return ""
        form = _form_end(file, chunks)
        if start + length > size:
            is_whole = abs(form - size) <= _RIFF_LENGTH_SLIP or chunks.first > 8 and not 0 < form < _UNKNOWN
            is_slip = is_whole and start + length - size <= min(start, _LONGEST_HEADER)
            return "" if is_slip else _problem_of_length(start, length, size)
        rest, problem = _walk_rest(file, size, chunks, start + length)
        is_beyond_form = abs(form - rest) <= _RIFF_LENGTH_SLIP
        is_slip = size - rest <= min(start, _LONGEST_HEADER)
        if problem or length == 0 or is_beyond_form or is_slip:
            return problem
        return _problem_of_rest(file, length, rest, size)
    return ""


def _form_end(file: BinaryIO, chunks: _Chunks) -> int:
    """Return where the whole form ends by its header: 0 where there is no such number or it was never written."""
    if chunks.first == 8:  # CAF
        return 0
    at, kind = (4, chunks.length) if chunks.name == 4 else (16, chunks.length)
    (length,) = struct.unpack(kind, _read(file, at, struct.calcsize(kind)))
    return length if chunks.is_header_counted or not length else length + 8


def _missing_lengths(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Return (offset, number) of the 64-bit lengths that a W64 or RF64 should have where its writer left them open."""
    head = _read(file, 0, 4)
    chunks = _CHUNKS.get((head, b"WAVE" if head in (b"RF64", b"BW64") else b""))
    if chunks is None or head == b"caff":
        return []
    lengths = 0
    for name, start, length in _walk(file, size, chunks, chunks.first):
        if name == b"ds64":
            lengths = start
            (length_of_samples,) = struct.unpack("<Q", _read(file, start + 8, 8))
        if name[:4] != chunks.media:
            continue
        if head == b"riff":
            return [] if 0 < length < _UNKNOWN else [(16, size), (start - 8, size - start + 24)]
        is_known = not lengths or 0 < length_of_samples < _UNKNOWN or 0 < length < _UNKNOWN
        return [] if is_known else [(lengths, size - 8), (lengths + 8, size - start)]
    return []


def _walk_rest(file: BinaryIO, size: int, chunks: _Chunks, end: int) -> tuple[int, str]:
    """Walk through the chunks after the samples; return where they end, and "" or that a second recording follows."""
    at = end + -end % chunks.alignment
    for name, content, length in _walk(file, size, chunks, at):
        if name[:4] in (b"RIFF", b"RF64", b"RIFX", b"FORM", b"riff") and chunks.media != b"movi":
            return at, f"holds a second recording after its first {at:,} bytes; save each as a file of its own"
        if not (name[:4].isascii() and name[:4].decode("latin-1").isprintable() and 0 <= length <= size - content + 1):
            break
        at = content + length
    return at, ""


# Other containers -------------------------------------------------------------------------------------------------


def _problem_of_boxes(file: BinaryIO, size: int) -> str:
    """Judge an mp4 or mov by its outermost boxes; its index may leave out samples (edit lists), but no bytes."""
    at, names = 0, set()
    while at + 8 <= size:
        head = _read(file, at, 16)
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        is_appended = names & _FRAGMENTED_OR_WHOLE and b"mdat" in names and name not in _BOXES
        if length == 0 or is_appended and not at + 8 <= at + length <= size:
            break  # to the end; or no box at all
        if length < 8:
            return f"is damaged: a box of {length} bytes at byte {at:,}; copy it again"
        if at + length > size:
            return _cut(at + length - size, size)
        names.add(name)
        at += length
    if not names & _FRAGMENTED_OR_WHOLE:
        return "is cut short or was never finished: it has no index (moov); copy it again"
    return ""


def _problem_of_matroska(file: BinaryIO, size: int) -> str:
    """Judge an mkv or webm by its elements; those of unknown length, which live streams have, are gone through."""
    at = 0
    while at < size:
        head = _read(file, at, 12)
        name_bytes = 9 - head[0].bit_length()
        if name_bytes > 4 or len(head) <= name_bytes or not head[name_bytes]:
            return ""  # no element: something that others have appended
        length_bytes = 9 - head[name_bytes].bit_length()
        name = int.from_bytes(head[:name_bytes])
        mark = 1 << 7 * length_bytes
        length = int.from_bytes(head[name_bytes : name_bytes + length_bytes]) - mark
        at += name_bytes + length_bytes
        if length == mark - 1:
            continue
        if at + length > size:
            return _cut(at + length - size, size)
        at += 0 if name == _SEGMENT else length
    return ""


def _problem_of_pages(file: BinaryIO, size: int) -> str:
    """Judge an ogg by its pages, each of which holds its length; parts that are joined must be of one format."""
    at, formats, is_begun = 0, [], False
    while at + 27 <= size:
        head = _read(file, at, 27)
        if head[:4] != b"OggS":
            return ""  # something that others have appended
        at += 27 + head[26]
        length = sum(file.read(head[26]))
        if head[5] & 2:  # the page begins a stream, and its content with the codec, the channels and the rate
            content = file.read(16)
            if is_begun and content not in formats:
                return _OTHER_FORMAT
            formats.append(content)
        is_begun = is_begun or not head[5] & 2
        at += length
    return _cut(at - size, size) if at > size else ""
