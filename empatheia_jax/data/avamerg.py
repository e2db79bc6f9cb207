"""The released AvaMERG layout -> Examples (paper section 3; one Example a listener turn).

    ROOT/train.json          ROOT/audio_v5_0/*.wav       ROOT/video_v5_0/*.mp4
    ROOT/valid.json          only where an official one exists; otherwise a share of train.json is held out
    ROOT/test/test.json      ROOT/test/test_audio/*.wav  ROOT/test/test_video/*.mp4
    ROOT/test/v_test_v5_0.json   the labelled test file, preferred where it is there

Media may also be in the zips they are released in (train_audio.zip, train_video.zip, test_audio.zip ...), beside the
JSON file: they are read in place. Ids of conversations count anew in each split, so the media of the splits are kept
apart.
"""

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from empatheia_jax.data import records, tfds_records
from empatheia_jax.data.media_files import MediaFiles
from empatheia_jax.data.records import BadRecord, Source
from empatheia_jax.data.schema import Example, RecordError
from empatheia_jax.data.tfds_records import dataset_folder

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_FILES = {
    "train": ("train.json", "train/train.json"),
    "validation": ("valid.json", "validation.json", "valid/valid.json"),
    "test": ("test/v_test_v5_0.json", "v_test_v5_0.json", "test/test.json", "test.json"),
}
_VALIDATION_STEMS = ("valid", "validation", "val")
_PREFIX = {"train": "train", "validation": "valid", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A dialogue or turn that is not among the Examples, and why."""

    kind: Literal["dialogue", "turn"]
    conversation: str
    turn: str
    field: str
    reason: str
    message: str


@dataclasses.dataclass
class Report:
    """What was read: `turns == examples + turn_drops + turns_of_dropped_dialogues` always holds."""

    split: str
    file: str
    dialogues: int = 0
    turns: int = 0
    turns_of_dropped_dialogues: int = 0
    utterances: int = 0
    examples: int = 0
    dropped: list[Dropped] = dataclasses.field(default_factory=list)
    notes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    places: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    media: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    @property
    def turn_drops(self) -> int:
        """Turns dropped one by one."""
        return sum(drop.kind == "turn" for drop in self.dropped)

    @property
    def dialogue_drops(self) -> int:
        """Dialogues dropped whole."""
        return sum(drop.kind == "dialogue" for drop in self.dropped)

    def reasons(self, kind: str) -> dict[str, int]:
        """How many of a kind ("dialogue" or "turn") were dropped for each reason, most frequent first."""
        return dict(collections.Counter(drop.reason for drop in self.dropped if drop.kind == kind).most_common())

    def asdict(self) -> dict:
        """Plain JSON values."""
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
        """A few lines for a person: counts, every reason of a drop, every note."""
        lines = [
            f"{self.split}: {self.file}",
            f"  {self.dialogues} dialogues, {self.turns} turns, {self.utterances} utterances"
            f" -> {self.examples} Examples",
        ]
        for kind in ("dialogue", "turn"):
            for reason, count in self.reasons(kind).items():
                where = [
                    drop.conversation + (f"/{drop.turn}" if drop.turn else "")
                    for drop in self.dropped
                    if (drop.kind, drop.reason) == (kind, reason)
                ]
                more = f" and {len(where) - 8} more" if len(where) > 8 else ""
                lines.append(f"  dropped {count} {kind}{'s' * (count != 1)}: {reason} ({', '.join(where[:8])}{more})")
        if self.turns_of_dropped_dialogues:
            lines.append(f"  {self.turns_of_dropped_dialogues} turns went with their dialogues")
        for note, count in self.notes.most_common():
            lines.append(f"  note: {note}: {count} (such as {', '.join(self.places[note])})")
        if self.media:
            lines.append("  media: " + ", ".join(f"{what} {count}" for what, count in sorted(self.media.items())))
        return "\n".join(lines)


def read_examples(
    path: Path | str,
    split: Split,
    *,
    on_error: Literal["stop", "skip"] = "stop",
    validation_share: float = 0.2,
    max_turns: int = 16,
    recover_responses: bool = False,
) -> tuple[list[Example], Report]:
    """Examples of one split, in the order of the file and of the turns, and what was read and dropped.

    Args:
      path: a folder of the released layout or of a built dataset (`empatheia build-data`), or one JSON file. A file
        called valid.json is all validation; any other file asked for "train" or "validation" is split, asked for
        "test" it is read whole.
      on_error: "stop" raises at the first bad record; "skip" drops and counts it. Empty `turns` and histories that
        end with the listener, which the released test file holds, are dropped and counted in both.
      validation_share: share of the conversations of train.json held out where there is no official valid.json.
      max_turns: most turns of a dialogue.
      recover_responses: take the missing response of a turn from the history of a later turn of its dialogue
        (of the released test file, whose responses are not given, all but last turns can be had so).

    Raises:
      RecordError: nothing to read, not JSON, a bad record ("stop"), or no usable turn at all.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f'on_error is {on_error!r}: use "stop" or "skip"')
    examples, report = read_split(
        path,
        split,
        on_error=on_error,
        validation_share=validation_share,
        max_turns=max_turns,
        recover_responses=recover_responses,
    )
    if report.dialogues and not examples:
        first = report.dropped[0].message if report.dropped else "no turns"
        raise RecordError(f"none of {report.dialogues} dialogues is usable; the first: {first}", file=report.file)
    return examples, report


