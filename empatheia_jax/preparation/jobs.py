"""The work list of `empatheia extract`: every utterance that has a recording, once."""

import dataclasses
from pathlib import Path
from typing import Literal

from empatheia_jax.config import Config
from empatheia_jax.data.corpus.avamerg import available_splits, read_examples
from empatheia_jax.data.emotions import FINE_TO_AVATAR
from empatheia_jax.data.features.store import content_hash
from empatheia_jax.data.media.containers import Recording, UnreadableError, portable_name, size_of
from empatheia_jax.data.schema import Example, Profile

MOST_NAMED = 20  # absent recordings that an error names


class ExtractError(ValueError):
    """An extraction that cannot go on: names the utterance, its file and the reason."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One utterance to extract.

    Attributes:
      key: the utterance's key in the feature store.
      audio: recording of the voice, or None.
      video: recording of the face, or None.
      text: what a listener says, for the gold targets; None for a speaker, whose golds are not needed.
      performance: who says it and the avatar emotion, where both are known; for generators that construct a style.
    """

    key: str
    audio: Recording | None
    video: Recording | None
    text: str | None
    performance: tuple[Profile, str] | None = None


def collect_jobs(config: Config, path: Path, on_error: Literal["stop", "skip"]) -> tuple[list[Job], int]:
    """List every utterance that has media, once, in the order of the data.

    Args:
      config: how the data is read (`config.data`).
      path: what `data.avamerg.read_examples` reads.
      on_error: "stop" or "skip", as in `read_examples`.

    Returns:
      The jobs, and the number of utterances without media.

    Raises:
      ExtractError: no utterance has media.
      RecordError: a bad record of the data ("stop").
    """
    jobs: dict[str, Job] = {}
    without_media: set[str] = set()
    for split in available_splits(path):
        examples, _ = read_examples(
            path,
            split,
            on_error=on_error,
            validation_share=config.data.validation_share,
            max_turns=config.data.max_turns,
        )
        for example in examples:
            for utterance in example.utterances:
                key = example.utterance_key(utterance)
                if utterance.audio is None and utterance.video is None:
                    without_media.add(key)
                    continue
                spoken = utterance.role == "listener"
                text, performance = (utterance.text, _performance(example)) if spoken else (None, None)
                jobs.setdefault(key, Job(key, utterance.audio, utterance.video, text, performance))
    if not jobs:
        raise ExtractError(
            f"{path}: none of {len(without_media)} utterances has a recording: there is nothing to extract"
        )
    return list(jobs.values()), len(without_media - jobs.keys())


def _performance(example: Example) -> tuple[Profile, str] | None:
    """Return whose voice a listener's turn has and which avatar emotion it mirrors; None where one is not known."""
    if example.listener_profile is None or example.chain is None:
        return None
    return example.listener_profile, FINE_TO_AVATAR[example.chain.speaker_emotion]


def check_recordings(jobs: list[Job]) -> None:
    """Check that every recording is there and not empty, before days of work begin.

    Raises:
      ExtractError: some are not; names them all, up to `MOST_NAMED`.
    """
    absent = []
    for recording in (recording for job in jobs for recording in (job.audio, job.video) if recording is not None):
        try:
            if not size_of(recording):
                absent.append(f"{recording} (empty)")
        except (OSError, UnreadableError):
            absent.append(f"{recording} (not there)")
    if absent:
        more = f" and {len(absent) - MOST_NAMED} more" if len(absent) > MOST_NAMED else ""
        raise ExtractError(
            f"{len(absent)} recordings cannot be used: {', '.join(absent[:MOST_NAMED])}{more} "
            "(go on without them: --on-error skip)"
        )


def source_hash(jobs: list[Job], root: Path) -> str:
    """Hash what identifies the data: keys, texts, and the names (relative to `root`) and sizes of the media."""

    def name_and_size(recording: Recording | None) -> list | None:
        if recording is None:
            return None
        try:
            return [portable_name(recording, root), size_of(recording)]
        except (OSError, UnreadableError):
            return [portable_name(recording, root), None]

    return content_hash([[job.key, name_and_size(job.audio), name_and_size(job.video), job.text] for job in jobs])
