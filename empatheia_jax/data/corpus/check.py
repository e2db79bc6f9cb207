"""`empatheia check-data PATH`: reports what a data set holds and what is wrong with it."""

import collections
import concurrent.futures
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from empatheia_jax.data.corpus import avamerg
from empatheia_jax.data.corpus.avamerg import Report, Split
from empatheia_jax.data.emotions import AVATAR_EMOTIONS, avatar_emotion
from empatheia_jax.data.media.containers import Recording
from empatheia_jax.data.media.files import MediaFiles
from empatheia_jax.data.schema import Example, Profile, Utterance
from empatheia_jax.runtime.machine import usable_cores

MAX_PLACES_SHOWN = 8
"""Number of places of one finding that the text names; the dict names all."""

SYNC_TOLERANCE_SECONDS = 0.08
"""Utterances whose voice and face differ in length by more than this are reported."""

SECONDS_BINS = tuple(float(second) for second in range(0, 31))
WORDS_BINS = tuple(float(words) for words in range(0, 82, 2))
DIFFERENCE_BINS = tuple(float(ms) for ms in range(-400, 420, 20))
"""Bin edges of the report's histograms: seconds, words, milliseconds."""


@dataclasses.dataclass
class _LoadedSplit:
    """One split as it was read, and the folders that may hold its media."""

    split: Split
    examples: list[Example]
    report: Report
    folders: tuple[Path, ...]

    def utterances(self) -> list[Utterance]:
        """Return every distinct utterance of the Examples."""
        return list(
            {
                (example.conversation_id, utterance.index, utterance.text): utterance
                for example in self.examples
                for utterance in example.utterances
            }.values()
        )


def check_data(
    path: Path | str,
    *,
    validation_share: float = 0.2,
    max_turns: int = 16,
    max_seconds: float = 60.0,
    max_megabytes: float = 50.0,
    probe: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, dict]:
    """Read all data at `path`, count what is there and list what is wrong.

    A bad record or file never ends the check: it is counted, and the place it was found at is named.

    Args:
      path: a folder of the released layout or a built dataset, or one JSON file.
      validation_share: as in `avamerg.read_examples`.
      max_turns: as in `avamerg.read_examples`.
      max_seconds: longest duration of a recording of one utterance.
      max_megabytes: largest file of one utterance.
      probe: open every media file that belongs to an utterance, for durations and unreadable files.
      progress: called with (files done, files in all) while probing.

    Returns:
      The report as text, and as plain JSON values with the keys "path", "splits", "media" and "across".

    Raises:
      RecordError: nothing can be read at all.
    """
    path = Path(path)
    splits = [
        _LoadedSplit(
            split,
            *avamerg.read_examples(
                path,
                split,
                on_error="skip",
                validation_share=validation_share,
                max_turns=max_turns,
                allow_empty=True,
            ),
            _media_folders(path, split),
        )
        for split in avamerg.available_splits(path)
    ]
    groups: dict[tuple[Path, ...], list[_LoadedSplit]] = collections.defaultdict(list)
    for loaded in splits:
        groups[loaded.folders].append(loaded)  # train and validation of one file share their media
    media = [
        _check_media(folders, group, (max_seconds, max_megabytes) if probe else None, progress)
        for folders, group in groups.items()
        if folders or any(utterance.audio or utterance.video for loaded in group for utterance in loaded.utterances())
    ]
    result = {
        "path": str(path),
        "splits": {loaded.split: _describe(loaded) for loaded in splits},
        "media": media,
        "across": _compare_with_train(splits),
    }
    return _format_report(splits, result), result


def _media_folders(path: Path, split: Split) -> tuple[Path, ...]:
    file, divided = avamerg.locate(path, split)
    if file.is_dir():
        return ()  # a built dataset: its records name their media
    return tuple(avamerg.media_folders(file, "train" if divided else split))


def _describe(loaded: _LoadedSplit) -> dict:
    """Describe one split: what was read and dropped, topics, emotions, profiles, words."""
    dialogues = {example.conversation_id: example for example in loaded.examples}.values()
    fine = collections.Counter(
        example.chain.speaker_emotion if example.chain else "unlabelled" for example in loaded.examples
    )
    classes = collections.Counter()  # the 7 avatar emotions
    for emotion, count in fine.items():
        classes[emotion if emotion == "unlabelled" else avatar_emotion(emotion)] += count
    words = [len(utterance.text.split()) for utterance in loaded.utterances()]
    return {
        **loaded.report.asdict(),
        "usable_dialogues": len(dialogues),
        "topics": _count_values(example.topic or "missing" for example in dialogues),
        "emotions": dict(fine.most_common()),
        "avatar_emotions": {name: classes[name] for name in (*AVATAR_EMOTIONS, "unlabelled") if classes[name]},
        "speakers": _count_profiles(example.speaker_profile for example in dialogues),
        "listeners": _count_profiles(example.listener_profile for example in dialogues),
        "words": {
            "mean": round(statistics.fmean(words), 2),
            "longest": max(words),
            "histogram": _histogram(words, WORDS_BINS),
        }
        if words
        else {},
    }


