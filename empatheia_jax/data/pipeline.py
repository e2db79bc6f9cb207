"""Examples and stored features -> packed batches (Grain): sharded by process, addressable by step.

Grain fetches and decodes rows; their order is the packing plan's. Step s of a stage takes rows s*A*B .. (s+1)*A*B - 1,
so resuming means starting at a step, on any number of processes.
"""

import dataclasses
import threading
from collections.abc import Iterator

import grain
import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.augment import WordSwap
from empatheia_jax.data.encoded import Encoded, encode, labels, prompt_profile
from empatheia_jax.data.packing import RowLimits, RowStream, Size, check_fits
from empatheia_jax.data.prompts import Style
from empatheia_jax.data.recast import Cast, Recast
from empatheia_jax.data.schema import SYMBOL_COUNT, UNKNOWN, Batch, Example, Widths
from empatheia_jax.data.tokenizer import SIGNALS, Tokenizer

SPARE = 8  # tokens by which swapped words and another profile may be longer than what they replace


@dataclasses.dataclass
class Dropped:
    """What a batch could not hold, counted as Examples are encoded: nothing is left out silently."""

    responses_cut: int = 0  # longer than data.response_tokens: r^t is read from the first of them
    contents_too_long: int = 0  # more phonemes or frames than data.phonemes, data.frames: no content loss
    without_gold: int = 0  # no features of the response: no content or style loss

    def __str__(self) -> str:
        said = {name: count for name, count in dataclasses.asdict(self).items() if count}
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in said.items()) or "nothing dropped"


def widths_of(store) -> Widths:
    """The widths that a feature store's encoders and generators set."""
    speech, face = store.settings["speech"], store.settings["face"]
    return Widths(
        audio=tuple(store.feature_shape("audio")),
        video=tuple(store.feature_shape("video")),
        symbols=SYMBOL_COUNT,
        content_speech=speech["content_dim"],
        content_video=face["content_dim"],
        style_speech=speech["style_dim"],
        style_video=face["style_dim"],
    )


