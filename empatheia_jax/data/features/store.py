"""The feature store: the frozen networks' outputs for each utterance, computed once.

A store is a folder:

    manifest.json             settings it was made with, hash of its data, whether it is complete
    shard-00000.array_record  records; written under another name and renamed when complete
    shard-00000.json          its keys and what was rejected; written before the shard gets its name
    shard-00000.journal       the finished utterances of a shard that is not complete yet
    index.json                all keys in order, written after the last shard

A shard that has its name is complete, so an extraction that was killed at any moment continues with what is missing.

An utterance is a dict of arrays: `audio` [Na, Da] and `video` [Nv, Dv] features, and for the listener's utterances the
golds `content_speech` [P, Cs], `content_video` [F, Cv], `style_speech` [Ss], `style_video` [Sv], `phonemes` [P],
`phoneme_frames` [P]; what could not be computed is absent. Where an utterance has both golds of content, they are a
second record of their own: they are most of its bytes, and not every stage reads them.
"""

import hashlib
import itertools
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from empatheia_jax.data.features.records import FLOAT_DTYPES, StoreError, unpack_record
from empatheia_jax.runtime.json_files import read_json

FORMAT = 2
STYLE_FRAMES = 24  # frames, spread evenly, from which S_video is measured; three for each of the 8 that are encoded
MAX_SIDE = 512  # pixels; larger videos are scaled down when they are read


def store_settings(encoders: Mapping, speech, face, float_dtype: str = "float16") -> dict:
    """Return all that a store's arrays depend on besides the data: encoder settings and generator identities.

    Optional attributes of a generator: `version` tells golds made before a change of its content or style from those
    made after, `identity` those of other weights; `target_backend` names another generator that makes the same golds.

    Args:
      encoders: modality -> ModalityEncoder.
      speech: the SpeechGenerator.
      face: the FaceGenerator.
      float_dtype: in which floats are stored, one of `FLOAT_DTYPES`.
    """

    def describe(generator) -> dict:
        described = {"name": getattr(generator, "target_backend", generator.name)}
        described |= {field: getattr(generator, field) for field in ("content_dim", "style_dim")}
        return described | {"version": getattr(generator, "version", 1)} | getattr(generator, "identity", {})

    return {
        "floats": float_dtype,
        "reading": {"style_frames": STYLE_FRAMES, "max_side": MAX_SIDE},
        "encoders": {modality: encoder.settings() for modality, encoder in sorted(encoders.items())},
        "speech": describe(speech),
        "face": describe(face),
    }


def expected_settings(encoders: Mapping, speech: Mapping, face: Mapping) -> dict:
    """Return the part of `store_settings` that is known without the generators, for `FeatureStore` to compare.

    A machine that trains need not have the generators' weights.

    Args:
      encoders: modality -> ModalityEncoder.
      speech: the speech generator's "name" (of `config.generators`) and the known part of its `identity`.
      face: likewise of the face generator.
    """
    return {
        "encoders": {modality: encoder.settings() for modality, encoder in sorted(encoders.items())},
        "speech": dict(speech),
        "face": dict(face),
    }


def content_hash(value) -> str:
    """Return the SHA-256 of a JSON value with sorted keys: 64 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def shard_name(index: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{index:05d}.array_record"


def read_manifest(directory: Path) -> dict:
    """Read the manifest of the store in a folder; StoreError where there is none, or one of another format."""
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
    """Raise StoreError, naming the differences, where a store's settings are not `settings` (all or a part of them)."""
    differences = settings_differences(manifest["settings"], settings)
    if differences:
        raise StoreError(
            f"{directory}: these features were made with other settings ({differences}): delete the folder or choose "
            "another, and extract again"
        )


def settings_differences(stored: dict, expected: dict) -> str:
    """Name where `expected`, `store_settings` or a part of them, differs from those of a store; "" where nowhere."""
    return "; ".join(_differences(stored, expected))


def _differences(stored, expected, name="") -> list[str]:
    """Return each leaf of `expected` that differs in `stored`, as "encoders.audio.version 1, wanted 2"."""
    if not (isinstance(stored, dict) and isinstance(expected, dict)):
        return [] if stored == expected else [f"{name} {stored}, wanted {expected}"]
    differences = []
    for key in sorted(expected):
        differences += _differences(stored.get(key), expected[key], f"{name}.{key}" if name else key)
    return differences


