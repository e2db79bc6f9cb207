"""Damage to the files of a checkpoint, drawn at random."""

from pathlib import Path

import numpy as np


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Truncate or delete a random file of a checkpoint, or flip one random bit of it; says what it did."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    size, kind = path.stat().st_size, int(rng.integers(3))
    if kind == 0:
        path.unlink()
        return f"deleted {path.name}"
    if kind == 1 and size:
        with path.open("r+b") as file:
            file.truncate(int(rng.integers(size)))
        return f"truncated {path.name}"
    data = bytearray(path.read_bytes() or b"\0")
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return f"flipped a bit of {path.name} at {place}"