def feature_statistics(store, examples: list[Example], most: int = 2000) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation [D] of each modality's features over the Examples' utterances (at most `most`)."""
    keys = sorted({e.utterance_key(u) for e in examples for u in e.history})
    chosen = keys[:: max(1, len(keys) // most)]
    found = [record for key in chosen if (record := store.get(key, content=False)) is not None]
    statistics = {}
    for modality in ("audio", "video"):
        features = [record[modality] for record in found if modality in record]
        if features:
            stacked = np.concatenate(features).astype(np.float32)
            statistics[modality] = (stacked.mean(axis=0), stacked.std(axis=0))
    return statistics


class Rows:
    """Examples of one split under one prompt style, as rows of numpy arrays.

    Args:
      store: maps an utterance key to its arrays, or None where it has none (`features.FeatureStore.get`).
      train: modality and profile dropout on; drawn from (seed, epoch, Example), so a resumed run draws the same.
      base: the listener's profile is repeated after </s>, with loss (`encoded.encode`).
      words: words are learned, so `data.word_swap` and `data.word_dropout` apply; swapped Examples have no content
        gold, their recordings say other words.
      content: the golds of content are read; without, and without slots in the prompt, their arrays are of size 0.
    """

    def __init__(
        self, examples: list[Example], style: Style, config: Config, tokenizer: Tokenizer, store, widths: Widths,
        *, train: bool, seed: int, words: bool = False, base: bool = False, content: bool = True,
    ):  # fmt: skip
        if not content or store is None:
            config = _with_data(config, phonemes=0, frames=0)
        if style == "text" or store is None:
            config = _with_data(config, row_utterances=0)
        self.examples, self.config, self.store, self.widths = examples, config, store, widths
        self.content = content and style != "slots" and store is not None
        self.train, self.seed, self.style, self.tokenizer, self.base = train, seed, style, tokenizer, base
        data = config.data
        self.limits = RowLimits(data.row_tokens, data.row_targets, data.row_utterances, data.row_examples)
        self.swap = WordSwap(examples) if train and words and data.word_swap else None
        casts = train and store is not None and (words or style != "text")  # in stage 2 the LLM's inputs stay fixed
        self.recast = Recast(examples) if casts and data.recast else None
        self.word_dropout = data.word_dropout if train and words else 0.0
        self.text_dropout = data.text_dropout if train and words and style == "all" else 0.0
        self._braces: list[list[int]] = [[], []]
        if self.word_dropout or self.text_dropout:
            texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
            self._braces = [[i for i, text in enumerate(texts) if brace in text] for brace in "{}"]
        self.encoded, self.encoded_bare = [], []
        for example in examples:
            profile = prompt_profile(example, config)
            self.encoded.append(encode(example, style, config, tokenizer, profile, base))
            self.encoded_bare.append(
                encode(example, style, config, tokenizer, None, base) if profile is not None else self.encoded[-1]
            )
        spare = SPARE if self.swap or self.recast else 0
        self.sizes = [
            Size(len(e.ids) + spare, int(e.loss.sum()) + spare, len({slot.key for slot in e.slots}))
            for e in self.encoded
        ]
        check_fits(self.sizes, self.limits, [example.id for example in examples])
        self.stream = RowStream(self.sizes, self.limits, seed)
        self._lock = threading.Lock()
        self.dropped = self._count_dropped()

    def _count_dropped(self) -> Dropped:
        dropped, data = Dropped(), self.config.data
        for example, encoded in zip(self.examples, self.encoded, strict=True):
            dropped.responses_cut += encoded.response[1] - encoded.response[0] > data.response_tokens
            sizes = self.store.sizes(self._response_key(example)) if self.store and example.response else None
            if sizes is None:
                dropped.without_gold += 1
            elif self.content and (sizes[0] > data.phonemes or sizes[1] > data.frames):
                dropped.contents_too_long += 1
        return dropped

    def _response_key(self, example: Example) -> str:
        return example.utterance_key(example.response)

    def members(self, number: int) -> list[int]:
        """Positions in `examples` of what is in row `number` of the endless training order."""
        with self._lock:
            return self.stream.row(number)[1]

    def row(self, number: int) -> dict[str, np.ndarray]:
        """Row `number` of the endless training order: one row's share of a `Batch`, indices still within the row."""
        with self._lock:
            epoch, members = self.stream.row(number)
        return self.collate(members, epoch)

    def collate(self, members: list[int], epoch: int = 0) -> dict[str, np.ndarray]:
        """Pack Examples (positions in the split; may be none) into one row."""
        row = empty_row(self.config, self.widths, self.store.dtype if self.store is not None else np.dtype(np.float16))
        cursor = utterance = 0
        for number, example_id in enumerate(members):
            rng = np.random.default_rng([self.seed, 1, epoch, example_id])
            drop_audio, drop_video, drop_profile = rng.random(3)
            data = self.config.data
            bare = self.train and self.style != "text" and drop_profile < data.profile_dropout
            bare &= self.config.prompt.profile_in_prompt == "auto"
            example, encoded, cast = self._augmented(example_id, bare, rng)
            swapped = example.history != self.examples[example_id].history
            self._place_text(row, encoded, cursor, number)
            heard = not (self.train and drop_audio < data.modality_dropout)
            seen = not (self.train and drop_video < data.modality_dropout)
            if self.word_dropout or self.text_dropout:
                first, last = self._dialogue(encoded)
                wordless = (heard or seen) and rng.random() < self.text_dropout
                words = row["tokens"][cursor + first : cursor + last]
                self._drop_words(words, 1.0 if wordless else self.word_dropout, rng)
            present = {"audio": heard, "video": seen}
            utterance = self._place_slots(row, encoded, cursor, utterance, present, cast.media if cast else {})
            self._place_gold(row, example, number, cast, content=not swapped)
            row["example_id"][number] = example_id
            cursor += len(encoded.ids)
        return row

    def _place_text(self, row, encoded: Encoded, start: int, number: int) -> None:
        length = len(encoded.ids)
        where = slice(start, start + length)
        row["tokens"][where] = encoded.ids
        row["segment_ids"][where] = number + 1
        row["positions"][where] = np.arange(length)
        row["targets"][start : start + length - 1] = encoded.ids[1:]
        row["target_mask"][start : start + length - 1] = encoded.loss[1:]
        first, last = encoded.response
        span = np.arange(first, last)[: self.config.data.response_tokens] + start
        row["response_index"][number, : len(span)] = span
        row["label_mask"][start : start + length - 1] = encoded.labels[1:]
        if encoded.signals is not None:
            row["signal_index"][number] = start + encoded.signals + np.arange(2 * SIGNALS)

    def _augmented(
        self, example_id: int, bare: bool, rng: np.random.Generator
    ) -> tuple[Example, Encoded, Cast | None]:
        """The Example with other things in it and another cast; itself where that does not fit its planned place."""
        data, original = self.config.data, self.examples[example_id]
        example, cast = original, None
        if self.swap and rng.random() < data.word_swap:
            example = self.swap(example, rng)
        if self.recast and rng.random() < data.recast:
            cast = self.recast(example, rng)
        if cast is not None:
            example = dataclasses.replace(example, listener_profile=cast.listener_profile)
        if example is not original:
            profile = None if bare else prompt_profile(example, self.config)
            encoded = encode(example, self.style, self.config, self.tokenizer, profile, self.base)
            planned = self.sizes[example_id]
            if len(encoded.ids) <= planned.tokens and encoded.loss.sum() <= planned.targets:
                return example, encoded, cast
        return original, (self.encoded_bare if bare else self.encoded)[example_id], None

    def _dialogue(self, encoded: Encoded) -> tuple[int, int]:
        """Where the dialogue is in a prompt, between its braces: the instruction comes before, the profile after."""
        opening, closing = (
            np.nonzero(np.isin(encoded.ids[: encoded.prompt_length], ids))[0] for ids in self._braces
        )
        first = int(opening[0]) + 1 if len(opening) else 1
        return first, int(closing[-1]) if len(closing) else encoded.prompt_length

    def _drop_words(self, dialogue: np.ndarray, share: float, rng: np.random.Generator) -> None:
        """Blank a share of a dialogue's words in place; slots stay."""
        drop = rng.random(len(dialogue)) < share
        drop &= dialogue < self.tokenizer.vocab_size
        dialogue[drop] = self.tokenizer.pad_id

    def _place_slots(
        self, row, encoded: Encoded, start: int, utterance: int, present: dict[str, bool], media: dict[str, str]
    ) -> int:
        if self.store is None or not encoded.slots:
            return utterance
        place: dict[str, int] = {}
        for slot in encoded.slots:
            features = self.store.get(media.get(slot.key, slot.key), content=False)
            if features is None or slot.modality not in features:
                continue
            if slot.key not in place:
                place[slot.key] = utterance
                utterance += 1
            at = place[slot.key]
            row[slot.modality][at] = features[slot.modality]
            if present[slot.modality]:
                row[f"{slot.modality}_start"][at] = start + slot.position
        return utterance

    def _place_gold(self, row, example: Example, number: int, cast: Cast | None, content: bool) -> None:
        """Labels and golds; `content` False where the words are no longer those of the recording."""
        for name, value in labels(example).items():
            row[name][number] = value
        if self.store is None or example.response is None:
            return
        content &= self.content
        gold = self.store.get(self._response_key(example), content=content) or {}
        styles = gold if cast is None else self.store.get(cast.style, content=False) or {}
        if "style_speech" in styles:
            row["gold_style_speech"][number], row["has_style_speech"][number] = styles["style_speech"], True
        if "style_video" in styles:
            row["gold_style_video"][number], row["has_style_video"][number] = styles["style_video"], True
        phonemes, frames = gold.get("phonemes"), gold.get("content_video")
        if not content or phonemes is None or frames is None:
            return
        data = self.config.data
        if len(phonemes) > data.phonemes or len(frames) > data.frames:
            return
        count = len(phonemes)
        row["phonemes"][number, :count] = phonemes
        row["phoneme_frames"][number, :count] = gold["phoneme_frames"]
        row["gold_content_speech"][number, :count] = gold["content_speech"]
        row["gold_content_video"][number, : len(frames)] = frames
        row["video_frames"][number] = len(frames)


