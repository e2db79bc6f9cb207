"""What a user would pick instead, given our weights: transformers' LlamaForCausalLM with peft, its encoders."""

import jax
import numpy as np
import peft
import torch
import transformers
from flax import nnx

from converters import peft as adapters
from converters import vicuna
from converters.rules import Rule, prefix_of, sources
from empatheia_jax.config import LlamaConfig, LoraConfig
from empatheia_jax.llm.llama import Llama
from empatheia_jax.weights import slots, unstacked

DEVICE = "cuda" if torch.cuda.is_available() and jax.devices()[0].platform != "cpu" else "cpu"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A copy, on the device that is measured."""
    wide = array.dtype.name == "bfloat16"
    tensor = torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16) if wide else torch.tensor(array)
    return tensor.to(DEVICE)


def _published(state: nnx.State, rules: list[Rule]) -> dict[str, torch.Tensor]:
    """Our parameters under the names and in the layout of torch, by the converters' own tables."""
    back = sources(rules, slots(state))
    return {back[name][0]: to_torch(back[name][1].invert(array)) for name, array in unstacked(state)}


def transformers_llama(llm: Llama) -> transformers.LlamaForCausalLM:
    """A LlamaForCausalLM with the base weights of `llm`, in its compute dtype, attention by torch's sdpa."""
    config: LlamaConfig = llm.config
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    settings = transformers.LlamaConfig(**vicuna.settings_of(config, tokens), attn_implementation="sdpa")
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(settings)
    rotary = type(model.model.rotary_emb)(settings)  # its buffers are computed, not loaded
    model.to_empty(device=DEVICE)
    model.model.rotary_emb = rotary.to(DEVICE)
    model.tie_weights()
    base = nnx.filter_state(nnx.state(llm), lambda path, variable: not isinstance(variable, nnx.LoRAParam))
    _fill(dict(model.named_parameters()), _published(base, vicuna.rules(config)), DTYPES[config.compute_dtype])
    model.tie_weights()
    return model


def transformers_encoder(encoder: nnx.Module, family):
    """HubertModel or CLIPVisionModel with the weights of `encoder`; `family` is `converters.hubert` or `.clip`."""
    config = encoder.config
    settings = family.settings_of(config) | ({"mask_time_prob": 0.0} if family.CLASS == "HubertModel" else {})
    model_class = getattr(transformers, family.CLASS)
    model = model_class(model_class.config_class(**settings, attn_implementation="sdpa")).eval().to(DEVICE)
    weights = dict(model.named_parameters())
    ours = _published(nnx.state(encoder), family.rules(config, prefix_of(weights, family.PREFIX)))
    _fill(weights, ours, DTYPES[config.compute_dtype])
    return model


def with_lora(model, llm: Llama, lora: LoraConfig):
    """peft's adapters on `model`, with those of `llm`."""
    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), bias="none"
    )
    adapted = peft.get_peft_model(model, settings).train()
    weights = {name: weight for name, weight in adapted.named_parameters() if "lora_" in name}
    ours = _published(nnx.state(llm, nnx.LoRAParam), adapters.rules(lora))
    _fill(weights, {name.replace(".weight", ".default.weight"): tensor for name, tensor in ours.items()})
    return adapted


def _fill(weights: dict[str, torch.nn.Parameter], ours: dict[str, torch.Tensor], dtype: torch.dtype | None = None):
    if weights.keys() != ours.keys():
        raise ValueError(f"peer: not filled or not there: {sorted(weights.keys() ^ ours.keys())[:3]}")
    for name, weight in weights.items():
        weight.data = ours[name].to(dtype or weight.dtype)


def wait() -> None:
    """Until the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
