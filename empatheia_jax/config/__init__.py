"""Every setting of the system: `schema` has the dataclasses, `load` reads config files, `presets` has named sizes."""

from empatheia_jax.config.schema import (
    Config,
    ConfigError,
    DataConfig,
    EncoderConfig,
    GeneratorConfig,
    LatentConfig,
    LlamaConfig,
    LoraConfig,
    MeshConfig,
    MixConfig,
    OptimConfig,
    ProjectorConfig,
    PromptConfig,
    RopeScaling,
    StageConfig,
    TorchConfig,
)

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "EncoderConfig",
    "GeneratorConfig",
    "LatentConfig",
    "LlamaConfig",
    "LoraConfig",
    "MeshConfig",
    "MixConfig",
    "OptimConfig",
    "ProjectorConfig",
    "PromptConfig",
    "RopeScaling",
    "StageConfig",
    "TorchConfig",
]
