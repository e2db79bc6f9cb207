"""The peer, what a user would choose instead, with our weights: transformers' Llama with peft, and its encoders."""

import jax
import numpy as np
import peft
import torch
import transformers
from flax import nnx

from converters import peft as adapters
from converters import vicuna
from converters.rules import Rule, TransformersFamily, find_prefix, inverse_rules
from empatheia_jax.checkpoints.weights import stored_arrays, unstack_layers
from empatheia_jax.config import LlamaConfig, LoraConfig
from empatheia_jax.encoders.clip import ClipVision
from empatheia_jax.encoders.hubert import Hubert
from empatheia_jax.llm.llama import Llama

DEVICE = "cuda" if torch.cuda.is_available() and jax.devices()[0].platform != "cpu" else "cpu"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor, on the device that is measured."""
    is_bfloat16 = array.dtype.name == "bfloat16"
    tensor = (
        torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16) if is_bfloat16 else torch.tensor(array)
    )
    return tensor.to(DEVICE)


def _torch_tensors(state: nnx.State, rules: list[Rule]) -> dict[str, torch.Tensor]:
    """Return our parameters under the names and in the layout of torch, by the converters' own tables."""
    sources_by_name = inverse_rules(rules, stored_arrays(state))
    return {
        sources_by_name[name][0]: to_torch(sources_by_name[name][1].invert(array))
        for name, array in unstack_layers(state)
    }


def transformers_llama(llm: Llama) -> transformers.LlamaForCausalLM:
    """Return a LlamaForCausalLM with the base weights of `llm`, in its compute dtype, attention by torch's sdpa."""
    config: LlamaConfig = llm.config
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    settings = transformers.LlamaConfig(
        **vicuna.export_settings(config, tokens),
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]: taken, but not declared
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(settings)
    rotary = type(model.model.rotary_emb)(settings)  # its buffers are computed, not loaded
    model.to_empty(device=DEVICE)
    model.model.rotary_emb = rotary.to(DEVICE)
    model.tie_weights()
    base = nnx.filter_state(nnx.state(llm), lambda path, variable: not isinstance(variable, nnx.LoRAParam))
    _fill(dict(model.named_parameters()), _torch_tensors(base, vicuna.rules(config)), DTYPES[config.compute_dtype])
    model.tie_weights()
    return model


def transformers_encoder(encoder: Hubert | ClipVision, family: TransformersFamily):
    """Return a HubertModel or CLIPVisionModel with the weights of `encoder`; `family` is the converter's."""
    config = encoder.config
    settings = family.export_settings(config) | ({"mask_time_prob": 0.0} if family.model_class == "HubertModel" else {})
    model_class = getattr(transformers, family.model_class)
    model = model_class(model_class.config_class(**settings, attn_implementation="sdpa")).eval().to(DEVICE)
    weights = dict(model.named_parameters())
    tensors = _torch_tensors(nnx.state(encoder), family.rules(config, find_prefix(weights, family.prefix)))
    _fill(weights, tensors, DTYPES[config.compute_dtype])
    return model


def with_lora(model, llm: Llama, lora: LoraConfig):
    """Return `model` with peft's adapters, whose weights are those of `llm`'s."""
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]: peft only divides it
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        bias="none",
    )
    adapted = peft.get_peft_model(model, settings).train()
    weights = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name}
    tensors = _torch_tensors(nnx.state(llm, nnx.LoRAParam), adapters.rules(lora))
    _fill(weights, {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()})
    return adapted


def _fill(weights: dict[str, torch.nn.Parameter], tensors: dict[str, torch.Tensor], dtype: torch.dtype | None = None):
    if weights.keys() != tensors.keys():
        raise ValueError(f"peer: parameters and weights do not match: {sorted(weights.keys() ^ tensors.keys())[:3]}")
    for name, weight in weights.items():
        weight.data = tensors[name].to(dtype or weight.dtype)


def synchronize() -> None:
    """Wait until the device has finished its work."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
