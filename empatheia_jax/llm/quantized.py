"""Frozen kernels in 8 or 4 bits: the base of QLoRA, and int8 weights for decoding.

int8  absmax by output channel (LLM.int8(), arXiv 2208.07339): one scale a channel, applied after the product.
nf4   4-bit NormalFloat (QLoRA, arXiv 2305.14314): 16 quantiles of N(0, 1), one scale for `quantization_tile` inputs of
      an output (the paper's blocks of 64), two numbers in a byte. Scales stay float32: no double quantisation.

qwix quantises (extra `quant`); quantised kernels are read with JAX alone. Unpacking and lookup are done here because
qwix's own nf4 lookup flattens the kernel, which gathers it on a mesh, and XLA's uint4 takes a byte per number on CPU.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.named_arrays import named_arrays, with_arrays
from empatheia_jax.config import ConfigError, LlamaConfig
from empatheia_jax.model.shapes import Array, Float

# The 16 values of nf4: QLoRA, appendix E.
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


class QuantizationError(ConfigError):
    """A kernel that cannot be quantised as configured, or qwix not installed: says what to change."""


@dataclasses.dataclass(frozen=True)
class Format:
    """The format of one layer's quantised kernel [*shape_in, *shape_out]: codes and scales.

    Codes: int8 [*shape_in, *shape_out]; for nf4 uint8 with half the last input axis, the even input in the low bits.
    Scales: float32 [*(shape_in / tile), *shape_out].
    """

    kind: str  # "int8" or "nf4"
    tile: tuple[int, ...]  # for every input axis, how many inputs share a scale
    dtype: str  # of the plain kernel, when it is dequantised (`Projection.fold`)

    @property
    def inputs(self) -> int:
        """The number of input axes."""
        return len(self.tile)

    def code_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the codes of a kernel of this shape."""
        if self.kind == "int8":
            return shape
        last = self.inputs - 1
        return (*shape[:last], shape[last] // 2, *shape[last + 1 :])

    def kernel_shape(self, codes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the kernel that has codes of this shape."""
        if self.kind == "int8":
            return codes
        last = self.inputs - 1
        return (*codes[:last], codes[last] * 2, *codes[last + 1 :])

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the scales of a kernel of this shape."""
        counts = (size // tile for size, tile in zip(shape[: self.inputs], self.tile, strict=True))
        return (*counts, *shape[self.inputs :])


def require_qwix() -> ModuleType:
    """Import qwix, which quantises.

    Raises:
      QuantizationError: qwix is not installed.
    """
    try:
        import qwix
    except ImportError as error:
        raise QuantizationError(
            "llm.quantization needs qwix, which is not installed: pip install 'empatheia_jax[quant]', or set it to none"
        ) from error
    return qwix


def kernel_format(name: str, shape_in: tuple[int, ...], config: LlamaConfig) -> Format:
    """Return the format of a projection's kernel.

    Args:
      name: of the projection, for errors.
      shape_in: sizes of its input axes.
      config: says the kind and the tile.

    Raises:
      QuantizationError: `quantization_tile` does not divide the inputs, or they cannot be paired.
    """
    if config.quantization == "int8":
        return Format("int8", shape_in, config.param_dtype)
    left, tile = config.quantization_tile, []
    for size in reversed(shape_in):  # a tile is contiguous in memory: it fills the last input axes first
        tile.insert(0, math.gcd(left, size))
        left //= tile[0]
        if tile[0] != size and left > 1:
            break
    if left != 1 or shape_in[-1] % 2:
        raise QuantizationError(
            f"llm.quantization_tile {config.quantization_tile} must divide the inputs of {name}, "
            f"{' x '.join(map(str, shape_in))}, and the last number of these be even; choose another tile, or int8"
        )
    return Format("nf4", tuple(tile), config.param_dtype)


def quantize(kernel: Array, form: Format) -> tuple[Array, Array]:
    """Quantise one layer's kernel, computing in float32.

    Args:
      kernel: [*shape_in, *shape_out].
      form: the format.

    Returns:
      Codes and scales.

    Raises:
      QuantizationError: qwix is not installed.
    """
    last, shape = form.inputs - 1, kernel.shape
    quantised = require_qwix().quantize(
        kernel.astype(jnp.float32),
        jnp.int8 if form.kind == "int8" else form.kind,
        channelwise_axes=range(form.inputs, kernel.ndim),
        tiled_axes=dict(enumerate(form.tile)),
    )
    if form.kind == "int8":
        return quantised.qvalue, quantised.scale
    pairs = quantised.qvalue.astype(jnp.uint8).reshape(*shape[:last], shape[last] // 2, 2, *shape[last + 1 :])
    low, high = (jax.lax.index_in_dim(pairs, side, last + 1, keepdims=False) for side in (0, 1))
    return low | (high << 4), quantised.scale


def dequantize(codes: Array, scales: Array, form: Format, dtype) -> Array:
    """Return one layer's kernel [*shape_in, *shape_out], computed in float32 and rounded once to `dtype`."""
    shape = form.kernel_shape(codes.shape)
    if form.kind == "int8":
        values = codes.astype(jnp.float32)
    else:
        # The shifts broadcast along an axis that is not the last, so nothing is interleaved and XLA makes one loop.
        sides = jnp.array([0, 4], jnp.uint8).reshape(2, *(1,) * (len(shape) - form.inputs))
        nibbles = (jnp.expand_dims(codes, form.inputs) >> sides) & 15
        values = jnp.asarray(NF4).at[nibbles.astype(jnp.int32)].get(mode="promise_in_bounds")
    value_shape, scale_shape = [], []
    for size, tile in zip(shape[: form.inputs], form.tile, strict=True):
        value_shape, scale_shape = [*value_shape, size // tile, tile], [*scale_shape, size // tile, 1]
    outputs = shape[form.inputs :]
    return (
        (values.reshape(*value_shape, *outputs) * scales.reshape(*scale_shape, *outputs)).reshape(shape).astype(dtype)
    )


def fake_quantize(kernel: np.ndarray, form: Format) -> np.ndarray:
    """Quantise and dequantise one layer's kernel: float32, as a run with a quantised base computes with it."""
    return np.asarray(_fake_quantize(kernel, form))


@functools.partial(jax.jit, static_argnums=1)
def _fake_quantize(kernel, form):
    return dequantize(*quantize(kernel, form), form, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def quantized_matmul(x: Float[Array, "..."], codes: Array, scales: Array, form: Format) -> Array:
    """Multiply x [..., *shape_in] by one layer's quantised kernel; only x has a gradient.

    Codes and scales are the only residuals, whatever the remat policy: the backward pass dequantises the kernel again.

    Returns:
      [..., *shape_out] in x's dtype.
    """
    if form.kind == "nf4":
        return jnp.tensordot(x, dequantize(codes, scales, form, x.dtype), axes=form.inputs)
    # Integers up to 128 are exact in bfloat16, and a scale per output channel can be applied to the sums.
    sums = jnp.tensordot(x, codes.astype(x.dtype), axes=form.inputs, preferred_element_type=jnp.float32)
    return (sums * scales.reshape(scales.shape[form.inputs :])).astype(x.dtype)


def _forward(x, codes, scales, form):
    return quantized_matmul(x, codes, scales, form), (codes, scales)


def _backward(form, residuals, gradient):
    codes, scales = residuals
    outputs = codes.ndim - form.inputs
    axes = list(range(gradient.ndim - outputs, gradient.ndim)), list(range(form.inputs, codes.ndim))
    if form.kind == "nf4":
        return jnp.tensordot(gradient, dequantize(codes, scales, form, gradient.dtype), axes=axes), None, None
    scaled = (gradient * scales.reshape(scales.shape[form.inputs :])).astype(gradient.dtype)
    return jnp.tensordot(scaled, codes.astype(gradient.dtype), axes=axes), None, None


quantized_matmul.defvjp(_forward, _backward)


class QuantizedKernel(nnx.Module):
    """A projection's quantised kernel, all L layers. Zero until a base is loaded."""

    def __init__(
        self, name: str, layers: int, axes_in: dict[str, int], axes_out: dict[str, int], *, config: LlamaConfig
    ):
        """Make zero codes and scales.

        Args:
          name: of the projection, for errors.
          layers: L.
          axes_in: {logical name: size} of the input axes.
          axes_out: {logical name: size} of the output axes.
          config: says the kind and the tile.

        Raises:
          QuantizationError: as `kernel_format`.
        """
        self.form = kernel_format(name, tuple(axes_in.values()), config)
        self.shape = (layers, *axes_in.values(), *axes_out.values())
        dtype = jnp.int8 if self.form.kind == "int8" else jnp.uint8
        codes = jnp.zeros((layers, *self.form.code_shape(self.shape[1:])), dtype)
        scales = jnp.zeros((layers, *self.form.scale_shape(self.shape[1:])), jnp.float32)
        scale_axes_in = (None,) * len(axes_in) if self.form.kind == "int8" else tuple(axes_in)
        self.codes = nnx.Param(
            codes, out_sharding=("layers", *axes_in, *axes_out), eager_sharding=False, kernel_format=self.form
        )
        self.scales = nnx.Param(
            scales, out_sharding=("layers", *scale_axes_in, *axes_out), eager_sharding=False, kernel_scales=True
        )

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply `quantized_matmul`, inside the scan over layers."""
        return quantized_matmul(x, self.codes[...], self.scales[...], self.form)

    def dequantized(self) -> Array:
        """Return the kernels [L, *shape_in, *shape_out], float32."""
        dequantize_layer = functools.partial(dequantize, form=self.form, dtype=jnp.float32)
        return jax.vmap(dequantize_layer)(self.codes[...], self.scales[...])


# States ---------------------------------------------------------------------------------------------------------------


def kernel_formats(state: nnx.State) -> dict[str, Format]:
    """Return the format of every quantised kernel of a (possibly abstract) state, by the kernel's flat name."""
    entries = ((path, variable.get_metadata().get("kernel_format")) for path, variable in nnx.to_flat_state(state))
    return {"/".join(map(str, path[:-1])): form for path, form in entries if form is not None}


def unquantized(state: nnx.State) -> nnx.State:
    """Return an abstract state with plain kernels in place of quantised ones, with their dtype and sharding."""
    formats, flat = kernel_formats(state), []
    for path, variable in nnx.to_flat_state(state):
        form = formats.get("/".join(map(str, path[:-1])))
        if form is None:
            flat.append((path, variable))
        elif path[-1] == "codes":
            shape = (variable.shape[0], *form.kernel_shape(variable.shape[1:]))
            leaf = jax.ShapeDtypeStruct(shape, form.dtype, sharding=variable.get_value().sharding)
            names = variable.get_metadata()["out_sharding"]
            flat.append((path[:-1], nnx.Param(leaf, out_sharding=names, eager_sharding=False)))
    return nnx.from_flat_state(flat)


def make_quantizer(state: nnx.State) -> Callable[[str, Array], dict[str, Array]]:
    """Return a function that turns one layer's arrays into those of `state`.

    It maps (flat name, array) to {name: array}: the array itself, or a quantised kernel's codes and scales.
    """
    formats = kernel_formats(state)

    def quantize_layer(name: str, array: Array) -> dict[str, Array]:
        if name not in formats:
            return {name: array}
        codes, scales = _quantize(array, formats[name])
        return {f"{name}/codes": codes, f"{name}/scales": scales}

    return quantize_layer


_quantize = jax.jit(quantize, static_argnums=1)


def quantize_arrays(arrays: dict[str, Array], like: nnx.State) -> nnx.State:
    """Return a state like `like` from plain arrays, its kernels quantised one projection at a time.

    Args:
      arrays: by flat name; it is emptied, so that no kernel stays in memory beside its codes.
      like: abstract state with the shardings wanted.

    Raises:
      QuantizationError: qwix is not installed.
    """
    formats, quantised = kernel_formats(like), {}
    shardings = {name: leaf.sharding for name, leaf in named_arrays(like).items()}
    for name in list(arrays):
        if name not in formats:
            quantised[name] = arrays.pop(name)
            continue
        codes, scales = _quantize_stack(arrays.pop(name), formats[name])
        for part, array in (("codes", codes), ("scales", scales)):
            quantised[f"{name}/{part}"] = jax.device_put(array, shardings[f"{name}/{part}"])
    return with_arrays(like, quantised)


@functools.partial(jax.jit, static_argnums=1)
def _quantize_stack(kernels, form):
    return jax.lax.map(functools.partial(quantize, form=form), kernels)


def parameter_count(variable: nnx.Variable) -> int:
    """Return how many of the model's parameters a variable stands for: codes count as the kernel, scales as none."""
    form, shape = variable.get_metadata().get("kernel_format"), tuple(variable.shape)
    if variable.get_metadata().get("kernel_scales"):
        return 0
    return math.prod(shape if form is None else (shape[0], *form.kernel_shape(shape[1:])))
