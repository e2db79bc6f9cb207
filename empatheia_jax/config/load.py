"""Reading configs from Python files and the command line; writing and reading them as JSON."""

import dataclasses
import importlib.util
import sys
import types
import typing
from pathlib import Path
from typing import Any

import tyro

from empatheia_jax.checkpoints.weights import read_architecture
from empatheia_jax.config import Config, ConfigError, LlamaConfig

# Fields that have moved: where older versions had them -> where they are. `config.json` of a run made before is read
# by this table, and flags with the old names work for one more release. No parameter of the model has moved so far, so
# checkpoints and converted weights need no such table; it would stand in `checkpoints/named_arrays.py`, which gives
# parameters their names on disk.
MOVED = {
    "optim.alpha": "loss.alpha",
    "optim.beta": "loss.beta",
    "optim.label_weight": "loss.label_weight",
    "latents.kl_weight": "loss.kl_weight",
}
# A field that became two: each of its values -> the values of the two.
SPLIT = {
    "encoders.kind": {
        "classical": {"encoders.audio": "classical", "encoders.video": "classical"},
        "hubert_clip": {"encoders.audio": "hubert", "encoders.video": "clip"},
    }
}


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """Load a config file, with fields overridden from the command line.

    Args:
      path: a Python file with a function `get_config() -> Config`.
      overrides: command-line flags, as ["--data.path", "DIR"].
    Raises:
      ConfigError: there is no such file, or it has no `get_config`.
    """
    spec = importlib.util.spec_from_file_location("empatheia_config", path) if Path(path).is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: no such config file (NAME.py)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path}: a config file has a function get_config() -> Config")
    config = module.get_config()
    if not overrides:
        return config
    return tyro.cli(
        Config,
        default=config,
        args=_moved_flags(overrides),
        config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagConversionOff),
    )


def _moved(field: str, value) -> dict[str, Any]:
    """Return the fields that a field has become, with their values; {} where it never had such a value."""
    return {MOVED[field]: value} if field in MOVED else SPLIT[field].get(value, {})


def _moved_flags(arguments: list[str]) -> list[str]:
    """Return command-line arguments with the new names of fields that have moved, and print a note for each."""
    moved, rest = [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        field = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        if field not in MOVED and field not in SPLIT:
            moved.append(argument)
            continue
        value = value if equals else next(rest, "")
        new = _moved(field, value)
        if not new:
            raise ConfigError(f"{flag} {value!r} is unknown: choose from {', '.join(SPLIT[field])}")
        flags = [f"--{path.replace('_', '-')}" for path in new]
        print(f"note: {flag} is {' and '.join(flags)} now; the old name goes with the next release", file=sys.stderr)
        moved += [part for pair in zip(flags, new.values(), strict=True) for part in pair]
    return moved


def _moved_fields(value: dict) -> dict:
    """Return the JSON values of a config with fields that have moved since it was written in their new places."""
    moved = {name: dict(item) if isinstance(item, dict) else item for name, item in value.items()}
    for old in (*MOVED, *SPLIT):
        part, name = old.split(".")
        if name not in moved.get(part, {}):
            continue
        old_value = moved[part].pop(name)
        for path, new_value in _moved(old, old_value).items():
            new_part, new_name = path.split(".")
            moved.setdefault(new_part, {}).setdefault(new_name, new_value)
    return moved


def load_llm_config(base: str | Path, **settings) -> LlamaConfig:
    """Load the LLM settings of a converted base, for a config file: `llm=load_llm_config(base, attention="cudnn")`.

    Args:
      base: folder of the converted base.
      **settings: fields that say how it is run: `compute_dtype`, `param_dtype`, `attention`, `remat`, `max_length`.
    Raises:
      CheckpointError: the folder holds no converted base.
      ConfigError: the base is no Llama.
    """
    family, architecture = read_architecture(Path(base))
    if family != LlamaConfig.__name__:
        raise ConfigError(f"{base}: weights of a {family}, not an LLM")
    return _build(LlamaConfig, architecture | settings, str(base))


def config_to_json(config: Config) -> dict:
    """Return a config as JSON values."""
    return _to_json(dataclasses.asdict(config))


def _to_json(value) -> Any:
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return value


def config_from_json(value: dict, source: str = "config.json") -> Config:
    """Return the config that `config_to_json` wrote, in this version or an older one.

    Args:
      value: the config as JSON values.
      source: name of the file, for error messages.
    Raises:
      ConfigError: it has a field that this version does not know.
    """
    return _build(Config, _moved_fields(value), source)


def _build(annotation: Any, value, source: str) -> Any:
    """Build the type `annotation` of JSON values, following the annotations of the dataclasses."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ConfigError(f"{source}: fields {unknown} are not known to this version of empatheia_jax")
        return annotation(**{name: _build(hints[name], item, source) for name, item in value.items()})
    if origin in (typing.Union, types.UnionType):
        (inner,) = [part for part in typing.get_args(annotation) if part is not type(None)]
        return None if value is None else _build(inner, value, source)
    if origin is tuple:
        return tuple(_build(typing.get_args(annotation)[0], item, source) for item in value)
    if origin is dict:
        return {name: _build(typing.get_args(annotation)[1], item, source) for name, item in value.items()}
    return value
