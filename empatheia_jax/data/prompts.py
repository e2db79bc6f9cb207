"""What the LLM reads and is taught to write (appendix D.1, section 4.2), and back from what it wrote.

A prompt is a list of pieces, text and slots. Pieces become ids one by one and are joined as lists of ids, never as
strings, so text can imitate neither a slot nor the end of an answer.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from empatheia_jax.data import emotions
from empatheia_jax.data.emotion_words import normalise_emotion
from empatheia_jax.data.emotions import avatar_emotion
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, Utterance
from empatheia_jax.data.tokenizer import AUDIO_SLOT, NEW_TOKENS, VIDEO_SLOT, Tokenizer

Modality = Literal["audio", "video"]
Style = Literal["text", "slots", "all"]
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
TASKS: dict[Style, str] = {
    "text": "Provide an empathetic response based on the given dialogue context below." + _STEP_BY_STEP,
    "slots": "Provide a multimodal empathetic response based on the given dialogue context below.",
    "all": "Provide a multimodal empathetic response based on the given dialogue context below." + _STEP_BY_STEP,
}
"""First line of the three inputs of appendix D.1: CoE and CCL, style learning, overall training."""

STEPS = {
    "event_scenario": "Firstly, the event scenario of this conversation is:",
    "speaker_emotion": "Secondly, the emotion of the speaker is:",
    "emotion_cause": "Thirdly, the emotion cause is:",
    "goal_to_response": "Fourthly, the goal to response is:",
    "response": "Finally, the response is:",
}
"""The lines of appendix D.1's target, by the field they announce."""


