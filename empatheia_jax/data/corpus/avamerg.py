"""Reads the released AvaMERG layout as Examples (paper section 3; one Example for each listener turn).

    ROOT/train.json          ROOT/audio_v5_0/*.wav       ROOT/video_v5_0/*.mp4
    ROOT/valid.json          only where an official one exists; otherwise a share of train.json is held out
    ROOT/test/test.json      ROOT/test/test_audio/*.wav  ROOT/test/test_video/*.mp4
    ROOT/test/v_test_v5_0.json   the labelled test file, preferred where it exists

Media may also be in the zips they are released in (train_audio.zip, train_video.zip, test_audio.zip ...), beside the
JSON file: they are read in place. Conversation ids start again in each split, so each split has its own media folders.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from empatheia_jax.data.corpus import records, tfds_records
from empatheia_jax.data.corpus.dialogue_json import load_dialogues
from empatheia_jax.data.corpus.records import BadRecord, Source
from empatheia_jax.data.corpus.tfds_records import dataset_folder
from empatheia_jax.data.media.files import MediaFiles
from empatheia_jax.data.schema import Example, RecordError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_FILE_NAMES = {
    "train": ("train.json", "train/train.json"),
    "validation": ("valid.json", "validation.json", "valid/valid.json"),
    "test": ("test/v_test_v5_0.json", "v_test_v5_0.json", "test/test.json", "test.json"),
}
_VALIDATION_STEMS = ("valid", "validation", "val")
_MEDIA_PREFIX = {"train": "train", "validation": "valid", "test": "test"}


@dataclasses.dataclass(frozen=True)
class DroppedItem:
    """A dialogue or turn that is not among the Examples, and why."""

    kind: Literal["dialogue", "turn"]
    conversation: str
    turn: str
    field: str
    reason: str
    message: str


@dataclasses.dataclass
class Report:
    """Counts of what was read, kept and dropped of one split.

    `turns == examples + turns dropped one by one + turns_of_dropped_dialogues` always holds.

    Attributes:
      file: JSON file, or folder of a built dataset, that was read.
      turns_of_dropped_dialogues: turns lost because their whole dialogue was dropped.
      utterances: distinct utterances of the dialogues.
      dropped: every dropped dialogue and turn.
      notes: how often something unusual was kept, by kind of irregularity.
      places: "conversation/turn" of the first few of each note.
      media: number of recordings by "modality status", such as "audio found" or "video missing".
    """

    split: str
    file: str
    dialogues: int = 0
    turns: int = 0
    turns_of_dropped_dialogues: int = 0
    utterances: int = 0
    examples: int = 0
    dropped: list[DroppedItem] = dataclasses.field(default_factory=list)
    notes: Counter = dataclasses.field(default_factory=Counter)
    places: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    media: Counter = dataclasses.field(default_factory=Counter)

    def reasons(self, kind: str) -> dict[str, int]:
        """Count the dropped items of a kind ("dialogue" or "turn") by reason, most frequent first."""
        return dict(Counter(drop.reason for drop in self.dropped if drop.kind == kind).most_common())

    def asdict(self) -> dict:
        """Return the report as plain JSON values."""
        return {
            **{name: getattr(self, name) for name in ("split", "file", "dialogues", "turns", "utterances", "examples")},
            "turns_of_dropped_dialogues": self.turns_of_dropped_dialogues,
            "dropped_dialogues": self.reasons("dialogue"),
            "dropped_turns": self.reasons("turn"),
            "dropped": [dataclasses.asdict(drop) for drop in self.dropped],
            "notes": dict(self.notes),
            "places": self.places,
            "media": dict(self.media),
        }

    def summary(self) -> str:
        """Return a few lines of text: counts, every reason of a drop, every note."""
        lines = [
            f"{self.split}: {self.file}",
            f"  {self.dialogues} dialogues, {self.turns} turns, {self.utterances} utterances"
            f" -> {self.examples} Examples",
        ]
        for kind in ("dialogue", "turn"):
            for reason, count in self.reasons(kind).items():
                places = [
                    drop.conversation + (f"/{drop.turn}" if drop.turn else "")
                    for drop in self.dropped
                    if (drop.kind, drop.reason) == (kind, reason)
                ]
                more = f" and {len(places) - 8} more" if len(places) > 8 else ""
                lines.append(f"  dropped {count} {kind}{'s' * (count != 1)}: {reason} ({', '.join(places[:8])}{more})")
        if self.turns_of_dropped_dialogues:
            lines.append(f"  {self.turns_of_dropped_dialogues} turns went with their dialogues")
        for note, count in self.notes.most_common():
            lines.append(f"  note: {note}: {count} (such as {', '.join(self.places[note])})")
        if self.media:
            lines.append("  media: " + ", ".join(f"{status} {count}" for status, count in sorted(self.media.items())))
        return "\n".join(lines)


def read_examples(
    path: Path | str,
    split: Split,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    validation_share: float = 0.2,
    max_turns: int = 16,
    recover_responses: bool = False,
    allow_empty: bool = False,
) -> tuple[list[Example], Report]:
    """Read the Examples of one split, and count what was read and dropped.

    Args:
      path: a folder of the released layout or of a built dataset (`empatheia build-data`), or one JSON file. A file
        called valid.json is read as validation data only; any other file is divided into "train" and "validation",
        or read in full as "test".
      split: the split to read.
      on_error: "stop" raises at the first bad record; "skip" drops and counts it. Empty `turns` and histories that
        end with the listener occur in the released test file: they are dropped and counted in both cases.
      validation_share: share of the conversations of train.json held out where there is no official valid.json.
      max_turns: largest number of turns of a dialogue.
      recover_responses: take the missing response of a turn from the history of a later turn of its dialogue (the
        released test file gives no responses; this recovers those of all turns but the last).
      allow_empty: return the report even where no turn is usable.

    Returns:
      The Examples in the order of the file and of the turns, and the Report.

    Raises:
      RecordError: nothing to read, not JSON, a bad record ("stop"), or no usable turn at all.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'on_error is {on_error!r}: use "stop" or "skip"')
    dataset = dataset_folder(Path(path))
    if dataset is not None:
        examples, report = _read_dataset(dataset, split, max_turns)
    else:
        file, divided = locate(Path(path), split)
        dialogues, report = load_dialogues(file), Report(split, str(file))
        if divided:
            dialogues = _divide(dialogues, split, validation_share, report.file)

        def drop(kind: Literal["dialogue", "turn"], error: BadRecord) -> None:
            if on_error == "stop" and error.reason not in records.KNOWN_GAPS:
                raise error
            item = DroppedItem(kind, error.conversation, error.turn, error.field, error.reason, str(error))
            report.dropped.append(item)

        source = Source(
            file=report.file,
            split=split,
            needs_response=split != "test",
            max_turns=max_turns,
            on_turn_error=functools.partial(drop, "turn"),
            media=MediaFiles(media_folders(file, "train" if divided else split)),
            recover_responses=recover_responses,
            notes=report.notes,
            places=report.places,
            media_counts=report.media,
        )
        examples = _parse_dialogues(dialogues, source, report, on_dialogue_error=functools.partial(drop, "dialogue"))
    if report.dialogues and not examples and not allow_empty:
        first = report.dropped[0].message if report.dropped else "no turns"
        raise RecordError(f"none of {report.dialogues} dialogues is usable; the first: {first}", file=report.file)
    return examples, report