def _count_values(values: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(values).most_common())


def _count_profiles(profiles: Iterable[Profile | None]) -> dict[str, dict[str, int]]:
    """Count dialogues by age, gender and timbre, and the different avatars and combinations that take part."""
    known = [profile for profile in profiles if profile is not None]
    counts = {name: _count_values(getattr(profile, name) for profile in known) for name in ("age", "gender", "timbre")}
    if known:
        counts["different"] = {
            "avatars": len({profile.id for profile in known if profile.id is not None}),
            "combinations": len({(profile.age, profile.gender, profile.timbre) for profile in known}),
        }
    return counts


def _check_media(
    folders: tuple[Path, ...], splits: list[_LoadedSplit], limits: tuple[float, float] | None, progress
) -> dict:
    """List files without an utterance, utterances with several files, and what opening the files shows.

    Args:
      folders: folders and zips of the media.
      splits: the splits that share them.
      limits: largest seconds and megabytes of a file; None does not open any.
      progress: as in `check_data`.
    """
    files = MediaFiles(folders)
    utterances = [utterance for loaded in splits for utterance in loaded.utterances()]
    used = {path for utterance in utterances for path in (utterance.audio, utterance.video) if path is not None}
    result = {
        "folders": [str(folder) for folder in files.folders],
        "splits": [loaded.split for loaded in splits],
        "files": {modality: sum(kind == modality for kind, *_ in files.all()) for modality in ("audio", "video")},
        "macos_files_ignored": files.ignored,
        "names_of_no_convention": [str(path) for path in files.strays],
        "of_no_utterance": sorted(str(path) for *_, path in files.all() if path not in used),
        "several_for_one_utterance": [[str(path) for path in paths] for paths in files.duplicates()],
    }
    return result if limits is None else result | _probe(utterances, *limits, progress)


@dataclasses.dataclass
class _Measured:
    """A recording's length, or what is wrong with it ("" where nothing is) and a line that names the file."""

    seconds: float
    problem: str = ""
    message: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)


def _probe(utterances: list[Utterance], max_seconds: float, max_megabytes: float, progress) -> dict:
    """Open the media of the utterances: durations, files that cannot be used, voice and face of different length."""
    pairs = {(utterance.audio, utterance.video) for utterance in utterances if utterance.audio or utterance.video}
    videos = {video for _, video in pairs}
    todo = sorted({path for pair in pairs for path in pair if path is not None}, key=str)
    seconds: dict[Recording, float] = {}
    unusable: dict[str, list[str]] = collections.defaultdict(list)

    noted: list[str] = []

    def measure(path: Recording) -> _Measured:
        return _measure(path, path in videos, max_seconds, max_megabytes)

    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        for number, (path, result) in enumerate(zip(todo, pool.map(measure, todo), strict=True), start=1):
            noted += result.notes
            if result.problem:
                unusable[result.problem].append(result.message)
            else:
                seconds[path] = result.seconds
            if progress is not None:
                progress(number, len(todo))
    differences = {(a, v): seconds[v] - seconds[a] for a, v in pairs if a in seconds and v in seconds}
    out_of_sync = [pair for pair, difference in differences.items() if abs(difference) > SYNC_TOLERANCE_SECONDS]
    return {
        "unusable": dict(unusable),
        "read_with_a_note": noted,
        "seconds": {
            "audio": _describe_durations([length for path, length in seconds.items() if path not in videos]),
            "video": _describe_durations([length for path, length in seconds.items() if path in videos]),
        },
        "voice_and_face_differ": sorted(str(video) for _, video in out_of_sync),
        "face_minus_voice": {
            "longest": round(max(map(abs, differences.values()), default=0.0), 3),
            "histogram": _histogram([1000 * d for d in differences.values()], DIFFERENCE_BINS),
        },
    }


