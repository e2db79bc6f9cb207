"""Vicuna and every other Llama-architecture directory (Llama 2/3, Mistral without a window) <-> `llm.llama.Llama`."""

from collections.abc import Mapping

import numpy as np

from converters.rules import Rule, TransformersFamily, linear
from converters.tensors import ConversionError, Tensor
from empatheia_jax.config import LlamaConfig, RopeScaling
from empatheia_jax.llm.llama import PROJECTIONS, Llama, rope_frequencies

PREFIX = "model."
MODEL_CLASS = "LlamaForCausalLM"
_REQUIRED = {  # transformers' name -> our field
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
}
_SUPPORTED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0}


def parse_config(settings: dict, preprocessor: dict | None = None) -> LlamaConfig:
    """Convert transformers' config.json, in old or new spellings; an absent setting has transformers' default.

    Args:
      settings: config.json.
      preprocessor: unused; encoders' families have one.
    Raises:
      ConversionError: all settings that `Llama` does not support and all missing ones without a default.
    """
    problems = [f"{name} is not there" for name in _REQUIRED if not isinstance(settings.get(name), int)]
    problems += [
        f"{name} is {settings[name]!r}; only {supported!r} is known"
        for name, supported in _SUPPORTED.items()
        if settings.get(name, supported) != supported
    ]
    length = settings.get("max_position_embeddings", 2048)
    window = settings.get("sliding_window", 4096 if settings.get("model_type") == "mistral" else None)
    if window is not None and window < length:
        problems.append(
            f"sliding_window is {window}, less than max_position_embeddings {length}; our attention has no window"
        )
    theta, scaling = _parse_rope(settings, length, problems)
    if problems:
        raise ConversionError("config.json: " + "; ".join(problems))
    fields = {field: settings[name] for name, field in _REQUIRED.items()}
    return LlamaConfig(
        **fields,
        kv_heads=settings.get("num_key_value_heads") or fields["heads"],
        head_dim=settings.get("head_dim") or fields["width"] // fields["heads"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=settings.get("rms_norm_eps", 1e-6),
        max_length=length,
        tie_embeddings=settings.get("tie_word_embeddings", False),
    )


def _parse_rope(settings: dict, length: int, problems: list[str]) -> tuple[float, RopeScaling | None]:
    """Read rotary theta and scaling from `rope_parameters` (new) or `rope_theta` and `rope_scaling` (old)."""
    new, old = settings.get("rope_parameters") or {}, settings.get("rope_scaling") or {}
    if "rope_theta" in new and "rope_theta" in settings and new["rope_theta"] != settings["rope_theta"]:
        problems.append(f"rope_theta is {settings['rope_theta']}, and {new['rope_theta']} in rope_parameters")
    theta = new.get("rope_theta", settings.get("rope_theta", 10000.0))
    rope = new if len(new.keys() - {"rope_theta"}) else old
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(theta, int | float) or not isinstance(kind, str):
        problems.append(f"rope_parameters {new or settings.get('rope_theta')} are not one set for all layers")
        return 1e4, None
    if kind == "default":
        return float(theta), None
    if kind not in ("linear", "llama3"):
        problems.append(f"rope type {kind!r}; known are default, linear, llama3")
        return float(theta), None
    required = ("factor",) if kind == "linear" else ("factor", "low_freq_factor", "high_freq_factor")
    missing = [name for name in required if not isinstance(rope.get(name), int | float)]
    if missing:
        problems.append(f"rope type {kind!r} without {', '.join(missing)}")
        return float(theta), None
    if kind == "linear":
        return float(theta), RopeScaling("linear", factor=float(rope["factor"]))
    return float(theta), RopeScaling(
        "llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position=int(rope.get("original_max_position_embeddings", length)),
    )


def rules(config: LlamaConfig, prefix: str = PREFIX) -> list[Rule]:
    """Return the table of rules; `prefix` stands before every name but the head's."""
    table = [
        Rule(
            f"{prefix}layers.{{layer}}.{block_name(name)}.{name}.weight",
            f"layers/{name}/kernel",
            linear(2 if name == "o_proj" else 1),
        )
        for name in PROJECTIONS
    ]
    table += [
        Rule(f"{prefix}layers.{{layer}}.input_layernorm.weight", "layers/attention_norm"),
        Rule(f"{prefix}layers.{{layer}}.post_attention_layernorm.weight", "layers/mlp_norm"),
        Rule(f"{prefix}norm.weight", "norm"),
        Rule(f"{prefix}embed_tokens.weight", "embedding"),
    ]
    return table if config.tie_embeddings else [*table, Rule("lm_head.weight", "head", linear())]


def block_name(projection: str) -> str:
    """Return the name of transformers' module that has a projection of a layer: "mlp" or "self_attn"."""
    return "mlp" if projection in ("gate_proj", "up_proj", "down_proj") else "self_attn"


def check(config: LlamaConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return problems with the unused tensors: their numbers must agree with what our LLM computes instead."""
    problems = []
    head, embedding = tensors.get("lm_head.weight"), tensors.get(f"{PREFIX}embed_tokens.weight")
    if config.tie_embeddings and head is not None and embedding is not None:
        if head.shape != embedding.shape or not np.array_equal(head.read(), embedding.read()):
            problems.append("config.json ties the embeddings, but lm_head.weight is not model.embed_tokens.weight")
    expected = rope_frequencies(config.head_dim, config.rope_theta)
    for name, tensor in tensors.items():
        if name.endswith("rotary_emb.inv_freq") and config.rope_scaling is None:
            stored = np.asarray(tensor.read(), np.float32)
            if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-2, atol=1e-5):  # or float16
                problems.append(f"{name} is not what rope_theta {config.rope_theta} gives")
    return problems


def export_settings(config: LlamaConfig, tokens: dict[str, int | None]) -> dict:
    """Return transformers' config.json; `tokens` has bos_token_id, eos_token_id and pad_token_id."""
    scaling = config.rope_scaling
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
    old_rope = {k: v for k, v in rope.items() if k not in ("rope_theta", "rope_type")}
    return {
        "architectures": [MODEL_CLASS],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "max_position_embeddings": config.max_length,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        # Both spellings: transformers 5 reads the first, older ones and other tools the second.
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": old_rope | {"rope_type": scaling.kind} if scaling else None,
        **tokens,
    }


FAMILY = TransformersFamily(
    Llama,
    rules,
    (
        r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",  # computed by our LLM; compared in `check`
        r"lm_head\.weight",  # of tied embeddings; compared in `check`
        r"rope_freqs\.weight",  # Llama 3's scaling in GGUF; compared in `gguf_llama.read_settings`
    ),
    check,
    model_types=("llama", "mistral"),
    prefix=PREFIX,
    model_class=MODEL_CLASS,
    parse_config=parse_config,
    export_settings=export_settings,
)
