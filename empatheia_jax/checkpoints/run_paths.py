"""Paths in a run's config: what lies in the run's folder is named relative to it, and so moves with it.

Other relative paths are the working directory's, as they were typed.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from empatheia_jax.checkpoints.frozen_network import RANDOM
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.config.load import config_from_json, config_to_json

# Names of the fields that hold a path, in whatever part of the config they are.
PATH_FIELDS = frozenset(
    ("base", "adapter", "path", "features", "hubert_weights", "clip_weights", "speech_weights", "face_weights")
) | {f"dreamtalk_{part}" for part in ("repo", "checkpoint", "renderer", "wav2vec")}
PATH_FIELDS |= {"styletts2_repo", "styletts2_checkpoint"}
NO_PATHS = ("", "scratch", RANDOM)


def _change_paths(value: Any, change: Callable[[str], str], name: str = "") -> Any:
    """Return the JSON values of a config with each path replaced by `change(path)`."""
    if isinstance(value, dict):
        return {field: _change_paths(item, change, field) for field, item in value.items()}
    if isinstance(value, list):
        return [_change_paths(item, change, name) for item in value]
    return change(value) if name in PATH_FIELDS and value not in NO_PATHS else value


def with_paths_of_folder(config: Config, folder: Path) -> Config:
    """Return a config whose paths to what lies in the run's folder, absolute or typed, are relative to the folder."""
    inside = folder.resolve()

    def change(path: str) -> str:
        absolute = Path(path).resolve()
        return absolute.relative_to(inside).as_posix() if inside in absolute.parents else path

    return config_from_json(_change_paths(config_to_json(config), change))


def resolve_paths(config: Config, folder: Path) -> Config:
    """Return a saved config whose relative paths can be opened: the run's folder's where they exist in it.

    The others stay as they are, the working directory's.
    """

    def change(path: str) -> str:
        outside = os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] in ("..", ".")
        return path if outside or not (folder / path).exists() else str(folder / path)

    return config_from_json(_change_paths(config_to_json(config), change))


def require_paths(config: Config, folder: Path, *fields: str) -> None:
    """Check that paths of a run's config are there.

    Args:
      config: of the run, from `resolve_paths`.
      folder: the run's.
      *fields: names of the config's fields, as "data.path".

    Raises:
      ConfigError: one is not; it names the field, the path and where it was looked for.
    """
    for field in fields:
        value = config
        for name in field.split("."):
            value = getattr(value, name)
        path = str(value)
        if path in NO_PATHS or Path(path).exists():
            continue
        places = "" if os.path.isabs(path) else f", neither in the run's folder {folder} nor in {Path.cwd()}"
        raise ConfigError(
            f"{field} {path} of the run {folder} is not there{places}: put it there, or its new path into the run's "
            "config.json"
        )
