"""Projections of the LLM and their low-rank adapters (section 4.2; Table 8: rank 16, alpha 32).

y = x W + (alpha / r) dropout(x) A B, with W frozen (in QLoRA quantised, see `quantized.py`), A and B float32,
initialised as PEFT does: A uniform in +-1/sqrt(fan_in) (Kaiming with a = sqrt 5), B zero, so that the adapted model
starts as the base.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LoraConfig
from empatheia_jax.initial_values import draw_stacked
from empatheia_jax.llm.low_rank import narrow, widen
from empatheia_jax.llm.quantized import QuantizedKernel


class LoraError(ValueError):
    """An adapter setting that would train nothing, or not what was asked for."""


class Projection(nnx.Module):
    """The same linear map (no bias) of all L layers, stacked on axis 0, with an optional adapter.

    `lax.scan` over the owning module hands the body one layer, and `__call__` is written for that: kernel
    [*shape_in, *shape_out], or a `QuantizedKernel` of it. `lora_a` [*shape_in, r] and `lora_b` [r, *shape_out],
    float32, are None without an adapter.
    """

    def __init__(
        self,
        kernel: jax.Array | QuantizedKernel,
        axes_in: tuple[str, ...],
        axes_out: tuple[str, ...],
        *,
        lora: LoraConfig | None = None,
        lora_a: jax.Array | None = None,
    ):
        """kernel [L, *shape_in, *shape_out] with their logical axis names; with `lora`, `lora_a` [L, *shape_in, r]."""
        self.axes = ("layers", *axes_in, *axes_out)
        self.kernel = kernel if isinstance(kernel, QuantizedKernel) else self._param(kernel)
        self.inputs = len(axes_in)
        self.lora_a = self.lora_b = nnx.data(None)
        self.scale = lora.alpha / lora.rank if lora else 0.0
        if lora is None:
            return
        layers, sizes_out = kernel.shape[0], kernel.shape[1 + len(axes_in) :]
        self.lora_a = nnx.LoRAParam(lora_a, out_sharding=("layers", *axes_in, "lora_rank"), eager_sharding=False)
        self.lora_b = nnx.LoRAParam(
            jnp.zeros((layers, lora.rank, *sizes_out), jnp.float32),
            out_sharding=("layers", "lora_rank", *axes_out),
            eager_sharding=False,
        )

    def _param(self, kernel: jax.Array) -> nnx.Param:
        return nnx.Param(kernel, out_sharding=self.axes, eager_sharding=False)

    @property
    def adapted(self) -> bool:
        """Whether this projection carries an adapter."""
        return self.lora_a is not None

    def __call__(self, x: jax.Array, low: jax.Array | None) -> jax.Array:
        """x [..., *shape_in] -> [..., *shape_out] in x's dtype; `low` [..., r] is x A, of `down_project`."""
        if isinstance(self.kernel, QuantizedKernel):
            y = self.kernel(x)
        else:
            y = jnp.tensordot(x, self.kernel[...].astype(x.dtype), axes=self.inputs)
        return y if low is None else y + widen(low, self.scale * self.lora_b[...])

    def fold(self) -> None:
        """Put kernel + (alpha / r) A B, summed in float32, in the kernel's place and drop the adapter.

        A quantised kernel is dequantised for the sum, which is kept in the LLM's `param_dtype`.
        """
        if not self.adapted:
            return
        multiply = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))  # over layers
        delta = self.scale * multiply(self.lora_a[...], self.lora_b[...])
        quantized = isinstance(self.kernel, QuantizedKernel)
        kernel = self.kernel.dequantized() if quantized else self.kernel[...]
        dtype = self.kernel.form.dtype if quantized else kernel.dtype
        # A new Param: the old one may be shared with the unmerged model.
        self.kernel = self._param((kernel.astype(jnp.float32) + delta).astype(dtype))
        self.lora_a = self.lora_b = nnx.data(None)


def down_project(x: jax.Array, readers: Sequence[Projection]) -> list[jax.Array | None]:
    """x A [..., r] of every projection that reads x [..., *shape_in], by one product; None where it has no adapter.

    With q, k and v adapted, x is so read once, not three times, and the product is 3 r wide.
    """
    adapted = [reader for reader in readers if reader.adapted]
    if not adapted:
        return [None] * len(readers)
    joined = narrow(x, jnp.concatenate([reader.lora_a[...] for reader in adapted], axis=-1))
    parts = iter(jnp.split(joined, len(adapted), axis=-1))
    return [next(parts) if reader.adapted else None for reader in readers]


def check_targets(lora: LoraConfig | None, projections: tuple[str, ...]) -> None:
    """Raise LoraError unless `lora.targets` names at least one projection and nothing but projections."""
    if lora is None:
        return
    strays = [name for name in lora.targets if name not in projections]
    if strays or not lora.targets:
        said = f"{', '.join(strays)} match no projection" if strays else "are empty, so nothing would be trained"
        raise LoraError(f"lora.targets {said}; this LLM has {', '.join(projections)}")


def draw_lora_a(key: jax.Array, layers: int, shapes_in: dict[str, tuple[int, ...]], rank: int) -> dict[str, jax.Array]:
    """PEFT's initial A [L, *shape_in, r] of each adapted projection: uniform in +-1/sqrt(fan_in)."""
    draw = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    shapes = {name: (*shape, rank) for name, shape in shapes_in.items()}
    bounds = {name: 1.0 / math.sqrt(math.prod(shape)) for name, shape in shapes_in.items()}
    return draw_stacked(draw, key, shapes, bounds, layers=layers)


def adapter_dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout of an adapter's input; the identity without a key or a rate.

    Projections that read the same tensor (q, k and v; gate and up) share one mask, where PEFT draws one for each:
    every adapter still sees the same noise distribution, and the mask is drawn once instead of three times.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def merge(module: nnx.Module) -> nnx.Module:
    """The same module with every adapter folded into its kernel; `module` itself is left as it was.

    No array is copied but the kernels that change. Raises LoraError where there is no adapter to fold.
    """
    merged = nnx.merge(*nnx.split(module))
    adapted = [node for _, node in nnx.iter_graph(merged) if isinstance(node, Projection) and node.adapted]
    if not adapted:
        raise LoraError("merge: this model carries no adapters")
    for projection in adapted:
        projection.fold()
    return merged
