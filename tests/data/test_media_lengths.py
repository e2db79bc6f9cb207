"""Lengths in headers: placeholders, slips of a few bytes, counts of something else; and files that are really cut."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from empatheia_jax.data.media.reading import MediaError, read_audio, sound_seconds

RATE = 16_000
SOUND = (0.4 * np.sin(2 * np.pi * 330 * np.arange(RATE) / RATE) * np.linspace(1, 0.2, RATE)).astype(np.float32)
DATA = (SOUND * 32767).astype("<i2").tobytes()
FORMAT = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
CASES = ("wav_headers/riff_plus_8.wav", "wav_headers/sox_pipe.wav", "wav_headers/zeros.wav")
CASES += ("wav_headers/data_plus_44.wav", "wav_headers/ffmpeg_pipe.wav", "flac_unknown_length/stream.flac")


def wav(riff=None, data=None, *, before=b"", after=b"", samples=DATA) -> bytes:
    """Return a wav whose RIFF and data lengths are as given, or true."""
    body = b"WAVEfmt " + struct.pack("<I", len(FORMAT)) + FORMAT + before + b"data"
    true = len(body) + 4 + len(samples) + len(after)
    lengths = [true if riff is None else riff % 2**32, len(samples) if data is None else data % 2**32]
    return b"RIFF" + struct.pack("<I", lengths[0]) + body + struct.pack("<I", lengths[1]) + samples + after


def chunk(name: bytes, length: int) -> bytes:
    return name + struct.pack("<I", length) + bytes(length)


WHOLE = len(wav())
READ_WHOLE = {
    "true": wav(),
    "RIFF +8": wav(riff=WHOLE),
    "RIFF +44": wav(riff=WHOLE + 36),
    "RIFF -44": wav(riff=WHOLE - 52),
    "RIFF 0": wav(riff=0),
    "both 0": wav(0, 0),
    "RIFF of an empty wav": wav(36, 0),
    "both largest": wav(-1, -1),
    "both largest less the header": wav(-1, -1 - 36),
    "signed largest": wav(2**31 - 1, 2**31 - 1),
    "signed largest less the header": wav(2**31 - 1, 2**31 - 1 - 36),
    "sox's pipe": wav(0x7FFFF024, 0x7FFFF000),
    "negative": wav(2**31, 2**31),
    "data +8": wav(data=len(DATA) + 8),
    "data +36": wav(data=len(DATA) + 36),
    "data +44": wav(data=len(DATA) + 44),
    "both +44": wav(WHOLE + 36, len(DATA) + 44),
    "RIFF unknown, data true": wav(riff=-1),
    "tags after the samples": wav(after=chunk(b"LIST", 26)),
    "padding to a sector": wav() + bytes(512),
    "an ID3 tag appended": wav() + b"TAG" + bytes(range(1, 126)),
    "junk before the samples": wav(before=chunk(b"JUNK", 4096) + chunk(b"bext", 602)),
    "placeholders and junk": wav(-1, -1, before=chunk(b"JUNK", 28)),
}


def reading(tmp_path, content: bytes, name="a.wav") -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    return read_audio(tmp_path / name, RATE)


@pytest.mark.parametrize("kind", READ_WHOLE)
def test_a_wav_is_read_whole_whatever_its_header_counts(tmp_path, kind):
    audio = reading(tmp_path, READ_WHOLE[kind])
    np.testing.assert_allclose(audio, SOUND, atol=1 / 16_000)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("kind", ["true", "RIFF +8", "data +44", "tags after the samples", "RIFF unknown, data true"])
def test_a_wav_that_is_cut_is_refused(tmp_path, kind, share):
    content = READ_WHOLE[kind]
    start = content.index(b"data") + 8
    with pytest.raises(MediaError, match=r"a\.wav: is cut short"):
        reading(tmp_path, content[: start + int(share * len(DATA)) // 2 * 2])


def test_samples_that_the_header_leaves_out_are_an_error(tmp_path):
    with pytest.raises(MediaError, match="16,000 bytes of media, and 16,000 that it leaves out"):
        reading(tmp_path, wav(data=len(DATA) // 2))
    with pytest.raises(MediaError, match="second recording"):
        reading(tmp_path, wav() + wav())


def encoded(kind: str, subtype: str, samples=SOUND) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, subtype, format=kind)
    return file.getvalue()


def patched(content: bytes, *changes: tuple[int, str, int]) -> bytes:
    content = bytearray(content)
    for at, kind, value in changes:
        struct.pack_into(kind, content, at, value)
    return bytes(content)


def test_other_formats_of_unknown_length_are_read_whole(tmp_path):
    aiff = encoded("AIFF", "PCM_16")
    form, frames, data = 4, aiff.index(b"COMM") + 10, aiff.index(b"SSND") + 4
    caf, au = encoded("CAF", "PCM_16"), encoded("AU", "PCM_16")
    w64, rf64 = encoded("W64", "PCM_16"), encoded("RF64", "PCM_16")
    samples, ds64 = w64.index(b"data\xf3\xac\xd3\x11"), rf64.index(b"ds64") + 8
    flac = encoded("FLAC", "PCM_16")
    (fields,) = struct.unpack_from(">Q", flac, 18)  # rate, channels, bits and the number of samples
    cases = {
        "flac": patched(flac, (18, ">Q", fields & ~(2**36 - 1))),
        "a pipe's aiff": patched(aiff, (form, ">I", 0), (frames, ">I", 0), (data, ">I", 0)),
        "sox's aiff": patched(aiff, (form, ">I", 0x7F00002E), (frames, ">I", 0x3F800000), (data, ">I", 0x7F000008)),
        "caf": patched(caf, (caf.index(b"data") + 4, ">q", -1)),
        "au": patched(au, (8, ">I", 2**32 - 1)),
        "w64": patched(w64, (16, "<Q", 2**63 - 1), (samples + 16, "<Q", 2**63 - 1)),
        "rf64": patched(rf64, (ds64, "<Q", 2**64 - 1), (ds64 + 8, "<Q", 2**64 - 1)),
        "w64 of zeros": patched(w64, (16, "<Q", 0), (samples + 16, "<Q", 24)),
        "rf64 of zeros": patched(rf64, (ds64, "<Q", 0), (ds64 + 8, "<Q", 0)),
    }
    for kind, content in cases.items():
        audio = reading(tmp_path, content)
        assert len(audio) == len(SOUND), kind
        np.testing.assert_allclose(audio, SOUND, atol=1 / 16_000, err_msg=kind)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("AU", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("WAV", "GSM610"),
        ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_24"),
    ],
)
def test_every_format_is_read_whole_and_refused_when_cut(tmp_path, kind, subtype):
    content = encoded(kind, subtype, SOUND + 0.05 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32))
    audio = reading(tmp_path, content)
    assert abs(len(audio) - RATE) <= 0.07 * RATE  # the last block of some codecs is padded
    size = min(len(audio), RATE)
    assert np.corrcoef(audio[:size], SOUND[:size])[0, 1] > 0.8
    for share in (0.4, 0.75, 0.93):
        with pytest.raises(MediaError, match=r"a\.wav: "):
            reading(tmp_path, content[: int(share * len(content))])


@pytest.mark.parametrize(("kind", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("FLAC", "PCM_16")])
def test_joined_files_are_read_to_their_end(tmp_path, kind, subtype):
    """The header of the first part counts the first part only; a second of another format is an error or read."""
    content, other = encoded(kind, subtype), encoded(kind, subtype, np.stack([SOUND, SOUND], axis=1))
    joined = [content + content]
    if kind == "MP3":
        tags = b"TAG" + bytes(125), b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10)
        joined += [content + other, *(content + tag + content for tag in tags)]
    elif kind == "FLAC":
        joined += [content + other]
    else:
        with pytest.raises(MediaError, match="second recording of another format"):
            reading(tmp_path, content + other)
    for file in joined:
        audio = reading(tmp_path, file)
        assert abs(len(audio) - 2 * RATE) < 0.15 * RATE
        assert np.abs(audio[int(1.2 * RATE) : int(1.5 * RATE)]).max() == pytest.approx(0.33, abs=0.05)


def test_an_mp3_with_fewer_frames_than_it_counts_is_refused(tmp_path):
    content = encoded("MP3", "MPEG_LAYER_III")
    at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    (frames,) = struct.unpack_from(">I", content, at)
    with pytest.raises(MediaError, match=f"is cut short: {frames} of {2 * frames} frames"):
        reading(tmp_path, patched(content, (at, ">I", 2 * frames)))


def test_a_gsm_wav_has_the_length_it_counts(tmp_path):
    """Its odd number of bytes is padded, which libsndfile takes for a block of its own."""
    (tmp_path / "gsm.wav").write_bytes(encoded("WAV", "GSM610", SOUND[: 49 * 320]))
    assert sound_seconds(tmp_path / "gsm.wav") == pytest.approx(49 * 320 / RATE)


@pytest.mark.parametrize("case", CASES)
def test_field_cases(real_data, case):
    assert sound_seconds(real_data("field_cases") / case) == pytest.approx(2.425)


def test_field_cases_of_other_kinds(real_data):
    folder = real_data("field_cases")
    assert sound_seconds(folder / "gsm_wav" / "gsm.wav") == pytest.approx(2.44)
    with pytest.raises(MediaError, match=r"cut\.wav: is cut short"):
        sound_seconds(folder / "wav_headers" / "cut.wav")
    with pytest.raises(MediaError, match="21,113"):
        sound_seconds(folder / "float_scale" / "int16_scale.wav")
    notes = []
    heard = read_audio(folder / "antiphase" / "antiphase.wav", 24_000, notes=notes)
    np.testing.assert_array_equal(heard, read_audio(folder / "me.wav", 24_000))
    assert len(notes) == 1 and "antiphase.wav: its channels cancel" in notes[0]


# Levels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "subtype"), [(2**7, "FLOAT"), (2**15, "FLOAT"), (2**23, "FLOAT"), (2**31, "DOUBLE")])
def test_integers_in_a_float_file_are_refused_with_their_peak(tmp_path, scale, subtype):
    soundfile.write(tmp_path / "a.wav", SOUND.astype(np.float64) * scale, RATE, subtype)
    with pytest.raises(MediaError, match=f"reach {np.abs(SOUND).max() * scale:,.0f} .*divide them by {scale:,} "):
        read_audio(tmp_path / "a.wav", RATE)


def test_a_recording_that_is_too_loud_is_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", SOUND * 5, RATE, "FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", RATE), np.clip(SOUND * 5, -1, 1))


def stereo(left, right, name, folder):
    if name.endswith("wav"):
        soundfile.write(folder / name, np.stack([left, right], axis=1), RATE, "FLOAT")
        return folder / name
    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([left, right]), "fltp", "stereo")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder / name


RNG = np.random.default_rng(1)
HUM = 0.1 * np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE).astype(np.float32)
NOISE = 0.1 * RNG.standard_normal((2, RATE)).astype(np.float32)
SILENCE = np.zeros_like(SOUND)


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
@pytest.mark.parametrize(
    ("left", "right", "is_noted"),
    [
        (SOUND, -SOUND, True),
        (0.5 * SOUND, -0.7 * SOUND, True),  # the right one is the louder
        (SOUND + HUM, HUM - SOUND, True),  # what both have in common is only hum
        (SOUND + 0.2, 0.2 - SOUND, True),  # or an offset
        (np.tile(SOUND, 4), np.concatenate([np.tile(SOUND, 2), -np.tile(SOUND, 2)]), True),  # half of the time
        (SOUND, SOUND, False),
        (SOUND, SILENCE, False),
        (SOUND, 0.05 * -SOUND, False),
        (NOISE[0], NOISE[1], False),
        (SILENCE, SILENCE, False),
    ],
)
def test_channels_that_cancel_are_heard_and_noted(tmp_path, name, left, right, is_noted):
    left, right = np.float32(left), np.float32(right)
    notes: list[str] = []
    audio = read_audio(stereo(left, right, name, tmp_path), RATE, notes=notes)
    assert len(notes) == is_noted and all(str(tmp_path / name) in note and "cancel" in note for note in notes)
    louder = max((left, right), key=np.std)
    expected = louder if is_noted else (left + right) / 2
    assert len(audio) >= len(expected) - 2048
    assert np.std(audio) == pytest.approx(np.std(expected), rel=0.1, abs=1e-6)


def test_six_channels_of_which_two_cancel(tmp_path):
    channels = np.stack([SOUND, -SOUND, SILENCE, SILENCE, SILENCE, SILENCE], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, RATE, "FLOAT")
    notes: list[str] = []
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", RATE, notes=notes), SOUND)
    assert len(notes) == 1
