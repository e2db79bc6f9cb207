"""Quantised bases against numpy and the published table: numbers, bytes, gradients, residuals, loading."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm

from empatheia_jax.checkpoints.named_arrays import named_arrays
from empatheia_jax.checkpoints.runs import load_base, save_base
from empatheia_jax.checkpoints.weights import save_weights
from empatheia_jax.config import ConfigError, LlamaConfig, LoraConfig, MeshConfig
from empatheia_jax.llm.decode import generate
from empatheia_jax.llm.llama import PROJECTIONS, Llama
from empatheia_jax.llm.lora import merge
from empatheia_jax.llm.quantized import (
    NF4,
    QuantizationError,
    dequantize,
    kernel_format,
    quantize,
    quantize_arrays,
    quantized_matmul,
    require_qwix,
    unquantized,
)
from empatheia_jax.model import sharding
from empatheia_jax.testing.tiny import leaves

pytest.importorskip("qwix")
pytestmark = pytest.mark.usefixtures("compiled_quickly")

TILE = 16  # divides 32 and 48 inputs, and four heads of eight by pairs


def in_few_bits(config: LlamaConfig, kind: str) -> LlamaConfig:
    return dataclasses.replace(config, quantization=kind, quantization_tile=TILE)


@pytest.fixture(scope="module", params=["int8", "nf4"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def few_bits(llm, kind):
    """The tiny Llama with its kernels quantised, adapters and all."""
    config = in_few_bits(llm.config, kind)
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Llama(config, llm.lora, rngs=nnx.Rngs(0))))
    return nnx.merge(graphdef, quantize_arrays(named_arrays(nnx.state(llm)), abstract))


@pytest.fixture(scope="module")
def as_plain(llm, few_bits):
    """A Llama with plain kernels, which numpy dequantises from the codes and scales."""
    graphdef, state = nnx.split(llm)
    flat = dict(nnx.to_flat_state(state))
    for name in PROJECTIONS:
        kernel = getattr(few_bits.layers, name).kernel
        pairs = kernel.codes[...], kernel.scales[...]
        layers = [in_numpy(*map(np.asarray, pair), kernel.form) for pair in zip(*pairs, strict=True)]
        path = ("layers", name, "kernel")
        flat[path] = flat[path].replace(jnp.asarray(np.stack(layers)))
    return nnx.merge(graphdef, nnx.from_flat_state(list(flat.items())))


def published_table() -> np.ndarray:
    """QLoRA, section 3: quantiles of N(0, 1) at evenly spaced probabilities, eight below zero, nine from zero on,
    divided by the largest; the outermost probability is that of bitsandbytes."""
    outermost = 0.9677083
    above = norm.ppf(np.linspace(outermost, 0.5, 9))[:-1]
    below = -norm.ppf(np.linspace(outermost, 0.5, 8))[:-1]
    return np.sort(np.concatenate([above, [0.0], below])) / above.max()


def in_numpy(codes: np.ndarray, scales: np.ndarray, form) -> np.ndarray:
    """Dequantise codes and scales with the published table."""
    if form.kind == "nf4":
        last = form.inputs - 1
        sides = np.stack([codes & 15, codes >> 4], axis=last + 1)
        values = published_table()[sides.reshape(form.kernel_shape(codes.shape))]
    else:
        values = codes.astype(np.float64)
    for axis, size in enumerate(form.tile):
        scales = np.repeat(scales, size, axis=axis)
    return (values * scales).astype(np.float32)


def test_the_table_is_the_published_one():
    np.testing.assert_allclose(NF4, published_table(), atol=2e-7)


@pytest.mark.parametrize(
    ("shape_in", "shape_out", "tile", "expected"),
    [((64,), (4, 6), 16, (16,)), ((4, 8), (6,), 16, (2, 8)), ((4, 32), (6,), 8, (1, 8)), ((6, 8), (10,), 8, (1, 8))],
)
def test_nf4_takes_the_nearest_quantile_of_each_tile(seed, *, shape_in, shape_out, tile, expected):
    kernel = np.random.default_rng(seed).normal(size=(*shape_in, *shape_out)).astype(np.float32)
    config = LlamaConfig(quantization="nf4", quantization_tile=tile)
    form = kernel_format("q_proj", shape_in, config)
    assert form.tile == expected
    codes, scales = quantize(jnp.asarray(kernel), form)
    assert codes.dtype == jnp.uint8 and codes.nbytes == kernel.size // 2  # two in a byte
    assert scales.dtype == jnp.float32 and scales.size == kernel.size // tile
    flat = kernel.reshape(-1, tile, math.prod(shape_out))  # tiles are contiguous among the inputs
    absmax = np.abs(flat).max(1, keepdims=True)
    table = published_table()
    nearest = table[np.abs(flat[..., None] / absmax[..., None] - table).argmin(-1)] * absmax
    np.testing.assert_allclose(dequantize(codes, scales, form, jnp.float32).reshape(flat.shape), nearest, atol=2e-6)
    by_numpy = in_numpy(np.asarray(codes), np.asarray(scales), form)
    np.testing.assert_allclose(by_numpy.reshape(flat.shape), nearest, atol=2e-6)


def test_int8_is_within_half_a_step(seed):
    kernel = np.random.default_rng(seed).normal(size=(4, 8, 6)).astype(np.float32)
    kernel[:, :, 2] = 0.0
    form = kernel_format("o_proj", (4, 8), LlamaConfig(quantization="int8"))
    codes, scales = map(np.asarray, quantize(jnp.asarray(kernel), form))
    assert codes.dtype == np.int8 and scales.shape == (1, 1, 6)
    restored = np.asarray(dequantize(codes, scales, form, jnp.float32))
    np.testing.assert_array_equal(restored, in_numpy(codes, scales, form))
    assert np.all(np.abs(restored - kernel) <= scales / 2 * 1.0001)
    step = np.abs(kernel).max((0, 1)) / 127
    assert np.all(scales[0, 0, step > 0] <= step[step > 0] * 1.0001)  # absmax: no coarser than necessary
    assert not restored[:, :, 2].any()
    largest = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)
    assert np.sign(restored[largest]) == np.sign(kernel[largest])  # the largest value does not wrap around


def test_bfloat16_rounds_once(seed):
    rng = np.random.default_rng(seed)
    kernel, x = rng.normal(size=(64, 6)).astype(np.float32), rng.normal(size=(5, 64)).astype(jnp.bfloat16)
    for quantization in ("int8", "nf4"):
        form = kernel_format("q_proj", (64,), LlamaConfig(quantization=quantization))
        codes, scales = quantize(jnp.asarray(kernel), form)
        y = quantized_matmul(jnp.asarray(x), codes, scales, form)
        exact = x.astype(np.float64) @ in_numpy(np.asarray(codes), np.asarray(scales), form)
        assert y.dtype == jnp.bfloat16
        assert np.abs(np.asarray(y, np.float64) - exact).max() < 0.01 * np.abs(exact).max()


def test_a_tile_that_does_not_divide():
    config = dataclasses.replace(LlamaConfig.tiny(), mlp_width=340, quantization="nf4")
    with pytest.raises(QuantizationError, match="quantization_tile 64 must divide the inputs of down_proj, 340"):
        nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    with pytest.raises(QuantizationError, match="o_proj, 2 x 16"):
        kernel_format("o_proj", (2, 16), config)
    with pytest.raises(ConfigError, match="quantization_tile must be positive"):
        dataclasses.replace(config, quantization_tile=0)


def test_without_qwix_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    with pytest.raises(QuantizationError, match=r"pip install 'empatheia_jax\[quant\]'"):
        require_qwix()
    nnx.eval_shape(lambda: Llama(LlamaConfig(quantization="nf4"), rngs=nnx.Rngs(0)))  # planning does not need qwix


# The model ------------------------------------------------------------------------------------------------------------

TOKENS = np.arange(24).reshape(2, 12) % 61
POSITIONS = np.broadcast_to(np.arange(12), (2, 12))


def logits(llm):
    return jax.jit(lambda llm: llm.logits(llm(llm.embed(TOKENS), POSITIONS)[0]))(llm)


def gradient_of(llm, remat: str):
    """Return (gradient function of the adapters, adapters, the other parameters)."""
    graphdef, adapters, frozen = nnx.split(llm, nnx.LoRAParam, ...)

    def loss(adapters, frozen):
        model = nnx.merge(graphdef, adapters, frozen)
        model.config = dataclasses.replace(model.config, remat=remat)
        hidden, _ = model(model.embed(TOKENS), POSITIONS)
        return jnp.mean(jnp.square(model.logits(hidden)))

    return jax.grad(loss), adapters, frozen


def test_it_is_the_model_of_the_dequantised_kernels(few_bits, as_plain, llm):
    actual, expected = logits(few_bits), logits(as_plain)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())
    error = np.abs(actual - logits(llm)).max() / np.abs(expected).max()
    assert 1e-4 < error < (0.05 if few_bits.config.quantization == "int8" else 0.7)


def test_adapters_get_the_gradient_of_the_dequantised_kernels(few_bits, as_plain):
    (gradient, *parts), (plain_gradient, *plain_parts) = gradient_of(few_bits, "lora"), gradient_of(as_plain, "lora")
    actual = leaves(jax.jit(gradient)(*parts))
    expected = leaves(jax.jit(plain_gradient)(*plain_parts))
    assert actual.keys() == expected.keys() and len(actual) == 8
    for name, value in expected.items():
        assert np.abs(value).max() > 0
        np.testing.assert_allclose(actual[name], value, atol=2e-5 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("remat", ["none", "lora", "full"])
def test_no_dequantised_kernel_is_kept(few_bits, as_plain, remat):
    """The forward scan stacks the same residuals as that of a plain model."""
    kernels = {tuple(getattr(as_plain.layers, name).kernel.shape[1:]) for name in PROJECTIONS}

    def residuals(llm):
        gradient, adapters, frozen = gradient_of(llm, remat)
        scans = [e for e in jax.make_jaxpr(gradient)(adapters, frozen).jaxpr.eqns if e.primitive.name == "scan"]
        assert len(scans) == 2
        pairs = zip(scans[0].outvars, scans[0].params["jaxpr"].jaxpr.outvars, strict=True)
        # What is carried has the shape that it has in the body; what is stacked has one more axis.
        return [tuple(inner.aval.shape) for out, inner in pairs if out.aval.shape != inner.aval.shape]

    quantised = residuals(few_bits)
    assert not kernels & set(quantised)
    assert sorted(quantised) == sorted(residuals(as_plain))  # neither codes nor scales are stacked again


def test_a_step_holds_no_stack_of_kernels():
    """By the compiler's count, a gradient needs less temporary memory than the dequantised kernels would take."""
    config = LlamaConfig(
        vocab_size=16,
        width=128,
        layers=16,
        heads=2,
        kv_heads=2,
        head_dim=64,
        mlp_width=256,
        compute_dtype="float32",
        param_dtype="float32",
        quantization="nf4",
        remat="lora",
    )
    model = nnx.eval_shape(lambda: Llama(config, LoraConfig(dropout=0.0), rngs=nnx.Rngs(0)))
    gradient, adapters, frozen = gradient_of(model, "lora")
    temporary = jax.jit(gradient).lower(adapters, frozen).compile().memory_analysis().temp_size_in_bytes
    dequantised = 4 * sum(
        math.prod(v.shape) for n, v in named_arrays(unquantized(frozen)).items() if n.endswith("kernel")
    )
    assert temporary < dequantised / 3


