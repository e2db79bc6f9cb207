"""Turns one dialogue of the released JSON into Examples: every field checked, every irregularity counted."""

import collections
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from empatheia_jax.data.corpus.text import rewrite_text, text_problem
from empatheia_jax.data.emotions import AGES, FINE_EMOTIONS, GENDERS, TIMBRES
from empatheia_jax.data.media.containers import Recording
from empatheia_jax.data.media.files import MediaFiles
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, RecordError, Role, Utterance

EMPTY_TURNS = "turns is empty"
ENDS_WITH_LISTENER = "history does not end with the speaker"
KNOWN_GAPS = (EMPTY_TURNS, ENDS_WITH_LISTENER)
"""Reasons that occur in the released test file: such dialogues and turns are dropped and counted, never an error."""


class BadRecord(RecordError):
    """A `RecordError` with a short `reason` under which it is counted."""

    def __init__(self, reason: str, detail: str = "", **location):
        super().__init__(f"{reason}: {detail}" if detail else reason, **location)
        self.reason = reason


@dataclasses.dataclass
class Source:
    """The file that dialogues come from, how to read them, and what was counted while reading.

    Attributes:
      file: name of the JSON file, for error messages.
      split: split that the Examples belong to.
      needs_response: whether a turn without a response is an error.
      max_turns: largest number of turns of a dialogue.
      on_turn_error: called with the error of each turn that cannot be used; it may raise.
      media: index of the recordings.
      entry_media: folder that the "speech" and "video" paths of history entries are relative to; None ignores them.
      recover_responses: take a missing response from the history of a later turn.
      notes: how often something unusual was kept, by kind of irregularity.
      places: "conversation/turn" of the first few of each note.
      media_counts: number of recordings by "modality status", such as "audio found".
      utterances: distinct utterances read.
    """

    file: str
    split: str
    needs_response: bool
    max_turns: int
    on_turn_error: Callable[[BadRecord], None]
    media: MediaFiles = dataclasses.field(default_factory=MediaFiles)
    entry_media: Path | None = None
    recover_responses: bool = False
    notes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    places: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    media_counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    utterances: int = 0

    def note(self, irregularity: str, conversation: str, turn: object = "") -> None:
        """Count something unusual that was kept, and remember the first few places it was seen at."""
        self.notes[irregularity] += 1
        place = f"{conversation}/{turn}" if str(turn) else conversation
        places = self.places.setdefault(irregularity, [])
        if len(places) < 5 and place not in places:
            places.append(place)


@dataclasses.dataclass
class _Dialogue:
    """What the turns of one dialogue have in common while they are read."""

    source: Source
    id: str
    topic: str
    profiles: dict[Role, Profile | None]
    avatars: dict[Role, int | None]
    utterances: dict[tuple, Utterance] = dataclasses.field(default_factory=dict)  # by index, role and text
    counted: set[int] = dataclasses.field(default_factory=set)  # utterance indices that are in the counts already
    histories: list[tuple[Utterance, ...]] = dataclasses.field(default_factory=list)  # those of dropped turns too
    cleaned: dict[str, str] = dataclasses.field(default_factory=dict)  # a text as written -> as read

    def error(self, reason: str, detail: str = "", *, turn: object = "", field: str = "") -> BadRecord:
        return BadRecord(reason, detail, file=self.source.file, conversation=self.id, turn=turn, field=field)

    def note(self, irregularity: str, turn: object = "") -> None:
        self.source.note(irregularity, self.id, turn)

    def clean(self, text: str, turn: object) -> str:
        """Clean a text, and note what was changed in it, once however many turns repeat it."""
        if text not in self.cleaned:
            self.cleaned[text], changes = rewrite_text(text)
            for change in changes:
                self.note(change, turn)
        return self.cleaned[text]


@dataclasses.dataclass
class _Turn:
    """A turn whose number and history have been read, but not its response and chain."""

    id: int
    raw: dict
    history: tuple[Utterance, ...]


def conversation_id(raw: object, file: str) -> str:
    """Return the id of a dialogue object, numbers padded to five digits.

    Raises:
      BadRecord: there is none, or it cannot be used in keys and file names.
    """
    if not isinstance(raw, dict):
        raise BadRecord("dialogue is not an object", f"found {type(raw).__name__}", file=file)
    value, location = raw.get("conversation_id"), {"file": file, "field": "conversation_id"}
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not text:
        raise BadRecord("conversation_id is missing", f"found {value!r}", **location)
    if not re.fullmatch(r"[\w.-]+", text):
        raise BadRecord("conversation_id is odd", f"{text!r} is used in keys and names", **location)
    return text.zfill(5) if text.isdecimal() else text


