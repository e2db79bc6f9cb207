"""Kokoro's voices: a table of style vectors a voice, a row for every number of phonemes -> the mean row of each."""

import io
from pathlib import Path

import numpy as np

from converters.tensors import ConversionError
from converters.torch_files import open_torch

ROWS, WIDTH = 510, 256
TABLE_FILE = "voices.npz"


def mean_voices(folder: Path) -> dict[str, np.ndarray]:
    """Return voice -> its mean style vector float32 [256], acoustic then prosodic, for each file of a folder.

    Args:
      folder: NAME.bin (float32 [510, 256], as kokoro-js packs them) or NAME.pt ([510, 1, 256], as published).
    Raises:
      ConversionError: no voices, or a file that is none: all of them are named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConversionError(f"{folder}: not a folder of voices")
    voices, problems = {}, []
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".bin", ".pt")):
        try:
            table = _read_voice(path)
        except ConversionError as error:
            problems.append(str(error))
            continue
        if path.stem in voices:
            problems.append(f"{path}: {path.stem} is there twice, as .bin and as .pt")
        voices[path.stem] = table.mean(axis=0, dtype=np.float64).astype(np.float32)
    if problems:
        raise ConversionError("; ".join(problems))
    if not voices:
        raise ConversionError(f"{folder}: no NAME.bin or NAME.pt in it")
    return voices


def pack_voices(voices: dict[str, np.ndarray]) -> bytes:
    """Return voice -> [256] as the contents of an npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **voices)
    return file.getvalue()


def _read_voice(path: Path) -> np.ndarray:
    """Return the rows [510, 256] of one voice."""
    if path.suffix == ".bin":
        size = path.stat().st_size
        if size != ROWS * WIDTH * 4:
            raise ConversionError(
                f"{path}: {size:,} bytes, a voice has {ROWS * WIDTH * 4:,} (float32 [{ROWS}, {WIDTH}])"
            )
        table = np.fromfile(path, "<f4").reshape(ROWS, WIDTH)
    else:
        tensor = open_torch(path, alone=True)["tensor"]
        if tensor.shape != (ROWS, 1, WIDTH) or tensor.dtype != np.float32:
            raise ConversionError(
                f"{path}: {tensor.dtype} {list(tensor.shape)}, a voice is float32 [{ROWS}, 1, {WIDTH}]"
            )
        table = tensor.read()[:, 0]
    if not np.isfinite(table).all():
        raise ConversionError(f"{path}: {np.count_nonzero(~np.isfinite(table))} of its numbers are not finite")
    return table
