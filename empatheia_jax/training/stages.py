"""The four stages of section 5 (and stage 0, a base from scratch), as data.

| stage | prompt      | trains                                           | frozen           | losses             |
| 0     | text        | the small LLM                                    |                  | L_emp              |
| 1     | text, CoE   | LoRA                                             | base             | L_emp              |
| 2     | as 1        | CS                                               | LLM, dropout off | L_ccl + KL         |
| 3     | slots       | SD, classifiers, projectors, new tokens          | LLM + LoRA       | L_sal + L_cls + KL |
| 4     | all         | LoRA, new tokens, projectors, CS, SD, classifiers | base            | Eq. 13             |
"""

import dataclasses
from collections.abc import Sequence

from empatheia_jax.config import Config, ConfigError, DataConfig, StageConfig
from empatheia_jax.data.prompts.dialogue import PromptKind
from empatheia_jax.model.parameter_groups import ADAPTED, Group
from empatheia_jax.training import losses


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage reads, trains and minimises."""

    number: int
    title: str
    prompt_kind: PromptKind
    trains: tuple[Group, ...]
    weights: dict[str, float]  # loss term -> weight
    settings: StageConfig
    data: DataConfig  # with the batch shapes of this stage
    llm_dropout: bool = False
    cached: bool = False  # r^t is read from `training.state_cache`; the LLM does not run

    @property
    def trains_base(self) -> bool:
        """Whether the base LLM is trained, which later stages freeze."""
        return "base" in self.trains

    @property
    def has_content(self) -> bool:
        """Whether the content synchronizer runs."""
        return "content" in self.trains

    @property
    def has_style(self) -> bool:
        """Whether the style disentangler runs."""
        return "style" in self.trains

    @property
    def backprops_through_llm(self) -> bool:
        """Whether gradients pass through the LLM's layers, to their weights or to what they read."""
        return not {"base", "lora", "new_tokens", "projectors"}.isdisjoint(self.trains)

    @property
    def evaluation_key(self) -> tuple:
        """A key that stages share whose evaluation is the same compiled function: 0 and 1 do, of equal shapes."""
        return self.prompt_kind, "emp" in self.weights, self.has_content, self.has_style, self.cached, self.data


def resolve_stages(config: Config) -> tuple[Stage, ...]:
    """Return stages 0 to 4 with their settings and batch shapes; `choose_stages` gives those that a run has."""
    loss, kl = config.loss, config.loss.kl_weight
    ccl = {"content_speech": 1.0, "content_video": 1.0, "kl_content": kl}
    emp = losses.empathetic_weights(loss.label_weight)
    sac = losses.style_alignment_and_consistency_weights(1.0) | {"kl_style": kl}
    overall = losses.overall_weights(loss.alpha, loss.beta, kl, loss.label_weight)
    settings = [settings for _, settings in sorted(config.stages.items())]
    own = [(stage, dataclasses.replace(config.data, **stage.shape())) for stage in settings]
    return (
        Stage(0, "base from scratch", "text", ("base",), emp, *own[0]),
        Stage(1, "chain of empathy", "text", ("lora",), emp, *own[1], llm_dropout=True),
        Stage(2, "content consistency", "text", ("content",), ccl, *own[2], cached=config.cache_states),
        Stage(3, "style alignment and consistency", "slots", ("style", "projectors", "new_tokens"), sac, *own[3]),
        Stage(4, "overall tuning", "all", ADAPTED, overall, *own[4], llm_dropout=True),
    )


def choose_stages(config: Config, numbers: Sequence[int] = range(5)) -> tuple[Stage, ...]:
    """Return those of the stages `numbers` that a run has.

    A converted base needs no stage that trains it, and a text-only model has no latents to train.

    Raises:
      ConfigError: there is no such stage, or the run has none of them.
    """
    stages = resolve_stages(config)
    unknown = set(numbers) - set(range(len(stages)))
    if unknown:
        raise ConfigError(f"there is no stage {min(unknown)}: choose from 0 to {len(stages) - 1}")
    possible = [
        stage.number
        for stage in stages
        if (config.base == "scratch" or not stage.trains_base)
        and (config.modalities or not (stage.has_content or stage.has_style))
    ]
    chosen = tuple(stages[number] for number in numbers if number in possible)
    if not chosen:
        raise ConfigError(f"{config.name} has no stage {', '.join(map(str, numbers))}: choose from {possible}")
    return chosen


def left_out(config: Config, stages: Sequence[Stage]) -> list[int]:
    """Return the numbers of the stages that a run has before the last of `stages`, and that are not among them."""
    numbers = {stage.number for stage in stages}
    return [
        stage.number for stage in choose_stages(config) if stage.number < max(numbers) and stage.number not in numbers
    ]


def replace_stage(config: Config, number: int, **fields) -> Config:
    """Return the config with fields of the settings of stage `number` replaced."""
    settings = dataclasses.replace(config.stages[str(number)], **fields)
    return dataclasses.replace(config, stages=config.stages | {str(number): settings})
