"""A small StyleTTS 2 for tests, with random weights of which every one matters."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2

SMALL = StyleTTS2Config(
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
KINDS = {
    "hifigan": SMALL,
    "istftnet": dataclasses.replace(
        SMALL, multispeaker=False, decoder_type="istftnet", upsample_rates=(10, 6), upsample_kernel_sizes=(20, 12)
    ),
}


def make(config: StyleTTS2Config, seed: int) -> StyleTTS2:
    """Make a model whose every parameter matters, with a few frames a phoneme and an F0 of about 150 Hz."""
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
