"""Convert one family's checkpoint to a folder of weights (`checkpoints/weights.py`), an array at a time."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from flax import nnx
from tqdm import tqdm

from converters import clip, dreamtalk, hubert, styletts2, travel, vicuna, wav2vec2
from converters.outputs import partial_path, refuse_existing
from converters.readers import ConversionError, open_checkpoint, read_json
from converters.rules import find_prefix, fit
from converters.shards import save_safetensors
from converters.source import Source, abstract_parameters
from empatheia_jax.checkpoints.weights import Writer, architecture, stored_arrays
from empatheia_jax.config import ConfigError
from empatheia_jax.runtime.atomic import write_json

FAMILIES: dict[str, ModuleType | dreamtalk.Part] = {
    "vicuna": vicuna,
    "hubert": hubert,
    "clip": clip,
    "wav2vec2": wav2vec2,
    "styletts2": styletts2,
} | {f"dreamtalk_{name}": part for name, part in dreamtalk.PARTS.items()}
OWN_FILES = tuple(name for name in FAMILIES if name.startswith(("styletts2", "dreamtalk")))  # not transformers' folders
CARRIED_FILE = "carried.safetensors"
"""Small tensors that our network does not use and an export must have: SpecAugment's mask embedding."""


def open_source(family: str, source: Path) -> Source:
    """Read settings and tensor names, and check that everything fits, before any number is read.

    Args:
      family: a key of `FAMILIES`, one whose checkpoint is a transformers directory.
      source: the directory, a weights file in one, or a shard index.
    Raises:
      ConversionError: a checkpoint that does not fit; the message lists everything that is wrong.
    """
    table, source = FAMILIES[family], Path(source)
    if not source.exists():
        raise ConversionError(f"{source}: not there")
    folder = source if source.is_dir() else source.parent
    if not (folder / "config.json").exists():
        raise ConversionError(f"{folder}: no config.json beside the weights")
    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    if kind not in table.MODEL_TYPES:
        others = [name for name, other in FAMILIES.items() if kind in other.MODEL_TYPES]
        hint = f"; that is family {others[0]}" if others else ""
        raise ConversionError(f"{folder}: config.json says model_type {kind!r}, {family} is {table.MODEL_TYPES}{hint}")
    preprocessor = folder / "preprocessor_config.json"
    try:
        config = table.parse_config(settings, read_json(preprocessor) if preprocessor.exists() else None)
    except ConversionError as error:
        raise ConversionError(f"{folder}/{error}") from error
    except (ConfigError, TypeError) as error:
        raise ConversionError(f"{folder}/config.json: {error}") from error
    tensors = open_checkpoint(source)
    prefix = find_prefix(tensors, table.PREFIX)
    problems = table.check(config, tensors) if hasattr(table, "check") else []
    targets = stored_arrays(abstract_parameters(table, config))
    fits = fit(table.rules(config, prefix), targets, tensors, table.HARMLESS, problems=problems)
    return Source(family, folder, settings, config, tensors, prefix, fits)


def convert(
    family: str, source: Path, output: Path, dtype: str | None = None, *, sha256: str | None = None, **extra_files: Path
) -> dict[str, int]:
    """Convert a checkpoint; `output` appears when all of it is written, or not at all.

    What an interrupted conversion of the same files wrote to `output`.partial is kept. Memory: a few parts of
    `weights.PART_BYTES`, or of the largest tensor where that is larger.

    Args:
      family: a key of `FAMILIES`.
      source: a transformers directory (see `open_source`), or the published file of a family in `OWN_FILES`.
      output: a new folder.
      dtype: "float32", "bfloat16" or "float16", of the parameters that are not norms; None keeps each tensor's own.
      sha256: the expected hash of the weights file, 64 hex digits, where it is one file; published hashes found beside
        the files are always checked (`travel.published_hash`).
      **extra_files: further files that the family needs (`styletts2.open_files`).
    Returns:
      Counts of tensors used and left aside (known to be harmless), and of arrays and numbers written.
    Raises:
      ConversionError: a checkpoint that does not fit, with everything that is wrong.
      ConversionError: an output that exists already.
      ConversionError: a full disk.
    """
    output = Path(output)
    refuse_existing(output)
    opened = FAMILIES[family].open_files(source, **extra_files) if family in OWN_FILES else open_source(family, source)
    dtypes = _dtypes(opened, dtype)
    used = {name for entry in opened.fits for name in entry.sources}
    files = sorted({opened.tensors[name].file for name in used})
    checked = _check_hashes(files, sha256)
    partial = partial_path(output)
    _prepare(partial, opened, dtypes)
    writer = Writer(partial)
    total = sum(opened.tensors[name].nbytes for name in used)
    try:
        with _progress_bar(f"convert {family}", total) as progress:
            for entry in opened.fits:
                if not writer.has(entry.name):
                    writer.add(entry.name, entry.read(opened.tensors).astype(dtypes[entry.name], copy=False))
                progress.update(sum(opened.tensors[name].nbytes for name in entry.sources))
            _save_carried_tensors(opened, partial)
            settings = travel.copy_settings(opened.folder, partial)
            writer.finish(
                {
                    "family": family,
                    "architecture": architecture(opened.config),
                    "settings": settings,
                    "source": {
                        "folder": str(opened.folder.resolve()),
                        "config": opened.settings,
                        "prefix": opened.prefix,
                        "sha256_checked": checked,
                        "files": {file.name: file.stat().st_size for file in files},
                    },
                }
            )
    except OSError as error:
        raise ConversionError(
            f"{output}: not written ({error}); {partial.name} can be resumed by the same command"
        ) from error
    finally:
        writer.close()
    (partial / _FINGERPRINT).unlink()
    partial.rename(output)
    numbers = sum(int(np.prod(entry.shape)) for entry in opened.fits)
    unused = len(opened.tensors) - len(used)
    return {"tensors": len(used), "left_aside": unused, "arrays": len(opened.fits), "numbers": numbers}


