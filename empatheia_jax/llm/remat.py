"""Rematerialisation policies (`llm.remat`): which residuals a layer saves for its backward pass.

The input of a frozen matmul is no residual: LoRA's backward pass reads the inputs of the nonlinear functions (q, k, v,
the attention's output and softmax sums, gate, up) and of the adapters, which follow elementwise from those and from
`mid`. FLOPs per token of the layers, for N weights in them; bytes for bfloat16 and Vicuna-7B's shape:

| policy    | saved besides a layer's input                                             | FLOPs  | per token and layer |
| none      | everything that differentiation asks for                                  | 4.07 N | 238 KiB             |
| lora      | q, k, v, attention and its sums, mid, gate, up: no matmul is recomputed   | 4.1 N  | 91 KiB              |
| attention | as lora, without gate and up: two thirds of the MLP are recomputed        | 5.0 N  | 48 KiB              |
| full      | nothing: all but the last matmul is recomputed                            | 5.7 N  | 8 KiB               |

A residual must be named inside the attention kernel's own forward rule, or the kernel runs again: `block_attention` and
splash do so. cuDNN's kernel has no names, so its outputs are saved by primitive.
"""

from collections.abc import Callable

import jax

from empatheia_jax.config import LlamaConfig
from empatheia_jax.llm.block_attention import RESIDUAL

_ATTENTION = ("q", "k", "v", RESIDUAL, "mid")
SAVED_NAMES: dict[str, tuple[str, ...]] = {"lora": (*_ATTENTION, "gate", "up"), "attention": _ATTENTION, "full": ()}
"""Policy -> names of the saved residuals; "none" saves what differentiation asks for."""


def apply_remat(body: Callable, policy: str) -> Callable:
    """Wrap the body of a scan over layers: residuals that the policy names are saved, the others recomputed."""
    if policy == "none":
        return body
    names, policies = SAVED_NAMES[policy], jax.checkpoint_policies
    is_saved = None
    if names:
        is_saved = policies.save_from_both_policies(policies.save_only_these_names(*names), _is_cudnn_attention)
    return jax.checkpoint(body, policy=is_saved, prevent_cse=False)


def _is_cudnn_attention(primitive, *_, **__) -> bool:
    return primitive.name == "dot_product_attention_fwd_wrapper"


def residual_bytes(config: LlamaConfig, itemsize: int, tensor: int = 1) -> int:
    """Return the bytes that `config.remat` saves for each token and layer on one device.

    For "none" the number of "lora" is returned, though "none" saves more.

    Args:
      config: the LLM's.
      itemsize: bytes of a number in the compute dtype.
      tensor: devices that share heads and MLP.
    """
    queries, keys = config.heads * config.head_dim // tensor, config.kv_heads * config.head_dim // tensor
    sizes = {"q": queries, "k": keys, "v": keys, RESIDUAL: queries, "mid": config.width}
    sizes |= {"gate": config.mlp_width // tensor, "up": config.mlp_width // tensor}
    names = SAVED_NAMES.get(config.remat, SAVED_NAMES["lora"])
    sums = 4 * config.heads // tensor if RESIDUAL in names else 0  # softmax sums: one float32 per query
    return (config.width + sum(sizes[name] for name in names)) * itemsize + sums
