"""What a data set holds and what is wrong with it: the report of `empatheia check-data PATH`."""

import collections
import concurrent.futures
import dataclasses
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from empatheia_jax.data import avamerg
from empatheia_jax.data.avamerg import Report, Split
from empatheia_jax.data.containers import Recording, UnreadableError, size_of
from empatheia_jax.data.emotions import AVATAR_EMOTIONS, avatar_emotion
from empatheia_jax.data.media_files import MediaFiles
from empatheia_jax.data.schema import Example, Profile, Utterance
from empatheia_jax.machine import usable_cores

SHOWN = 8
"""How many places of one finding the text names; the dict names all."""

APART_SECONDS = 0.08
"""Voice and face of an utterance that differ by more are counted."""

SECONDS_BINS = tuple(float(second) for second in range(0, 31))
WORDS_BINS = tuple(float(words) for words in range(0, 82, 2))
DIFFERENCE_BINS = tuple(float(ms) for ms in range(-400, 420, 20))
"""Edges of the report's histograms: seconds, words, milliseconds."""


@dataclasses.dataclass
class _Part:
    """One split as it was read."""

    split: Split
    examples: list[Example]
    report: Report
    folders: tuple[Path, ...]

    def utterances(self) -> list[Utterance]:
        """Every distinct utterance of the Examples."""
        return list(
            {
                (example.conversation_id, said.index, said.text): said
                for example in self.examples
                for said in example.utterances
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
    """Read everything at `path` (a folder of the released layout or a built dataset, or one JSON file), and count.

    Nothing ends it: what cannot be read is counted with the place it was found at.

    Args:
      validation_share, max_turns: as in `avamerg.read_examples`.
      max_seconds, max_megabytes: limits of the media of one utterance.
      probe: open every media file that belongs to an utterance (durations, unreadable files).
      progress: told (files done, files in all) while probing.

    Returns:
      (text for a person, the same as plain JSON values: "splits", "media", "across").

    Raises:
      RecordError: when nothing can be read at all.
    """
    path = Path(path)
    parts = [
        _Part(
            split,
            *avamerg.read_split(path, split, on_error="skip", validation_share=validation_share, max_turns=max_turns),
            _folders(path, split),
        )
        for split in _splits(path)
    ]
    groups: dict[tuple[Path, ...], list[_Part]] = collections.defaultdict(list)
    for part in parts:
        groups[part.folders].append(part)  # train and validation of one file share their media
    media = [
        _check_media(folders, shared, max_seconds, max_megabytes, probe, progress)
        for folders, shared in groups.items()
        if folders or any(said.audio or said.video for part in shared for said in part.utterances())
    ]
    result = {
        "path": str(path),
        "splits": {part.split: _describe(part) for part in parts},
        "media": media,
        "across": _across(parts),
    }
    return _text(parts, result), result


def _splits(path: Path) -> list[Split]:
    """The splits that can be read at `path`; RecordError where there are none."""
    if path.is_file():
        stem = path.stem.lower()
        if stem.startswith("val"):
            return ["validation"]
        if stem.startswith("v_test") or not _has_responses(path):
            return ["test"]
    return avamerg.available_splits(path)


def _has_responses(file: Path) -> bool:
    """Whether any turn of a JSON file carries a gold response."""
    for raw in avamerg.load_dialogues(file):
        turns = raw.get("turns") if isinstance(raw, dict) else None
        if any(isinstance(turn, dict) and turn.get("response") for turn in turns or ()):
            return True
    return False


def _folders(path: Path, split: Split) -> tuple[Path, ...]:
    file, divided = avamerg.locate(path, split)
    if file.is_dir():
        return ()  # a built dataset: its records name their media
    return tuple(avamerg.media_folders(file, "train" if divided else split))


def _describe(part: _Part) -> dict:
    """Counts of one split: what was read and dropped, topics, emotions, profiles, words."""
    dialogues = {example.conversation_id: example for example in part.examples}.values()
    fine = collections.Counter(
        example.chain.speaker_emotion if example.chain else "unlabelled" for example in part.examples
    )
    seven = collections.Counter()
    for emotion, count in fine.items():
        seven[emotion if emotion == "unlabelled" else avatar_emotion(emotion)] += count
    words = [len(utterance.text.split()) for utterance in part.utterances()]
    return {
        **part.report.asdict(),
        "usable_dialogues": len(dialogues),
        "topics": _counts(example.topic or "missing" for example in dialogues),
        "emotions": dict(fine.most_common()),
        "avatar_emotions": {name: seven[name] for name in (*AVATAR_EMOTIONS, "unlabelled") if seven[name]},
        "speakers": _profiles(example.speaker_profile for example in dialogues),
        "listeners": _profiles(example.listener_profile for example in dialogues),
        "words": {
            "mean": round(statistics.fmean(words), 2),
            "longest": max(words),
            "histogram": _histogram(words, WORDS_BINS),
        }
        if words
        else {},
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(values).most_common())


def _profiles(profiles: Iterable[Profile | None]) -> dict[str, dict[str, int]]:
    """Dialogues by age, gender, timbre, and how many avatars and combinations take part."""
    known = [profile for profile in profiles if profile is not None]
    by = {name: _counts(getattr(profile, name) for profile in known) for name in ("age", "gender", "timbre")}
    if known:
        by["different"] = {
            "avatars": len({profile.id for profile in known if profile.id is not None}),
            "combinations": len({(profile.age, profile.gender, profile.timbre) for profile in known}),
        }
    return by


def _check_media(folders, parts: list[_Part], max_seconds, max_megabytes, probe, progress) -> dict:
    """Files without an utterance, utterances with several files, and what opening the files shows."""
    files = MediaFiles(folders)
    utterances = [utterance for part in parts for utterance in part.utterances()]
    used = {path for utterance in utterances for path in (utterance.audio, utterance.video) if path is not None}
    result = {
        "folders": [str(folder) for folder in files.folders],
        "splits": [part.split for part in parts],
        "files": {modality: sum(kind == modality for kind, *_ in files.all()) for modality in ("audio", "video")},
        "macos_files_ignored": files.ignored,
        "names_of_no_convention": [str(path) for path in files.strays],
        "of_no_utterance": sorted(str(path) for *_, path in files.all() if path not in used),
        "several_for_one_utterance": [[str(path) for path in same] for same in files.duplicates()],
    }
    return result | _probe(utterances, max_seconds, max_megabytes, progress) if probe else result


def _probe(utterances: list[Utterance], max_seconds: float, max_megabytes: float, progress) -> dict:
    """Open the media of the utterances: durations, files that cannot be used, voices and faces that differ."""
    pairs = {(said.audio, said.video) for said in utterances if said.audio or said.video}
    videos = {video for _, video in pairs}
    todo = sorted({path for pair in pairs for path in pair if path is not None}, key=str)
    seconds: dict[Recording, float] = {}
    bad: dict[str, list[str]] = collections.defaultdict(list)

    def measure(path: Recording) -> tuple[float, str, str]:
        return _measure(path, path in videos, max_seconds, max_megabytes)

    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        for number, (path, found) in enumerate(zip(todo, pool.map(measure, todo), strict=True), start=1):
            length, problem, message = found
            if problem:
                bad[problem].append(message)
            else:
                seconds[path] = length
            if progress is not None:
                progress(number, len(todo))
    differences = {(a, v): seconds[v] - seconds[a] for a, v in pairs if a in seconds and v in seconds}
    apart = [pair for pair, difference in differences.items() if abs(difference) > APART_SECONDS]
    return {
        "unusable": dict(bad),
        "seconds": {
            "audio": _durations([length for path, length in seconds.items() if path not in videos]),
            "video": _durations([length for path, length in seconds.items() if path in videos]),
        },
        "voice_and_face_differ": sorted(str(video) for _, video in apart),
        "face_minus_voice": {
            "longest": round(max(map(abs, differences.values()), default=0.0), 3),
            "histogram": _histogram([1000 * d for d in differences.values()], DIFFERENCE_BINS),
        },
    }


def _measure(path: Recording, is_video: bool, max_seconds: float, max_megabytes: float) -> tuple[float, str, str]:
    """(seconds, what is wrong or "", a line that names the file)."""
    from empatheia_jax.data import media  # PyAV and soundfile: only where files are opened

    try:
        size = size_of(path)
    except (OSError, UnreadableError) as error:
        return 0.0, "unreadable", str(error)
    if size == 0:
        return 0.0, "empty", str(path)
    if size > max_megabytes * 1e6:
        return 0.0, f"over {max_megabytes:g} MB", str(path)
    try:
        length = media.duration(path)[is_video]  # (sound, pictures)
    except media.MediaError as error:
        return 0.0, "unreadable", str(error)
    if length <= 0:
        return 0.0, "without frames" if is_video else "without sound", str(path)
    return length, f"over {max_seconds:g} s" if length > max_seconds else "", str(path)


def _durations(values: list[float]) -> dict[str, float]:
    if not values:
        return {"files": 0}
    statistic = {
        "total": sum(values),
        "mean": statistics.fmean(values),
        "shortest": min(values),
        "longest": max(values),
    }
    rounded = {name: round(value, 3) for name, value in statistic.items()}
    return {"files": len(values)} | rounded | {"histogram": _histogram(values, SECONDS_BINS)}


def _histogram(values: list[float], edges: tuple[float, ...]) -> list[int]:
    """How many values are in each bin; what is beyond the ends counts in the outermost."""
    return np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].tolist()


def _across(parts: list[_Part]) -> dict:
    """What the splits share and a fair test should not: whole utterances and avatars of train."""
    result = {}
    train = next((part for part in parts if part.split == "train"), None)
    for part in parts:
        if train is None or part is train:
            continue
        texts = {said.text for said in part.utterances()}
        avatars = _avatars(part)
        result[f"{part.split} in train"] = {
            "texts": len(texts),
            "texts_shared": len(texts & {said.text for said in train.utterances()}),
            "avatars": len(avatars),
            "avatars_shared": len(avatars & _avatars(train)),
        }
    return result


def _avatars(part: _Part) -> set[int]:
    profiles = (profile for example in part.examples for profile in (example.speaker_profile, example.listener_profile))
    return {profile.id for profile in profiles if profile is not None and profile.id is not None}


def _text(parts: list[_Part], result: dict) -> str:
    lines = []
    for part in parts:
        described = result["splits"][part.split]
        lines += [part.report.summary()]
        for title, key in (("emotions of 7", "avatar_emotions"), ("emotions of 32", "emotions"), ("topics", "topics")):
            lines.append(f"  {title}: {_listed(described[key])}")
        for role in ("speakers", "listeners"):
            for name, counts in described[role].items():
                if counts:
                    lines.append(f"  {role}, {name}: {_listed(counts)}")
        if described["words"]:
            lines.append(f"  words: {described['words']['mean']} an utterance, longest {described['words']['longest']}")
        lines.append("")
    for media in result["media"]:
        lines += [*_media_text(media), ""]
    for name, shared in result["across"].items():
        lines.append(
            f"{name}: {shared['texts_shared']} of {shared['texts']} texts, "
            f"{shared['avatars_shared']} of {shared['avatars']} avatars"
        )
    return "\n".join(lines).rstrip() + "\n"


def _media_text(media: dict) -> list[str]:
    lines = [
        f"media of {' and '.join(media['splits'])}: {', '.join(media['folders'])}",
        f"  files: {_listed(media['files'])}; macOS ._ files passed over: {media['macos_files_ignored']}",
    ]
    findings = {
        "names of no convention": media["names_of_no_convention"],
        "of no utterance": media["of_no_utterance"],
        "several for one utterance": [" = ".join(same) for same in media["several_for_one_utterance"]],
        **media.get("unusable", {}),
        f"voice and face differ by more than {APART_SECONDS:g} s": media.get("voice_and_face_differ", []),
    }
    for finding, where in findings.items():
        if where:
            more = f" and {len(where) - SHOWN} more" if len(where) > SHOWN else ""
            lines.append(f"  {finding}: {len(where)} ({'; '.join(where[:SHOWN])}{more})")
    for modality, numbers in media.get("seconds", {}).items():
        shown = {name: number for name, number in numbers.items() if name != "histogram"}
        lines.append(f"  {modality}, seconds: {_listed(shown)}")
    return lines


def _listed(counts: dict) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