def parse_dialogue(raw: dict, source: Source) -> list[Example]:
    """Make the Examples of one dialogue object, in the order of their turns.

    Raises:
      BadRecord: the dialogue as a whole cannot be used. Single bad turns go to `source.on_turn_error`.
    """
    dialogue = _Dialogue(source, conversation_id(raw, source.file), "", {}, {})
    turns = raw.get("turns")
    if not isinstance(turns, list):
        raise dialogue.error("turns is not a list", f"found {type(turns).__name__}", field="turns")
    if not turns:
        raise dialogue.error(EMPTY_TURNS, "nothing to answer", field="turns")
    if len(turns) > source.max_turns:
        raise dialogue.error("too many turns", f"{len(turns)} turns, the limit is {source.max_turns}", field="turns")
    for role in ("speaker", "listener"):
        dialogue.profiles[role], dialogue.avatars[role] = _read_profile(dialogue, raw.get(f"{role}_profile"), role)
    dialogue.topic = _optional_text(dialogue, raw.get("topic"), "", "topic")
    if not dialogue.topic:
        dialogue.note("topic missing")
    examples = []
    for turn in _read_turns(dialogue, turns):
        try:
            examples.append(_make_example(dialogue, turn))
        except BadRecord as error:
            source.on_turn_error(error)
    return examples


def _read_turns(dialogue: _Dialogue, turns: list) -> list[_Turn]:
    """Read number and history of every turn, sorted by number; unusable turns go to `on_turn_error`."""
    turns_by_id: dict[int, _Turn] = {}
    order = []
    for position, raw in enumerate(turns):
        try:
            turn = _read_turn(dialogue, raw, position)
            if turn.id in turns_by_id:
                raise dialogue.error("turn_id occurs twice", "the first one is used", turn=turn.id, field="turn_id")
        except BadRecord as error:
            dialogue.source.on_turn_error(error)
            continue
        turns_by_id[turn.id] = turn
        order.append(turn.id)
    if order != sorted(order):
        dialogue.note("turns out of order")
    if order and len(order) == len(turns) and sorted(order) != list(range(len(order))):
        dialogue.note("turn ids with gaps" if 0 in order else "turn ids start above 0")
    ordered = [turns_by_id[number] for number in sorted(order)]
    for earlier, later in zip(ordered, ordered[1:], strict=False):
        if [u.text for u in earlier.history] != [u.text for u in later.history[: len(earlier.history)]]:
            dialogue.note("history differs from an earlier turn's", later.id)
    return ordered


def _read_turn(dialogue: _Dialogue, raw: object, position: int) -> _Turn:
    if not isinstance(raw, dict):
        raise dialogue.error("turn is not an object", f"found {type(raw).__name__}", turn=f"at position {position}")
    history = raw.get("dialogue_history")
    number = raw.get("turn_id")
    if number is None and isinstance(history, list):
        number = (len(history) - 1) // 2
        dialogue.note("turn_id missing", number)
    if isinstance(number, bool) or not re.fullmatch(r"\d+", str(number).strip()):
        raise dialogue.error(
            "turn_id is not a number", f"{raw.get('turn_id')!r}", turn=f"at position {position}", field="turn_id"
        )
    number = int(str(number))
    if not isinstance(history, list) or not history:
        raise dialogue.error("dialogue_history is missing or empty", turn=number, field="dialogue_history")
    utterances = _read_history(dialogue, history, number)
    dialogue.histories.append(utterances)
    if utterances[-1].role != "speaker":
        raise dialogue.error(ENDS_WITH_LISTENER, "nothing to answer", turn=number, field="dialogue_history")
    speakers = sum(utterance.role == "speaker" for utterance in utterances)
    if speakers > dialogue.source.max_turns:
        raise dialogue.error(
            "too many turns",
            f"{speakers} in the history, the limit is {dialogue.source.max_turns}",
            turn=number,
            field="dialogue_history",
        )
    if len(utterances) != 2 * number + 1:
        dialogue.note("history length is not 2 * turn_id + 1", number)
    if any(a.role == b.role for a, b in zip(utterances, utterances[1:], strict=False)):
        dialogue.note("roles do not alternate", number)
    return _Turn(number, raw, utterances)


