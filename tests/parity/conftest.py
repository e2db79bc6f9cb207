"""Random models and their torch twins: shapes from the seed, weights initialised by torch, nothing downloaded."""

import jax.numpy as jnp
import numpy as np
import pytest

from empatheia_jax.config import LlamaConfig, RopeScaling


def random_llama_config(rng: np.random.Generator, **fixed) -> LlamaConfig:
    """Return the config of a small Llama of random shape in float32, with the `fixed` fields."""
    kv_heads = int(rng.integers(1, 4))
    heads = int(fixed.get("heads", kv_heads * rng.integers(1, 4)))
    fields = {
        "vocab_size": int(rng.integers(50, 200)),
        "width": heads * int(rng.integers(8, 17)),  # transformers demands a multiple of heads
        "layers": int(rng.integers(1, 5)),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": int(rng.integers(2, 9)) * 4,
        "mlp_width": int(rng.integers(20, 120)),
        "rope_theta": float(rng.choice([1e4, 5e5])),
        "norm_epsilon": float(rng.choice([1e-5, 1e-6])),
        "max_length": 256,
        "tie_embeddings": bool(rng.integers(2)),
    }
    return LlamaConfig(**fields | {"compute_dtype": "float32", "param_dtype": "float32", "remat": "none"} | fixed)


def torch_llama(config: LlamaConfig, seed: int):
    """Return transformers' LlamaForCausalLM of the same shape, randomly initialised (norms too), in eval mode."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    scaling: RopeScaling | None = config.rope_scaling
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
    torch.manual_seed(seed)
    twin = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.mlp_width,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters=rope,
            max_position_embeddings=config.max_length,
            tie_word_embeddings=config.tie_embeddings,
            attn_implementation="eager",
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=None,
        )
    )
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)  # ones would hide a norm applied in the wrong place
            else:
                weight.normal_(0.0, 1.0 / weight.shape[-1] ** 0.5)
    return twin.eval()


def load_torch_llama(llm, state_dict: dict) -> None:
    """Load a LlamaForCausalLM's weights into `llm` (abstract or not); every source tensor must be used."""
    config, weights = llm.config, {name: value.detach().numpy() for name, value in state_dict.items()}
    used = set()

    def take(name):
        used.add(name)
        return weights[name]

    def stacked(part):
        return np.stack([take(f"model.layers.{layer}.{part}.weight") for layer in range(config.layers)])

    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        block = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        kernel = getattr(llm.layers, name).kernel
        kernel.set_value(jnp.asarray(stacked(f"{block}.{name}").swapaxes(1, 2).reshape(kernel.shape)))
    llm.layers.attention_norm.set_value(jnp.asarray(stacked("input_layernorm")))
    llm.layers.mlp_norm.set_value(jnp.asarray(stacked("post_attention_layernorm")))
    llm.norm.set_value(jnp.asarray(take("model.norm.weight")))
    llm.embedding.set_value(jnp.asarray(take("model.embed_tokens.weight")))
    head = take("lm_head.weight") if "lm_head.weight" in weights else None
    if llm.head is not None:
        llm.head.set_value(jnp.asarray(head.T))
    assert used == set(weights), f"left over: {sorted(set(weights) - used)}"


@pytest.fixture(scope="session")
def twins(seed):
    """Return a function of fixed config fields to (the Flax Llama with the twin's weights, the torch twin)."""
    from flax import nnx

    from empatheia_jax.llm.llama import Llama

    def make(salt: int = 0, **fixed):
        rng = np.random.default_rng([seed, salt])
        config = random_llama_config(rng, **fixed)
        twin = torch_llama(config, seed + salt)
        llm = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(seed)))
        load_torch_llama(llm, twin.state_dict())
        return llm, twin

    return make
