"""`empatheia build-data`: builds a TFDS dataset (`array_record`) from the released AvaMERG files, without TensorFlow.

Read it with `tfds.data_source("avamerg", data_dir=DIR)` once this module is imported, with
`tfds.builder_from_directory(DIR/avamerg/1.0.0).as_data_source("train")`, or give its folder as `data.path`.
`tfds.load` and `as_dataset` make `tf.data` pipelines, which need TensorFlow.
"""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds

from empatheia_jax.data.corpus import avamerg
from empatheia_jax.data.corpus.avamerg import Report
from empatheia_jax.data.corpus.tfds_records import CHAIN, NAME, to_record
from empatheia_jax.data.media.containers import Recording
from empatheia_jax.data.schema import Example, RecordError
from empatheia_jax.runtime import signals

CARD = "CARD.md"

_DESCRIPTION = """AvaMERG: multimodal empathetic dialogues, each utterance spoken and shown by an avatar (Zhang et al.,
"Towards Multimodal Empathetic Response Generation: A Rich Text-Speech-Vision Avatar-based Benchmark", WWW 2025).
One record is one dialogue."""

_LICENCE = """No licence of AvaMERG's own text, speech and video was found: ask its authors before any use but research.
Utterances from EmpatheticDialogues (Rashkin et al., ACL 2019): CC BY-NC 4.0."""

_CITATION = """@inproceedings{zhang2025avamerg,
  title={Towards Multimodal Empathetic Response Generation: A Rich Text-Speech-Vision Avatar-based Benchmark},
  author={Zhang, Han and Meng, Zixiang and Luo, Meng and Han, Hong and Liao, Lizi and Cambria, Erik and Fei, Hao},
  booktitle={Proceedings of the ACM on Web Conference 2025},
  year={2025}
}"""


