"""A tiny StyleTTS 2 and a tiny DreamTalk, with random weights of which every one matters."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, Face3DConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.diffusion import Denoiser
from empatheia_jax.generators.dreamtalk.face3d import Face3D
from empatheia_jax.generators.dreamtalk.renderer import Renderer
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2

STYLETTS2 = StyleTTS2Config(
    n_layer=2,
    dim_in=4,
    hidden_dim=32,
    max_conv_dim=32,
    style_dim=8,
    upsample_initial_channel=32,
    diffusion_layers=1,
    diffusion_heads=2,
    diffusion_head_features=8,
    plbert_embedding=8,
    plbert_hidden=16,
    plbert_heads=2,
    plbert_mlp=24,
    plbert_layers=2,
    upsample_rates=(30, 10),
    upsample_kernel_sizes=(60, 20),
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((3,),),
)
STYLETTS2_KINDS = {
    "hifigan": STYLETTS2,
    "istftnet": dataclasses.replace(
        STYLETTS2, multispeaker=False, decoder_type="istftnet", upsample_rates=(10, 6), upsample_kernel_sizes=(20, 12)
    ),
}
KOKORO = dataclasses.replace(STYLETTS2_KINDS["istftnet"], multispeaker=True, style_networks=False, style_dim=128)
"""Kokoro's networks but for their widths; styles are as wide as the published voices."""


def make_styletts2(config: StyleTTS2Config, seed: int) -> StyleTTS2:
    """Make a StyleTTS 2 whose every parameter matters, with a few frames a phoneme and an F0 of about 150 Hz."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: StyleTTS2(config, rngs=nnx.Rngs(0))))
    rng, flat = np.random.default_rng(seed), []
    for path, variable in nnx.to_flat_state(shapes):
        name, shape = "/".join(map(str, path)), variable.shape
        value = rng.normal(size=shape)
        if "alpha" in name or path[-1] == "scale":
            value = 1 + 0.1 * value
        elif path[-1] == "bias":
            value = 0.05 * value
        elif len(shape) > 1:
            value = value / np.sqrt(np.prod(shape[:-1]))
        if "duration_proj" in name and path[-1] == "bias":
            value = value - 2.5
        if name == "predictor/F0_proj/bias":
            value = value + 150.0
        flat.append((path, variable.replace(jnp.asarray(value, jnp.float32))))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


DREAMTALK = {
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


def write_dreamtalk_weights(folder: Path, seed: int, parts=tuple(DREAMTALK)) -> Path:
    """Write a DreamTalk with random weights as the converter does, and return its folder.

    Args:
      folder: where a folder for each part is written.
      seed: seed of the weights.
      parts: keys of `DREAMTALK`.
    """
    for number, part in enumerate(parts):
        network, config = DREAMTALK[part]
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
