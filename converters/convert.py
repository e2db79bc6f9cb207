"""Convert one family's checkpoint to a folder of weights (`checkpoints/weights.py`), an array at a time."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import nnx
from tqdm import tqdm

from converters import (
    clip,
    companion_files,
    dreamtalk,
    gguf_files,
    gguf_llama,
    gguf_tokenizer,
    kokoro,
    speech_encoders,
    styletts2,
    vicuna,
)
from converters.outputs import one_writer_of, refuse_existing, resumable_folder, save_safetensors
from converters.readers import open_checkpoint, read_json
from converters.rules import Source, TransformersFamily, find_prefix
from converters.tensors import ConversionError
from converters.trained import TrainedCheck, warn
from empatheia_jax.checkpoints.weights import Writer, architecture, stored_arrays
from empatheia_jax.config import ConfigError

FAMILIES: dict[str, TransformersFamily] = {
    "vicuna": vicuna.FAMILY,
    "hubert": speech_encoders.HUBERT,
    "clip": clip.FAMILY,
    "wav2vec2": speech_encoders.WAV2VEC2,
}
"""Families whose checkpoints are transformers directories."""
FILE_READERS: dict[str, Callable[..., Source]] = {
    "styletts2": styletts2.open_files,
    "kokoro": kokoro.open_files,
} | {f"dreamtalk_{name}": part.open_files for name, part in dreamtalk.PARTS.items()}
"""Families that are published as files of their own -> the function that opens them."""
CARRIED_FILE = "carried.safetensors"
"""Small tensors that our network does not use and an export must have: SpecAugment's mask embedding."""


def open_source(family: str, source: Path) -> Source:
    """Read settings and tensor names, and check that everything fits, before any number is read.

    Args:
      family: a key of `FAMILIES`.
      source: the directory, a weights file in one, or a shard index.
    Raises:
      ConversionError: a checkpoint that does not fit; the message lists everything that is wrong.
    """
    table, source = FAMILIES[family], Path(source)
    if not source.exists():
        raise ConversionError(f"{source}: not there")
    if source.suffix == ".gguf":
        return _open_gguf(family, source)
    folder = source if source.is_dir() else source.parent
    if not (folder / "config.json").exists():
        raise ConversionError(f"{folder}: no config.json beside the weights")
    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    if kind not in table.model_types:
        others = [name for name, other in FAMILIES.items() if kind in other.model_types]
        hint = f"; that is family {others[0]}" if others else ""
        raise ConversionError(f"{folder}: config.json says model_type {kind!r}, {family} is {table.model_types}{hint}")
    preprocessor = folder / "preprocessor_config.json"
    try:
        config = table.parse_config(settings, read_json(preprocessor) if preprocessor.exists() else None)
    except ConversionError as error:
        raise ConversionError(f"{folder}/{error}") from error
    except (ConfigError, TypeError) as error:
        raise ConversionError(f"{folder}/config.json: {error}") from error
    tensors = open_checkpoint(source)
    prefix = find_prefix(tensors, table.prefix)
    return Source(family, folder, settings, config, tensors, prefix, table.fit(config, tensors, prefix))


def _open_gguf(family: str, source: Path) -> Source:
    """Read a GGUF file, which holds settings, tensors and tokenizer."""
    table = FAMILIES[family]
    if gguf_llama.ARCHITECTURE not in table.model_types:
        raise ConversionError(f"{source}: GGUF files are read by family vicuna, not by {family}")
    file = gguf_files.open_gguf(source)
    settings = gguf_llama.read_settings(file)
    try:
        config = table.parse_config(settings, None)
    except (ConfigError, ConversionError, TypeError) as error:
        raise ConversionError(f"{source}: {error}") from error
    tensors = gguf_llama.read_tensors(file, settings)
    fits = table.fit(config, tensors, table.prefix)
    generated = gguf_tokenizer.tokenizer_files(file, config.vocab_size)
    return Source(family, source.parent, settings, config, tensors, table.prefix, fits, generated)


