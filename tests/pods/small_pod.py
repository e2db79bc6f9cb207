"""A config as small as `small.small_config`, but with dimensions that meshes of eight divide."""

import dataclasses

from small import small_config, sub

from empatheia_jax.config import Config, MeshConfig


def pod_config(mesh: MeshConfig, **llm) -> Config:
    """Two layers of width 64, four heads; vicuna's dtypes where `llm` says so."""
    sizes = {"width": 64, "heads": 4, "kv_heads": 4, "head_dim": 16, "mlp_width": 128}
    config = sub(small_config(base="none"), "llm", **sizes | llm)
    config = sub(sub(config, "data", rows=8), "latents", encoder_layers=1, decoder_layers=1)
    return dataclasses.replace(config, mesh=mesh)
