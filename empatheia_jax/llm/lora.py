"""Projections of the LLM and their low-rank adapters (section 4.2; Table 8: rank 16, alpha 32).

y = x W + (alpha / r) dropout(x) A B, with W frozen (in QLoRA quantised, see `quantized.py`), A and B float32,
initialised as PEFT does: A uniform in +-1/sqrt(fan_in) (Kaiming with a = sqrt 5), B zero, so that the adapted model
starts as the base.

x A and (x A) B, the two matmuls of an adapter, have backward passes written for their small rank. Their gradients sum
over all tokens, [r, tokens] by [tokens, D]. With JAX's own transposition rules, XLA's CPU backend transposes the wide
operand (D columns for r rows) and runs the matmul at a sixth of its speed; here the thin operand is transposed, behind
an optimization barrier, since XLA would otherwise fold the transposition into the matmul. Gradients of A and B are
float32, whatever x's dtype.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from empatheia_jax.config import LoraConfig
from empatheia_jax.llm.quantized import QuantizedKernel
from empatheia_jax.model.initial_values import draw_stacked
from empatheia_jax.model.shapes import Array, Float, PRNGKeyArray


@jax.custom_vjp
def lora_down(x: Float[Array, "..."], a: Float[Array, "*in r"]) -> Float[Array, "... r"]:
    """Multiply x [..., *in] by A, in x's dtype."""
    return jnp.tensordot(x, a.astype(x.dtype), axes=a.ndim - 1)


def _lora_down_forward(x, a):
    return lora_down(x, a), (x, a)


def _lora_down_backward(residuals, d_low):
    x, a = residuals
    d_x = jnp.tensordot(d_low, jnp.moveaxis(a, -1, 0).astype(x.dtype), axes=1)
    d_a = jax.lax.optimization_barrier(_sum_over_tokens(d_low, x))  # [r, *in]
    return d_x, jnp.moveaxis(d_a, 0, -1)


lora_down.defvjp(_lora_down_forward, _lora_down_backward)


@jax.custom_vjp
def lora_up(low: Float[Array, "*tokens r"], b: Float[Array, " r *out"]) -> Float[Array, "..."]:
    """Multiply low by B: [*tokens, *out] in low's dtype."""
    return jnp.tensordot(low, b.astype(low.dtype), axes=1)


def _lora_up_forward(low, b):
    return lora_up(low, b), (low, b)


def _lora_up_backward(residuals, d_y):
    low, b = residuals
    d_low = jnp.tensordot(d_y, jnp.moveaxis(b, 0, -1).astype(low.dtype), axes=b.ndim - 1)
    return d_low, _sum_over_tokens(low, d_y)


lora_up.defvjp(_lora_up_forward, _lora_up_backward)


def _sum_over_tokens(thin: Float[Array, "*tokens r"], wide: Float[Array, "..."]) -> Float[Array, "r ..."]:
    """Return thin times wide [*tokens, *shape], summed over the tokens: float32 [r, *shape]."""
    transposed = jax.lax.optimization_barrier(jnp.moveaxis(thin, -1, 0))  # [r, ...]
    leading = thin.ndim - 1
    axes = (tuple(range(1, leading + 1)), tuple(range(leading)))
    return jnp.tensordot(transposed, wide, axes=axes, preferred_element_type=jnp.float32)


class LoraError(ValueError):
    """LoRA targets that match no projection, or a merge without adapters."""


