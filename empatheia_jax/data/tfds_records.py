"""A dataset that `empatheia build-data` wrote, read back: one record a dialogue -> the Examples that went into it.

The record's fields are those of the released JSON, flat: `history` has all entries of all turns, each with its turn's
number; what a dialogue does not have is an empty text or -1. `media` names each recording (`archive` is empty for a
file of its own) relative to the folder the dataset was built from; `content` holds its bytes where they were embedded.
"""

import functools
import json
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np

from empatheia_jax.data.containers import Embedded, Member, Recording, source
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, RecordError, Utterance

NAME = "avamerg"
INFO = "dataset_info.json"
CHAIN = ("event_scenario", "speaker_emotion", "emotion_cause", "goal_to_response")


def dataset_folder(path: Path) -> Path | None:
    """The folder of a built dataset: `path` itself, or its newest version below; None where there is none."""
    if (path / INFO).is_file():
        return path
    versions = sorted(path.glob(f"{NAME}/*/{INFO}")) or sorted(path.glob(f"*/{INFO}"))
    return versions[-1].parent if versions else None


def splits_of(folder: Path) -> list[str]:
    """The splits of a built dataset, from its own description."""
    return [split["name"] for split in json.loads((folder / INFO).read_text())["splits"]]


# Examples -> record -------------------------------------------------------------------------------------------------


def to_record(examples: list[Example], root: Path, embed: bool, without: Set[Recording] = frozenset()) -> dict:
    """The Examples of one dialogue as the builder's record, with the bytes of recordings to `embed`.

    `without`: recordings that are left out.
    """
    first = examples[0]
    said = {
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
            {"turn_id": example.turn_id, "index": said.index, "role": said.role, "utterance": said.text}
            for example in examples
            for said in example.history
        ],
        "media": [
            _media_record(index, modality, recording, root, embed)
            for (index, modality), recording in sorted(said.items())
        ],
    }


def _profile_record(profile: Profile | None) -> dict:
    if profile is None:
        return {"age": "", "gender": "", "timbre": "", "ID": -1}
    known = {name: getattr(profile, name) for name in ("age", "gender", "timbre")}
    return known | {"ID": -1 if profile.id is None else profile.id}


def _media_record(index: int, modality: str, recording: Recording, root: Path, embed: bool) -> dict:
    if isinstance(recording, Embedded):
        raise RecordError(f"{recording}: a built dataset cannot be built from again; use the released files")
    path = recording if isinstance(recording, Path) else recording.archive
    below = path.relative_to(root) if path.is_relative_to(root) else path
    content = b""
    if embed:
        content = recording.read_bytes() if isinstance(recording, Path) else source(recording).getvalue()
    return {
        "index": index,
        "modality": modality,
        "archive": "" if isinstance(recording, Path) else str(below),
        "file": str(below) if isinstance(recording, Path) else recording.name,
        "content": content,
    }


# Record -> Examples -------------------------------------------------------------------------------------------------


def read(folder: Path, split: str) -> Iterator[list[Example]]:
    """The Examples of each dialogue of a built dataset, in the order it was built in.

    Raises:
      RecordError: no such split in it.
    """
    root = Path(json.loads((folder / "metadata.json").read_text())["root"])
    for number, record in enumerate(_records(folder, split)):
        yield to_examples(record, split, root, folder, number)


def to_examples(record: dict, split: str, root: Path, folder: Path, number: int) -> list[Example]:
    """One record, as `tfds.data_source` gives it, as Examples; `root` is where its media are."""
    identity = _text(record["conversation_id"])
    media: dict[int, dict[str, Recording]] = {}
    for place, one in enumerate(_rows(record["media"])):
        media.setdefault(int(one["index"]), {})[_text(one["modality"])] = _recording(
            one, root, Embedded(folder, split, number, place, len(one["content"]), _text(one["file"]))
        )
    histories: dict[int, list[Utterance]] = {}
    known: dict[tuple, Utterance] = {}

    def utterance(index: int, role: str, text: str) -> Utterance:
        return known.setdefault((index, role, text), Utterance(index, role, text, **media.get(index, {})))

    for said in _rows(record["history"]):
        one = utterance(int(said["index"]), _text(said["role"]), _text(said["utterance"]))
        histories.setdefault(int(said["turn_id"]), []).append(one)
    profiles = {role: _profile(record[f"{role}_profile"]) for role in ("speaker", "listener")}
    examples = []
    for turn in _rows(record["turns"]):
        turn_id, response = int(turn["turn_id"]), _text(turn["response"])
        steps = {step: _text(turn[step]) for step in CHAIN}
        examples.append(
            Example(
                id=f"{split}/{identity}/{turn_id}",
                split=split,
                conversation_id=identity,
                turn_id=turn_id,
                topic=_text(record["topic"]),
                context=_text(turn["context"]),
                history=tuple(histories[turn_id]),
                speaker_profile=profiles["speaker"],
                listener_profile=profiles["listener"],
                chain=ChainOfEmpathy(**steps) if steps["speaker_emotion"] else None,
                response=utterance(int(turn["response_index"]), "listener", response) if response else None,
            )
        )
    return examples


def _recording(one: dict, root: Path, embedded: Embedded) -> Recording:
    if embedded.size:
        return embedded
    archive, file = _text(one["archive"]), _text(one["file"])
    return Member(root / archive, file) if archive else root / file


def _profile(record: dict) -> Profile | None:
    words = {name: _text(record[name]) for name in ("age", "gender", "timbre")}
    number = int(record["ID"])
    return Profile(**words, id=None if number < 0 else number) if words["age"] else None


def _rows(table: dict) -> Iterator[dict]:
    """A feature that is a sequence of dicts, which comes as a dict of columns."""
    for values in zip(*table.values(), strict=True):
        yield dict(zip(table, values, strict=True))


def _text(value: bytes | str | np.ndarray) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@functools.lru_cache(maxsize=8)
def _records(folder: Path, split: str):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    if split not in builder.info.splits:
        raise RecordError(f"has no split {split!r}, only {', '.join(builder.info.splits)}", file=str(folder))
    return builder.as_data_source(split)


@functools.lru_cache(maxsize=4)
def _record(folder: Path, split: str, number: int) -> dict:
    return _records(folder, split)[number]


def media_bytes(folder: Path, split: str, number: int, place: int) -> bytes:
    """The bytes of one embedded recording."""
    return bytes(_record(folder, split, number)["media"]["content"][place])
