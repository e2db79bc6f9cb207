"""The vision tower of CLIP (Radford et al. 2021, arXiv:2103.00020), section 4.1's video encoder, as in transformers."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import ConfigError
from empatheia_jax.encoders.transformer import Layers, TransformerConfig, convolution_kernel
from empatheia_jax.model.initial_values import INIT_STD
from empatheia_jax.model.layers import LayerNorm
from empatheia_jax.model.sharding import param


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipVisionConfig(TransformerConfig):
    """The architecture of a vision tower. Images are square, of `image_size` pixels a side."""

    pre_norm: bool = dataclasses.field(default=True, init=False)  # every published tower
    activation: str = "quick_gelu"
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.patch_size <= self.image_size:
            raise ConfigError(f"CLIP patch_size {self.patch_size} does not fit image_size {self.image_size}")

    @classmethod
    def vit_l_14_336(cls) -> "ClipVisionConfig":
        """Return openai/clip-vit-large-patch14-336: 304M parameters."""
        return cls(width=1024, layers=24, heads=16, mlp_width=4096, image_size=336, patch_size=14)

    @classmethod
    def vit_b_32(cls) -> "ClipVisionConfig":
        """Return openai/clip-vit-base-patch32: 87M parameters."""
        return cls(width=768, layers=12, heads=12, mlp_width=3072)

    @classmethod
    def small(cls) -> "ClipVisionConfig":
        """Return a tower of a million parameters for small images; it has no published weights."""
        return cls(width=128, layers=3, heads=4, mlp_width=384, image_size=96, patch_size=16)

    @classmethod
    def tiny(cls) -> "ClipVisionConfig":
        """Return a tower for tests: two layers, 3 x 3 patches."""
        return cls(width=32, layers=2, heads=4, mlp_width=64, image_size=24, patch_size=8)

    @property
    def patches(self) -> int:
        """The number of patches P of one image; a border narrower than a patch is not used."""
        return (self.image_size // self.patch_size) ** 2


class ClipVision(nnx.Module):
    """The inference part of transformers' CLIPVisionModel."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, config.param_dtype
        window = (config.patch_size, config.patch_size, 3, width)
        axes = ("unsharded", "unsharded", "features", "embed")
        self.patch_kernel = convolution_kernel(rngs.params(), window, axes, dtype)
        # Class token and position table have the same scale, so they are drawn together.
        table = (INIT_STD * jax.random.normal(rngs.params(), (2 + config.patches, width))).astype(dtype)
        self.class_embedding = param(table[0], "embed")
        self.position_embedding = param(table[1:], "unsharded", "embed")
        self.pre_norm = LayerNorm((width,), "embed", epsilon=config.norm_epsilon)
        self.layers = Layers(config, rngs.params())
        self.post_norm = LayerNorm((width,), "embed", epsilon=config.norm_epsilon)

    def __call__(self, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encode images into patch and image features.

        Args:
          pixels: float32 [B, H, W, 3] RGB with H = W = `image_size`, normalised by CLIP's mean and deviation.

        Returns:
          Last hidden states float32 [B, 1 + P, D], class token first, then patches row by row, without the post norm;
          and pooled float32 [B, D], the class token after the post norm.

        Raises:
          ValueError: the images have another size.
        """
        hidden = self.layers(self._embed(pixels))
        return hidden.astype(jnp.float32), self.post_norm(hidden[:, 0]).astype(jnp.float32)

    def hidden_states(self, pixels: jax.Array) -> jax.Array:
        """Return the first layer's input and every layer's output for images: float32 [1 + L, B, 1 + P, D]."""
        return self.layers.states(self._embed(pixels)).astype(jnp.float32)

    def _embed(self, pixels):
        size, stride = self.config.image_size, self.config.patch_size
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"ClipVision: images of shape {pixels.shape[1:]}; wanted ({size}, {size}, 3)")
        x = pixels.astype(self.config.compute_dtype)
        x = jax.lax.conv_general_dilated(
            x,
            self.patch_kernel[...].astype(x.dtype),
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.position_embedding[...].astype(x.dtype)
        return self.pre_norm(x)