def _read_history(dialogue: _Dialogue, history: list, turn: int) -> tuple[Utterance, ...]:
    utterances: list[Utterance] = []
    for position, raw in enumerate(history):
        field = f"dialogue_history[{position}]"
        if not isinstance(raw, dict):
            raise dialogue.error(
                "history entry is not an object", f"found {type(raw).__name__}", turn=turn, field=field
            )
        role = str(raw.get("role")).strip().lower()
        if role not in ("speaker", "listener"):
            raise dialogue.error(
                "role is unknown", f"{raw.get('role')!r}: use speaker or listener", turn=turn, field=f"{field}.role"
            )
        index = raw.get("index", position)
        if isinstance(index, bool) or not re.fullmatch(r"\d+", str(index)):
            raise dialogue.error("index is not a number", f"{index!r}", turn=turn, field=f"{field}.index")
        index = int(index)
        if utterances and index <= utterances[-1].index:
            raise dialogue.error(
                "index does not rise", f"{index} after {utterances[-1].index}", turn=turn, field=f"{field}.index"
            )
        files = _entry_files(dialogue, raw, turn, field)
        text = raw.get("utterance")
        is_wordless = files and (text is None or not str(text).strip())
        text = "" if is_wordless else _required_text(dialogue, text, turn, f"{field}.utterance")
        utterances.append(_get_utterance(dialogue, (index, role, text), turn, files))
    return tuple(utterances)


def _entry_files(dialogue: _Dialogue, raw: dict, turn: int, field: str) -> dict[str, Recording]:
    """Return the paths of the media that a history entry names (`read_dialogue` only), by modality."""
    if dialogue.source.entry_media is None:
        return {}
    files: dict[str, Recording] = {}
    for key, modality in (("speech", "audio"), ("video", "video")):
        if not raw.get(key):
            continue
        path = dialogue.source.entry_media / str(raw[key])  # an absolute path stays itself
        if not path.is_file():
            raise dialogue.error(f"{key} file not found", str(path), turn=turn, field=f"{field}.{key}")
        files[modality] = path
    return files


def _get_utterance(
    dialogue: _Dialogue, key: tuple[int, Role, str], turn: int, files: dict[str, Recording]
) -> Utterance:
    """Return the Utterance of `key` (index, role, text) with its media, the same object in every turn that repeats it.

    Args:
      dialogue: the dialogue it belongs to; it keeps the Utterance and counts it once.
      key: index, role and text.
      turn: number of the turn, for notes.
      files: media that the history entry names itself, by modality.
    """
    if key in dialogue.utterances:
        return dialogue.utterances[key]
    index, role, text = key
    source, is_new = dialogue.source, index not in dialogue.counted
    dialogue.counted.add(index)
    files = dict(files)
    for modality in sorted(source.media.modalities):
        match = source.media.find(modality, dialogue.id, index, dialogue.avatars[role])
        if match.path is not None:
            files[modality] = match.path
        if is_new:
            source.media_counts[f"{modality} {match.problem or 'found'}"] += 1
            if match.problem:
                source.note(f"{modality} {match.problem}", dialogue.id, f"utt{index}")
    if is_new:
        source.utterances += 1
        if text and not text.isascii():
            dialogue.note("text outside ASCII", turn)
        if text and not any(map(str.isalpha, text)):
            dialogue.note("text without a letter", turn)
    dialogue.utterances[key] = Utterance(*key, files.get("audio"), files.get("video"))
    return dialogue.utterances[key]


