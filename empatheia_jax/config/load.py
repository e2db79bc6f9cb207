"""Reading configs from Python files and the command line; writing and reading them as JSON."""

import dataclasses
import importlib.util
import types
import typing
from pathlib import Path

import tyro

from empatheia_jax.checkpoints.weights import read_architecture
from empatheia_jax.config import Config, ConfigError, LlamaConfig


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """Load a config file, with fields overridden from the command line.

    Args:
      path: a Python file with a function `get_config() -> Config`.
      overrides: command-line flags, as ["--data.path", "DIR"].
    Raises:
      ConfigError: there is no such file, or it has no `get_config`.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such config file")
    spec = importlib.util.spec_from_file_location("empatheia_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path}: a config file has a function get_config() -> Config")
    config = module.get_config()
    if not overrides:
        return config
    return tyro.cli(
        Config, default=config, args=overrides, config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagConversionOff)
    )


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


def _to_json(value):
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return value


def config_from_json(value: dict, source: str = "config.json") -> Config:
    """Return the config that `config_to_json` wrote.

    Args:
      value: the config as JSON values.
      source: name of the file, for error messages.
    Raises:
      ConfigError: it has a field that this version does not know.
    """
    return _build(Config, value, source)


def _build(annotation, value, source):
    """Build the type `annotation` of JSON values, following the annotations of the dataclasses."""
    origin = typing.get_origin(annotation)
    if dataclasses.is_dataclass(annotation):
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
