"""Records of a dataset of `empatheia build-data`: Examples to record, and record back to the same Examples.

A record is one dialogue. Its fields are those of the released JSON, flat: `history` has all entries of all turns, each
with the number of its turn; what a dialogue does not have is an empty text or -1. `media` names each recording
(`archive` is empty where it is a file, not a member of a zip) relative to the folder the dataset was built from;
`content` holds its bytes where they were embedded.
"""

import dataclasses
import functools
import io
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, cast

import numpy as np

from empatheia_jax.data.corpus.text import clean_text
from empatheia_jax.data.media.containers import Recording, ZipMember, readable_input
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, RecordError, Role, Utterance
from empatheia_jax.runtime.json_files import read_json

NAME = "avamerg"
INFO = "dataset_info.json"
CHAIN = ("event_scenario", "speaker_emotion", "emotion_cause", "goal_to_response")


@dataclasses.dataclass(frozen=True, order=True)
class RecordMedia:
    """A recording whose bytes are in a record of a dataset that `empatheia build-data --embed-media` wrote."""

    dataset: Path
    split: str
    record: int
    place: int  # among the record's media
    size: int
    name: str  # of the file it was built from

    def __str__(self) -> str:
        return f"{self.dataset}!{self.split}/{self.record}/{self.name}"

    def read(self) -> bytes:
        """Read the bytes, as they were in the file."""
        return bytes(_record(self.dataset, self.split, self.record)["media"]["content"][self.place])

    def portable_name(self, root: Path) -> str:
        """Return the split and the name of the file it was built from, whatever `root`."""
        return f"{self.split}/{self.name}"


def dataset_folder(path: Path) -> Path | None:
    """Find the folder of a built dataset: `path` itself, or its newest version below; None where there is none."""
    if (path / INFO).is_file():
        return path
    versions = sorted(path.glob(f"{NAME}/*/{INFO}")) or sorted(path.glob(f"*/{INFO}"))
    return versions[-1].parent if versions else None


def split_names(folder: Path) -> list[str]:
    """List the splits of a built dataset, from its own description."""
    return [split["name"] for split in read_json(folder / INFO)["splits"]]


# Examples -> record -------------------------------------------------------------------------------------------------


def to_record(examples: list[Example], root: Path, embed: bool, without: Set[Recording] = frozenset()) -> dict:
    """Convert the Examples of one dialogue to the builder's record.

    Args:
      examples: all Examples of the dialogue.
      root: folder that media are named relative to.
      embed: whether the record holds the bytes of the recordings.
      without: recordings to leave out.

    Raises:
      RecordError: the Examples come from a dataset with embedded media.
    """
    first = examples[0]
    recordings = {
        (utterance.index, modality): recording
        for example in examples
        for utterance in example.utterances
        for modality, recording in (("audio", utterance.audio), ("video", utterance.video))
        if recording is not None and recording not in without
    }
    return {
        "conversation_id": first.conversation_id,
        "topic": first.topic,
        "speaker_profile": _profile_record(first.speaker_profile),
        "listener_profile": _profile_record(first.listener_profile),
        "turns": [
            {
                "turn_id": example.turn_id,
                "context": example.context,
                "response": example.response.text if example.response else "",
                "response_index": example.response.index if example.response else -1,
                **{step: getattr(example.chain, step) if example.chain else "" for step in CHAIN},
            }
            for example in examples
        ],
        "history": [
            {"turn_id": example.turn_id, "index": entry.index, "role": entry.role, "utterance": entry.text}
            for example in examples
            for entry in example.history
        ],
        "media": [
            {"index": index, "modality": modality} | _media_record(recording, root, embed)
            for (index, modality), recording in sorted(recordings.items())
        ],
    }


def _profile_record(profile: Profile | None) -> dict:
    if profile is None:
        return {"age": "", "gender": "", "timbre": "", "ID": -1}
    known = {name: getattr(profile, name) for name in ("age", "gender", "timbre")}
    return known | {"ID": -1 if profile.id is None else profile.id}


def _media_record(recording: Recording, root: Path, embed: bool) -> dict:
    if not isinstance(recording, Path | ZipMember):
        raise RecordError(f"{recording}: a built dataset cannot be built from again; use the released files")
    path = recording if isinstance(recording, Path) else recording.archive
    relative = str(path.relative_to(root) if path.is_relative_to(root) else path)
    archive, file = ("", relative) if isinstance(recording, Path) else (relative, recording.name)
    content = b""
    if embed:
        source = readable_input(recording)
        content = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
    return {"archive": archive, "file": file, "content": content}


