"""The feature store: what frozen networks say about each utterance, computed once (DESIGN decision 4).

A store is a folder:

    manifest.json          what it was made with, from what, and whether it is complete
    shard-00000.array_record   records; written under another name and renamed when whole
    shard-00000.json       its keys and what was rejected; written before the shard gets its name
    index.json             all keys in order, written when the last shard is there

    shard-00000.journal    what is done of a shard that is not whole yet

A shard that has its name is finished, and its journal holds what is done of one that is not: a run killed at any moment
goes on with what is missing.
An utterance is a dict of arrays: `audio` [Na, Da] and `video` [Nv, Dv] features, and for the listener's utterances the
golds `content_speech` [P, Cs], `content_video` [F, Cv], `style_speech` [Ss], `style_video` [Sv], `phonemes` [P],
`phoneme_frames` [P]; what could not be had is absent. Where there are both golds of content, they are a record of their
own after the utterance's first: they are most of its bytes, and not every stage reads them.
"""

import hashlib
import itertools
import json
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from empatheia_jax.data.feature_records import FLOATS, StoreError, unpack_record

FORMAT = 2
STYLE_FRAMES = 24  # frames, spread evenly, from which S_video is measured; three for each of the 8 that are encoded
MAX_SIDE = 512  # pixels; larger videos are scaled down when they are read


def store_settings(encoders: Mapping, speech, face, floats: str = "float16") -> dict:
    """What a store's content depends on besides the data: the encoders' settings and the generators' identity.

    Args:
      encoders: modality -> ModalityEncoder.
      speech, face: SpeechGenerator and FaceGenerator. A `version` attribute, where one has it, tells golds made before
        a change of its content or style from those made after; an `identity`, with which weights; `golds_of` is the
        name of another generator that makes the same golds.
      floats: what floats are stored as, one of `FLOATS`.
    """

    def generator(one) -> dict:
        named = {"name": getattr(one, "golds_of", one.name)}
        named |= {field: getattr(one, field) for field in ("content_dim", "style_dim")}
        return named | {"version": getattr(one, "version", 1)} | getattr(one, "identity", {})

    return {
        "floats": floats,
        "reading": {"style_frames": STYLE_FRAMES, "max_side": MAX_SIDE},
        "encoders": {modality: encoder.settings() for modality, encoder in sorted(encoders.items())},
        "speech": generator(speech),
        "face": generator(face),
    }


def expected_settings(encoders: Mapping, speech: Mapping, face: Mapping) -> dict:
    """The part of `store_settings` that is known without the generators: for `FeatureStore`, which compares parts.

    Args:
      encoders: modality -> ModalityEncoder.
      speech, face: "name" (of `config.generators`), and of the generator's `identity` what is known: a machine that
        trains need not have the generators' weights.
    """
    return {
        "encoders": {modality: encoder.settings() for modality, encoder in sorted(encoders.items())},
        "speech": dict(speech),
        "face": dict(face),
    }


