"""The groups of `Empatheia`'s parameters that a stage trains or freezes, and that checkpoints and exports select."""

from collections.abc import Callable
from typing import Literal

from flax import nnx

Group = Literal["base", "lora", "new_tokens", "projectors", "content", "style"]
ADAPTED: tuple[Group, ...] = ("lora", "new_tokens", "projectors", "content", "style")  # all but the base LLM
_GROUPS: dict[str, Group] = {
    "new_tokens": "new_tokens",
    "audio_projector": "projectors",
    "video_projector": "projectors",
    "content_synchronizer": "content",
    "style_disentangler": "style",
}


def group_of(path: tuple, is_lora: bool) -> Group:
    """Return the group that a parameter of `Empatheia` belongs to, from its path."""
    if path[0] == "llm":
        return "lora" if is_lora else "base"
    return _GROUPS[path[0]]


def in_groups(groups: tuple[Group, ...]) -> Callable:
    """Return a filter for `nnx.split` that is true for parameters of these groups."""
    return lambda path, variable: group_of(path, isinstance(variable, nnx.LoRAParam)) in groups