def test_merging(few_bits):
    merged, before = merge(few_bits), logits(few_bits)
    np.testing.assert_allclose(logits(merged), before, atol=1e-4)
    folded = merged.layers.q_proj.kernel
    assert isinstance(folded, nnx.Param) and folded.dtype == jnp.float32  # param_dtype
    assert folded.get_metadata()["out_sharding"] == ("layers", "embed", "heads", "head_dim")
    assert merged.layers.up_proj.kernel.codes[...] is few_bits.layers.up_proj.kernel.codes[...]
    np.testing.assert_array_equal(logits(few_bits), before)


def test_decoding_continues_as_the_dequantised_model_does(few_bits, as_plain):
    def write(llm):
        prompt = llm.embed(TOKENS)
        lengths = jnp.array([12, 9])
        return generate(llm, llm.embed, prompt, lengths, max_new_tokens=6, eos_id=-1, reserve=0).tokens

    np.testing.assert_array_equal(jax.jit(write)(few_bits), jax.jit(write)(as_plain))


# Loading --------------------------------------------------------------------------------------------------------------


def base_of(model) -> nnx.State:
    return nnx.state({"llm": model}, nnx.Not(nnx.LoRAParam))


@pytest.fixture(params=["converted", "stage 0's"])
def base(request, llm, tmp_path):
    """Folder of the tiny Llama's base, in both layouts."""
    state = nnx.state(llm, nnx.Not(nnx.LoRAParam))
    if request.param == "converted":
        save_weights(tmp_path / "base", llm.config, state)
    else:
        save_base(tmp_path / "base", base_of(llm))
    return tmp_path / "base"


def abstract_on(config: LlamaConfig, mesh) -> nnx.State:
    state = base_of(nnx.eval_shape(lambda: Llama(config, LoraConfig(), rngs=nnx.Rngs(0))))
    return sharding.with_shardings(state, sharding.shardings(state, mesh))


def test_a_base_is_quantised_as_it_is_read(few_bits, base):
    """Loading gives the same codes and scales each time."""
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    expected = leaves(base_of(few_bits))
    loaded = leaves(load_base(base, abstract_on(few_bits.config, mesh)))
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)