class Avamerg(tfds.core.GeneratorBasedBuilder):
    """The builder: one record for each dialogue, in the order of the released JSON; fields as in `tfds_records`.

    Args:
      source: folder of the released layout; empty for TFDS's `manual_dir`.
      embed_media: copy the recordings into the records, instead of naming where they are.
      on_error: "skip" counts bad records and unreadable media and goes on; "stop" raises at the first.
      validation_share: as in `avamerg.read_examples`.
      max_turns: as in `avamerg.read_examples`.
      **kwargs: arguments of TFDS's own builder, such as `data_dir`.

    Attributes:
      reports: what was read and dropped, a report for each split.
      not_embedded: {"recording", "error"} of each recording that was left out.
    """

    name = NAME
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the released files (train.json, train_audio.zip, ...) into the folder."

    def __init__(
        self,
        *,
        source: Path | str = "",
        embed_media: bool = False,
        on_error: Literal["stop", "skip"] = "stop",
        validation_share: float = 0.2,
        max_turns: int = 16,
        **kwargs,
    ):
        self._source, self._embed = str(source), embed_media
        self._read_options: dict[str, Any] = {
            "on_error": on_error,
            "validation_share": validation_share,
            "max_turns": max_turns,
        }
        self.reports: list[Report] = []
        self.not_embedded: list[dict] = []
        super().__init__(**{"file_format": "array_record"} | kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text, number = tfds.features.Text(), np.int32
        profile = {"age": text, "gender": text, "timbre": text, "ID": number}
        media = {"index": number, "modality": text, "archive": text, "file": text}
        turn = {"turn_id": number, "context": text, "response": text, "response_index": number}
        history = {"turn_id": number, "index": number, "role": text, "utterance": text}
        features = tfds.features.FeaturesDict(
            {
                "conversation_id": text,
                "topic": text,
                "speaker_profile": profile,
                "listener_profile": profile,
                "turns": tfds.features.Sequence(turn | dict.fromkeys(CHAIN, text)),
                "history": tfds.features.Sequence(history),
                "media": tfds.features.Sequence(media | {"content": tfds.features.Tensor(shape=(), dtype=np.object_)}),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=features,
            license=_LICENCE,
            citation=_CITATION,
            metadata=tfds.core.MetadataDict(root=str(Path(self._source).absolute()), embed_media=self._embed),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = Path(self._source or dl_manager.manual_dir).absolute()
        _metadata(self)["root"] = str(root)
        splits = {}
        for split in avamerg.available_splits(root):
            examples, report = avamerg.read_examples(root, split, **self._read_options)
            self.reports.append(report)
            if examples:
                splits[split] = self._generate_examples(examples, root)
        return splits

    def _generate_examples(self, examples: list[Example], root: Path):
        dialogues = itertools.groupby(examples, key=lambda example: example.conversation_id)
        for number, (_, turns) in enumerate(dialogues):
            yield number, self._record(list(turns), root)

    def _record(self, turns: list[Example], root: Path) -> dict:
        """Return a dialogue's record; recordings that cannot be embedded are left out and listed, or stop the build."""
        from empatheia_jax.data.media.reading import MediaError, sound_seconds, video_seconds

        def is_readable(recording: Recording, measure: Callable[[Recording], float]) -> bool:
            try:
                measure(recording)
            except MediaError as error:
                if self._read_options["on_error"] == "stop":
                    raise RecordError(f"{error} (go on without it: --on-error skip)") from error
                self.not_embedded.append({"recording": str(recording), "error": str(error)})
                return False
            return True

        unreadable: set[Recording] = set()
        if self._embed:
            utterances = [utterance for turn in turns for utterance in turn.utterances]
            heard = {utterance.audio for utterance in utterances if utterance.audio is not None}
            seen = {utterance.video for utterance in utterances if utterance.video is not None}
            for recordings, measure in ((heard, sound_seconds), (seen, video_seconds)):
                unreadable |= {r for r in sorted(recordings, key=str) if not is_readable(r, measure)}
        return to_record(turns, root, self._embed, unreadable)


def build(
    source: Path | str,
    output: Path | str,
    *,
    embed_media: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
    validation_share: float = 0.2,
) -> tuple[Path, str]:
    """Build the dataset below `output` and write its card.

    An interrupted build leaves nothing that would be read as a dataset.

    Args:
      source: folder of the released layout.
      output: folder that the dataset is written into, as `avamerg/VERSION`.
      embed_media: copy the recordings into the records, instead of naming where they are.
      on_error: "skip" counts bad records and unreadable media and goes on; "stop" raises at the first.
      validation_share: as in `avamerg.read_examples`.

    Returns:
      The folder of the dataset, and the counts of its card as text.

    Raises:
      RecordError: nothing to read, a bad record or recording ("stop"), or a dataset that is there already.
    """
    builder = Avamerg(
        source=source,
        embed_media=embed_media,
        on_error=on_error,
        validation_share=validation_share,
        data_dir=str(output),
    )
    folder = Path(builder.data_dir)
    if folder.exists():
        raise RecordError("a dataset is there already: choose another --output, or delete it", file=str(folder))
    before = _incomplete(folder)
    with signals.removed_on_end(lambda: [shutil.rmtree(path) for path in _incomplete(folder) - before]):
        manual = tfds.download.DownloadConfig(manual_dir=str(Path(source).absolute()))
        builder.download_and_prepare(download_config=manual)
    statistics = "\n".join(report.summary() for report in builder.reports)
    if builder.not_embedded:
        lines = [f"  {entry['error']}" for entry in builder.not_embedded]
        statistics += f"\nnot embedded: {len(lines)} recordings\n" + "\n".join(lines)
    (folder / CARD).write_text(_format_card(builder, statistics), encoding="utf-8")
    return folder, statistics


def _incomplete(folder: Path) -> set[Path]:
    """Return the folders that TFDS writes into, beside `folder`, until a dataset is complete."""
    return set(folder.parent.glob("incomplete.*"))


def _metadata(builder: Avamerg) -> dict:
    assert builder.info.metadata is not None  # `_info` gives it
    return builder.info.metadata


def _format_card(builder: Avamerg, statistics: str) -> str:
    media = "their bytes are in the records" if _metadata(builder)["embed_media"] else "by reference"
    splits = "\n".join(f"| {name} | {split.num_examples} |" for name, split in builder.info.splits.items())
    return f"""# AvaMERG {builder.version}

{_DESCRIPTION}

Built from `{_metadata(builder)["root"]}`. Recordings: {media}.

| split | dialogues |
|---|---|
{splits}

Validation is a share of the training conversations, by the hash of their ids, unless there is an official one.

## What was read and dropped

```
{statistics}
```

## Licence

{_LICENCE}

## Citation

```
{_CITATION}
```
"""
