"""Which recording belongs to which utterance: the three ways AvaMERG's media are named.

1. as released: `dia{conversation:05d}utt{index}_{avatar}.wav|.mp4`, index from 0;
2. after the baseline's rename script: `dia{conversation}utt{index + 1}.wav|.mp4`, no zeros in front, no avatar;
3. as submitted to the challenge: `dia{conversation:05d}utt{index}.wav|.mp4`, responses only (1, 3, ...), no avatar.

2 and 3 are told apart folder by folder: zeros in front, or an index 0, are never in 2; an unpadded short number or an
even index above 0 is never in 3. A zip is read in place, folder by folder within it.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from empatheia_jax.data.containers import Member, Recording, UnreadableError, archive, file_name
from empatheia_jax.data.schema import RecordError

Modality = Literal["audio", "video"]
MODALITY_OF = {".wav": "audio", ".mp4": "video"}
_NAME = re.compile(r"dia(?P<conversation>\d+)utt(?P<index>\d+)(?:_(?P<avatar>\d+))?", re.IGNORECASE)
_MAC = "._"  # resource forks that macOS puts into zip files
_MAC_FOLDER = "__MACOSX"


@dataclasses.dataclass(frozen=True)
class Found:
    """Result of a look-up: the file, or why there is none ("missing", "of another avatar", "ambiguous")."""

    path: Recording | None
    problem: str = ""


class MediaFiles:
    """Index of the media in some folders and zips.

    Attributes:
      folders: those that were read, zips among them.
      strays: files with a medium's ending whose name follows no convention.
      ignored: how many macOS `._` files were passed over.
    """

    def __init__(self, folders: Iterable[Path] = ()):
        """Read the names in `folders` (not below them) and in zips; what comes first in them is taken first.

        Raises:
          RecordError: where conventions 2 and 3 are mixed in one, or a zip cannot be read.
        """
        self.folders = list(dict.fromkeys(Path(folder) for folder in folders))
        self.strays: list[Recording] = []
        self.ignored = 0
        self._files: dict[tuple[str, int, int], dict[int | None, Recording]] = collections.defaultdict(dict)
        self.modalities: set[str] = set()
        for folder in self.folders:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        if folder.is_dir():
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            self._index(folder, [Path(entry.path) for entry in entries if entry.is_file()])
            return
        try:
            names = archive(folder).namelist()
        except UnreadableError as error:
            raise RecordError(str(error).removeprefix(f"{folder}: "), file=str(folder)) from error
        inside: dict[PurePosixPath, list[Recording]] = collections.defaultdict(list)
        for name in sorted(names):
            if not name.endswith("/") and _MAC_FOLDER not in PurePosixPath(name).parts:
                inside[PurePosixPath(name).parent].append(Member(folder, name))
            elif name.startswith(_MAC_FOLDER) and not name.endswith("/"):
                self.ignored += 1
        for parent, members in inside.items():
            self._index(folder / parent, members)

    def _index(self, folder: Path, entries: list[Recording]) -> None:
        """Take in the files of one folder."""
        bare: list[tuple[Recording, str, int]] = []
        for entry in entries:
            path = file_name(entry)
            modality = MODALITY_OF.get(path.suffix.lower())
            if path.name.startswith(_MAC):
                self.ignored += 1
            elif modality is None:
                continue
            elif (match := _NAME.fullmatch(path.stem)) is None:
                self.strays.append(entry)
            elif match["avatar"] is None:
                bare.append((entry, match["conversation"], int(match["index"])))
            else:
                self._add(modality, int(match["conversation"]), int(match["index"]), int(match["avatar"]), entry)
        offset = _first_index(folder, bare) if bare else 0
        for entry, conversation, index in bare:
            modality = MODALITY_OF[file_name(entry).suffix.lower()]
            self._add(modality, int(conversation), index - offset, None, entry)

    def _add(self, modality: str, conversation: int, index: int, avatar: int | None, path: Recording) -> None:
        self.modalities.add(modality)
        self._files[modality, conversation, index].setdefault(avatar, path)

    def find(self, modality: Modality, conversation_id: str, index: int, avatar: int | None) -> Found:
        """The file of one utterance; `avatar` is the speaking profile's ID where it is known.

        A file of another avatar is never taken: ids of conversations are per split, so it is another dialogue's.
        """
        named = self._files.get((modality, int(conversation_id), index)) if conversation_id.isdecimal() else None
        if not named:
            return Found(None, "missing")
        if avatar in named:
            return Found(named[avatar])
        if None in named:
            return Found(named[None])
        if avatar is not None:
            return Found(None, "of another avatar")
        return Found(next(iter(named.values()))) if len(named) == 1 else Found(None, "ambiguous")

    def all(self) -> list[tuple[str, int, int, Recording]]:
        """Every indexed file: (modality, conversation number, utterance index, path)."""
        return [(*key, path) for key, named in self._files.items() for path in named.values()]

    def duplicates(self) -> list[list[Recording]]:
        """Files that claim the same utterance (same conversation and index, different avatar)."""
        return [list(named.values()) for named in self._files.values() if len(named) > 1]


def _first_index(folder: Path, bare: list[tuple[Recording, str, int]]) -> int:
    """The index of the first utterance in names without an avatar: 1 after the baseline's renaming, else 0."""
    submitted = next((path for path, number, index in bare if number[0] == "0" or index == 0), None)
    renamed = next((path for path, number, index in bare if len(number) < 5 or (index and index % 2 == 0)), None)
    if submitted is not None and renamed is not None:
        raise RecordError(
            f"{file_name(submitted)} counts utterances from 0 (challenge submission), {file_name(renamed)} from 1 (the "
            "baseline's renaming): keep the two kinds in folders of their own",
            file=str(folder),
        )
    return 1 if renamed is not None else 0
