"""One Example as ids and places: what the packer puts into a row, and what inference puts before the LLM."""

import dataclasses

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data import emotions
from empatheia_jax.data.prompts import Style, encode_pieces, encode_target, render_prompt
from empatheia_jax.data.schema import UNKNOWN, Example, Profile
from empatheia_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Slot:
    """`position` of the first placeholder in the ids, and the feature-store key of what belongs there."""

    position: int
    modality: str  # "audio" | "video"
    key: str


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Ids of prompt and target; positions count from the first id."""

    ids: np.ndarray  # int32 [length]
    prompt_length: int
    loss: np.ndarray  # bool [length]; whether this id is a target of L_emp
    slots: tuple[Slot, ...]
    response: tuple[int, int]  # span of the response's own tokens, (0, 0): none
    signals: int  # position of <AUD1>


def prompt_profile(example: Example, config: Config) -> Profile | None:
    """The listener's profile as the prompt may know it (`profile_in_prompt`)."""
    if config.prompt.profile_in_prompt == "never":
        return None
    return example.listener_profile


def encode_prompt(example: Example, style: Style, config: Config, tokenizer: Tokenizer, profile: Profile | None):
    """Prompt of an Example: (ids, slots), ready for the LLM."""
    pieces = render_prompt(
        example, style, profile=profile, instruction=config.prompt.instruction, modalities=config.modalities
    )
    ids, slots = encode_pieces(tokenizer, pieces, config.projector.tokens)
    by_index = {utterance.index: utterance for utterance in example.history}
    return ids, tuple(
        Slot(position, modality, example.utterance_key(by_index[index])) for position, modality, index in slots
    )


def encode(example: Example, style: Style, config: Config, tokenizer: Tokenizer, profile: Profile | None) -> Encoded:
    """Prompt and target of an Example for a training stage of this prompt style."""
    prompt, slots = encode_prompt(example, style, config, tokenizer, profile)
    response = None if style == "slots" or example.response is None else example.response.text
    target = encode_target(tokenizer, example.chain, response)
    ids = np.array(prompt + target.ids, np.int32)
    signals = len(prompt) + target.signals
    loss = np.zeros(len(ids), bool)
    # The chain, the response and </s> carry loss; the signals do not, unless asked.
    loss[len(prompt) : len(ids) if config.prompt.signal_loss else signals] = True
    span = (len(prompt) + target.span[0], len(prompt) + target.span[1]) if response is not None else (0, 0)
    return Encoded(ids, len(prompt), loss, slots, span, signals)


def labels(example: Example) -> dict[str, int]:
    """Class ids of an Example: the speaker's emotion (of 7), the listener's age, gender, timbre; UNKNOWN if absent."""
    profile = example.listener_profile

    def find(table: tuple[str, ...], value: str | None) -> int:
        return table.index(value) if value in table else UNKNOWN

    emotion = emotions.avatar_emotion(example.chain.speaker_emotion) if example.chain else None
    return {
        "emotion": find(emotions.AVATAR_EMOTIONS, emotion),
        "age": find(emotions.AGES, profile.age if profile else None),
        "gender": find(emotions.GENDERS, profile.gender if profile else None),
        "timbre": find(emotions.TIMBRES, profile.timbre if profile else None),
    }
