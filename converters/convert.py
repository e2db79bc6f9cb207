"""One family's checkpoint -> a folder of weights (`empatheia_jax/weights.py`), an array at a time."""

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
from converters.outputs import partial_of, refuse_existing
from converters.readers import ConversionError, open_checkpoint, read_json
from converters.rules import fit, prefix_of
from converters.shards import save
from converters.source import Source, abstract
from empatheia_jax.atomic import write_json
from empatheia_jax.config import ConfigError
from empatheia_jax.weights import Writer, architecture, slots

FAMILIES: dict[str, ModuleType | dreamtalk.Part] = {
    "vicuna": vicuna,
    "hubert": hubert,
    "clip": clip,
    "wav2vec2": wav2vec2,
    "styletts2": styletts2,
} | {f"dreamtalk_{name}": part for name, part in dreamtalk.PARTS.items()}
OWN_FILES = tuple(name for name in FAMILIES if name.startswith(("styletts2", "dreamtalk")))  # not transformers' folders
CARRIED = "carried.safetensors"
"""Small tensors that we do not need and an export must have: SpecAugment's mask embedding."""


def open_source(family: str, source: Path) -> Source:
    """Read settings and names, and see that everything fits, before any number is read.

    Args:
      source: a transformers directory, a weights file in one, or a shard index.
    Raises:
      ConversionError: a checkpoint that does not fit, with everything that is wrong.
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
        config = table.config_of(settings, read_json(preprocessor) if preprocessor.exists() else None)
    except ConversionError as error:
        raise ConversionError(f"{folder}/{error}") from error
    except (ConfigError, TypeError) as error:
        raise ConversionError(f"{folder}/config.json: {error}") from error
    tensors = open_checkpoint(source)
    prefix = prefix_of(tensors, table.PREFIX)
    further = table.check(config, tensors) if hasattr(table, "check") else []
    fits = fit(table.rules(config, prefix), slots(abstract(table, config)), tensors, table.HARMLESS, further)
    return Source(family, folder, settings, config, tensors, prefix, fits)


def convert(
    family: str, source: Path, output: Path, dtype: str | None = None, sha256: str | None = None, **beside: Path
) -> dict[str, int]:
    """Convert a transformers directory; `output` appears when all of it is written, or not at all.

    What an interrupted conversion of the same files wrote to `output`.partial is kept. Memory: a few parts of
    `weights.PART_BYTES`, or of the largest tensor where that is larger.

    Args:
      dtype: of the parameters that are not norms, "float32", "bfloat16" or "float16"; None keeps each tensor's own.
      sha256: what the weights file should have, 64 hex digits, where it is one file; hashes that lie beside the files
        are checked anyway (`travel.given_hash`).
      beside: further files of the family's own (`styletts2.open_files`).
    Returns:
      counts: tensors used, left aside (known to be harmless), arrays and numbers written.
    Raises:
      ConversionError: a checkpoint that does not fit, with everything that is wrong; an output that is there already; a
        full disk.
    """
    output = Path(output)
    refuse_existing(output)
    opened = FAMILIES[family].open_files(source, **beside) if family in OWN_FILES else open_source(family, source)
    dtypes = _dtypes(opened, dtype)
    used = {source for one in opened.fits for source in one.sources}
    files = sorted({opened.tensors[name].file for name in used})
    checked = _check_hashes(files, sha256)
    partial = partial_of(output)
    _prepare(partial, opened, dtypes)
    writer = Writer(partial)
    total = sum(opened.tensors[name].nbytes for name in used)
    try:
        with _bar(f"convert {family}", total) as bar:
            for one in opened.fits:
                tensors = [opened.tensors[source] for source in one.sources]
                if not writer.has(one.name):
                    writer.add(one.name, one.read(opened.tensors).astype(dtypes[one.name], copy=False))
                bar.update(sum(tensor.nbytes for tensor in tensors))
            _carry(opened, partial)
            settings = travel.copy(opened.folder, partial)
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
    numbers = sum(int(np.prod(one.shape)) for one in opened.fits)
    left = len(opened.tensors) - len(used)
    return {"tensors": len(used), "left_aside": left, "arrays": len(opened.fits), "numbers": numbers}


_FINGERPRINT = "converting.json"


def _prepare(partial: Path, opened: Source, dtypes: dict[str, np.dtype]) -> None:
    """Keep what an interrupted conversion of the same files left, or begin anew; see that the disk holds the rest."""
    files = {str(tensor.file) for tensor in opened.tensors.values()}
    stats = {file: [(stat := Path(file).stat()).st_size, stat.st_mtime_ns] for file in sorted(files)}
    print_ = {"family": opened.family, "files": stats, "dtypes": {n: str(d) for n, d in dtypes.items()}}
    path = partial / _FINGERPRINT
    if not (path.exists() and json.loads(path.read_text()) == print_):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(path, print_)
    there = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    needed = sum(int(np.prod(one.shape)) * dtypes[one.name].itemsize for one in opened.fits) - there
    free = shutil.disk_usage(partial).free
    if needed > free:
        if not (partial / "params").exists():
            shutil.rmtree(partial)
        raise ConversionError(f"{partial.parent}: {needed / 1e9:.2f} GB are needed, the disk has {free / 1e9:.2f} free")


def _dtypes(opened: Source, dtype: str | None) -> dict[str, np.dtype]:
    """The number format of every array on disk."""
    if dtype is None:
        return {one.name: opened.tensors[one.sources[0]].dtype for one in opened.fits}
    if not hasattr(opened.config, "param_dtype"):
        raise ConversionError(f"{opened.family} keeps its numbers' format: leave --dtype out")
    asked = dataclasses.replace(opened.config, param_dtype=dtype)
    model = dict(nnx.to_flat_state(abstract(FAMILIES[opened.family], asked)))
    parameters = {"/".join(map(str, path)): np.dtype(leaf.dtype) for path, leaf in model.items()}
    places = slots(abstract(FAMILIES[opened.family], opened.config))
    return {one.name: parameters[places[one.name][0]] for one in opened.fits}


def _carry(opened: Source, partial: Path) -> None:
    names = {name: f"{opened.prefix}{name}" for name in FAMILIES[opened.family].KEPT}
    kept = {ours: opened.tensors[name].read() for ours, name in names.items() if name in opened.tensors}
    if kept:
        save(kept, partial / CARRIED)


def _check_hashes(files: list[Path], asked: str | None) -> dict[str, str]:
    """Files whose SHA-256 somebody gives -> who; each is compared."""
    given = {file: found for file in files if (found := travel.given_hash(file))}
    if asked:
        if len(files) != 1:
            raise ConversionError(f"one SHA-256 for {len(files)} files: put a SHA256SUMS beside them instead")
        given[files[0]] = travel.sha256_of(asked, "--sha256"), "--sha256"
    if not given:
        return {}
    with _bar("check SHA-256", sum(file.stat().st_size for file in given)) as bar:
        for file, (digest, who) in given.items():
            travel.check_hash(file, digest, who, bar.update)
    return {file.name: who for file, (_, who) in given.items()}


def _bar(what: str, total: int) -> tqdm:
    quiet = 0.2 if sys.stderr.isatty() else 10.0  # seconds between lines of a log
    return tqdm(total=total, unit="B", unit_scale=True, desc=what, mininterval=quiet, file=sys.stderr)