class Projection(nnx.Module):
    """One of the linear maps (no bias) of all L layers, stacked on axis 0, with an optional adapter.

    `lax.scan` over the owning module gives its body one layer at a time, and `__call__` is written for one layer:
    kernel [*shape_in, *shape_out], or a `QuantizedKernel` of it. `lora_a` [*shape_in, r] and `lora_b` [r, *shape_out],
    float32, are None without an adapter.
    """

    def __init__(
        self,
        kernel: Float[Array, "L ..."] | QuantizedKernel,
        axes_in: tuple[str, ...],
        axes_out: tuple[str, ...],
        *,
        lora: LoraConfig | None = None,
        lora_a: Float[Array, "L ... r"] | None = None,
    ):
        """Wrap a kernel.

        Args:
          kernel: [L, *shape_in, *shape_out].
          axes_in: logical names of its input axes.
          axes_out: logical names of its output axes.
          lora: the adapter's settings; None: no adapter.
          lora_a: the adapter's initial A, float32 [L, *shape_in, r].
        """
        self.axes = ("layers", *axes_in, *axes_out)
        self.kernel = kernel if isinstance(kernel, QuantizedKernel) else self._param(kernel)
        self.inputs = len(axes_in)
        self.lora_a: nnx.LoRAParam | Any = nnx.data(None)
        self.lora_b: nnx.LoRAParam | Any = nnx.data(None)
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

    def _param(self, kernel: Float[Array, "L ..."]) -> nnx.Param:
        return nnx.Param(kernel, out_sharding=self.axes, eager_sharding=False)

    @property
    def adapted(self) -> bool:
        """Whether this projection carries an adapter."""
        return self.lora_a is not None

    def __call__(self, x: Float[Array, "..."], low: Float[Array, "... r"] | None) -> Float[Array, "..."]:
        """Apply the projection of one layer.

        Args:
          x: [..., *shape_in].
          low: x A [..., r], from `down_project`; None without an adapter.

        Returns:
          [..., *shape_out] in x's dtype.
        """
        if isinstance(self.kernel, QuantizedKernel):
            y = self.kernel(x)
        else:
            y = jnp.tensordot(x, self.kernel[...].astype(x.dtype), axes=self.inputs)
        return y if low is None else y + lora_up(low, self.scale * self.lora_b[...])

    def fold(self) -> None:
        """Replace the kernel by kernel + (alpha / r) A B, summed in float32, and remove the adapter.

        A quantised kernel is dequantised for the sum, which is kept in the LLM's `param_dtype`.
        """
        if not self.adapted:
            return
        multiply = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))  # over layers
        delta = self.scale * multiply(self.lora_a[...], self.lora_b[...])
        if isinstance(self.kernel, QuantizedKernel):
            kernel, dtype = self.kernel.dequantized(), self.kernel.form.dtype
        else:
            kernel, dtype = self.kernel[...], self.kernel.dtype
        # A new Param: the old one may be shared with the unmerged model.
        self.kernel = self._param((kernel.astype(jnp.float32) + delta).astype(dtype))
        self.lora_a = self.lora_b = nnx.data(None)


def down_project(x: Float[Array, "..."], projections: Sequence[Projection]) -> list[Float[Array, "... r"] | None]:
    """Return x A for the adapters of all projections of one input, by a single matmul.

    With q, k and v adapted, x is read once, not three times, and the matmul is 3 r wide.

    Args:
      x: [..., *shape_in].
      projections: those whose input x is.

    Returns:
      [..., r] for each projection; None where it has no adapter.
    """
    adapted = [projection for projection in projections if projection.adapted]
    if not adapted:
        return [None] * len(projections)
    joined = lora_down(x, jnp.concatenate([projection.lora_a[...] for projection in adapted], axis=-1))
    parts = iter(jnp.split(joined, len(adapted), axis=-1))
    return [next(parts) if projection.adapted else None for projection in projections]


def check_targets(lora: LoraConfig | None, projections: tuple[str, ...]) -> None:
    """Check that `lora.targets` names at least one projection and nothing but projections.

    Raises:
      LoraError: it does not.
    """
    if lora is None:
        return
    unknown = [name for name in lora.targets if name not in projections]
    if unknown or not lora.targets:
        problem = f"{', '.join(unknown)} match no projection" if unknown else "are empty, so nothing would be trained"
        raise LoraError(f"lora.targets {problem}; this LLM has {', '.join(projections)}")


def draw_lora_a(
    key: PRNGKeyArray, layers: int, shapes_in: dict[str, tuple[int, ...]], rank: int
) -> dict[str, Float[Array, "L ... {rank}"]]:
    """Draw the initial A of each adapted projection as PEFT does: uniform in +-1/sqrt(fan_in).

    Args:
      key: of the draw.
      layers: L.
      shapes_in: {projection: shape_in}.
      rank: r.

    Returns:
      {projection: float32 [L, *shape_in, r]}.
    """
    draw = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    shapes = {name: (*shape, rank) for name, shape in shapes_in.items()}
    bounds = {name: 1.0 / math.sqrt(math.prod(shape)) for name, shape in shapes_in.items()}
    return draw_stacked(draw, key, shapes, bounds, layers=layers)


def adapter_dropout(x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Apply inverted dropout to an adapter's input; without a key or a rate, return x.

    Projections of the same tensor (q, k and v; gate and up) share one mask, where PEFT draws one for each:
    every adapter still sees the same noise distribution, and the mask is drawn once instead of three times.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def merge(module: nnx.Module) -> nnx.Module:
    """Return a copy of a module with every adapter folded into its kernel; only kernels that change are copied.

    Raises:
      LoraError: the module has no adapters.
    """
    merged = nnx.merge(*nnx.split(module))
    adapted = [node for _, node in nnx.iter_graph(merged) if isinstance(node, Projection) and node.adapted]
    if not adapted:
        raise LoraError("merge: this model carries no adapters")
    for projection in adapted:
        projection.fold()
    return merged