def read_split(
    path: Path | str,
    split: Split,
    *,
    on_error: str,
    validation_share: float,
    max_turns: int,
    recover_responses: bool = False,
) -> tuple[list[Example], Report]:
    """`read_examples` that also returns where nothing is usable."""
    built = dataset_folder(Path(path))
    if built is not None:
        return _read_built(built, split, max_turns)
    file, divided = locate(Path(path), split)
    report = Report(split, str(file))
    dialogues = load_dialogues(file)
    if divided:
        dialogues = _divide(dialogues, split, validation_share, report.file)

    def drop_turn(error: BadRecord) -> None:
        if on_error == "stop" and error.reason not in records.KNOWN_GAPS:
            raise error
        report.dropped.append(_dropped("turn", error))

    source = Source(
        file=report.file,
        split=split,
        needs_response=split != "test",
        max_turns=max_turns,
        on_turn_error=drop_turn,
        media=MediaFiles(media_folders(file, "train" if divided else split)),
        recover_responses=recover_responses,
        notes=report.notes,
        places=report.places,
        media_counts=report.media,
    )
    examples: list[Example] = []
    seen: set[str] = set()
    for raw in dialogues:
        report.dialogues += 1
        turns = len(raw["turns"]) if isinstance(raw, dict) and isinstance(raw.get("turns"), list) else 0
        report.turns += turns
        before = len(report.dropped)
        try:
            identity = records.conversation_id(raw, report.file)
            if identity in seen:
                raise BadRecord(
                    "conversation_id occurs twice",
                    "the first one is used",
                    file=report.file,
                    conversation=identity,
                    field="conversation_id",
                )
            seen.add(identity)
            examples += records.parse_dialogue(raw, source)
        except BadRecord as error:
            if on_error == "stop" and error.reason not in records.KNOWN_GAPS:
                raise
            del report.dropped[before:]
            report.dropped.append(_dropped("dialogue", error))
            report.turns_of_dropped_dialogues += turns
    report.examples, report.utterances = len(examples), source.utterances
    return examples, report


def _read_built(folder: Path, split: Split, max_turns: int) -> tuple[list[Example], Report]:
    """A dataset of `empatheia build-data`: what was dropped is in its card, and not here any more."""
    report, examples = Report(split, str(folder)), []
    for turns in tfds_records.read(folder, split):
        report.dialogues += 1
        report.turns += len(turns)
        if len(turns) > max_turns:
            report.turns_of_dropped_dialogues += len(turns)
            reason, name = "too many turns", turns[0].conversation_id
            message = f"{name}: {len(turns)} turns, the limit is {max_turns}"
            report.dropped.append(Dropped("dialogue", name, "", "turns", reason, message))
            continue
        examples += turns
        said = {(u.index, u.text): u for turn in turns for u in turn.utterances}.values()
        report.utterances += len({utterance.index for utterance in said})
        for modality in ("audio", "video"):
            found = len({u.index for u in said if getattr(u, modality) is not None})
            report.media[f"{modality} found"] += found
    report.examples = len(examples)
    return examples, report


def _dropped(kind: Literal["dialogue", "turn"], error: BadRecord) -> Dropped:
    return Dropped(kind, error.conversation, error.turn, error.field, error.reason, str(error))


def read_dialogue(dialogue: dict | Path | str, *, max_turns: int = 16) -> Example:
    """One dialogue to answer: its last turn as an Example of split "dialogue".

    Args:
      dialogue: one object of the released layout, or the JSON file that holds it (relative media paths are then
        relative to the file's folder, otherwise to the current one). History entries may add "speech" and "video"
        paths; an entry with media needs no words. `conversation_id` may be left out.

    Raises:
      RecordError: what is wrong with it, and where; a missing media file too.
    """
    file, folder = "", Path()
    if isinstance(dialogue, Path | str):
        file, folder = str(dialogue), Path(dialogue).parent
        found = load_dialogues(Path(dialogue))
        if len(found) != 1:
            raise RecordError(f"holds {len(found)} dialogues: give one", file=file)
        dialogue = found[0]
    if not isinstance(dialogue, dict):
        raise RecordError(f"a dialogue is an object with turns, not {type(dialogue).__name__}", file=file)

    def stop(error: BadRecord) -> None:
        raise error

    source = Source(
        file=file, split="dialogue", needs_response=False, max_turns=max_turns, on_turn_error=stop, entry_media=folder
    )
    return records.parse_dialogue({"conversation_id": "dialogue", **dialogue}, source)[-1]