def convert(
    family: str, source: Path, output: Path, dtype: str | None = None, *, sha256: str | None = None, **extra_files: Path
) -> dict[str, int]:
    """Convert a checkpoint; `output` appears when all of it is written, or not at all.

    What an interrupted conversion of the same files wrote to `output`.partial is kept. Memory: a few parts of
    `weights.PART_BYTES`, or of the largest tensor where that is larger.

    Args:
      family: a key of `FAMILIES` or `FILE_READERS`.
      source: a transformers directory (see `open_source`), or the published file of a family in `FILE_READERS`.
      output: a new folder.
      dtype: "float32", "bfloat16" or "float16", of the parameters that are not norms; None keeps each tensor's own.
      sha256: the expected hash of the weights file, 64 hex digits, where it is one file; published hashes found beside
        the files are always checked (`companion_files.published_hash`).
      **extra_files: further files that the family needs (`styletts2.open_files`).
    Returns:
      Counts of tensors used and left aside (known to be harmless), and of arrays and numbers written.
    Raises:
      ConversionError: a checkpoint that does not fit, with everything that is wrong.
      ConversionError: an output that exists already.
      ConversionError: a full disk.
    """
    output = Path(output)
    inputs = [("--input", source), *((f"--{name}", path) for name, path in extra_files.items())]
    refuse_existing(output, inputs)
    opened = FILE_READERS[family](source, **extra_files) if family in FILE_READERS else open_source(family, source)
    notes = check_trained(opened)
    dtypes = _dtypes(opened, dtype)
    used = {name for entry in opened.fits for name in entry.sources}
    files = sorted({opened.tensors[name].file for name in used})
    with one_writer_of(output):
        checked = _check_hashes(files, sha256)
        with resumable_folder(output, _fingerprint(opened, dtypes)) as partial:
            _check_room(partial, opened, dtypes)
            source_facts = {
                "folder": str(opened.folder.resolve()),
                "config": opened.settings,
                "prefix": opened.prefix,
                "sha256_checked": checked,
                "files": {file.name: file.stat().st_size for file in files},
            }
            try:
                _write(opened, dtypes, partial, source_facts)
            except OSError as error:
                raise ConversionError(
                    f"{output}: not written ({error}); {partial.name} can be resumed by the same command"
                ) from error
    warn(opened.folder, notes)
    numbers = sum(int(np.prod(entry.shape)) for entry in opened.fits)
    unused = len(opened.tensors) - len(used)
    counts = {"tensors": len(used), "left_aside": unused, "arrays": len(opened.fits), "numbers": numbers}
    return counts | dict(opened.counts)


def _write(opened: Source, dtypes: dict[str, np.dtype], partial: Path, source_facts: dict) -> None:
    """Write the arrays that are not there yet, what belongs to them, and config.json."""
    writer = Writer(partial)
    total = sum(opened.tensors[name].nbytes for entry in opened.fits for name in entry.sources)
    try:
        with _progress_bar(f"convert {opened.family}", total) as progress:
            for entry in opened.fits:
                if not writer.has(entry.name):
                    writer.add(entry.name, entry.read(opened.tensors).astype(dtypes[entry.name], copy=False))
                progress.update(sum(opened.tensors[name].nbytes for name in entry.sources))
            _save_carried_tensors(opened, partial)
            writer.finish(
                {
                    "family": opened.family,
                    "architecture": architecture(opened.config),
                    "settings": companion_files.copy_settings(opened.folder, partial)
                    if opened.generated is None
                    else companion_files.write_files(opened.generated, partial),
                    "source": source_facts,
                }
            )
    finally:
        writer.close()


def check_trained(opened: Source) -> list[str]:
    """Look at the tensors that are used, and return what is worth a warning (`trained.warn`).

    Raises:
      ConversionError: delta weights, or tensors that are zero and must not be.
    """
    check = TrainedCheck(opened.folder, (opened.folder.resolve().name, opened.settings.get("_name_or_path")))
    for entry in opened.fits:
        for name in entry.sources:
            check.add(entry.name, opened.tensors[name].read(), name)
    return check.finish()


