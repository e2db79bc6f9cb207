"""The files and folders that a corpus, a config and a run are read from, for `runtime.outputs.check_outputs`."""

import contextlib
from pathlib import Path

from empatheia_jax.checkpoints.run_paths import NO_PATHS, PATH_FIELDS
from empatheia_jax.config import Config
from empatheia_jax.data.corpus.avamerg import SPLITS, locate, media_folders
from empatheia_jax.data.schema import RecordError

RUN_FILES = ("config.json", "goodput.json", "metrics.jsonl", "examples.jsonl", "compile.jsonl")
RUN_FOLDERS = ("tokenizer", "checkpoints", "set_aside", "states", "events")
RUN_INPUTS = (*RUN_FILES, *RUN_FOLDERS, "base", "features")
"""What a run's folder holds; reports and answers may be written beside these."""


def corpus_inputs(name: str, path: Path | str) -> list[tuple[str, Path]]:
    """Return (name, path) of the JSON files of a corpus, of the folders and zips of its media, or of a built dataset.

    Args:
      name: of the corpus, for errors.
      path: what `data.corpus.avamerg.read_examples` reads.
    """
    path = Path(path)
    files: list[Path] = []
    for split in SPLITS:
        with contextlib.suppress(RecordError):  # a corpus need not have all splits
            file, divided = locate(path, split)
            files += [file, *media_folders(file, "train" if divided else split)]
    return [(name, file) for file in dict.fromkeys(files or [path])]


def config_inputs(config: Config) -> list[tuple[str, Path]]:
    """Return (field, path) of what a config's fields name: corpora, feature stores, a base, an adapter, weights."""
    corpora = {"data.path": config.data.path} | {f"data.mix {part.name}": part.path for part in config.data.mix}
    paths = {
        "base": config.base,
        "adapter": config.adapter,
        "data.features": config.data.features,
        "encoders.hubert_weights": config.encoders.hubert_weights,
        "encoders.clip_weights": config.encoders.clip_weights,
        "generators.speech_weights": config.generators.speech_weights,
        "generators.face_weights": config.generators.face_weights,
    }
    paths |= {f"data.mix {part.name}: features": part.features for part in config.data.mix}
    torch = {name: value for name, value in vars(config.generators.torch).items() if name in PATH_FIELDS}
    paths |= {f"generators.torch.{name}": value for name, value in torch.items()}
    inputs = [(name, Path(path)) for name, path in paths.items() if path not in NO_PATHS]
    return inputs + [entry for name, path in corpora.items() if path for entry in corpus_inputs(name, path)]


def run_inputs(folder: Path | str, config: Config) -> list[tuple[str, Path]]:
    """Return (name, path) of what a run is read from: the parts of its folder, and what its config names."""
    return [("a part of --run,", Path(folder) / name) for name in RUN_INPUTS] + config_inputs(config)
