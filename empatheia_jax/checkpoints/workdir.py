"""The folder of a run: its config, what it may be used for, its one writer, and its feature store."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from empatheia_jax.checkpoints.inputs import RUN_FILES, RUN_FOLDERS, config_inputs
from empatheia_jax.checkpoints.restore import check_base
from empatheia_jax.checkpoints.run_paths import resolve_paths, with_paths_of_folder
from empatheia_jax.checkpoints.weights import is_weights, read_metadata
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.config.load import config_from_json, config_to_json
from empatheia_jax.data.features.store import FeatureStore, expected_settings
from empatheia_jax.encoders import build_encoders
from empatheia_jax.llm.quantized import require_qwix
from empatheia_jax.runtime import processes
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.json_files import read_json
from empatheia_jax.runtime.one_writer import one_writer
from empatheia_jax.runtime.outputs import check_outputs

FACE_PARTS = ("denoiser", "wav2vec", "face3d")  # parts of DreamTalk's folder that its golds depend on


@contextlib.contextmanager
def claim_workdir(folder: Path) -> Iterator[None]:
    """Be the only run that writes a folder. The processes of a run are one writer, and its first holds the lock.

    Raises:
      BusyError: another run is writing there; the other processes of this one end when its first does.
    """
    # No gather to tell the others: compiling it would settle for good that the compilation cache is not used.
    lock = (
        one_writer(folder / "writer.lock", f"--workdir {folder}") if processes.is_first() else contextlib.nullcontext()
    )
    with lock:
        yield


def check_inputs(folder: Path, config: Config, config_file: Path | str, *, resume: bool, trains_base: bool) -> None:
    """Check that nothing that a run reads is among what it writes to its folder.

    Args:
      folder: the run's.
      config: settings of the run.
      config_file: where these are from.
      resume: whether the files there are the run's own.
      trains_base: whether the run writes a base.
    Raises:
      OutputError: an input that the run would overwrite.
    """
    names = [*RUN_FOLDERS, *(["base"] if trains_base else []), *([] if resume else RUN_FILES)]
    outputs = [("--workdir", folder / name) for name in names]
    check_outputs(outputs, [("the config", config_file), *config_inputs(config)])


def check_workdir(folder: Path, config: Config, *, resume: bool, trains_base: bool) -> None:
    """Check that the run's folder is unused, or that a resumed run keeps its config, and that there is a base to tune.

    Args:
      folder: the run's.
      config: settings of the run.
      resume: whether a run in the folder is to be continued.
      trains_base: whether the first stage to be trained is the one that trains the base.

    Raises:
      ConfigError: a used folder without `resume`, nothing to resume, another config, later stages of a scratch base
        that stage 0 has not trained, or a base or an adapter of another architecture; a quantised base that stage 0 is
        to train, or that cannot be quantised here.
    """
    saved = folder / "config.json"
    check_base(config)
    if config.llm.quantization != "none":
        require_qwix()
        if trains_base:
            raise ConfigError(
                f"llm.quantization {config.llm.quantization}: stage 0 trains the base, and a quantised one is frozen; "
                "train stage 0 without, copy its DIR/base into a new --workdir, and begin there with --stages 1,2,3,4"
            )
    if config.base == "scratch" and not trains_base and not (folder / "base").exists():
        raise ConfigError(f"{folder}: no base there, and a scratch base is trained in stage 0: begin --stages with 0")
    if resume:
        if not saved.exists():
            raise ConfigError(f"{folder}: nothing to resume here (no config.json)")
        # An older run lacks later fields: they are read as their defaults.
        saved_fields, fields = (
            config_to_json(with_paths_of_folder(either, folder)) for either in (_read_config(folder), config)
        )
        changed = sorted(name for name in fields if saved_fields.get(name) != fields[name])
        if changed:
            raise ConfigError(f"{folder} was trained with another config ({', '.join(changed)}): resume with that one")
        return
    if saved.exists():
        raise ConfigError(f"{folder} holds a run already: pass --resume to continue it, or choose another --workdir")


def save_config(folder: Path, config: Config) -> None:
    """Save the resolved config, which makes the folder a run; what lies in the folder is named relative to it."""
    if processes.is_first():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", config_to_json(with_paths_of_folder(config, folder)))


def saved_config(folder: Path) -> Config:
    """Read the config of a finished or running run; its relative paths are the folder's where they exist in it.

    Raises:
      ConfigError: `folder` is no run, or was written by another version.
    """
    return resolve_paths(_read_config(folder), Path(folder))


def _read_config(folder: Path) -> Config:
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError(f"{folder}: not a run (no config.json); train one with train.py")
    return config_from_json(read_json(path), str(path))


def expected_store(config: Config) -> dict:
    """Return what is known of the feature store's settings from the config and the weights that are here."""
    generators = config.generators
    speech, face = ({"name": generators.target_backend[kind]} for kind in ("speech", "face"))
    if generators.speech_weights and is_weights(generators.speech_weights):
        speech["weights"] = read_metadata(generators.speech_weights)["sha256"]
    for part in FACE_PARTS if generators.face_weights else ():
        if is_weights(part_folder := Path(generators.face_weights) / part):
            face[f"weights_{part}"] = read_metadata(part_folder)["sha256"]
    return expected_settings(build_encoders(config.encoders), speech, face)


def open_store(folder: Path, config: Config, features: str = "") -> FeatureStore:
    """Open the run's feature store: `features`, else `config.data.features`, else `folder`/features.

    Raises:
      StoreError: none there, incomplete, damaged, or made by other encoders or generators than the config's.
    """
    return FeatureStore(Path(features or config.data.features or folder / "features"), expected_store(config))
