"""Types of a dialogue, from the record on disk to the arrays of a training step (paper sections 3.1, 3.2).

Axis letters everywhere in this project:
  B rows, T tokens, K Examples, R response tokens, M utterances, N feature tokens, D width, H heads, L layers,
  P phonemes, F video frames, Q queries.
"""

import dataclasses
from typing import Literal

import numpy as np

from empatheia_jax.data.media.containers import Recording

Role = Literal["speaker", "listener"]


class RecordError(ValueError):
    """A record cannot be used; the message says which file, conversation, turn and field, and what to do."""

    def __init__(self, message: str, *, file="", conversation="", turn="", field=""):
        location = ", ".join(
            f"{name} {value}"
            for name, value in (("file", file), ("conversation", conversation), ("turn", turn), ("field", field))
            if str(value)
        )
        super().__init__(f"{location}: {message}" if location else message)
        self.file, self.conversation, self.turn, self.field = str(file), str(conversation), str(turn), field


@dataclasses.dataclass(frozen=True)
class Profile:
    """The profile of an avatar. `timbre` is the on-disk word for the paper's tone."""

    age: str  # one of emotions.AGES
    gender: str  # one of emotions.GENDERS
    timbre: str  # one of emotions.TIMBRES
    id: int | None = None  # number of the avatar


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One utterance; its media may be absent."""

    index: int  # from 0 through the dialogue
    role: Role
    text: str
    audio: Recording | None = None
    video: Recording | None = None


@dataclasses.dataclass(frozen=True)
class ChainOfEmpathy:
    """The reasoning before the response (section 4.2)."""

    event_scenario: str
    speaker_emotion: str  # one of the 32 fine emotions
    emotion_cause: str
    goal_to_response: str


@dataclasses.dataclass(frozen=True)
class Example:
    """One listener turn to learn or to answer."""

    id: str  # "split/conversation_id/turn_id"
    split: str
    conversation_id: str
    turn_id: int
    topic: str
    context: str
    history: tuple[Utterance, ...]  # ends with the speaker's query
    speaker_profile: Profile | None
    listener_profile: Profile | None
    chain: ChainOfEmpathy | None
    response: Utterance | None  # the gold answer; None where it is not known

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """All utterances, the response last where it is known."""
        return self.history if self.response is None else (*self.history, self.response)

    def utterance_key(self, utterance: Utterance) -> str:
        """Return the key of an utterance's features in the feature store: "split/conversation_id/index"."""
        return f"{self.split}/{self.conversation_id}/{utterance.index}"


@dataclasses.dataclass(frozen=True)
class Widths:
    """The sizes that encoders, generators and the phoneme table set; nothing else in the model depends on them."""

    audio: tuple[int, int]  # (Na, Da)
    video: tuple[int, int]  # (Nv, Dv)
    symbols: int  # phoneme symbols
    content_speech: int
    content_video: int
    style_speech: int
    style_video: int


SYMBOL_COUNT = 178  # size of StyleTTS 2's published symbol table, whose ids every backend's phonemes have

UNKNOWN = -1  # label of an Example whose class is not known; it takes no part in the losses


@dataclasses.dataclass(frozen=True)
class Batch:
    """The arrays of one (micro-)batch; all shapes are static. K = B * Examples a row, M = B * utterances a row.

    Rows are independent: the Examples (utterances) of row b are entries [b*K/B, (b+1)*K/B) of the K (M) axis, so
    every array shards over its first axis with `data x fsdp`. Indices into the token grid are flat: row * T + column;
    -1 is padding. "float" is the dtype in which the feature store has floats. Axes that a stage does not read have size
    0: M without slots, P and F without golds of content.
    """

    tokens: np.ndarray  # int32 [B, T]
    segment_ids: np.ndarray  # int32 [B, T]; 0 is padding, Examples of a row count from 1
    positions: np.ndarray  # int32 [B, T]; restart at 0 in each Example
    targets: np.ndarray  # int32 [B, T]; the token that follows
    target_mask: np.ndarray  # bool [B, T]; positions with L_emp
    label_mask: np.ndarray  # bool [B, T]; targets that name a label (`encoded.EncodedExample.label_mask`)
    audio: np.ndarray  # float [M, Na, Da] encoder features of utterances
    video: np.ndarray  # float [M, Nv, Dv]
    audio_start: (
        np.ndarray
    )  # int32 [M] flat index of the first <Aud> placeholder; -1: none (medium absent or dropped out)
    video_start: np.ndarray  # int32 [M] likewise for <Vid>
    example_id: np.ndarray  # int32 [K] position in the dataset, -1: padding
    response_index: np.ndarray  # int32 [K, R] flat positions whose input is a response token
    response_states: np.ndarray  # [K, R, D] r^t where it is cached, and then T = 0; else D = 0
    signal_index: np.ndarray  # int32 [K, 32] flat positions of <AUD1..16> <VID1..16>
    phonemes: np.ndarray  # int32 [K, P], symbol ids, -1: padding
    phoneme_frames: np.ndarray  # int32 [K, P], 25 ms frames each phoneme lasts
    gold_content_speech: np.ndarray  # float [K, P, Cs]
    gold_content_video: np.ndarray  # float [K, F, Cv]
    video_frames: np.ndarray  # int32 [K] valid frames of gold_content_video (0: no gold)
    gold_style_speech: np.ndarray  # float [K, Ss]
    gold_style_video: np.ndarray  # float [K, Sv]
    has_style_speech: np.ndarray  # bool [K]
    has_style_video: np.ndarray  # bool [K]
    emotion: np.ndarray  # int32 [K] of 7, UNKNOWN: no label
    age: np.ndarray  # int32 [K] of 4
    gender: np.ndarray  # int32 [K] of 2
    timbre: np.ndarray  # int32 [K] of 3

    def asdict(self) -> dict[str, np.ndarray]:
        """Return the arrays by name: the pytree that a step takes."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
