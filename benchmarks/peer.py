"""What a user would pick instead: transformers' LlamaForCausalLM with peft, given our weights."""

import jax
import numpy as np
import peft
import torch
import transformers

from empatheia_jax.config import LlamaConfig, LoraConfig
from empatheia_jax.llm.llama import PROJECTIONS, Llama

DEVICE = "cuda" if torch.cuda.is_available() and jax.devices()[0].platform != "cpu" else "cpu"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_torch(array: jax.Array) -> torch.Tensor:
    """A copy, on the device where it is."""
    return torch.from_dlpack(array).clone() if DEVICE != "cpu" else torch.from_numpy(np.array(array))


def transformers_llama(llm: Llama) -> transformers.LlamaForCausalLM:
    """A LlamaForCausalLM with the base weights of `llm`, in its compute dtype, attention by torch's sdpa."""
    config: LlamaConfig = llm.config
    settings = transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.width, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_key_value_heads=config.kv_heads, head_dim=config.head_dim,
        intermediate_size=config.mlp_width, rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        max_position_embeddings=config.max_length, tie_word_embeddings=config.tie_embeddings,
        attn_implementation="sdpa", bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(settings)
    rotary = type(model.model.rotary_emb)(settings)  # its buffers are computed, not loaded
    model.to_empty(device=DEVICE)
    model.model.rotary_emb = rotary.to(DEVICE)
    model.tie_weights()
    weights = dict(model.named_parameters())

    def fill(name: str, array: jax.Array) -> None:
        weights.pop(name).data = to_torch(array).to(DTYPES[config.compute_dtype])

    for layer in range(config.layers):
        for name in PROJECTIONS:
            kernel = getattr(llm.layers, name).kernel[...][layer]
            axes_in = 2 if name == "o_proj" else 1  # [heads, head_dim, embed], else [embed, ...]
            matrix = kernel.reshape(int(np.prod(kernel.shape[:axes_in])), -1).T
            block = "self_attn" if name in PROJECTIONS[:4] else "mlp"
            fill(f"model.layers.{layer}.{block}.{name}.weight", matrix)
        fill(f"model.layers.{layer}.input_layernorm.weight", llm.layers.attention_norm[...][layer])
        fill(f"model.layers.{layer}.post_attention_layernorm.weight", llm.layers.mlp_norm[...][layer])
    fill("model.norm.weight", llm.norm[...])
    fill("model.embed_tokens.weight", llm.embedding[...])
    if llm.head is not None:
        fill("lm_head.weight", llm.head[...].T)
    if weights:
        raise ValueError(f"peer: not filled: {sorted(weights)[:3]}")
    model.tie_weights()
    return model


def with_lora(model, llm: Llama, lora: LoraConfig):
    """peft's adapters on `model`, with those of `llm`."""
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), bias="none"
    )
    adapted = peft.get_peft_model(model, settings).train()
    weights = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name}
    for name in lora.targets:
        projection = getattr(llm.layers, name)
        block = "self_attn" if name in PROJECTIONS[:4] else "mlp"
        for part, array in (("lora_A", projection.lora_a[...]), ("lora_B", projection.lora_b[...])):
            for layer in range(llm.config.layers):
                path = f"base_model.model.model.layers.{layer}.{block}.{name}.{part}.default.weight"
                matrix = array[layer].reshape((-1, lora.rank) if part == "lora_A" else (lora.rank, -1))
                weights.pop(path).data.copy_(to_torch(matrix.T))
    if weights:
        raise ValueError(f"peer: not filled: {sorted(weights)[:3]}")
    return adapted


def wait() -> None:
    """Until the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
