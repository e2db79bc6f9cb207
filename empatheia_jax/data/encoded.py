"""One Example as ids and places: what the packer puts into a row, and what inference puts before the LLM."""

import dataclasses

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data import emotions
from empatheia_jax.data.prompts import Style, encode_pieces, encode_target, render_prompt
from empatheia_jax.data.schema import UNKNOWN, Example, Profile, RecordError
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
    labels: np.ndarray  # bool [length]; targets that name the chain's emotion; in stage 0 a known profile
    signals: int | None  # position of <AUD1>; None where the Example ends with </s>


def prompt_profile(example: Example, config: Config) -> Profile | None:
    """The listener's profile as the prompt may know it (`profile_in_prompt`).

    Raises:
      RecordError: "always", and the Example has none.
    """
    if config.prompt.profile_in_prompt == "never":
        return None
    if config.prompt.profile_in_prompt == "always" and example.listener_profile is None:
        raise RecordError(
            f"{example.id}: no listener profile, and prompt.profile_in_prompt is always; give one (respond: --profile) "
            "or choose auto",
            conversation=example.conversation_id,
            field="listener_profile",
        )
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


def encode(
    example: Example, style: Style, config: Config, tokenizer: Tokenizer, profile: Profile | None, base: bool = False
) -> Encoded:
    """Prompt and target of an Example for a training stage of this prompt style.

    In stages 0 to 2 ("text") nobody reads the signals, and what comes last changes nothing before it: unless they carry
    loss, the Example ends with </s> and takes a sixth less of a row.

    `base`: the profile that stands before the signals is there in stage 0 too and carries loss. A base from scratch so
    learns to look its listener up in the prompt, and to tell apart words that it would never have to predict.
    """
    prompt, slots = encode_prompt(example, style, config, tokenizer, profile)
    response = None if style == "slots" or example.response is None else example.response.text
    target = encode_target(tokenizer, example.chain, response, profile)
    after, signals = len(prompt) + target.end, len(prompt) + target.signals
    end = signals if base else after
    ids = np.array(prompt + target.ids, np.int32)
    loss = np.zeros(len(ids), bool)
    # The chain, the response and </s> carry loss, for a base the profile too; the signals do not, unless asked.
    loss[len(prompt) : end] = True
    labels = np.zeros(len(ids), bool)
    if base and profile is not None:
        words = (profile.age, profile.gender, profile.timbre)
        labels[after:end] = _spelled(ids[after:end], [tokenizer.encode(f" {word}") for word in words])
    else:
        labels[len(prompt) + target.emotion[0] : len(prompt) + target.emotion[1]] = True
    loss[signals:] = config.prompt.signal_loss

    def shifted(span: tuple[int, int]) -> tuple[int, int]:
        return (len(prompt) + span[0], len(prompt) + span[1]) if span != (0, 0) else span

    encoded = Encoded(ids, len(prompt), loss, slots, shifted(target.span), labels, signals)
    if style == "text" and not config.prompt.signal_loss:
        return dataclasses.replace(encoded, ids=ids[:end], loss=loss[:end], labels=labels[:end], signals=None)
    return encoded


def _spelled(ids: np.ndarray, words: list[list[int]]) -> np.ndarray:
    """bool, like `ids`: where they spell `words`, each looked for from where the one before was found."""
    found, at = np.zeros(len(ids), bool), 0
    for word in words:
        while at < len(ids) and not np.array_equal(ids[at : at + len(word)], word):
            at += 1
        found[at : at + len(word)] = True
    return found


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