def _parse_dialogues(
    dialogues: list, source: Source, report: Report, *, on_dialogue_error: Callable[[BadRecord], None]
) -> list[Example]:
    """Make the Examples of all dialogue objects, and count them in the report.

    Args:
      dialogues: objects of the JSON file.
      source: of the file.
      report: its `dropped` receives what is dropped.
      on_dialogue_error: called with the error of each dialogue that cannot be used; it may raise.
    """
    examples: list[Example] = []
    seen: set[str] = set()
    for raw in dialogues:
        report.dialogues += 1
        turns = len(raw["turns"]) if isinstance(raw, dict) and isinstance(raw.get("turns"), list) else 0
        report.turns += turns
        drops_before = len(report.dropped)
        try:
            conversation = records.conversation_id(raw, report.file)
            if conversation in seen:
                where = {"file": report.file, "conversation": conversation, "field": "conversation_id"}
                raise BadRecord("conversation_id occurs twice", "the first one is used", **where)
            seen.add(conversation)
            examples += records.parse_dialogue(raw, source)
        except BadRecord as error:
            del report.dropped[drops_before:]
            on_dialogue_error(error)
            report.turns_of_dropped_dialogues += turns
    report.examples, report.utterances = len(examples), source.utterances
    return examples


def _read_dataset(folder: Path, split: Split, max_turns: int) -> tuple[list[Example], Report]:
    """Read a dataset of `empatheia build-data`; what its build dropped is listed in its card, not in this report."""
    report, examples = Report(split, str(folder)), []
    for turns in tfds_records.read(folder, split):
        report.dialogues += 1
        report.turns += len(turns)
        if len(turns) > max_turns:
            report.turns_of_dropped_dialogues += len(turns)
            reason, conversation = "too many turns", turns[0].conversation_id
            message = f"{conversation}: {len(turns)} turns, the limit is {max_turns}"
            report.dropped.append(DroppedItem("dialogue", conversation, "", "turns", reason, message))
            continue
        examples += turns
        utterances = {(u.index, u.text): u for turn in turns for u in turn.utterances}.values()
        report.utterances += len({utterance.index for utterance in utterances})
        for modality in ("audio", "video"):
            recorded = len({u.index for u in utterances if getattr(u, modality) is not None})
            report.media[f"{modality} found"] += recorded
    report.examples = len(examples)
    return examples, report


