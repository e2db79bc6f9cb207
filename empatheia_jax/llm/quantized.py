"""Frozen kernels in 8 or 4 bits: the base of QLoRA, and int8 weights for decoding.

int8  absmax by output channel (LLM.int8(), arXiv 2208.07339): one scale a channel, applied after the product.
nf4   4-bit NormalFloat (QLoRA, arXiv 2305.14314): 16 quantiles of N(0, 1), one scale for `quantization_tile` inputs of
      an output (the paper's blocks of 64), two numbers a byte. Scales stay float32: no double quantisation.

qwix quantises (extra `quant`); what is quantised is read with JAX alone. qwix's own nf4 lookup flattens the kernel,
which on a mesh gathers it, and XLA's uint4 takes a byte a number on CPU: so unpacking and lookup are done here.
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

from empatheia_jax.config import ConfigError, LlamaConfig
from empatheia_jax.states import filled, named

# Appendix E of QLoRA; float32.
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
    """A kernel that cannot be held in few bits, or nothing here to quantise it: says what would do."""


@dataclasses.dataclass(frozen=True)
class Format:
    """How one layer's kernel [*shape_in, *shape_out] is held.

    codes: int8 [*shape_in, *shape_out], or for nf4 uint8 with half the last input axis, the even input in the low bits.
    scales: float32 [*(shape_in / tile), *shape_out].
    """

    kind: str  # "int8" or "nf4"
    tile: tuple[int, ...]  # inputs, along every input axis, that share a scale
    dtype: str  # of the kernel that this stands for, when it is put back (`Projection.fold`)

    @property
    def inputs(self) -> int:
        return len(self.tile)

    def code_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a kernel's shape."""
        if self.kind == "int8":
            return shape
        last = self.inputs - 1
        return (*shape[:last], shape[last] // 2, *shape[last + 1 :])

    def kernel_shape(self, codes: tuple[int, ...]) -> tuple[int, ...]:
        """Of the shape of codes."""
        if self.kind == "int8":
            return codes
        last = self.inputs - 1
        return (*codes[:last], codes[last] * 2, *codes[last + 1 :])

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a kernel's shape."""
        counts = (size // tile for size, tile in zip(shape[: self.inputs], self.tile, strict=True))
        return (*counts, *shape[self.inputs :])


def require_qwix() -> ModuleType:
    """qwix, which quantises.

    Raises:
      QuantizationError: it is not installed.
    """
    try:
        import qwix
    except ImportError as error:
        raise QuantizationError(
            "llm.quantization needs qwix, which is not here: pip install 'empatheia_jax[quant]', or set it to none"
        ) from error
    return qwix


def kernel_format(name: str, shape_in: tuple[int, ...], config: LlamaConfig) -> Format:
    """The format of a projection with these inputs.

    Raises:
      QuantizationError: `quantization_tile` does not divide the inputs, or they cannot be paired.
    """
    if config.quantization == "int8":
        return Format("int8", shape_in, config.param_dtype)
    left, tile = config.quantization_tile, []
    for size in reversed(shape_in):  # a tile is contiguous among the inputs, as they lie in memory
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


def quantize(kernel: jax.Array, form: Format) -> tuple[jax.Array, jax.Array]:
    """(codes, scales) of one layer's kernel, from its numbers in float32.

    Raises:
      QuantizationError: qwix is not installed.
    """
    last, shape = form.inputs - 1, kernel.shape
    found = require_qwix().quantize(
        kernel.astype(jnp.float32),
        jnp.int8 if form.kind == "int8" else form.kind,
        channelwise_axes=range(form.inputs, kernel.ndim),
        tiled_axes=dict(enumerate(form.tile)),
    )
    if form.kind == "int8":
        return found.qvalue, found.scale
    pairs = found.qvalue.astype(jnp.uint8).reshape(*shape[:last], shape[last] // 2, 2, *shape[last + 1 :])
    low, high = (jax.lax.index_in_dim(pairs, side, last + 1, keepdims=False) for side in (0, 1))
    return low | (high << 4), found.scale


def dequantize(codes: jax.Array, scales: jax.Array, form: Format, dtype) -> jax.Array:
    """One layer's kernel [*shape_in, *shape_out], computed in float32 and rounded once to `dtype`."""
    shape = form.kernel_shape(codes.shape)
    if form.kind == "int8":
        values = codes.astype(jnp.float32)
    else:
        # Shifts that are broadcast along an axis that is not the last: nothing to interleave, all of it one loop.
        sides = jnp.array([0, 4], jnp.uint8).reshape(2, *(1,) * (len(shape) - form.inputs))
        nibbles = (jnp.expand_dims(codes, form.inputs) >> sides) & 15
        values = jnp.asarray(NF4).at[nibbles.astype(jnp.int32)].get(mode="promise_in_bounds")
    split, ones = [], []
    for size, tile in zip(shape[: form.inputs], form.tile, strict=True):
        split, ones = [*split, size // tile, tile], [*ones, size // tile, 1]
    outputs = shape[form.inputs :]
    return (values.reshape(*split, *outputs) * scales.reshape(*ones, *outputs)).reshape(shape).astype(dtype)


def rounded(kernel: np.ndarray, form: Format) -> np.ndarray:
    """One layer's kernel as a run with a quantised base computes with it, float32."""
    return np.asarray(_rounded(kernel, form))


@functools.partial(jax.jit, static_argnums=1)
def _rounded(kernel, form):
    return dequantize(*quantize(kernel, form), form, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(x: jax.Array, codes: jax.Array, scales: jax.Array, form: Format) -> jax.Array:
    """x [..., *shape_in] times one layer's kernel -> [..., *shape_out] in x's dtype; a gradient for x alone.

    Codes and scales are all that the backward pass keeps, whatever the remat policy: a kernel in full is made anew.
    """
    if form.kind == "nf4":
        return jnp.tensordot(x, dequantize(codes, scales, form, x.dtype), axes=form.inputs)
    # Whole numbers up to 128 are exact in bfloat16, and one scale a channel can wait for the sums.
    sums = jnp.tensordot(x, codes.astype(x.dtype), axes=form.inputs, preferred_element_type=jnp.float32)
    return (sums * scales.reshape(scales.shape[form.inputs :])).astype(x.dtype)


def _forward(x, codes, scales, form):
    return product(x, codes, scales, form), (codes, scales)


def _backward(form, kept, gradient):
    codes, scales = kept
    outputs = codes.ndim - form.inputs
    axes = list(range(gradient.ndim - outputs, gradient.ndim)), list(range(form.inputs, codes.ndim))
    if form.kind == "nf4":
        return jnp.tensordot(gradient, dequantize(codes, scales, form, gradient.dtype), axes=axes), None, None
    scaled = (gradient * scales.reshape(scales.shape[form.inputs :])).astype(gradient.dtype)
    return jnp.tensordot(scaled, codes.astype(gradient.dtype), axes=axes), None, None


product.defvjp(_forward, _backward)


class QuantizedKernel(nnx.Module):
    """A projection's kernel of all L layers, in few bits. Zero until a base is loaded: a frozen base is always read."""

    def __init__(self, name: str, layers: int, axes_in: dict[str, int], axes_out: dict[str, int], config: LlamaConfig):
        """Axes are {logical name: size}.

        Raises:
          QuantizationError: as `kernel_format`.
        """
        self.form = kernel_format(name, tuple(axes_in.values()), config)
        self.shape = (layers, *axes_in.values(), *axes_out.values())
        kind = jnp.int8 if self.form.kind == "int8" else jnp.uint8
        codes = jnp.zeros((layers, *self.form.code_shape(self.shape[1:])), kind)
        scales = jnp.zeros((layers, *self.form.scale_shape(self.shape[1:])), jnp.float32)
        whole = (None,) * len(axes_in) if self.form.kind == "int8" else tuple(axes_in)
        self.codes = nnx.Param(
            codes, out_sharding=("layers", *axes_in, *axes_out), eager_sharding=False, kernel_format=self.form
        )
        self.scales = nnx.Param(
            scales, out_sharding=("layers", *whole, *axes_out), eager_sharding=False, kernel_scales=True
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """As `product`, inside the scan over layers."""
        return product(x, self.codes[...], self.scales[...], self.form)

    def dequantized(self) -> jax.Array:
        """The kernels [L, *shape_in, *shape_out], float32."""
        one_layer = functools.partial(dequantize, form=self.form, dtype=jnp.float32)
        return jax.vmap(one_layer)(self.codes[...], self.scales[...])


# States ---------------------------------------------------------------------------------------------------------------


def formats(state: nnx.State) -> dict[str, Format]:
    """Flat name of every quantised kernel of a (possibly abstract) state -> its format."""
    found = ((path, variable.get_metadata().get("kernel_format")) for path, variable in nnx.to_flat_state(state))
    return {"/".join(map(str, path[:-1])): form for path, form in found if form is not None}


def unquantized(state: nnx.State) -> nnx.State:
    """An abstract state as it would be with plain kernels, in their dtype and where the codes are."""
    held, flat = formats(state), []
    for path, variable in nnx.to_flat_state(state):
        form = held.get("/".join(map(str, path[:-1])))
        if form is None:
            flat.append((path, variable))
        elif path[-1] == "codes":
            shape = (variable.shape[0], *form.kernel_shape(variable.shape[1:]))
            leaf = jax.ShapeDtypeStruct(shape, form.dtype, sharding=variable.get_value().sharding)
            names = variable.get_metadata()["out_sharding"]
            flat.append((path[:-1], nnx.Param(leaf, out_sharding=names, eager_sharding=False)))
    return nnx.from_flat_state(flat)


def quantizer(state: nnx.State) -> Callable[[str, jax.Array], dict[str, jax.Array]]:
    """(flat name, one layer's array) -> what `state` holds of it: itself, or a quantised kernel's codes and scales."""
    held = formats(state)

    def pieces(name: str, array: jax.Array) -> dict[str, jax.Array]:
        if name not in held:
            return {name: array}
        codes, scales = _quantize(array, held[name])
        return {f"{name}/codes": codes, f"{name}/scales": scales}

    return pieces


_quantize = jax.jit(quantize, static_argnums=1)


def quantized(arrays: dict[str, jax.Array], like: nnx.State) -> nnx.State:
    """Plain arrays by flat name -> a state like `like`, its kernels quantised a projection at a time.

    `arrays` is emptied, so that no kernel stays beside its codes. Raises QuantizationError without qwix.
    """
    held, found = formats(like), {}
    places = {name: leaf.sharding for name, leaf in named(like).items()}
    for name in list(arrays):
        if name not in held:
            found[name] = arrays.pop(name)
            continue
        codes, scales = _quantize_stack(arrays.pop(name), held[name])
        for piece, array in (("codes", codes), ("scales", scales)):
            found[f"{name}/{piece}"] = jax.device_put(array, places[f"{name}/{piece}"])
    return filled(like, found)


@functools.partial(jax.jit, static_argnums=1)
def _quantize_stack(kernels, form):
    return jax.lax.map(functools.partial(quantize, form=form), kernels)


def parameters(variable: nnx.Variable) -> int:
    """How many of the model's parameters a variable stands for: codes for a kernel's, their scales for none."""
    form, shape = variable.get_metadata().get("kernel_format"), tuple(variable.shape)
    if variable.get_metadata().get("kernel_scales"):
        return 0
    return math.prod(shape if form is None else (shape[0], *form.kernel_shape(shape[1:])))
