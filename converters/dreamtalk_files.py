"""Convert all files of DreamTalk to OUTPUT/{denoiser,renderer,wav2vec,face3d}; OUTPUT appears when all are written."""

import json
import shutil
from pathlib import Path

from converters.convert import convert
from converters.outputs import partial_path, refuse_existing
from empatheia_jax.runtime.atomic import write_json

_FINGERPRINT = "converting.json"


def convert_all(sources: dict[str, Path | None], output: Path) -> dict[str, dict[str, int]]:
    """Convert every given part; parts that an interrupted run of the same files finished are kept.

    Args:
      sources: "denoiser", "renderer", "wav2vec" and "face3d" -> file (wav2vec: directory), or None to leave it out.
      output: a new folder.
    Returns:
      Part -> the counts that `convert` returns; no counts for a part that was converted before.
    Raises:
      ConversionError: a file that does not fit.
      ConversionError: an output that exists already.
    """
    refuse_existing(output)
    given = {name: Path(source) for name, source in sources.items() if source is not None}
    partial = partial_path(output)
    fingerprint = {
        name: [str(source.resolve()), source.stat().st_size if source.is_file() else 0]
        for name, source in given.items()
    }
    path = partial / _FINGERPRINT
    if not (path.exists() and json.loads(path.read_text()) == fingerprint):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(path, fingerprint)
    counts = {}
    for name, source in given.items():
        is_converted = (partial / name / "config.json").exists()
        family = "wav2vec2" if name == "wav2vec" else f"dreamtalk_{name}"
        counts[name] = {} if is_converted else convert(family, source, partial / name)
    path.unlink()
    partial.rename(output)
    return counts