def _measure(path: Recording, is_video: bool, max_seconds: float, max_megabytes: float) -> _Measured:
    """Decode a recording as `extract` and `respond` do."""
    from empatheia_jax.data.media import reading  # imported late: PyAV and soundfile are needed only to open files

    measure, notes = reading.video_seconds if is_video else reading.sound_seconds, []
    try:
        length = measure(path, max_seconds=max_seconds, max_megabytes=max_megabytes, notes=notes)
    except reading.MediaError as error:
        limits = {"too large": f"over {max_megabytes:g} MB", "too long": f"over {max_seconds:g} s"}
        if error.problem in (*limits, "empty", "without sound", "without frames"):
            return _Measured(0.0, limits.get(error.problem, error.problem), str(path))
        return _Measured(0.0, "cut short" if error.problem == "cut short" else "unreadable", str(error))
    return _Measured(length, notes=notes)


def _describe_durations(values: list[float]) -> dict[str, Any]:
    if not values:
        return {"files": 0}
    exact = {
        "total": sum(values),
        "mean": statistics.fmean(values),
        "shortest": min(values),
        "longest": max(values),
    }
    rounded = {name: round(value, 3) for name, value in exact.items()}
    return {"files": len(values)} | rounded | {"histogram": _histogram(values, SECONDS_BINS)}


def _histogram(values: Sequence[float], edges: tuple[float, ...]) -> list[int]:
    """Count the values in each bin; those beyond the ends count in the outermost bins."""
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()


def _compare_with_train(splits: list[_LoadedSplit]) -> dict:
    """Count the texts and avatars of the other splits that also occur in train; a fair test shares none."""
    result = {}
    train = next((loaded for loaded in splits if loaded.split == "train"), None)
    for loaded in splits:
        if train is None or loaded is train:
            continue
        texts = {utterance.text for utterance in loaded.utterances()}
        avatars = _avatar_ids(loaded)
        result[f"{loaded.split} in train"] = {
            "texts": len(texts),
            "texts_shared": len(texts & {utterance.text for utterance in train.utterances()}),
            "avatars": len(avatars),
            "avatars_shared": len(avatars & _avatar_ids(train)),
        }
    return result


def _avatar_ids(loaded: _LoadedSplit) -> set[int]:
    profiles = [p for example in loaded.examples for p in (example.speaker_profile, example.listener_profile)]
    return {profile.id for profile in profiles if profile is not None and profile.id is not None}


def _format_report(splits: list[_LoadedSplit], result: dict) -> str:
    lines = []
    for loaded in splits:
        described = result["splits"][loaded.split]
        lines += [loaded.report.summary()]
        for title, key in (("emotions of 7", "avatar_emotions"), ("emotions of 32", "emotions"), ("topics", "topics")):
            lines.append(f"  {title}: {_join_counts(described[key])}")
        for role in ("speakers", "listeners"):
            for name, counts in described[role].items():
                if counts:
                    lines.append(f"  {role}, {name}: {_join_counts(counts)}")
        if described["words"]:
            lines.append(f"  words: {described['words']['mean']} an utterance, longest {described['words']['longest']}")
        lines.append("")
    for media in result["media"]:
        lines += [*_format_media(media), ""]
    for name, counts in result["across"].items():
        lines.append(
            f"{name}: {counts['texts_shared']} of {counts['texts']} texts, "
            f"{counts['avatars_shared']} of {counts['avatars']} avatars"
        )
    return "\n".join(lines).rstrip() + "\n"


def _format_media(media: dict) -> list[str]:
    lines = [
        f"media of {' and '.join(media['splits'])}: {', '.join(media['folders'])}",
        f"  files: {_join_counts(media['files'])}; macOS ._ files passed over: {media['macos_files_ignored']}",
    ]
    findings = {
        "names of no convention": media["names_of_no_convention"],
        "of no utterance": media["of_no_utterance"],
        "several for one utterance": [" = ".join(paths) for paths in media["several_for_one_utterance"]],
        **media.get("unusable", {}),
        "read with a note": media.get("read_with_a_note", []),
        f"voice and face differ by more than {SYNC_TOLERANCE_SECONDS:g} s": media.get("voice_and_face_differ", []),
    }
    for finding, places in findings.items():
        if places:
            more = f" and {len(places) - MAX_PLACES_SHOWN} more" if len(places) > MAX_PLACES_SHOWN else ""
            lines.append(f"  {finding}: {len(places)} ({'; '.join(places[:MAX_PLACES_SHOWN])}{more})")
    for modality, numbers in media.get("seconds", {}).items():
        shown = {name: number for name, number in numbers.items() if name != "histogram"}
        lines.append(f"  {modality}, seconds: {_join_counts(shown)}")
    return lines


def _join_counts(counts: dict) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
