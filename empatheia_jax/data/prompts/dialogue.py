"""Prompts and targets of the LLM (appendix D.1, section 4.2), and the parsing of generated text.

A prompt is a list of pieces, text and slots. Pieces become ids one by one and are joined as lists of ids, never as
strings, so text can imitate neither a slot nor the end of an answer.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.emotions import avatar_emotion, normalise_emotion
from empatheia_jax.data.prompts.tokenizer import AUDIO_SLOT, NEW_TOKENS, VIDEO_SLOT, Tokenizer
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, Utterance

Modality = Literal["audio", "video"]
PromptKind = Literal["text", "slots", "all"]  # appendix D.1's inputs: words only, voice and face only, or both
MODALITIES: tuple[Modality, ...] = ("audio", "video")

COE_INSTRUCTION = """\
You are an empathetic conversational agent. Your goal is to understand the user's emotions and intentions, and respond \
or comfort them with appropriate language that helps them feel understood and cared for. Avoid rushing into your \
response; instead, carefully consider each step before replying by following these steps, one by one:
Step-1. Event scenario. Reflect on the event scenarios that arise from the ongoing dialogue.
Step-2. User's emotion. Analyze both the implicit and explicit emotions conveyed by the user.
Step-3. Emotion cause. Infer the underlying reasons for the user's emotions.
Step-4. Goal to response. Determine the goal of your response in this particular instance, such as alleviating \
anxiety, offering reassurance, or expressing understanding.
Step-5. Generating empathetic response. Formulate a response that addresses the user's emotions and situation, \
ensuring it reflects the reasoning from the previous steps. The output should be purely focused on providing a \
thoughtful and empathetic reply.
"""
"""Section 4.2, word for word (its bullets written as lines)."""

_STEP_BY_STEP = " Don't rush to give the response, thinking step by step."
TASK_LINES: dict[PromptKind, str] = {
    "text": "Provide an empathetic response based on the given dialogue context below." + _STEP_BY_STEP,
    "slots": "Provide a multimodal empathetic response based on the given dialogue context below.",
    "all": "Provide a multimodal empathetic response based on the given dialogue context below." + _STEP_BY_STEP,
}
"""First line of the three inputs of appendix D.1: CoE and CCL, style learning, overall training."""

STEP_LINES = {
    "event_scenario": "Firstly, the event scenario of this conversation is:",
    "speaker_emotion": "Secondly, the emotion of the speaker is:",
    "emotion_cause": "Thirdly, the emotion cause is:",
    "goal_to_response": "Fourthly, the goal to response is:",
    "response": "Finally, the response is:",
}
"""The lines of appendix D.1's target, by the field they announce."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A piece of text."""

    text: str
    response: bool = False  # whether this is the gold response of a target
    emotion: bool = False  # whether this is the emotion that a target's chain names


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place where features of an utterance enter."""

    modality: Modality
    utterance: int  # its index in the dialogue


Piece = Text | Slot


def render_prompt(
    example: Example,
    prompt_kind: PromptKind,
    *,
    profile: Profile | None = None,
    instruction: Literal["coe", "short"] = "coe",
    modalities: Sequence[str] = MODALITIES,
) -> list[Piece]:
    """Return the input of appendix D.1 for an Example.

    Args:
      example: whose history is written.
      prompt_kind: "text" (words only), "slots" (voice and face only) or "all".
      profile: the listener's, written into the prompt; None leaves the line out.
      instruction: "coe" puts section 4.2's instruction first. Style learning ("slots") answers with signals only,
        without reasoning, so there it is not added.
      modalities: which slots every utterance has. A slot whose medium is absent, or dropped out in training, keeps the
        placeholder's own embedding: "not heard" looks the same in training and at inference.
    """
    head = COE_INSTRUCTION if instruction == "coe" and prompt_kind != "slots" else ""
    head += TASK_LINES[prompt_kind] + "\n"
    pieces: list[Piece] = [Text(head + "Dialogue Context:\n{\n")]
    for utterance in example.history:
        pieces += _render_utterance(utterance, prompt_kind, modalities)
    # The profile comes after the dialogue, so that it is closer to the signals.
    return _merge([*pieces, Text("}\n" + (f"{profile_line(profile)}\n" if profile is not None else ""))])


def profile_line(profile: Profile) -> str:
    """Return the line that tells the LLM its own profile: "Listener profile: age young, gender female, timbre mid."."""
    return f"Listener profile: age {profile.age}, gender {profile.gender}, timbre {profile.timbre}."


def _render_utterance(utterance: Utterance, prompt_kind: PromptKind, modalities: Sequence[str]) -> list[Piece]:
    slots: list[Modality] = [m for m in MODALITIES if prompt_kind != "text" and m in modalities]
    pieces: list[Piece] = [Text(f"{utterance.role.capitalize()}:" + (utterance.text if prompt_kind != "slots" else ""))]
    for number, modality in enumerate(slots):
        pieces += [Text(" ")] if number else []
        pieces.append(Slot(modality, utterance.index))
    return [*pieces, Text(".\n" if slots or prompt_kind == "slots" else "\n")]


def _merge(pieces: list[Piece]) -> list[Piece]:
    """Join neighbouring unmarked texts, so that their tokens are those of running text."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, Text) and isinstance(last, Text) and not (piece.response or last.response):
            merged[-1] = Text(last.text + piece.text)
        else:
            merged.append(piece)
    return merged


