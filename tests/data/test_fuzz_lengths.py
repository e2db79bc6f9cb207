"""Mutated lengths and counts of every format: read as the intact file is, or refused; other bytes: never a crash."""

import numpy as np
import pytest

from empatheia_jax.data.media.reading import MediaError, duration, read_audio, read_video
from support.length_fields import AUDIO, RATE, VIDEO, length_fields, number_at, patch, write_recording

MUTATIONS = 130  # ten of each format
SLOW_MUTATIONS = 6000
CHUNK_SECONDS = 0.1
"""Most that a file may be shorter by: a codec's block, or a header's bytes that its writer counted as samples."""


def mutate_lengths(kind: str, content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return what was done, and the content with one or two lengths changed, something appended, or its end cut off."""
    fields = length_fields(kind, content)
    change = int(rng.integers(10))
    if change == 0:
        end = int(rng.uniform(0.1, 0.97) * len(content))
        end += content[end : end + 4] == b"OggS"  # an ogg that ends between two pages is a whole one, but for its end
        return "cut", content[:end]
    if change == 1 or not fields:
        rest = rng.choice([bytes(64), b"TAG" + bytes(125), rng.bytes(3)])
        return "appended", content + bytes(rest)
    for _ in range(int(rng.integers(1, 3))):
        field = fields[int(rng.integers(len(fields)))]
        number = number_at(content, field)
        number = [
            0,
            -1,
            2**31 - 1,
            2**32 - 37,
            number + int(rng.choice([1, 8, 36, 44, -1, -8, -36, -44])),
            int(number * rng.uniform(0.1, 0.9)),
            int(number * rng.uniform(1.1, 9.0)),
            int(rng.integers(2**31)),
        ][int(rng.integers(8))]
        content = patch(content, field, number)
    return "lengths", content


def same_media(read, intact) -> bool:
    """Return whether what was read is the intact recording, but for a block at its end."""
    if (read is None) != (intact is None):
        return False
    if read is None:
        return True
    rate = RATE if read.ndim == 1 else 25
    size = min(len(read), len(intact))
    if abs(len(read) - len(intact)) > max(CHUNK_SECONDS * rate, 1):
        return False
    return float(np.abs(read[:size].astype(float) - intact[:size]).mean()) <= 0.01 * np.abs(intact[:size]).mean()


def read_all(path):
    """Return the sound and the pictures of a file, each None where its readers refuse it, and the errors."""
    results, errors = [], []
    for reader in (lambda file: read_audio(file, RATE), read_video):
        try:
            results.append(reader(path))
        except MediaError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            results.append(None)
            errors.append(error)
    return results, errors


def sweep(folder, seed: int, count: int) -> None:
    """Try mutations of all formats in turn, and check how many were read and how many refused."""
    rng = np.random.default_rng([seed, 5])
    kinds = [*AUDIO, *VIDEO]
    contents = {kind: write_recording(kind, folder) for kind in kinds}
    intact = {}
    for kind, content in contents.items():
        path = folder / f"intact.{kind}"
        path.write_bytes(content)
        intact[kind] = read_all(path)[0]
        assert intact[kind][0] is not None and (intact[kind][1] is not None) == (kind in VIDEO)
    outcomes = {"read": 0, "refused": 0}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        done, content = mutate_lengths(kind, contents[kind], rng)
        path = folder / f"m{number}.{kind}"
        path.write_bytes(content)
        results, errors = read_all(path)
        for result, expected in zip(results, intact[kind], strict=True):
            if result is not None:
                outcomes["read"] += 1
                assert same_media(result, expected), f"{path.name}, {done}: read as another recording"
                assert done != "cut", f"{path.name}: cut at {len(content)} of {len(contents[kind])} bytes, and read"
            elif expected is not None:
                outcomes["refused"] += 1
        try:
            seconds = duration(path)
        except MediaError:
            assert any(error.problem != "absent" for error in errors), f"{path.name}: measured and read differently"
        else:
            for length, result, rate in zip(seconds, results, (RATE, 25), strict=True):
                assert abs(length - (0 if result is None else len(result) / rate)) < 0.05
        path.unlink()
    assert min(outcomes.values()) > count // 6, outcomes


def sweep_bytes(folder, seed: int, count: int) -> None:
    """Change any bytes: what is read is sound and pictures, and nothing but a MediaError is raised."""
    rng = np.random.default_rng([seed, 6])
    kinds = [*AUDIO, *VIDEO]
    contents = {kind: write_recording(kind, folder) for kind in kinds}
    for number in range(count):
        kind = kinds[number % len(kinds)]
        content = bytearray(contents[kind])
        size = len(content) if rng.integers(2) else min(len(content), 600)  # half of them in the header
        for at in rng.integers(0, size, int(rng.integers(1, 20))):
            content[at] = rng.integers(256)
        path = folder / f"b{number}.{kind}"
        path.write_bytes(content)
        (audio, frames), _ = read_all(path)
        if audio is not None:
            assert audio.dtype == np.float32 and len(audio) and np.abs(audio).max() <= 1
        if frames is not None:
            assert frames.dtype == np.uint8 and frames.ndim == 4 and len(frames)
        path.unlink()


def test_mutated_bytes(tmp_path, seed):
    sweep_bytes(tmp_path, seed, MUTATIONS // 2)


@pytest.mark.slow
def test_many_mutated_bytes(tmp_path, seed):
    sweep_bytes(tmp_path, seed + 1, SLOW_MUTATIONS)


def test_mutated_lengths(tmp_path, seed):
    sweep(tmp_path, seed, MUTATIONS)


@pytest.mark.slow
def test_many_mutated_lengths(tmp_path, seed):
    sweep(tmp_path, seed + 1, SLOW_MUTATIONS)
