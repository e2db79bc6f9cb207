"""Random damage to the files of a checkpoint."""

from pathlib import Path

import numpy as np


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Truncate or delete a random file of a checkpoint, or flip one random bit of it, and return what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    size, action = path.stat().st_size, int(rng.integers(3))
    if action == 0:
        path.unlink()
        return f"deleted {path.name}"
    if action == 1 and size:
        with path.open("r+b") as file:
            file.truncate(int(rng.integers(size)))
        return f"truncated {path.name}"
    data = bytearray(path.read_bytes() or b"\0")
    index = int(rng.integers(len(data)))
    data[index] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return f"flipped a bit of {path.name} at {index}"
