"""The four stages of section 5 (and stage 0, a base from scratch), as data.

| stage | prompt      | trains                                           | frozen           | losses             |
| 0     | text        | the small LLM                                    |                  | L_emp              |
| 1     | text, CoE   | LoRA                                             | base             | L_emp              |
| 2     | as 1        | CS                                               | LLM, dropout off | L_ccl + KL         |
| 3     | slots       | SD, classifiers, projectors, new tokens          | LLM + LoRA       | L_sal + L_cls + KL |
| 4     | all         | LoRA, new tokens, projectors, CS, SD, classifiers | base            | Eq. 13             |
"""

import dataclasses
from typing import Literal

from empatheia_jax.config import Config, ConfigError
from empatheia_jax.training import losses

Group = Literal["base", "lora", "new_tokens", "projectors", "content", "style"]
ADAPTED: tuple[Group, ...] = ("lora", "new_tokens", "projectors", "content", "style")


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage reads, trains and minimises."""

    number: int
    title: str
    prompt_kind: Literal["text", "slots", "all"]
    trains: tuple[Group, ...]
    weights: dict[str, float]  # loss term -> weight
    llm_dropout: bool
    cached: bool = False  # r^t is read from `training.state_cache`; the LLM does not run

    @property
    def has_content(self) -> bool:
        """Whether the content synchronizer runs."""
        return "content" in self.trains

    @property
    def has_style(self) -> bool:
        """Whether the style disentangler runs."""
        return "style" in self.trains

    @property
    def kind(self) -> tuple:
        """A key that stages share whose evaluation is the same function: 0 and 1 do."""
        return self.prompt_kind, "emp" in self.weights, self.has_content, self.has_style, self.cached


def stage(number: int, config: Config) -> Stage:
    """Return stage `number` of `config`.

    Raises:
      ConfigError: there is no such stage.
    """
    kl, optim = config.latents.kl_weight, config.optim
    ccl = {"content_speech": 1.0, "content_video": 1.0, "kl_content": kl}
    emp = losses.empathetic_weights(optim.label_weight)
    sac = losses.style_alignment_and_consistency_weights(1.0) | {"kl_style": kl}
    table = (
        Stage(0, "base from scratch", "text", ("base",), emp, False),
        Stage(1, "chain of empathy", "text", ("lora",), emp, True),
        Stage(2, "content consistency", "text", ("content",), ccl, False, config.cache_states),
        Stage(3, "style alignment and consistency", "slots", ("style", "projectors", "new_tokens"), sac, False),
        Stage(
            4,
            "overall tuning",
            "all",
            ADAPTED,
            losses.overall_weights(optim.alpha, optim.beta, kl, optim.label_weight),
            True,
        ),
    )
    if not 0 <= number < len(table):
        raise ConfigError(f"there is no stage {number}: choose from 0 to 4")
    return table[number]


def group_of(path: tuple, is_lora: bool) -> Group:
    """Return the group that a parameter of `Empatheia` belongs to, from its path."""
    if path[0] == "llm":
        return "lora" if is_lora else "base"
    groups = {
        "new_tokens": "new_tokens",
        "audio_projector": "projectors",
        "video_projector": "projectors",
        "content_synchronizer": "content",
        "style_disentangler": "style",
    }
    return groups[path[0]]
