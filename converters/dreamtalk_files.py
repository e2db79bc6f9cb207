"""All files of a DreamTalk -> OUTPUT/denoiser, renderer, wav2vec, face3d; OUTPUT appears when all are there."""

import json
import shutil
from pathlib import Path

from converters.convert import convert
from converters.outputs import partial_of, refuse_existing
from empatheia_jax.atomic import write_json

_FINGERPRINT = "converting.json"


def convert_all(sources: dict[str, Path | None], output: Path) -> dict[str, dict[str, int]]:
    """Convert every part that is given; parts that an interrupted run of the same files finished are kept.

    Args:
      sources: "denoiser", "renderer", "wav2vec" and "face3d" -> file, or directory of wav2vec; None: without it.
    Returns:
      part -> counts, as of `convert`; empty counts for a part that was there.
    Raises:
      ConversionError: a file that does not fit; an output that is there already.
    """
    refuse_existing(output)
    given = {name: Path(source) for name, source in sources.items() if source is not None}
    partial = partial_of(output)
    told = {
        name: [str(source.resolve()), source.stat().st_size if source.is_file() else 0]
        for name, source in given.items()
    }
    path = partial / _FINGERPRINT
    if not (path.exists() and json.loads(path.read_text()) == told):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(path, told)
    counts = {}
    for name, source in given.items():
        there = (partial / name / "config.json").exists()
        family = "wav2vec2" if name == "wav2vec" else f"dreamtalk_{name}"
        counts[name] = {} if there else convert(family, source, partial / name)
    path.unlink()
    partial.rename(output)
    return counts