def render_target(chain: ChainOfEmpathy | None, response: str) -> list[Text]:
    """Return the answer of appendix D.1: the chain of empathy, then the response; emotion and response are marked.

    A marked piece starts with the space that follows the colon. Without a chain only the last line is written.
    """
    answer = [Text(STEP_LINES["response"]), Text(f" {response}", response=True)]
    if chain is None:
        return answer
    before = f"{STEP_LINES['event_scenario']} {chain.event_scenario}\n{STEP_LINES['speaker_emotion']}"
    after = (
        f"\n{STEP_LINES['emotion_cause']} {chain.emotion_cause}\n"
        f"{STEP_LINES['goal_to_response']} {chain.goal_to_response}\n"
    )
    return [Text(before), Text(f" {chain.speaker_emotion}", emotion=True), Text(after + answer[0].text), answer[1]]


def first_label_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """Return int32 [16], the first token of each label of the style disentangler: age, gender, timbre, emotion."""
    labels = (*emotions.AGES, *emotions.GENDERS, *emotions.TIMBRES, *emotions.AVATAR_EMOTIONS)
    return np.array([tokenizer.encode(f" {label}")[0] for label in labels], np.int32)


class EncodedPrompt(NamedTuple):
    """Ids of a prompt and the starts of its slots."""

    ids: list[int]
    slots: list[tuple[int, Modality, int]]  # (position in `ids`, modality, utterance index)


class EncodedTarget(NamedTuple):
    """Ids of a target: chain, response, </s>, the profile line if there is one, the 32 signals.

    A span is (first, one past the last) position; one that is not there is (0, 0). A target without text is the signals
    alone. Generation ends at </s>, `ids[response_span[1]]`.
    """

    ids: list[int]
    response_span: tuple[int, int]  # the response's own tokens
    emotion_span: tuple[int, int]  # the tokens of the chain's emotion
    answer_end: int  # position after </s>
    signals_start: int  # position of <AUD1>


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece], tokens_per_slot: int) -> EncodedPrompt:
    """Encode the pieces of a prompt: <s>, then their ids, with `tokens_per_slot` placeholders for a slot."""
    ids: list[int] = [tokenizer.bos_id]
    slots: list[tuple[int, Modality, int]] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, Slot):
            slots.append((len(ids), piece.modality, piece.utterance))
            ids += [tokenizer.token_id(AUDIO_SLOT if piece.modality == "audio" else VIDEO_SLOT)] * tokens_per_slot
        else:
            # Llama 1/2 and Vicuna saw a space before the first word of every text.
            prefix = " " if number == 0 and tokenizer.dummy_prefix else ""
            ids += tokenizer.encode(prefix + piece.text)
    return EncodedPrompt(ids, slots)


def encode_profile_line(tokenizer: Tokenizer, profile: Profile | None) -> list[int]:
    """Return the ids of the profile line that is repeated between </s> and the signals; [] without a profile.

    The style prompt ends with this line too. A hundred words further on, the states of a small LLM at the signals no
    longer tell whose voice and face they ask for.
    """
    return tokenizer.encode(f"{profile_line(profile)}\n") if profile is not None else []


