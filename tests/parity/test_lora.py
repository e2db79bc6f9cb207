"""LoRA adapters against PEFT on the torch twin: forward, gradients, merged weights, initialisation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.config import LoraConfig
from empatheia_jax.llm.llama import PROJECTIONS, Llama
from empatheia_jax.llm.lora import merge

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

TOLERANCE = 1e-4
TARGETS = {"attention": PROJECTIONS[:4], "all": PROJECTIONS, "two": ("v_proj", "down_proj")}


@pytest.fixture(params=list(TARGETS))
def adapted(request, twins, seed):
    """Return the Flax Llama with PEFT's weights and the PEFT model: random A and B, dropout configured but off."""
    rng = np.random.default_rng(seed)
    lora = LoraConfig(rank=int(rng.integers(2, 9)), alpha=float(rng.integers(4, 40)), targets=TARGETS[request.param])
    base, twin = twins(list(TARGETS).index(request.param))
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), bias="none"
    )
    model = peft.get_peft_model(twin, settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.5 / weight.shape[-1] ** 0.5 * (lora.rank / lora.alpha) ** 0.5)
    llm = nnx.eval_shape(lambda: Llama(base.config, lora, rngs=nnx.Rngs(seed)))
    nnx.update(llm, nnx.state(base))
    weights = dict(model.named_parameters())
    for name in lora.targets:
        projection = getattr(llm.layers, name)
        block = "self_attn" if name in PROJECTIONS[:4] else "mlp"
        for part, param in (("lora_A", projection.lora_a), ("lora_B", projection.lora_b)):
            path = f"base_model.model.model.layers.{{}}.{block}.{name}.{part}.default.weight"
            stack = [weights[path.format(layer)].detach().numpy().T for layer in range(base.config.layers)]
            param.set_value(jnp.asarray(np.stack(stack).reshape(param.shape)))
    return llm, model


def inputs(llm, seed):
    tokens = np.random.default_rng(seed).integers(0, llm.config.vocab_size, (2, 20))
    return tokens, jnp.broadcast_to(jnp.arange(20), tokens.shape)


def logits(llm, tokens, positions):
    return jax.jit(lambda llm: llm.logits(llm(llm.embed(tokens), positions)[0]))(llm)


def assert_close(actual, expected):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else expected
    error, scale = np.abs(np.asarray(actual) - expected).max(), np.abs(expected).max()
    assert error <= TOLERANCE * scale, f"error {error:.2e} at a scale of {scale:.2e}"


def test_forward_and_merge(adapted, seed):
    llm, model = adapted
    tokens, positions = inputs(llm, seed)
    expected = model(torch.tensor(tokens)).logits
    assert_close(logits(llm, tokens, positions), expected)
    merged = merge(llm)
    assert not jax.tree.leaves(nnx.state(merged, nnx.LoRAParam))
    assert_close(logits(merged, tokens, positions), expected)
    twin = model.merge_and_unload()
    for name in llm.lora.targets:
        block = "self_attn" if name in PROJECTIONS[:4] else "mlp"
        for layer, kernel in enumerate(np.asarray(getattr(merged.layers, name).kernel[...])):
            weight = getattr(getattr(twin.model.layers[layer], block), name).weight.detach().numpy().T
            assert_close(kernel.reshape(weight.shape), weight)


def test_gradients(adapted, seed):
    """The gradients of every A and B agree with torch's in float64."""
    llm, model = adapted
    tokens, positions = inputs(llm, seed)
    probe = np.random.default_rng(seed + 1).normal(size=(*tokens.shape, llm.config.vocab_size)).astype(np.float32)
    (model.double()(torch.tensor(tokens)).logits * torch.tensor(probe)).sum().backward()
    exact = {name: weight.grad.numpy().T for name, weight in model.named_parameters() if weight.grad is not None}
    graphdef, adapters, frozen = nnx.split(llm, nnx.LoRAParam, ...)

    def loss(adapters):
        return jnp.sum(logits(nnx.merge(graphdef, adapters, frozen), tokens, positions) * probe)

    gradients = nnx.to_pure_dict(jax.jit(jax.grad(loss))(adapters))["layers"]
    assert len(exact) == 2 * llm.config.layers * len(llm.lora.targets)
    for path, gradient in exact.items():
        layer, name = int(path.split(".layers.")[1].split(".")[0]), path.split(".")[-4]
        actual = gradients[name]["lora_a" if "lora_A" in path else "lora_b"][layer]
        assert_close(actual.reshape(gradient.shape), gradient)


def test_initialisation(twins, seed):
    """A has PEFT's distribution (same bound, nearly reached) and B is zero, so the adapted model starts as the base."""
    base, twin = twins(0, width=64, heads=4, kv_heads=2, layers=4)
    lora = LoraConfig(rank=8, targets=PROJECTIONS)
    model = peft.get_peft_model(twin, peft.LoraConfig(r=8, target_modules=list(PROJECTIONS)))
    peft_a = {name: weight.detach().numpy() for name, weight in model.named_parameters() if "lora_A" in name}
    llm = Llama(base.config, lora, rngs=nnx.Rngs(seed))
    for name in PROJECTIONS:
        projection = getattr(llm.layers, name)
        a = np.asarray(projection.lora_a[...])
        reference = np.stack([value for path, value in peft_a.items() if f".{name}." in path])
        bound = 1 / math.sqrt(reference.shape[-1])
        assert a.dtype == np.float32 and np.abs(a).max() <= bound and np.abs(reference).max() <= bound
        assert np.abs(a).max() > 0.97 * bound and abs(a.std() - reference.std()) < 0.1 * bound
        assert not np.asarray(projection.lora_b[...]).any()
    tokens, positions = inputs(llm, seed)
    nnx.update(llm, nnx.state(base))
    np.testing.assert_array_equal(logits(llm, tokens, positions), logits(base, tokens, positions))
