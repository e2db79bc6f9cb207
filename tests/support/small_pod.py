"""A config as small as `small.small_config`, with dimensions that meshes of eight devices divide."""

import dataclasses

from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.testing.tiny import replace_fields, small_config


def pod_config(mesh: MeshConfig, **llm) -> Config:
    """Return a config with an LLM of two layers, width 64 and four heads; `llm` overrides its fields."""
    sizes = {"width": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp_width": 128}
    config = replace_fields(small_config(base="none"), "llm", **sizes | llm)
    config = replace_fields(replace_fields(config, "data", rows=8), "latents", encoder_layers=1, decoder_layers=1)
    return dataclasses.replace(config, mesh=mesh)
