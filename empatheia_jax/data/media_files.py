"""Which recording belongs to which utterance: the three ways AvaMERG's media are named.

1. as released: `dia{conversation:05d}utt{index}_{avatar}.wav|.mp4`, index from 0;
2. after the baseline's rename script: `dia{conversation}utt{index + 1}.wav|.mp4`, no zeros in front, no avatar;
3. as submitted to the challenge: `dia{conversation:05d}utt{index}.wav|.mp4`, responses only (1, 3, ...), no avatar.

2 and 3 are told apart folder by folder: zeros in front, or an index 0, are never in 2; an unpadded short number or an
even index above 0 is never in 3.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from empatheia_jax.data.schema import RecordError

Modality = Literal["audio", "video"]
MODALITY_OF = {".wav": "audio", ".mp4": "video"}
_NAME = re.compile(r"dia(?P<conversation>\d+)utt(?P<index>\d+)(?:_(?P<avatar>\d+))?", re.IGNORECASE)
_MAC = "._"  # resource forks that macOS puts into zip files


@dataclasses.dataclass(frozen=True)
class Found:
    """Result of a look-up: the file, or why there is none ("missing", "of another avatar", "ambiguous")."""

    path: Path | None
    problem: str = ""


class MediaFiles:
    """Index of the media in some folders.

    Attributes:
      folders: those that were read.
      strays: files with a medium's ending whose name follows no convention.
      ignored: how many macOS `._` files were passed over.
    """

    def __init__(self, folders: Iterable[Path] = ()):
        """Read the names in `folders` (not below them); RecordError where conventions 2 and 3 are mixed in one."""
        self.folders = list(dict.fromkeys(Path(folder) for folder in folders))
        self.strays: list[Path] = []
        self.ignored = 0
        self._files: dict[tuple[str, int, int], dict[int | None, Path]] = collections.defaultdict(dict)
        self.modalities: set[str] = set()
        for folder in self.folders:
            self._read(folder)

    def _read(self, folder: Path) -> None:
        bare: list[tuple[Path, str, int]] = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            modality = MODALITY_OF.get(path.suffix.lower())
            if entry.name.startswith(_MAC):
                self.ignored += 1
            elif modality is None or not entry.is_file():
                continue
            elif (match := _NAME.fullmatch(path.stem)) is None:
                self.strays.append(path)
            elif match["avatar"] is None:
                bare.append((path, match["conversation"], int(match["index"])))
            else:
                self._add(modality, int(match["conversation"]), int(match["index"]), int(match["avatar"]), path)
        offset = _first_index(folder, bare) if bare else 0
        for path, conversation, index in bare:
            self._add(MODALITY_OF[path.suffix.lower()], int(conversation), index - offset, None, path)

    def _add(self, modality: str, conversation: int, index: int, avatar: int | None, path: Path) -> None:
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

    def all(self) -> list[tuple[str, int, int, Path]]:
        """Every indexed file: (modality, conversation number, utterance index, path)."""
        return [(*key, path) for key, named in self._files.items() for path in named.values()]

    def duplicates(self) -> list[list[Path]]:
        """Files that claim the same utterance (same conversation and index, different avatar)."""
        return [list(named.values()) for named in self._files.values() if len(named) > 1]


def _first_index(folder: Path, bare: list[tuple[Path, str, int]]) -> int:
    """The index of the first utterance in names without an avatar: 1 after the baseline's renaming, else 0."""
    submitted = next((path for path, number, index in bare if number[0] == "0" or index == 0), None)
    renamed = next((path for path, number, index in bare if len(number) < 5 or (index and index % 2 == 0)), None)
    if submitted is not None and renamed is not None:
        raise RecordError(
            f"{submitted.name} counts utterances from 0 (challenge submission), {renamed.name} from 1 (the baseline's "
            "renaming): keep the two kinds in folders of their own",
            file=str(folder),
        )
    return 1 if renamed is not None else 0