def encode_target(
    tokenizer: Tokenizer, chain: ChainOfEmpathy | None, response: str | None, profile: Profile | None = None
) -> EncodedTarget:
    """Encode chain, response, </s>, profile line, then <AUD1..16> <VID1..16>.

    Args:
      tokenizer: the run's.
      chain: of empathy; None leaves it out.
      response: the gold answer; None (style learning) gives the signals alone.
      profile: the listener's, repeated before the signals.
    """
    if response is None:
        return EncodedTarget(tokenizer.signal_ids, (0, 0), (0, 0), 0, 0)
    ids, response_span, emotion_span = [], (0, 0), (0, 0)
    for piece in render_target(chain, response):
        start = len(ids)
        ids += tokenizer.encode(piece.text)
        if piece.response:
            response_span = (start, len(ids))
        elif piece.emotion:
            emotion_span = (start, len(ids))
    answer_end, profile_ids = len(ids) + 1, encode_profile_line(tokenizer, profile)
    ids += [tokenizer.eos_id, *profile_ids, *tokenizer.signal_ids]
    return EncodedTarget(ids, response_span, emotion_span, answer_end, answer_end + len(profile_ids))


def find_response_span(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, int] | None:
    """Return the span of the response's tokens in generated `ids` (up to </s>), as `encode_target` marks it.

    None where the line that announces the response is missing or nothing follows it.
    """
    ids = [int(token) for token in ids]
    if tokenizer.eos_id in ids:
        ids = ids[: ids.index(tokenizer.eos_id)]
    marker = STEP_LINES["response"]
    if marker not in tokenizer.decode(ids):
        return None
    low, high = 0, len(ids)  # smallest prefix that holds the marker: text only grows with the prefix
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if marker in tokenizer.decode(ids[:middle]) else (middle + 1, high)
    return (low, len(ids)) if low < len(ids) and tokenizer.decode(ids[low:]).strip() else None


@dataclasses.dataclass(frozen=True)
class ParsedResponse:
    """The chain of empathy and response of a generated text. A field is None where its step is missing or empty."""

    event_scenario: str | None
    speaker_emotion: str | None  # one of the 32; None also where `emotion_text` names none of them
    emotion_cause: str | None
    goal_to_response: str | None
    response: str | None
    emotion_text: str | None  # the emotion's words as written
    missing: tuple[str, ...]  # steps that the text does not have, in their order: keys of `STEP_LINES`

    @property
    def avatar_emotion(self) -> str | None:
        """The speaker's emotion as one of the avatar's 7."""
        return avatar_emotion(self.speaker_emotion) if self.speaker_emotion else None

    @property
    def chain(self) -> ChainOfEmpathy | None:
        """The chain of empathy, if all its four steps are there and the emotion is one of the 32."""
        fields = [getattr(self, field.name) for field in dataclasses.fields(ChainOfEmpathy)]
        return ChainOfEmpathy(*fields) if all(fields) else None


def _marker_pattern(line: str) -> re.Pattern[str]:
    """Return a pattern for a step's line as models write it: any case and spacing; a line may start without ordinal."""
    ordinal, phrase = line.removesuffix(":").split(", ", 1)
    loose = r"\s+".join(map(re.escape, phrase.split())).replace(re.escape("conversation"), "(?:conversation|dialogue)")
    return re.compile(rf"(?:(?<!\w){ordinal}\s*,?\s*|^[^\w\n]*){loose}\s*:", re.IGNORECASE | re.MULTILINE)


_MARKERS = {field: _marker_pattern(line) for field, line in STEP_LINES.items()}
_STOP = re.compile("|".join(map(re.escape, ("</s>", "<|eot_id|>", *NEW_TOKENS))))


def parse_generated(text: str) -> ParsedResponse:
    """Parse generated text into chain of empathy and response. Never raises: `missing` names the steps not there.

    Steps may come in any order; the first of each kind counts, and its words end where any step's line starts.
    """
    text = str(text)
    stop = _STOP.search(text)
    text = text[: stop.start()] if stop else text
    matches = sorted((m.start(), m.end(), field) for field, marker in _MARKERS.items() for m in marker.finditer(text))
    values: dict[str, str] = {}
    for number, (_, start, field) in enumerate(matches):
        end = matches[number + 1][0] if number + 1 < len(matches) else len(text)
        value = " ".join(text[start:end].split())
        if field not in values:
            values[field] = value
    values = {field: value for field, value in values.items() if value}
    emotion = values.get("speaker_emotion")
    return ParsedResponse(
        event_scenario=values.get("event_scenario"),
        speaker_emotion=normalise_emotion(emotion) if emotion else None,
        emotion_cause=values.get("emotion_cause"),
        goal_to_response=values.get("goal_to_response"),
        response=values.get("response"),
        emotion_text=emotion,
        missing=tuple(field for field in STEP_LINES if field not in values),
    )
