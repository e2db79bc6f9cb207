"""Types of a dialogue, from the record on disk to an Example (paper sections 3.1, 3.2).

Axis letters everywhere in this project:
  B rows, T tokens, K Examples, R response tokens, M utterances, N feature tokens, D width, H heads, L layers,
  P phonemes, F video frames, Q queries.
"""

import dataclasses
from typing import Literal

from empatheia_jax.data.media.containers import Recording

Role = Literal["speaker", "listener"]


class RecordError(ValueError):
    """A record cannot be used; the message says which file, conversation, turn and field, and what to do."""

    def __init__(
        self, message: str, *, file: object = "", conversation: object = "", turn: object = "", field: str = ""
    ):
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