def _make_example(dialogue: _Dialogue, turn: _Turn) -> Example:
    """Make the Example of a turn: its response, taken from a later history where asked for, and its chain."""
    source, history = dialogue.source, turn.history
    later = {longer[len(history)].text for longer in dialogue.histories if _continues(history, longer)}
    response, text = turn.raw.get("response"), None
    if response is not None and str(response).strip():
        text = _required_text(dialogue, response, turn.id, "response")
        if later and text not in later:
            dialogue.note("response differs from a later turn's history", turn.id)
    elif source.recover_responses and len(later) == 1:
        text = next(iter(later))
        dialogue.note("response recovered from a later turn's history", turn.id)
    elif source.needs_response:
        raise dialogue.error("response is missing", "there is nothing to learn from", turn=turn.id, field="response")
    else:
        dialogue.note("response missing", turn.id)
    gold = None if text is None else _get_utterance(dialogue, (history[-1].index + 1, "listener", text), turn.id, {})
    return Example(
        id=f"{source.split}/{dialogue.id}/{turn.id}",
        split=source.split,
        conversation_id=dialogue.id,
        turn_id=turn.id,
        topic=dialogue.topic,
        context=_optional_text(dialogue, turn.raw.get("context"), turn.id, "context"),
        history=history,
        speaker_profile=dialogue.profiles["speaker"],
        listener_profile=dialogue.profiles["listener"],
        chain=_read_chain(dialogue, turn.raw.get("chain_of_empathy"), turn.id),
        response=gold,
    )


def _continues(history: tuple[Utterance, ...], longer: tuple[Utterance, ...]) -> bool:
    """Return whether `longer` starts with `history` and goes on with the listener."""
    size = len(history)
    return len(longer) > size and longer[size].role == "listener" and longer[:size] == history


def _read_chain(dialogue: _Dialogue, raw: object, turn: int) -> ChainOfEmpathy | None:
    """Read the gold chain; None where it was not annotated.

    Where no response is needed (outside training), the emotion label may come without its reasoning.
    """
    if not raw:
        dialogue.note("chain_of_empathy missing", turn)
        return None
    if not isinstance(raw, dict):
        raise dialogue.error("chain_of_empathy is not an object", turn=turn, field="chain_of_empathy")
    emotion = str(raw.get("speaker_emotion") or "").strip().lower()
    if emotion not in FINE_EMOTIONS:
        raise dialogue.error(
            "speaker_emotion is unknown",
            f"{raw.get('speaker_emotion')!r} is not one of the 32 labels",
            turn=turn,
            field="chain_of_empathy.speaker_emotion",
        )
    steps = {}
    for step in ("event_scenario", "emotion_cause", "goal_to_response"):
        field = f"chain_of_empathy.{step}"
        if raw.get(step) in (None, "") and not dialogue.source.needs_response:
            dialogue.note(f"{field} missing", turn)
            steps[step] = ""
        else:
            steps[step] = _required_text(dialogue, raw.get(step), turn, field)
    return ChainOfEmpathy(speaker_emotion=emotion, **steps)


def _read_profile(dialogue: _Dialogue, raw: object, role: Role) -> tuple[Profile | None, int | None]:
    """Read a profile and its avatar id.

    A profile without age, gender and timbre counts as missing, but its ID still tells which media are its own.
    """
    field = f"{role}_profile"
    if raw is None or raw == {}:
        dialogue.note(f"{field} missing")
        return None, None
    if not isinstance(raw, dict):
        raise dialogue.error("profile is not an object", f"found {type(raw).__name__}", field=field)
    avatar = raw.get("ID")
    if avatar is not None and (isinstance(avatar, bool) or not re.fullmatch(r"\d+", str(avatar).strip())):
        raise dialogue.error("profile ID is not a number", f"{avatar!r}", field=f"{field}.ID")
    avatar = None if avatar is None else int(avatar)
    values = {name: raw.get(name) for name in ("age", "gender", "timbre")}
    if not any(values.values()):
        dialogue.note(f"{field} missing")
        return None, avatar
    words = {}
    for (name, value), known in zip(values.items(), (AGES, GENDERS, TIMBRES), strict=True):
        words[name] = re.sub(r"[\s_]+", "-", str(value).strip().lower())
        if words[name] not in known:
            raise dialogue.error(
                "profile value is unknown", f"{value!r}: one of {', '.join(known)}", field=f"{field}.{name}"
            )
    return Profile(**words, id=avatar), avatar


def _optional_text(dialogue: _Dialogue, value: object, turn: object, field: str) -> str:
    """Return a text that no prompt needs (topic, situation): cleaned, empty where it is missing."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise dialogue.error("not a text", f"found {type(value).__name__}", turn=turn, field=field)
    return dialogue.clean(value, turn)


def _required_text(dialogue: _Dialogue, value: object, turn: object, field: str) -> str:
    """Return a cleaned text that must be there and be usable by tokenizer and phonemizer."""
    if problem := text_problem(value):
        raise dialogue.error(*problem, turn=turn, field=field)
    return dialogue.clean(str(value), turn)
