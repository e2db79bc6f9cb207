"""What `empatheia extract` has to do: every utterance with a recording, once."""

import dataclasses
from pathlib import Path

from empatheia_jax.config import Config
from empatheia_jax.data.avamerg import available_splits, read_examples
from empatheia_jax.data.containers import Recording, UnreadableError, name_of, size_of
from empatheia_jax.data.features import content_hash


class ExtractError(ValueError):
    """An utterance whose media cannot be used: names it, its file and the reason."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One utterance to extract. `text` is what a listener says (golds are wanted), None for a speaker."""

    key: str
    audio: Recording | None
    video: Recording | None
    text: str | None


def collect_jobs(config: Config, path: Path, on_error: str) -> tuple[list[Job], int]:
    """Every utterance that has media, once, in the order of the data; and how many have none.

    Raises:
      ExtractError: when no utterance has media.
    """
    jobs: dict[str, Job] = {}
    bare: set[str] = set()
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
                    bare.add(key)
                    continue
                text = utterance.text if utterance.role == "listener" else None
                jobs.setdefault(key, Job(key, utterance.audio, utterance.video, text))
    if not jobs:
        raise ExtractError(f"{path}: none of {len(bare)} utterances has a recording: there is nothing to extract")
    return list(jobs.values()), len(bare - jobs.keys())


def source_hash(jobs: list[Job], root: Path) -> str:
    """Identity of the data: keys, texts, and the names (below `root`) and sizes of the media."""

    def identity(recording: Recording | None) -> list | None:
        if recording is None:
            return None
        try:
            return [name_of(recording, root), size_of(recording)]
        except (OSError, UnreadableError):
            return [name_of(recording, root), None]

    return content_hash([[job.key, identity(job.audio), identity(job.video), job.text] for job in jobs])