def content_hash(value) -> str:
    """SHA-256 of a JSON value, keys sorted: 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}.array_record"


def read_manifest(directory: Path) -> dict:
    """The manifest of the store in a folder; StoreError where there is none, or one of another format."""
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{directory}: no feature store here: make one with `empatheia extract`") from None
    except ValueError as error:
        raise StoreError(f"{path}: not readable as JSON ({error}): delete the folder and extract again") from error
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{path}: store format {manifest.get('format')}, this version reads {FORMAT}: extract again")
    return manifest


def check_settings(directory: Path, manifest: dict, settings: dict) -> None:
    """Raise StoreError, with the differences, where a store was made otherwise than `settings` (or a part) say."""
    differences = "; ".join(_differences(manifest["settings"], settings))
    if differences:
        raise StoreError(
            f"{directory}: these features were made with other settings ({differences}): delete the folder or choose "
            "another, and extract again"
        )


def _differences(stored, wanted, name="") -> list[str]:
    """Each leaf of `wanted` that `stored` has otherwise, as "encoders.audio.version 1, wanted 2"."""
    if not (isinstance(stored, dict) and isinstance(wanted, dict)):
        return [] if stored == wanted else [f"{name} {stored}, wanted {wanted}"]
    found = []
    for key in sorted(wanted):
        found += _differences(stored.get(key), wanted[key], f"{name}.{key}" if name else key)
    return found


class FeatureStore:
    """A complete store, read by key. May be pickled (each process opens its own readers) and shared by threads."""

    def __init__(self, directory: Path | str, settings: dict | None = None):
        """Open a store.

        Args:
          directory: the store's folder.
          settings: what the features are expected to have been made with: `store_settings`, or any part of it such as
            `expected_settings`; None: anything.
        Raises:
          StoreError: when there is no store, it is incomplete, damaged, or was made with other settings.
        """
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        if settings is not None:
            check_settings(self.directory, self.manifest, settings)
        total = self.manifest["shards"]
        if not self.manifest["complete"]:
            done = sum((self.directory / shard_name(i)).exists() for i in range(total))
            raise StoreError(
                f"{self.directory}: extraction was interrupted after {done} of {total} shards: run `empatheia extract` "
                "again with the same settings, it goes on where it stopped"
            )
        index = json.loads((self.directory / "index.json").read_text(encoding="utf-8"))
        for shard, size in enumerate(index["bytes"]):
            path = self.directory / shard_name(shard)
            if not path.exists() or path.stat().st_size != size:
                raise StoreError(f"{path}: missing or cut short: run `empatheia extract` again, it makes it anew")
        self._where: dict[str, tuple[int, int]] = {}  # (shard, first record)
        for shard, (keys, sizes) in enumerate(zip(index["keys"], index["sizes"], strict=True)):
            first = itertools.accumulate((1 if size is None else 2 for size in sizes), initial=0)
            self._where.update({key: (shard, row) for key, row in zip(keys, first, strict=False)})
        self.keys: tuple[str, ...] = tuple(self._where)
        self._sizes = dict(zip(self.keys, itertools.chain.from_iterable(index["sizes"]), strict=True))
        self._readers: dict[int, object] = {}
        self._lock = threading.Lock()

    @property
    def settings(self) -> dict:
        return self.manifest["settings"]

    @property
    def dtype(self) -> np.dtype:
        """What floats are stored, and given, as."""
        return FLOATS[self.settings["floats"]]

    @property
    def counts(self) -> dict:
        """What `empatheia extract` counted."""
        return self.manifest["counts"]

    def feature_shape(self, modality: str) -> tuple[int, int]:
        """(N, D) of "audio" or "video" features."""
        return tuple(self.settings["encoders"][modality]["shape"])

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of one utterance as they are stored (`dtype`, int32; not to be written to).

        Raises:
          KeyError: when the store has nothing of it (its media were missing or rejected).
          StoreError: when the record read is another one: the shard was exchanged.
        """
        return self._read(key, content=True)

    def get(self, key: str, content: bool = True) -> dict[str, np.ndarray] | None:
        """The arrays of one utterance, or None where the store has nothing of it; without `content` fewer bytes."""
        return self._read(key, content) if key in self else None

    def _read(self, key: str, content: bool) -> dict[str, np.ndarray]:
        shard, row = self._where[key]
        rows = [row, row + 1] if content and self._sizes[key] is not None else [row]
        arrays: dict[str, np.ndarray] = {}
        for record in self._reader(shard).read(rows):
            found, part = unpack_record(record)
            if found != key:
                raise StoreError(f"{self.directory / shard_name(shard)}: holds {found} where {key} should be")
            arrays |= part
        return arrays

    def sizes(self, key: str) -> tuple[int, int] | None:
        """(P, F): phonemes and video frames of an utterance's golds, without reading them; None: it has none."""
        size = self._sizes.get(key)
        return None if size is None else (size[0], size[1])

    def _reader(self, shard: int):
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if shard not in self._readers:
                path = str(self.directory / shard_name(shard))
                # No read-ahead: access is random.
                self._readers[shard] = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
            return self._readers[shard]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_readers", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _readers={}, _lock=threading.Lock())


class MixedStores:
    """The stores of several corpora as one: a key of a corpus that is mixed in begins with its name and a slash."""

    def __init__(self, main: FeatureStore, mixed: Mapping[str, FeatureStore | None]):
        """`mixed`: name -> store; None is a corpus without features."""
        self.main, self.mixed = main, dict(mixed)

    @property
    def settings(self) -> dict:
        """Of the main store: the others were opened with the same expectations."""
        return self.main.settings

    @property
    def dtype(self) -> np.dtype:
        """As `FeatureStore.dtype`."""
        return self.main.dtype

    def feature_shape(self, modality: str) -> tuple[int, int]:
        """As `FeatureStore.feature_shape`."""
        return self.main.feature_shape(modality)

    def _find(self, key: str) -> tuple[FeatureStore | None, str]:
        name, _, rest = key.partition("/")
        return (self.mixed[name], rest) if name in self.mixed else (self.main, key)

    def get(self, key: str, content: bool = True) -> dict[str, np.ndarray] | None:
        """As `FeatureStore.get`."""
        store, key = self._find(key)
        return store.get(key, content) if store is not None else None

    def sizes(self, key: str) -> tuple[int, int] | None:
        """As `FeatureStore.sizes`."""
        store, key = self._find(key)
        return store.sizes(key) if store is not None else None