_FINGERPRINT = "converting.json"


def _prepare(partial: Path, opened: Source, dtypes: dict[str, np.dtype]) -> None:
    """Keep what an interrupted conversion of the same files wrote, or start over; check that the disk has room."""
    files = {str(tensor.file) for tensor in opened.tensors.values()}
    stats = {file: [(stat := Path(file).stat()).st_size, stat.st_mtime_ns] for file in sorted(files)}
    fingerprint = {"family": opened.family, "files": stats, "dtypes": {n: str(d) for n, d in dtypes.items()}}
    path = partial / _FINGERPRINT
    if not (path.exists() and json.loads(path.read_text()) == fingerprint):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(path, fingerprint)
    written = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    needed = sum(int(np.prod(entry.shape)) * dtypes[entry.name].itemsize for entry in opened.fits) - written
    free = shutil.disk_usage(partial).free
    if needed > free:
        if not (partial / "params").exists():
            shutil.rmtree(partial)
        raise ConversionError(f"{partial.parent}: {needed / 1e9:.2f} GB are needed, the disk has {free / 1e9:.2f} free")


def _dtypes(opened: Source, dtype: str | None) -> dict[str, np.dtype]:
    """Return the dtype of every array on disk, by its name."""
    if dtype is None:
        return {entry.name: opened.tensors[entry.sources[0]].dtype for entry in opened.fits}
    if not hasattr(opened.config, "param_dtype"):
        raise ConversionError(f"{opened.family} keeps its numbers' format: leave --dtype out")
    config = dataclasses.replace(opened.config, param_dtype=dtype)
    model = dict(nnx.to_flat_state(abstract_parameters(FAMILIES[opened.family], config)))
    parameter_dtypes = {"/".join(map(str, path)): np.dtype(leaf.dtype) for path, leaf in model.items()}
    targets = stored_arrays(abstract_parameters(FAMILIES[opened.family], opened.config))
    return {entry.name: parameter_dtypes[targets[entry.name][0]] for entry in opened.fits}


def _save_carried_tensors(opened: Source, partial: Path) -> None:
    names = {name: f"{opened.prefix}{name}" for name in FAMILIES[opened.family].CARRIED_TENSORS}
    carried = {short: opened.tensors[name].read() for short, name in names.items() if name in opened.tensors}
    if carried:
        save_safetensors(carried, partial / CARRIED_FILE)


def _check_hashes(files: list[Path], sha256: str | None) -> dict[str, str]:
    """Compare every file whose SHA-256 is known with it; return file name -> where the hash is from."""
    expected = {file: known for file in files if (known := travel.published_hash(file))}
    if sha256:
        if len(files) != 1:
            raise ConversionError(f"one SHA-256 for {len(files)} files: put a SHA256SUMS beside them instead")
        expected[files[0]] = travel.parse_sha256(sha256, "--sha256"), "--sha256"
    if not expected:
        return {}
    with _progress_bar("check SHA-256", sum(file.stat().st_size for file in expected)) as progress:
        for file, (digest, origin) in expected.items():
            travel.check_hash(file, digest, origin, progress.update)
    return {file.name: origin for file, (_, origin) in expected.items()}


def _progress_bar(description: str, total: int) -> tqdm:
    interval = 0.2 if sys.stderr.isatty() else 10.0  # seconds; a log gets a line every ten
    return tqdm(total=total, unit="B", unit_scale=True, desc=description, mininterval=interval, file=sys.stderr)