class FeatureStore:
    """A complete store, read by key. It can be pickled (each process opens its own readers) and shared by threads."""

    def __init__(self, directory: Path | str, settings: dict | None = None):
        """Open a store.

        Args:
          directory: the store's folder.
          settings: that the features must have been made with: `store_settings`, or any part of it such as
            `expected_settings`; None: any.

        Raises:
          StoreError: there is no store, or it is incomplete, damaged, or made with other settings.
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
        index = read_json(self.directory / "index.json")
        for shard, size in enumerate(index["bytes"]):
            path = self.directory / shard_name(shard)
            if not path.exists() or path.stat().st_size != size:
                raise StoreError(f"{path}: missing or cut short: run `empatheia extract` again, it makes it anew")
        self._locations: dict[str, tuple[int, int]] = {}  # (shard, first record)
        for shard, (keys, sizes) in enumerate(zip(index["keys"], index["sizes"], strict=True)):
            first = itertools.accumulate((1 if size is None else 2 for size in sizes), initial=0)
            self._locations.update({key: (shard, record) for key, record in zip(keys, first, strict=False)})
        self.keys: tuple[str, ...] = tuple(self._locations)
        self._gold_sizes = dict(zip(self.keys, itertools.chain.from_iterable(index["sizes"]), strict=True))
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    @property
    def settings(self) -> dict:
        """The settings that the store was made with."""
        return self.manifest["settings"]

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which floats are stored and returned."""
        return FLOAT_DTYPES[self.settings["floats"]]

    def feature_shape(self, modality: str) -> tuple[int, int]:
        """Return (N, D) of "audio" or "video" features."""
        return tuple(self.settings["encoders"][modality]["shape"])

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: str) -> bool:
        return key in self._locations

    def __getitem__(self, key: str) -> dict[str, np.ndarray]:
        """Return the arrays of one utterance in `dtype` and int32, read-only.

        Raises:
          KeyError: the store has no such utterance (its media were missing or rejected).
          StoreError: the record has another key: the shard was exchanged.
        """
        return self._read(key, content=True)

    def get(self, key: str, content: bool = True) -> dict[str, np.ndarray] | None:
        """Return the arrays of one utterance, or None where the store has none; `content` False skips content golds."""
        return self._read(key, content) if key in self else None

    def _read(self, key: str, content: bool) -> dict[str, np.ndarray]:
        shard, first = self._locations[key]
        records = [first, first + 1] if content and self._gold_sizes[key] is not None else [first]
        arrays: dict[str, np.ndarray] = {}
        for record in self._reader(shard).read(records):
            stored_key, part = unpack_record(record)
            if stored_key != key:
                raise StoreError(f"{self.directory / shard_name(shard)}: holds {stored_key} where {key} should be")
            arrays |= part
        return arrays

    def gold_sizes(self, key: str) -> tuple[int, int] | None:
        """Return (P, F), phonemes and video frames of an utterance's golds, without reading them; None: it has none."""
        size = self._gold_sizes.get(key)
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
    """The stores of several corpora as one: the keys of a mixed-in corpus begin with its name and a slash."""

    def __init__(self, main: FeatureStore, mixed: Mapping[str, FeatureStore | None]):
        """Join stores.

        Args:
          main: of the corpus whose keys have no prefix.
          mixed: name -> store of a mixed-in corpus; None is a corpus without features.
        """
        self.main, self.mixed = main, dict(mixed)

    @property
    def settings(self) -> dict:
        """The settings of the main store; the others were opened with the same expected settings."""
        return self.main.settings

    @property
    def dtype(self) -> np.dtype:
        """See `FeatureStore.dtype`."""
        return self.main.dtype

    def feature_shape(self, modality: str) -> tuple[int, int]:
        """See `FeatureStore.feature_shape`."""
        return self.main.feature_shape(modality)

    def _find(self, key: str) -> tuple[FeatureStore | None, str]:
        name, _, rest = key.partition("/")
        return (self.mixed[name], rest) if name in self.mixed else (self.main, key)

    def get(self, key: str, content: bool = True) -> dict[str, np.ndarray] | None:
        """See `FeatureStore.get`."""
        store, key = self._find(key)
        return store.get(key, content) if store is not None else None

    def gold_sizes(self, key: str) -> tuple[int, int] | None:
        """See `FeatureStore.gold_sizes`."""
        store, key = self._find(key)
        return store.gold_sizes(key) if store is not None else None