def read_dialogue(dialogue: dict | Path | str, *, max_turns: int = 16, notes: Counter | None = None) -> Example:
    """Read one dialogue to answer: its last turn as an Example of split "dialogue".

    Args:
      dialogue: one object of the released layout, or the JSON file that holds it. Relative media paths are relative to
        the file's folder, or to the current folder where an object is given. History entries may add "speech" and
        "video" paths; an entry with media needs no words. `conversation_id` may be left out.
      max_turns: largest number of turns.
      notes: is counted on, as `Source.notes`.

    Raises:
      RecordError: what is wrong with the dialogue, and where; also a missing media file.
    """
    file, folder = "", Path()
    if isinstance(dialogue, Path | str):
        file, folder = str(dialogue), Path(dialogue).parent
        dialogues = load_dialogues(Path(dialogue))
        if len(dialogues) != 1:
            raise RecordError(f"holds {len(dialogues)} dialogues: give one", file=file)
        dialogue = dialogues[0]
    if not isinstance(dialogue, dict):
        raise RecordError(f"a dialogue is an object with turns, not {type(dialogue).__name__}", file=file)

    def stop(error: BadRecord) -> None:
        raise error

    source = Source(
        file=file, split="dialogue", needs_response=False, max_turns=max_turns, on_turn_error=stop, entry_media=folder
    )
    example = records.parse_dialogue({"conversation_id": "dialogue", **dialogue}, source)[-1]
    (Counter() if notes is None else notes).update(source.notes)
    return example


def available_splits(path: Path) -> list[Split]:
    """List the splits of `path`.

    A single file is test data if its name has "test" or it gives no response; else it is divided like train.json.

    Raises:
      RecordError: there are none.
    """
    if path.is_file() and ("test" in path.stem.lower() or not _has_responses(path)):
        return ["test"]
    splits: list[Split] = []
    errors: list[RecordError] = []
    for split in SPLITS[:2] if path.is_file() else SPLITS:
        try:
            locate(path, split)
            splits.append(split)
        except RecordError as error:
            errors.append(error)
    if not splits:
        raise errors[0]
    return splits


def _has_responses(file: Path) -> bool:
    """Return whether any turn of a JSON file has a gold response."""
    entries = (raw.get("turns") for raw in load_dialogues(file) if isinstance(raw, dict))
    turns = (turn for entry in entries if isinstance(entry, list) for turn in entry)
    return any(isinstance(turn, dict) and turn.get("response") for turn in turns)


def locate(path: Path, split: Split) -> tuple[Path, bool]:
    """Find the JSON file of a split, or the folder of a built dataset.

    Returns:
      The path, and whether train and validation share the file, so that it has to be divided.

    Raises:
      RecordError: nothing holds this split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: use {', '.join(SPLITS)}")
    dataset = dataset_folder(path) if path.is_dir() else None
    if dataset is not None:
        if split not in tfds_records.split_names(dataset):
            raise RecordError(f"has no split {split!r}", file=str(dataset))
        return dataset, False
    if path.is_file():
        official = path.stem.lower() in _VALIDATION_STEMS
        if split == "train" and official:
            raise RecordError("is a validation file: it cannot serve as training data", file=str(path))
        return path, split != "test" and not official
    if not path.exists():
        raise RecordError("no such file or folder", file=str(path))
    valid = next((path / name for name in _FILE_NAMES["validation"] if (path / name).is_file()), None)
    if split == "validation" and valid is not None:
        return valid, False
    names = _FILE_NAMES["test" if split == "test" else "train"]
    for name in names:
        if (path / name).is_file():
            return path / name, split != "test" and valid is None
    raise RecordError(f"no {' or '.join(names)} in this folder", file=str(path))


def media_folders(file: Path, split: Split) -> list[Path]:
    """List the folders, then the zips, near `file` that may hold the media of its split, by their released names."""
    prefix, base = _MEDIA_PREFIX[split], file.parent
    names = [f"{prefix}_{modality}" for modality in ("audio", "video")]
    folders = [parent / name for parent in (base, base / prefix) for name in names]
    released = [f"{modality}_v5_0" for modality in ("audio", "video")]
    folders += [base / prefix / name for name in released]
    if split == "train" or not (base / "train.json").exists():  # conversation ids are per split: never train's media
        folders += [base / name for name in released]
    folders = list(dict.fromkeys(folders))
    zips = [folder.with_name(f"{folder.name}.zip") for folder in folders]
    if base.name == prefix:  # ROOT/test/test.json beside ROOT/test_audio.zip
        zips += [base.parent / f"{name}.zip" for name in names]
    return [folder for folder in folders if folder.is_dir()] + [path for path in zips if path.is_file()]


def validation_ids(ids: Iterable[str], share: float) -> set[str]:
    """Choose the round(share * n) conversations to hold out, by the smallest SHA-256 of their ids, in any order."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"validation_share is {share}: it must be between 0 and 1")
    ranked = sorted(set(ids), key=lambda identity: hashlib.sha256(identity.encode()).digest())
    return set(ranked[: round(share * len(ranked))])


def _divide(dialogues: list, split: Split, share: float, file: str) -> list:
    """Return the dialogues of train.json that belong to `split`; those without an id count as train."""

    def id_or_none(raw: object) -> str | None:
        try:
            return records.conversation_id(raw, file)
        except BadRecord:
            return None

    ids = [id_or_none(raw) for raw in dialogues]
    held_out = validation_ids((known for known in ids if known is not None), share)
    return [raw for raw, known in zip(dialogues, ids, strict=True) if (known in held_out) == (split == "validation")]
