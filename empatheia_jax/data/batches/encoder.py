"""Token ids, loss mask and slot positions of one Example: what the packer puts into a row and inference prefills."""

import dataclasses

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data import emotions
from empatheia_jax.data.prompts.dialogue import PromptKind, encode_pieces, encode_target, render_prompt
from empatheia_jax.data.prompts.tokenizer import Tokenizer
from empatheia_jax.data.schema import UNKNOWN, Example, Profile, RecordError


@dataclasses.dataclass(frozen=True)
class PlacedSlot:
    """A slot of an encoded prompt: where its first placeholder is, and which stored features belong there."""

    position: int  # of the first placeholder in the ids
    modality: str  # "audio" | "video"
    key: str  # of the utterance in the feature store


@dataclasses.dataclass(frozen=True)
class EncodedExample:
    """Ids of prompt and target. Positions and spans (first, one past the last) count from the first id."""

    ids: np.ndarray  # int32 [length]
    prompt_length: int
    loss_mask: np.ndarray  # bool [length]; whether this id is a target of L_emp
    slots: tuple[PlacedSlot, ...]
    response_span: tuple[int, int]  # the response's own tokens; (0, 0): no response
    label_mask: np.ndarray  # bool [length]; targets that name the chain's emotion; in stage 0 a known profile
    signals_start: int | None  # position of <AUD1>; None where the Example ends with </s>


def prompt_profile(example: Example, config: Config) -> Profile | None:
    """Return the listener's profile where `prompt.profile_in_prompt` lets the prompt have it, else None.

    Raises:
      RecordError: the setting is "always" and the Example has no listener profile.
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


def encode_prompt(
    example: Example, prompt_kind: PromptKind, config: Config, tokenizer: Tokenizer, *, profile: Profile | None
) -> tuple[list[int], tuple[PlacedSlot, ...]]:
    """Return the ids and slots of an Example's prompt, ready for the LLM.

    Args:
      example: whose history is rendered.
      prompt_kind: which of the three inputs of appendix D.1.
      config: gives instruction, modalities and tokens a slot.
      tokenizer: the run's.
      profile: the listener's, written into the prompt; None leaves its line out.
    """
    pieces = render_prompt(
        example, prompt_kind, profile=profile, instruction=config.prompt.instruction, modalities=config.modalities
    )
    ids, slots = encode_pieces(tokenizer, pieces, config.projector.tokens)
    by_index = {utterance.index: utterance for utterance in example.history}
    return ids, tuple(
        PlacedSlot(position, modality, example.utterance_key(by_index[index])) for position, modality, index in slots
    )


def encode_example(
    example: Example,
    prompt_kind: PromptKind,
    config: Config,
    tokenizer: Tokenizer,
    *,
    profile: Profile | None,
    learn_profile: bool = False,
) -> EncodedExample:
    """Encode prompt and target of an Example for a training stage with this kind of prompt.

    In stages 0 to 2 ("text") the states at the signals are not used, and what comes last changes nothing before it:
    unless signals carry loss, the Example then ends with </s> and takes a sixth less of a row.

    Args:
      example: the listener turn to learn.
      prompt_kind: which of the three inputs of appendix D.1.
      config: gives instruction, modalities, tokens a slot and `prompt.signal_loss`.
      tokenizer: the run's.
      profile: the listener's as the prompt has it; None where it is unknown or dropped out.
      learn_profile: keep the profile line before the signals and let it carry loss (stage 0). A base trained from
        scratch so learns to look its listener up in the prompt, and to tell apart words it would never have to predict.
    """
    prompt, slots = encode_prompt(example, prompt_kind, config, tokenizer, profile=profile)
    response = None if prompt_kind == "slots" or example.response is None else example.response.text
    target = encode_target(tokenizer, example.chain, response, profile)
    answer_end, signals_start = len(prompt) + target.answer_end, len(prompt) + target.signals_start
    end = signals_start if learn_profile else answer_end
    ids = np.array(prompt + target.ids, np.int32)
    loss_mask = np.zeros(len(ids), bool)
    # The chain, the response and </s> carry loss, with `learn_profile` the profile too; the signals only if asked.
    loss_mask[len(prompt) : end] = True
    label_mask = np.zeros(len(ids), bool)
    if learn_profile and profile is not None:
        words = (profile.age, profile.gender, profile.timbre)
        label_mask[answer_end:end] = _mask_words(ids[answer_end:end], [tokenizer.encode(f" {word}") for word in words])
    else:
        label_mask[len(prompt) + target.emotion_span[0] : len(prompt) + target.emotion_span[1]] = True
    loss_mask[signals_start:] = config.prompt.signal_loss

    def shift(span: tuple[int, int]) -> tuple[int, int]:
        return (len(prompt) + span[0], len(prompt) + span[1]) if span != (0, 0) else span

    encoded = EncodedExample(ids, len(prompt), loss_mask, slots, shift(target.response_span), label_mask, signals_start)
    if prompt_kind == "text" and not config.prompt.signal_loss:
        return dataclasses.replace(
            encoded, ids=ids[:end], loss_mask=loss_mask[:end], label_mask=label_mask[:end], signals_start=None
        )
    return encoded


@dataclasses.dataclass(frozen=True)
class ExampleEncoder:
    """`encode_example` with the settings of a stage."""

    prompt_kind: PromptKind
    config: Config
    tokenizer: Tokenizer
    learn_profile: bool = False

    def __call__(self, example: Example, with_profile: bool = True) -> EncodedExample:
        """Encode an Example, with the listener's profile in the prompt where the config lets it have one.

        Raises:
          RecordError: as `prompt_profile`.
        """
        profile = prompt_profile(example, self.config) if with_profile else None
        return encode_example(
            example,
            self.prompt_kind,
            self.config,
            self.tokenizer,
            profile=profile,
            learn_profile=self.learn_profile,
        )


def _mask_words(ids: np.ndarray, words: list[list[int]]) -> np.ndarray:
    """Return bool, shaped as `ids`: true on each word's ids, searched for in order from the end of the word before."""
    mask, start = np.zeros(len(ids), bool), 0
    for word in words:
        while start < len(ids) and not np.array_equal(ids[start : start + len(word)], word):
            start += 1
        mask[start : start + len(word)] = True
    return mask


def class_labels(example: Example) -> dict[str, int]:
    """Return class ids: the speaker's emotion (of 7), the listener's age, gender and timbre; UNKNOWN where absent."""
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
