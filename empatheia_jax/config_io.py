"""Configs from Python files and the command line, to JSON and back."""

import dataclasses
import importlib.util
import types
import typing
from pathlib import Path

import tyro

from empatheia_jax.config import Config, ConfigError, LlamaConfig
from empatheia_jax.weights import architecture_of


def load_config(path: str, overrides: list[str] | None = None) -> Config:
    """`get_config()` of a config file, with fields overridden from the command line ("--data.path DIR").

    Raises:
      ConfigError: no such file, or no `get_config` in it.
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


def llm_of(base: str | Path, **settings) -> LlamaConfig:
    """The LLM settings of a converted base, for a config file: `llm=llm_of(base, attention="cudnn")`.

    Args:
      settings: how it is run: `compute_dtype`, `param_dtype`, `attention`, `remat`, `max_length`.
    Raises:
      CheckpointError: no converted base there. ConfigError: it is no Llama.
    """
    family, found = architecture_of(Path(base))
    if family != LlamaConfig.__name__:
        raise ConfigError(f"{base}: weights of a {family}, not an LLM")
    return _build(LlamaConfig, found | settings, str(base))


def config_to_json(config: Config) -> dict:
    """A config as JSON values."""
    return _plain(dataclasses.asdict(config))


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def config_from_json(value: dict, source: str = "config.json") -> Config:
    """The config that `config_to_json` wrote.

    Raises:
      ConfigError: a field that this version does not know.
    """
    return _build(Config, value, source)


def _build(kind, value, source):
    """JSON values -> `kind`, following the annotations of the dataclasses."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ConfigError(f"{source}: fields {unknown} are not known to this version of empatheia_jax")
        return kind(**{name: _build(hints[name], item, source) for name, item in value.items()})
    if origin in (typing.Union, types.UnionType):
        (inner,) = [part for part in typing.get_args(kind) if part is not type(None)]
        return None if value is None else _build(inner, value, source)
    if origin is tuple:
        return tuple(_build(typing.get_args(kind)[0], item, source) for item in value)
    if origin is dict:
        return {name: _build(typing.get_args(kind)[1], item, source) for name, item in value.items()}
    return value