# Record -> Examples -------------------------------------------------------------------------------------------------


def read(folder: Path, split: str) -> Iterator[list[Example]]:
    """Read the Examples of each dialogue of a built dataset, in the order it was built in.

    Raises:
      RecordError: the dataset has no such split.
    """
    root = Path(read_json(folder / "metadata.json")["root"])
    for number, record in enumerate(_records(folder, split)):
        yield to_examples(record, split, root, folder=folder, number=number)


def to_examples(record: dict, split: str, root: Path, *, folder: Path, number: int) -> list[Example]:
    """Convert a record, as `tfds.data_source` gives it, back to the Examples of its dialogue.

    Args:
      record: the record.
      split: its split.
      root: folder that its media are named relative to.
      folder: folder of the dataset, for media that are embedded in it.
      number: position of the record in the split.
    """
    conversation = _text(record["conversation_id"])
    media: dict[int, dict[str, Recording]] = {}
    for place, entry in enumerate(_entries(record["media"])):
        media.setdefault(int(entry["index"]), {})[_text(entry["modality"])] = _recording(
            entry, root, RecordMedia(folder, split, number, place, len(entry["content"]), _text(entry["file"]))
        )
    histories: dict[int, list[Utterance]] = {}
    utterances: dict[tuple, Utterance] = {}

    def get_utterance(index: int, role: Role, text: str) -> Utterance:
        return utterances.setdefault((index, role, text), Utterance(index, role, text, **media.get(index, {})))

    for entry in _entries(record["history"]):
        utterance = get_utterance(int(entry["index"]), cast(Role, _text(entry["role"])), _words(entry["utterance"]))
        histories.setdefault(int(entry["turn_id"]), []).append(utterance)
    profiles = {role: _profile(record[f"{role}_profile"]) for role in ("speaker", "listener")}
    examples = []
    for turn in _entries(record["turns"]):
        turn_id, response = int(turn["turn_id"]), _words(turn["response"])
        steps = {step: _words(turn[step]) for step in CHAIN}
        examples.append(
            Example(
                id=f"{split}/{conversation}/{turn_id}",
                split=split,
                conversation_id=conversation,
                turn_id=turn_id,
                topic=_words(record["topic"]),
                context=_words(turn["context"]),
                history=tuple(histories[turn_id]),
                speaker_profile=profiles["speaker"],
                listener_profile=profiles["listener"],
                chain=ChainOfEmpathy(**steps) if steps["speaker_emotion"] else None,
                response=get_utterance(int(turn["response_index"]), "listener", response) if response else None,
            )
        )
    return examples


def _recording(entry: dict, root: Path, embedded: RecordMedia) -> Recording:
    """Return where the recording of a media entry is: `embedded` where its bytes are in the record."""
    if embedded.size:
        return embedded
    archive, file = _text(entry["archive"]), _text(entry["file"])
    return ZipMember(root / archive, file) if archive else root / file


def _profile(record: dict) -> Profile | None:
    words = {name: _text(record[name]) for name in ("age", "gender", "timbre")}
    number = int(record["ID"])
    return Profile(**words, id=None if number < 0 else number) if words["age"] else None


def _entries(table: dict) -> Iterator[dict]:
    """Iterate over a feature that is a sequence of dicts, which TFDS gives as a dict of columns."""
    for values in zip(*table.values(), strict=True):
        yield dict(zip(table, values, strict=True))


def _text(value: bytes | str | np.ndarray) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(value: bytes | str | np.ndarray) -> str:
    """Return a text of people's words: a dataset may have been built before a kind of cleaning was known."""
    return clean_text(_text(value))


@functools.lru_cache(maxsize=8)
def _records(folder: Path, split: str):
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(folder))
    if split not in builder.info.splits:
        raise RecordError(f"has no split {split!r}, only {', '.join(builder.info.splits)}", file=str(folder))
    return builder.as_data_source(split)


@functools.lru_cache(maxsize=4)
def _record(folder: Path, split: str, number: int) -> dict:
    return _records(folder, split)[number]
