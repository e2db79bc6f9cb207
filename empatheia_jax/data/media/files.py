"""Finds the recording of an utterance by its file name; AvaMERG's media are named in three ways.

1. as released: `dia{conversation:05d}utt{index}_{avatar}.wav|.mp4`, index from 0;
2. after the baseline's rename script: `dia{conversation}utt{index + 1}.wav|.mp4`, no zeros in front, no avatar;
3. as submitted to the challenge: `dia{conversation:05d}utt{index}.wav|.mp4`, responses only (1, 3, ...), no avatar.

2 and 3 are told apart folder by folder: zeros in front, or an index 0, are never in 2; an unpadded short number or an
even index above 0 is never in 3. A zip is read in place, each folder in it on its own.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from empatheia_jax.data.media.containers import (
    Recording,
    UnreadableError,
    ZipMember,
    file_name,
    open_archive,
    posix_path,
)
from empatheia_jax.data.schema import RecordError

Modality = Literal["audio", "video"]
MODALITY_OF: dict[str, Modality] = {".wav": "audio", ".mp4": "video"}
_NAME = re.compile(r"dia(?P<conversation>\d+)utt(?P<index>\d+)(?:_(?P<avatar>\d+))?", re.IGNORECASE)
_MAC_PREFIX = "._"  # resource forks that macOS puts into zip files
_MAC_FOLDER = "__MACOSX"


@dataclasses.dataclass(frozen=True)
class MediaMatch:
    """Result of a look-up: the recording, or why there is none ("missing", "of another avatar", "ambiguous")."""

    path: Recording | None
    problem: str = ""


class MediaFiles:
    """Index of the media in some folders and zips.

    Attributes:
      folders: the folders and zips that were read.
      modalities: the modalities ("audio", "video") of which there is any file.
      strays: media files whose names follow no convention.
      ignored: number of macOS `._` files passed over.
    """

    def __init__(self, folders: Iterable[Path] = ()):
        """Read the file names in folders (not below them) and in zips.

        Args:
          folders: folders and zips; where two hold a file of the same utterance, the earlier one is used.

        Raises:
          RecordError: conventions 2 and 3 are mixed in one folder, or a zip cannot be read.
        """
        self.folders = list(dict.fromkeys(Path(folder) for folder in folders))
        self.strays: list[Recording] = []
        self.ignored = 0
        self._files: dict[tuple[str, int, int], dict[int | None, Recording]] = collections.defaultdict(dict)
        self.modalities: set[Modality] = set()
        for folder in self.folders:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        if folder.is_dir():
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            self._index(folder, [Path(entry.path) for entry in entries if entry.is_file()])
            return
        try:
            names = open_archive(folder).namelist()
        except UnreadableError as error:
            raise RecordError(str(error).removeprefix(f"{folder}: "), file=str(folder)) from error
        members_by_folder: dict[PurePosixPath, list[Recording]] = collections.defaultdict(list)
        for name in sorted(names):
            path = posix_path(name)
            if name.endswith(("/", "\\")):
                continue
            if _MAC_FOLDER in path.parts:
                self.ignored += 1
            else:
                members_by_folder[path.parent].append(ZipMember(folder, name))
        for parent, members in members_by_folder.items():
            self._index(folder / parent, members)

    def _index(self, folder: Path, entries: list[Recording]) -> None:
        """Add the files of one folder to the index."""
        without_avatar: list[tuple[Recording, str, int]] = []
        for entry in entries:
            path = file_name(entry)
            modality = MODALITY_OF.get(path.suffix.lower())
            if path.name.startswith(_MAC_PREFIX):
                self.ignored += 1
            elif modality is None:
                continue
            elif (match := _NAME.fullmatch(path.stem)) is None:
                self.strays.append(entry)
            elif match["avatar"] is None:
                without_avatar.append((entry, match["conversation"], int(match["index"])))
            else:
                self._add((modality, int(match["conversation"]), int(match["index"])), int(match["avatar"]), entry)
        offset = _first_index(folder, without_avatar) if without_avatar else 0
        for entry, conversation, index in without_avatar:
            modality = MODALITY_OF[file_name(entry).suffix.lower()]
            self._add((modality, int(conversation), index - offset), None, entry)

    def _add(self, key: tuple[Modality, int, int], avatar: int | None, path: Recording) -> None:
        """Index a file under (modality, conversation number, utterance index), unless there is one of this avatar."""
        self.modalities.add(key[0])
        self._files[key].setdefault(avatar, path)

    def find(self, modality: Modality, conversation_id: str, index: int, avatar: int | None) -> MediaMatch:
        """Find the file of one utterance.

        A file of another avatar is never taken: conversation ids are per split, so it belongs to another dialogue.

        Args:
          modality: "audio" or "video".
          conversation_id: id of the dialogue; one that is not a number has no media.
          index: utterance index, from 0.
          avatar: ID of the profile that speaks, where it is known.
        """
        by_avatar = self._files.get((modality, int(conversation_id), index)) if conversation_id.isdecimal() else None
        if not by_avatar:
            return MediaMatch(None, "missing")
        if avatar in by_avatar:
            return MediaMatch(by_avatar[avatar])
        if None in by_avatar:
            return MediaMatch(by_avatar[None])
        if avatar is not None:
            return MediaMatch(None, "of another avatar")
        return MediaMatch(next(iter(by_avatar.values()))) if len(by_avatar) == 1 else MediaMatch(None, "ambiguous")

    def all(self) -> list[tuple[str, int, int, Recording]]:
        """List every indexed file: (modality, conversation number, utterance index, path)."""
        return [(*key, path) for key, by_avatar in self._files.items() for path in by_avatar.values()]

    def duplicates(self) -> list[list[Recording]]:
        """List the files that claim the same utterance (same conversation and index, different avatar)."""
        return [list(by_avatar.values()) for by_avatar in self._files.values() if len(by_avatar) > 1]


def _first_index(folder: Path, names: list[tuple[Recording, str, int]]) -> int:
    """Return which index the first utterance has in names without an avatar: 1 after the baseline's renaming, else 0.

    Args:
      folder: the folder, for the error.
      names: (recording, conversation number as written, index) of each file.

    Raises:
      RecordError: the folder mixes the two conventions.
    """
    submitted = next((path for path, number, index in names if number[0] == "0" or index == 0), None)
    renamed = next((path for path, number, index in names if len(number) < 5 or (index and index % 2 == 0)), None)
    if submitted is not None and renamed is not None:
        raise RecordError(
            f"{file_name(submitted)} counts utterances from 0 (challenge submission), {file_name(renamed)} from 1 (the "
            "baseline's renaming): keep the two kinds in folders of their own",
            file=str(folder),
        )
    return 1 if renamed is not None else 0
