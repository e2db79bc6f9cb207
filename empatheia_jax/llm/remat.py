"""What a layer keeps for its backward pass, by the name of a policy (`llm.remat`).

A frozen matmul's input is no residual: what LoRA's backward pass reads are the inputs of functions that are not linear
(q, k, v, the attention's output and softmax sums, gate, up) and of the adapters, which follow from those and from `mid`
element by element. FLOPs a token of the layers, N weights in them, and bytes at bfloat16 and Vicuna-7B's shape:

| policy    | kept besides a layer's input                                        | FLOPs  | a token and layer |
| none      | everything that differentiation asks for                            | 4.07 N | 238 KiB           |
| lora      | q, k, v, attention and its sums, mid, gate, up: no matmul done twice | 4.1 N  | 91 KiB            |
| attention | as lora, without gate and up: two thirds of the MLP are done twice  | 5.0 N  | 48 KiB            |
| full      | nothing: all but the last product is done twice                     | 5.7 N  | 8 KiB             |

A name must sit inside the attention kernel's own forward rule, or the kernel runs again: `block_attention` and splash
have it there. cuDNN's has no names, so its outputs are kept by primitive.
"""

from collections.abc import Callable

import jax

from empatheia_jax.config import LlamaConfig
from empatheia_jax.llm.block_attention import RESIDUAL

_ATTENTION = ("q", "k", "v", RESIDUAL, "mid")
SAVED_NAMES: dict[str, tuple[str, ...]] = {"lora": (*_ATTENTION, "gate", "up"), "attention": _ATTENTION, "full": ()}
"""Policy -> names of what is kept of a layer; "none" keeps what differentiation asks for."""


def rematerialised(body: Callable, policy: str) -> Callable:
    """`body` of a scan over layers, whose backward pass keeps what the policy names and computes the rest again."""
    if policy == "none":
        return body
    names, policies = SAVED_NAMES[policy], jax.checkpoint_policies
    keep = None
    if names:
        keep = policies.save_from_both_policies(policies.save_only_these_names(*names), _is_cudnn_attention)
    return jax.checkpoint(body, policy=keep, prevent_cse=False)


def _is_cudnn_attention(primitive, *_, **__) -> bool:
    return primitive.name == "dot_product_attention_fwd_wrapper"


def kept_bytes(config: LlamaConfig, itemsize: int, tensor: int = 1) -> int:
    """Bytes a token and layer that `config.remat` keeps on one of `tensor` devices that share heads and MLP.

    "none" keeps more than the "lora" that is said for it.
    """
    queries, keys = config.heads * config.head_dim // tensor, config.kv_heads * config.head_dim // tensor
    sizes = {"q": queries, "k": keys, "v": keys, RESIDUAL: queries, "mid": config.width}
    sizes |= {"gate": config.mlp_width // tensor, "up": config.mlp_width // tensor}
    names = SAVED_NAMES.get(config.remat, SAVED_NAMES["lora"])
    sums = 4 * config.heads // tensor if RESIDUAL in names else 0  # float32: of the softmax, one a query
    return (config.width + sum(sizes[name] for name in names)) * itemsize + sums