def _with_data(config: Config, **fields) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def empty_row(config: Config, widths: Widths, floats: np.dtype) -> dict[str, np.ndarray]:
    """One row of padding: every array of a `Batch` for B = 1, without the row axis on the token grid."""
    data = config.data
    t, k, m = data.row_tokens, data.row_examples, data.row_utterances

    def filled(shape, value, dtype):
        return np.full(shape, value, dtype)

    row = {name: filled(t, 0, np.int32) for name in ("tokens", "segment_ids", "positions", "targets")}
    row["target_mask"], row["label_mask"] = filled(t, False, bool), filled(t, False, bool)
    row["audio"] = filled((m, *widths.audio), 0, floats)
    row["video"] = filled((m, *widths.video), 0, floats)
    row["audio_start"], row["video_start"] = filled(m, -1, np.int32), filled(m, -1, np.int32)
    row["example_id"] = filled(k, -1, np.int32)
    row["response_index"] = filled((k, data.response_tokens), -1, np.int32)
    row["signal_index"] = filled((k, 2 * SIGNALS), -1, np.int32)
    row["phonemes"] = filled((k, data.phonemes), -1, np.int32)
    row["phoneme_frames"] = filled((k, data.phonemes), 0, np.int32)
    row["gold_content_speech"] = filled((k, data.phonemes, widths.content_speech), 0, floats)
    row["gold_content_video"] = filled((k, data.frames, widths.content_video), 0, floats)
    row["video_frames"] = filled(k, 0, np.int32)
    row["gold_style_speech"] = filled((k, widths.style_speech), 0, floats)
    row["gold_style_video"] = filled((k, widths.style_video), 0, floats)
    row["has_style_speech"], row["has_style_video"] = filled(k, False, bool), filled(k, False, bool)
    for name in ("emotion", "age", "gender", "timbre"):
        row[name] = filled(k, UNKNOWN, np.int32)
    return row


