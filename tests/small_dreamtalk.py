"""A small DreamTalk for tests, with random weights of which every one matters."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, Face3DConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.denoiser import Denoiser
from empatheia_jax.generators.dreamtalk.face3d import Face3D
from empatheia_jax.generators.dreamtalk.renderer import Renderer

SMALL = {
    "denoiser": (Denoiser, DreamTalkConfig(audio_dim=16, width=32, heads=2, mlp_width=32, layers=1, tail_width=16)),
    "renderer": (
        Renderer,
        RendererConfig(
            size=32,
            descriptor=16,
            norm_width=8,
            flow_widths=(4, 4, 8, 8),
            flow_levels=1,
            edit_widths=(4, 4, 8, 8),
            edit_blocks=1,
        ),
    ),
    "face3d": (Face3D, Face3DConfig(blocks=(1, 1, 1, 1), width=4)),
    "wav2vec": (
        Hubert,
        HubertConfig(
            width=16,
            layers=1,
            heads=2,
            mlp_width=32,
            conv_dim=(8,) * 7,
            conv_bias=True,
            feat_extract_norm="layer",
            pre_norm=True,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        ),
    ),
}


def write_weights(folder: Path, seed: int, parts=tuple(SMALL)) -> Path:
    """Write a converted folder of random weights and return it."""
    for number, part in enumerate(parts):
        network, config = SMALL[part]
        rng = np.random.default_rng([seed, number])
        shapes = nnx.split(nnx.eval_shape(lambda n=network, c=config: n(c, rngs=nnx.Rngs(0))))[1]
        flat = []
        for path, variable in nnx.to_flat_state(shapes):
            shape = variable.shape
            value = rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1]))) if len(shape) > 1 else None
            if value is None:
                is_scale = path[-1] in ("scale", "running_var") or "gain" in str(path[-1])
                value = (1.0 if is_scale else 0.0) + 0.1 * np.abs(rng.normal(size=shape))
            flat.append((path, variable.replace(jnp.asarray(value, jnp.float32))))
        save_weights(folder / part, config, nnx.from_flat_state(flat))
    return folder