def convert_dreamtalk(sources: dict[str, Path | None], output: Path) -> dict[str, dict[str, int]]:
    """Convert the files of DreamTalk to OUTPUT/{denoiser,renderer,wav2vec,face3d}; OUTPUT appears when all are written.

    Parts that an interrupted run of the same files finished are kept.

    Args:
      sources: "denoiser", "renderer", "wav2vec" and "face3d" -> file (wav2vec: directory), or None to leave it out.
      output: a new folder.
    Returns:
      Part -> the counts that `convert` returns; no counts for a part that was converted before.
    Raises:
      ConversionError: a file that does not fit.
      ConversionError: an output that exists already.
    """
    output = Path(output)
    given = {name: Path(source) for name, source in sources.items() if source is not None}
    refuse_existing(output, [(f"--{name}", source) for name, source in given.items()])
    fingerprint = {
        name: [str(source.resolve()), source.stat().st_size if source.is_file() else 0]
        for name, source in given.items()
    }
    counts = {}
    with one_writer_of(output), resumable_folder(output, fingerprint) as partial:
        for name, source in given.items():
            is_converted = (partial / name / "config.json").exists()
            family = "wav2vec2" if name == "wav2vec" else f"dreamtalk_{name}"
            counts[name] = {} if is_converted else convert(family, source, partial / name)
    return counts


def _fingerprint(opened: Source, dtypes: dict[str, np.dtype]) -> dict:
    """Return what converted numbers depend on: the files by size and time, and the dtypes."""
    files = {str(tensor.file) for tensor in opened.tensors.values()}
    stats = {file: [(stat := Path(file).stat()).st_size, stat.st_mtime_ns] for file in sorted(files)}
    return {"family": opened.family, "files": stats, "dtypes": {n: str(d) for n, d in dtypes.items()}}


def _check_room(partial: Path, opened: Source, dtypes: dict[str, np.dtype]) -> None:
    """Check that the disk has room for what is not written yet.

    Raises:
      ConversionError: it has not; nothing is left where nothing was written.
    """
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
    if opened.family not in FAMILIES:
        raise ConversionError(f"{opened.family} keeps its numbers' format: leave --dtype out")
    parameters = FAMILIES[opened.family].parameters(dataclasses.replace(opened.config, param_dtype=dtype))
    parameter_dtypes = {"/".join(map(str, path)): leaf.dtype for path, leaf in nnx.to_flat_state(parameters)}
    targets = stored_arrays(parameters)
    return {entry.name: np.dtype(parameter_dtypes[targets[entry.name][0]]) for entry in opened.fits}


def _save_carried_tensors(opened: Source, partial: Path) -> None:
    carried_names = FAMILIES[opened.family].carried_tensors if opened.family in FAMILIES else ()
    names = {name: f"{opened.prefix}{name}" for name in carried_names}
    carried = {short: opened.tensors[name].read() for short, name in names.items() if name in opened.tensors}
    if carried:
        save_safetensors(carried, partial / CARRIED_FILE)


def _check_hashes(files: list[Path], sha256: str | None) -> dict[str, str]:
    """Compare every file whose SHA-256 is known with it; return file name -> where the hash is from."""
    expected = {file: known for file in files if (known := companion_files.published_hash(file))}
    if sha256:
        if len(files) != 1:
            raise ConversionError(f"one SHA-256 for {len(files)} files: put a SHA256SUMS beside them instead")
        expected[files[0]] = companion_files.parse_sha256(sha256, "--sha256"), "--sha256"
    if not expected:
        return {}
    with _progress_bar("check SHA-256", sum(file.stat().st_size for file in expected)) as progress:
        for file, (digest, origin) in expected.items():
            companion_files.check_hash(file, digest, origin, progress.update)
    return {file.name: origin for file, (_, origin) in expected.items()}


def _progress_bar(description: str, total: int) -> tqdm:
    interval = 0.2 if sys.stderr.isatty() else 10.0  # seconds; a log gets a line every ten
    return tqdm(total=total, unit="B", unit_scale=True, desc=description, mininterval=interval, file=sys.stderr)