GRID = ("tokens", "segment_ids", "positions", "targets", "target_mask", "label_mask")
FLAT_INDICES = ("audio_start", "video_start", "response_index", "signal_index")


def stack_rows(rows: list[dict[str, np.ndarray]], first_row: int = 0) -> dict[str, np.ndarray]:
    """Rows -> the arrays of a `Batch`; `first_row` is the place of rows[0] in the whole micro-batch."""
    length = len(rows[0]["tokens"])
    batch = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        if name in FLAT_INDICES:
            parts = [np.where(part >= 0, part + (first_row + b) * length, -1) for b, part in enumerate(parts)]
        joined = np.stack(parts) if name in GRID else np.concatenate(parts)
        batch[name] = joined.astype(rows[0][name].dtype)
    return Batch(**batch).asdict()


class _StepSource:
    """Grain's random access: element e is one of the rows that this process holds, in the training order."""

    def __init__(self, rows: Rows, first_step: int, steps: int, held: range):
        self._rows, self._first, self._steps, self._held = rows, first_step, steps, held
        self._accumulate, self._batch_rows = rows.config.optim.accumulate, rows.config.data.rows

    def __len__(self) -> int:
        return self._steps * self._accumulate * len(self._held)

    def __getitem__(self, element: int) -> dict[str, np.ndarray]:
        micro, local = divmod(int(element), len(self._held))
        micro += self._first * self._accumulate
        return self._rows.row(micro * self._batch_rows + self._held[local])


def training_batches(
    rows: Rows, first_step: int, steps: int, *, held: range | None = None, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Steps first_step .. first_step + steps - 1: arrays [A, ...] of the rows that this process holds.

    Args:
      held: which rows of a micro-batch those are (`processes.local_rows`); None: all.
      threads: that read and collate rows.
    """
    held = range(rows.config.data.rows) if held is None else held
    accumulate, local = rows.config.optim.accumulate, len(held)

    def batch(elements):
        micros = [stack_rows(list(elements[a * local : (a + 1) * local]), held[0]) for a in range(accumulate)]
        return {name: np.stack([micro[name] for micro in micros]) for name in micros[0]}

    dataset = grain.MapDataset.source(_StepSource(rows, first_step, steps, held)).batch(
        accumulate * local, batch_fn=batch
    )
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


def step_ids(rows: Rows, step: int) -> list[str]:
    """Ids of the Examples that all processes together learn from in a step of a stage."""
    per_step = rows.config.optim.accumulate * rows.config.data.rows
    return [rows.examples[i].id for n in range(step * per_step, (step + 1) * per_step) for i in rows.members(n)]


def evaluation_batches(rows: Rows, held: range | None = None) -> Iterator[dict[str, np.ndarray]]:
    """All Examples once, in the order of the split's plan for epoch 0; the last batch is filled with empty rows.

    `held` as for `training_batches`.
    """
    plan = [rows.members(number) for number in range(rows.stream.rows_per_epoch)]
    size = rows.config.data.rows
    held = range(size) if held is None else held
    for start in range(0, len(plan), size):
        members = plan[start : start + size]
        members += [[]] * (size - len(members))
        yield stack_rows([rows.collate(members[row]) for row in held], held[0])


def steps_for(rows: Rows, epochs: float) -> int:
    """Steps that `epochs` over the Examples take."""
    per_step = rows.config.optim.accumulate * rows.config.data.rows
    return max(1, round(epochs * rows.stream.rows_per_epoch / per_step))