@dataclasses.dataclass(frozen=True)
class Text:
    """Words. `response` marks the gold response inside a target, `emotion` the emotion that its chain names."""

    text: str
    response: bool = False
    emotion: bool = False


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where the features of utterance `utterance` (its index in the dialogue) enter."""

    modality: Modality
    utterance: int


Piece = Text | Slot


def render_prompt(
    example: Example,
    style: Style,
    *,
    profile: Profile | None = None,
    instruction: Literal["coe", "short"] = "coe",
    modalities: Sequence[Modality] = MODALITIES,
) -> list[Piece]:
    """The input of appendix D.1 for an Example.

    Args:
      style: "text" (words only), "slots" (voice and face only) or "all".
      profile: the listener's, written into the prompt; None leaves the line out.
      instruction: "coe" puts section 4.2's instruction first. Style learning ("slots") answers with signals only,
        without reasoning, so there it is not added.
      modalities: which slots every utterance has. One whose medium is absent (or dropped in training) keeps the
        placeholder's own embedding, so that "not heard" looks the same in training and in use.
    """
    head = COE_INSTRUCTION if instruction == "coe" and style != "slots" else ""
    head += TASKS[style] + "\n"
    pieces: list[Piece] = [Text(head + "Dialogue Context:\n{\n")]
    for utterance in example.history:
        pieces += _render_utterance(utterance, style, modalities)
    # Behind the dialogue, so that the signals have it nearer.
    return _merge([*pieces, Text("}\n" + (f"{profile_line(profile)}\n" if profile is not None else ""))])


def profile_line(profile: Profile) -> str:
    """The line that tells the LLM who it speaks as: "Listener profile: age young, gender female, timbre mid."."""
    return f"Listener profile: age {profile.age}, gender {profile.gender}, timbre {profile.timbre}."


def _render_utterance(utterance: Utterance, style: Style, modalities: Sequence[Modality]) -> list[Piece]:
    slots = [m for m in MODALITIES if style != "text" and m in modalities]
    pieces: list[Piece] = [Text(f"{utterance.role.capitalize()}:" + (utterance.text if style != "slots" else ""))]
    for number, modality in enumerate(slots):
        pieces += [Text(" ")] if number else []
        pieces.append(Slot(modality, utterance.index))
    return [*pieces, Text(".\n" if slots or style == "slots" else "\n")]


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
    """The answer of appendix D.1: the chain of empathy, then the response; emotion and response are marked pieces.

    A marked piece starts with the space that follows the colon. Without a chain only the last line is written.
    """
    answer = [Text(STEPS["response"]), Text(f" {response}", response=True)]
    if chain is None:
        return answer
    before = f"{STEPS['event_scenario']} {chain.event_scenario}\n{STEPS['speaker_emotion']}"
    after = f"\n{STEPS['emotion_cause']} {chain.emotion_cause}\n{STEPS['goal_to_response']} {chain.goal_to_response}\n"
    return [Text(before), Text(f" {chain.speaker_emotion}", emotion=True), Text(after + answer[0].text), answer[1]]


def signal_words(tokenizer: Tokenizer) -> np.ndarray:
    """int32 [16]: the first token of each label that the style disentangler reads: ages, genders, timbres, emotions."""
    labels = (*emotions.AGES, *emotions.GENDERS, *emotions.TIMBRES, *emotions.AVATAR_EMOTIONS)
    return np.array([tokenizer.encode(f" {label}")[0] for label in labels], np.int32)


class EncodedPrompt(NamedTuple):
    """Ids of a prompt, and where its slots start: (position in `ids`, modality, utterance index)."""

    ids: list[int]
    slots: list[tuple[int, Modality, int]]


class EncodedTarget(NamedTuple):
    """Ids of a target. A span is (first, one past the last) position: of the response's own tokens, of the emotion's.

    `ids[span[1]]` is </s>, where what is generated ends; `ids[end]` comes after it: what `before_signals` says, then
    the 32 signals from `signals` on. A target without text is the signals alone; a span that is not there is (0, 0).
    """

    ids: list[int]
    span: tuple[int, int]
    emotion: tuple[int, int]
    end: int
    signals: int


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece], tokens_per_slot: int, *, bos: bool = True):
    """Pieces -> `EncodedPrompt`: a slot takes `tokens_per_slot` placeholders; starts with <s> unless `bos` is False."""
    ids: list[int] = [tokenizer.bos_id] if bos else []
    slots: list[tuple[int, Modality, int]] = []
    for number, piece in enumerate(pieces):
        if isinstance(piece, Slot):
            slots.append((len(ids), piece.modality, piece.utterance))
            ids += [tokenizer.token_id(AUDIO_SLOT if piece.modality == "audio" else VIDEO_SLOT)] * tokens_per_slot
        else:
            # Llama 1/2 and Vicuna saw a space before the first word of every text.
            first = " " if number == 0 and bos and tokenizer.dummy_prefix else ""
            ids += tokenizer.encode(first + piece.text)
    return EncodedPrompt(ids, slots)


def before_signals(tokenizer: Tokenizer, profile: Profile | None) -> list[int]:
    """What stands between </s> and the signals: the listener's profile once more, as in the style prompt, which ends
    with it. A hundred words behind it, a small LLM's signals no longer know whose voice and face they ask for.
    """
    return tokenizer.encode(f"{profile_line(profile)}\n") if profile is not None else []


def encode_target(
    tokenizer: Tokenizer, chain: ChainOfEmpathy | None, response: str | None, profile: Profile | None = None
) -> EncodedTarget:
    """Chain, response, </s>, profile, then <AUD1..16> <VID1..16>; `response` None (style learning): signals alone."""
    if response is None:
        return EncodedTarget(tokenizer.signal_ids, (0, 0), (0, 0), 0, 0)
    ids, span, emotion = [], (0, 0), (0, 0)
    for piece in render_target(chain, response):
        start = len(ids)
        ids += tokenizer.encode(piece.text)
        if piece.response:
            span = (start, len(ids))
        elif piece.emotion:
            emotion = (start, len(ids))
    end, again = len(ids) + 1, before_signals(tokenizer, profile)
    ids += [tokenizer.eos_id, *again, *tokenizer.signal_ids]
    return EncodedTarget(ids, span, emotion, end, end + len(again))


def find_response(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, int] | None:
    """The span of the response's tokens in generated `ids` (up to </s>), as `encode_target` marks it in training.

    None where no response was announced or nothing follows it.
    """
    ids = [int(token) for token in ids]
    if tokenizer.eos_id in ids:
        ids = ids[: ids.index(tokenizer.eos_id)]
    marker = STEPS["response"]
    if marker not in tokenizer.decode(ids):
        return None
    low, high = 0, len(ids)  # smallest prefix that holds the marker: text only grows with the prefix
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if marker in tokenizer.decode(ids[:middle]) else (middle + 1, high)
    return (low, len(ids)) if low < len(ids) and tokenizer.decode(ids[low:]).strip() else None


@dataclasses.dataclass(frozen=True)
class ParsedResponse:
    """What was found in generated text. A field is None where its step is missing or empty.

    `speaker_emotion` is one of the 32 (None also where `emotion_text`, the words as written, names none of them);
    `missing` names the steps that were not found, in their order: keys of `STEPS`.
    """

    event_scenario: str | None
    speaker_emotion: str | None
    emotion_cause: str | None
    goal_to_response: str | None
    response: str | None
    emotion_text: str | None
    missing: tuple[str, ...]

    @property
    def avatar_emotion(self) -> str | None:
        """The speaker's emotion as one of the 7."""
        return avatar_emotion(self.speaker_emotion) if self.speaker_emotion else None

    @property
    def chain(self) -> ChainOfEmpathy | None:
        """The chain of empathy, if all its four steps are there and the emotion is one of the 32."""
        fields = [getattr(self, field.name) for field in dataclasses.fields(ChainOfEmpathy)]
        return ChainOfEmpathy(*fields) if all(fields) else None


def _marker_pattern(line: str) -> re.Pattern[str]:
    """A step's line as models write it: any case, loose spaces; at the start of a line the ordinal may be missing."""
    ordinal, phrase = line.removesuffix(":").split(", ", 1)
    loose = r"\s+".join(map(re.escape, phrase.split())).replace(re.escape("conversation"), "(?:conversation|dialogue)")
    return re.compile(rf"(?:(?<!\w){ordinal}\s*,?\s*|^[^\w\n]*){loose}\s*:", re.IGNORECASE | re.MULTILINE)


_MARKERS = {field: _marker_pattern(line) for field, line in STEPS.items()}
_STOP = re.compile("|".join(map(re.escape, ("</s>", "<|eot_id|>", *NEW_TOKENS))))


def parse_generated(text: str) -> ParsedResponse:
    """Generated text -> chain of empathy and response; never raises, `missing` tells what is not there.

    Steps may come in any order; the first of each kind counts, and its words end where any step's line starts.
    """
    text = str(text)
    stop = _STOP.search(text)
    text = text[: stop.start()] if stop else text
    found = sorted((m.start(), m.end(), field) for field, marker in _MARKERS.items() for m in marker.finditer(text))
    values: dict[str, str] = {}
    for number, (_, start, field) in enumerate(found):
        end = found[number + 1][0] if number + 1 < len(found) else len(text)
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
        missing=tuple(field for field in STEPS if field not in values),
    )
