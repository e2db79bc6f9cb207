"""A Llama in a GGUF file -> tensors and config.json as transformers has them, for the table in vicuna.py."""

import math
import re
from pathlib import Path

import numpy as np

from converters.gguf_files import GgufFile
from converters.tensors import ConversionError, Tensor
from empatheia_jax.llm.llama import rope_frequencies

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_REQUIRED = {  # metadata, after "llama." -> transformers' name
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
EPSILON = "attention.layer_norm_rms_epsilon"
_OFF = (False, 0, None, "none", "")
_READ = {  # what else is read or does not change what is computed; anything else must be off
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scale_linear",
    "vocab_size",
    "tensor_data_layout",
}
_NUMBERS = {  # of `_READ`, and their types
    "attention.head_count_kv": int,
    "attention.key_length": int,
    "attention.value_length": int,
    "rope.dimension_count": int,
    "rope.freq_base": float,
    "rope.scaling.factor": float,
    "rope.scale_linear": float,
}
_TOKEN_IDS = {"bos": "bos", "eos": "eos", "padding": "pad"}
_LLAMA3 = (1.0, 4.0, 8192)  # low and high frequency factor and original context of all published Llama 3.1 to 3.3


def read_settings(file: GgufFile) -> dict:
    """Return transformers' config.json of a Llama.

    Raises:
      ConversionError: another architecture; settings that are missing or that our LLM does not support, all of them.
    """
    metadata, problems = file.metadata, []
    kind = metadata.get("general.architecture")
    if kind != ARCHITECTURE:
        raise ConversionError(f"{file.path}: architecture {kind!r}; only {ARCHITECTURE!r} is known")
    own = {key.partition(".")[2]: value for key, value in metadata.items() if key.startswith(f"{ARCHITECTURE}.")}
    numbers = _NUMBERS | {name: float if name == EPSILON else int for name in _REQUIRED}
    for name, kind in numbers.items():
        if name not in own and name not in _REQUIRED:
            continue
        if not isinstance(own.get(name), kind) or not 0 < own[name] < math.inf:
            problems.append(f"{ARCHITECTURE}.{name} is {own.get(name, 'missing')!r}")
    problems += [
        f"{ARCHITECTURE}.{name} is {value!r}, which is not known"
        for name, value in own.items()
        if name not in _REQUIRED and name not in _READ and (isinstance(value, np.ndarray) or value not in _OFF)
    ]
    if problems:
        raise ConversionError(f"{file.path}: its metadata do not fit: " + "; ".join(problems))
    heads, width = own["attention.head_count"], own["embedding_length"]
    kv_heads, head_dim = own.get("attention.head_count_kv", heads), own.get("attention.key_length", width // heads)
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if own.get(name, head_dim) != head_dim:
            problems.append(f"{ARCHITECTURE}.{name} is {own[name]!r}, a head has {head_dim}")
    if heads % kv_heads:
        problems.append(f"{ARCHITECTURE}.attention.head_count_kv is {kv_heads!r}, of {heads} heads")
    theta = _shortest(own.get("rope.freq_base", 10000.0))
    scaling = _read_scaling(own, file.tensors.get(ROPE_FACTORS), head_dim, theta, problems=problems)
    if "token_embd.weight" not in file.tensors:
        problems.append("token_embd.weight is missing")
    if problems:
        raise ConversionError(f"{file.path}: " + "; ".join(problems))
    settings = {name: _shortest(own[key]) for key, name in _REQUIRED.items()}
    tokens = {f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in _TOKEN_IDS.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "_name_or_path": metadata.get("general.name", file.path.stem),
        **settings,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{name: index for name, index in tokens.items() if index is not None},
    }


def _read_scaling(own: dict, factors: Tensor | None, head_dim: int, theta: float, *, problems: list[str]):
    """Return transformers' rope_scaling: linear as the metadata say, or Llama 3's, which stands in a tensor."""
    kind = own.get("rope.scaling.type", "linear" if own.get("rope.scale_linear", 1) != 1 else "none")
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear", 1))
    if kind not in ("none", "linear"):
        problems.append(f"rope scaling {kind!r}; known are none, linear and Llama 3's")
    if factors is None:
        return {"rope_type": "linear", "factor": _shortest(factor)} if kind == "linear" and factor != 1 else None
    if kind == "linear" and factor != 1:
        problems.append(f"rope scaling by metadata and by {ROPE_FACTORS}")
    divisors = np.asarray(factors.read(), np.float64)
    if divisors.shape != (head_dim // 2,) or not (np.isfinite(divisors).all() and (divisors >= 1).all()):
        problems.append(f"{ROPE_FACTORS} is not {head_dim // 2} divisors of frequencies")
        return None
    low, high, original = _LLAMA3
    scaling = {
        "rope_type": "llama3",
        "factor": _shortest(float(divisors.max())),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    if not np.allclose(divisors, _llama3_divisors(head_dim, theta, scaling), rtol=1e-3):
        problems.append(f"{ROPE_FACTORS} is not what Llama 3's scaling of {original:,} positions gives")
    return scaling


def _llama3_divisors(head_dim: int, theta: float, scaling: dict) -> np.ndarray:
    from empatheia_jax.config import RopeScaling

    low, high, original = _LLAMA3
    known = RopeScaling(
        "llama3",
        factor=scaling["factor"],
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position=original,
    )
    return rope_frequencies(head_dim, theta).astype(np.float64) / rope_frequencies(head_dim, theta, known)


def _shortest(number: int | float) -> int | float:
    """Return a float32 of the file as the shortest decimal that it stands for: 1e-05."""
    return float(str(np.float32(number))) if isinstance(number, float) else number


def read_tensors(file: GgufFile, settings: dict) -> dict[str, Tensor]:
    """Return the tensors under transformers' names; a name that is not known stays as it is."""
    heads = {"attn_q": settings["num_attention_heads"], "attn_k": settings["num_key_value_heads"]}
    tensors: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        if match and match[2] in _LAYER_NAMES:
            new = f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"
        else:
            new = _NAMES.get(name, name)
        if match and match[2] in heads:
            tensor = _unpermuted(file.path, name, tensor, heads[match[2]])
        tensors[new] = tensor
    return tensors


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return q's or k's rows [heads * D, E] in the order of transformers, whose rotary pairs are (i, i + D / 2).

    In GGUF the two rows of a pair follow each other, as llama.cpp rotates them.
    """
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _unpermuted(path: Path, name: str, tensor: Tensor, heads: int) -> Tensor:
    if len(tensor.shape) != 2 or tensor.shape[0] % (2 * heads):
        raise ConversionError(f"{path}: {name} has shape {list(tensor.shape)}, of {heads} heads")
    return Tensor(tensor.shape, tensor.dtype, tensor.file, tensor.offset, lambda: unpermute(tensor.read(), heads))