def load_dialogues(file: Path) -> list:
    """The dialogue objects of a JSON file (one object counts as a list of one); RecordError names file and line."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise RecordError("no such file", file=str(file)) from error
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 at byte {error.start}: save it again as UTF-8", file=str(file)) from error
    except json.JSONDecodeError as error:
        raise RecordError(f"not JSON at line {error.lineno}: {error.msg}", file=str(file)) from error
    except (RecursionError, ValueError) as error:  # nested without end, a number of thousands of digits
        raise RecordError(f"not JSON of dialogues ({error})", file=str(file)) from error
    if isinstance(content, dict) and "turns" in content:
        content = [content]
    if not isinstance(content, list):
        raise RecordError(f"expected a list of dialogues, found {type(content).__name__}", file=str(file))
    if not content:
        raise RecordError("holds no dialogue", file=str(file))
    return content


def available_splits(path: Path) -> list[Split]:
    """The splits that `path` holds. One file is test data when its name says so, else it is divided as train.json.

    Raises:
      RecordError: there are none.
    """
    if path.is_file() and "test" in path.stem.lower():
        return ["test"]
    found, first = [], None
    for split in SPLITS[:2] if path.is_file() else SPLITS:
        try:
            locate(path, split)
            found.append(split)
        except RecordError as error:
            first = first or error
    if not found:
        raise first
    return found


def locate(path: Path, split: Split) -> tuple[Path, bool]:
    """(JSON file of a split or folder of a built dataset, whether train and validation share it and it is divided)."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: use {', '.join(SPLITS)}")
    built = dataset_folder(path) if path.is_dir() else None
    if built is not None:
        if split not in tfds_records.splits_of(built):
            raise RecordError(f"has no split {split!r}", file=str(built))
        return built, False
    if path.is_file():
        official = path.stem.lower() in _VALIDATION_STEMS
        if split == "train" and official:
            raise RecordError("is a validation file: it cannot serve as training data", file=str(path))
        return path, split != "test" and not official
    if not path.exists():
        raise RecordError("no such file or folder", file=str(path))
    valid = next((path / name for name in _FILES["validation"] if (path / name).is_file()), None)
    if split == "validation" and valid is not None:
        return valid, False
    names = _FILES["test" if split == "test" else "train"]
    for name in names:
        if (path / name).is_file():
            return path / name, split != "test" and valid is None
    raise RecordError(f"no {' or '.join(names)} in this folder", file=str(path))


def media_folders(file: Path, split: Split) -> list[Path]:
    """The folders, then the zips, beside `file` that may hold the media of its split, by their released names."""
    prefix, here = _PREFIX[split], file.parent
    names = [f"{prefix}_{modality}" for modality in ("audio", "video")]
    places = [base / name for base in (here, here / prefix) for name in names]
    released = [f"{modality}_v5_0" for modality in ("audio", "video")]
    places += [here / prefix / name for name in released]
    if split == "train" or not (here / "train.json").exists():  # conversation ids are per split: never train's media
        places += [here / name for name in released]
    places = list(dict.fromkeys(places))
    zips = [place.with_name(f"{place.name}.zip") for place in places]
    if here.name == prefix:  # ROOT/test/test.json beside ROOT/test_audio.zip
        zips += [here.parent / f"{name}.zip" for name in names]
    return [place for place in places if place.is_dir()] + [place for place in zips if place.is_file()]


def validation_ids(ids: Iterable[str], share: float) -> set[str]:
    """The conversations held out: round(share * n) with the smallest SHA-256 of their ids, whatever their order."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"validation_share is {share}: it must be between 0 and 1")
    ranked = sorted(set(ids), key=lambda identity: hashlib.sha256(identity.encode()).digest())
    return set(ranked[: round(share * len(ranked))])


def _divide(dialogues: list, split: Split, share: float, file: str) -> list:
    """The dialogues of train.json that belong to `split`; those without an id are counted with train."""

    def identity(raw: object) -> str | None:
        try:
            return records.conversation_id(raw, file)
        except BadRecord:
            return None

    ids = [identity(raw) for raw in dialogues]
    held_out = validation_ids((known for known in ids if known is not None), share)
    return [raw for raw, known in zip(dialogues, ids, strict=True) if (known in held_out) == (split == "validation")]
