"""Examples of one split under one prompt style, as rows of a packed batch."""

import copy
import dataclasses
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.augment import WordSwap
from empatheia_jax.data.batch_arrays import batch_shapes, empty_batch, row_views
from empatheia_jax.data.encoded import Encoded, encode, labels, prompt_profile
from empatheia_jax.data.feature_records import FLOATS
from empatheia_jax.data.packing import Bounds, Mixture, RowLimits, RowStream, Size, check_fits
from empatheia_jax.data.prompts import Style
from empatheia_jax.data.recast import Cast, Recast
from empatheia_jax.data.schema import Example, Widths
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


def with_data(config: Config, **fields) -> Config:
    """The config with fields of `data` replaced."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def read_shapes(config: Config, style: Style, *, content: bool, stored: bool, cached: bool = False) -> Config:
    """The config with size 0 in `data` for what is not read: golds of content, slots, tokens (see `schema.Batch`).

    Args:
      stored: whether there is a feature store at all. The rest is that of `Rows`.
    """
    if not content or not stored:
        config = with_data(config, phonemes=0, frames=0)
    if style == "text" or not stored:
        config = with_data(config, row_utterances=0)
    return with_data(config, row_tokens=0) if cached else config


def states_of(config: Config, floats: np.dtype, cached: bool) -> tuple[int, np.dtype]:
    """(D, dtype) of a batch's `response_states`: those of the LLM where they are cached, else D 0."""
    return (config.llm.width, FLOATS[config.llm.compute_dtype]) if cached else (0, floats)


class Rows:
    """Examples of one split under one prompt style, as rows of numpy arrays.

    Args:
      store: maps an utterance key to its arrays, or None where it has none (`features.FeatureStore.get`).
      train: modality and profile dropout on; drawn from (seed, epoch, Example), so a resumed run draws the same.
      base: the listener's profile is repeated after </s>, with loss (`encoded.encode`).
      words: words are learned, so `data.word_swap` and `data.word_dropout` apply; swapped Examples have no content
        gold, their recordings say other words.
      content: the golds of content are read; without, and without slots in the prompt, their arrays are of size 0.
      cached: rows have `response_states` of the LLM (from `states`, to be set before the first row) and no tokens; they
        hold the same Examples as they would with tokens.
      mixture: how often an epoch has the Examples of which corpus; None: each once.
    """

    def __init__(
        self,
        examples: list[Example],
        style: Style,
        config: Config,
        tokenizer: Tokenizer,
        store,
        widths: Widths,
        *,
        train: bool,
        seed: int,
        words: bool = False,
        base: bool = False,
        content: bool = True,
        cached: bool = False,
        mixture: Mixture | None = None,
    ):
        config = read_shapes(config, style, content=content, stored=store is not None)
        self.examples, self.config, self.store, self.widths = examples, config, store, widths
        self.content = content and style != "slots" and store is not None
        self.cached, self.states = cached, None
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
        self._shape = with_data(config, row_tokens=0) if cached else config
        spare = SPARE if self.swap or self.recast else 0
        self.sizes = [
            Size(len(e.ids) + spare, int(e.loss.sum()) + spare, len({slot.key for slot in e.slots}))
            for e in self.encoded
        ]
        check_fits(self.sizes, self.limits, [example.id for example in examples])
        self.bounds = Bounds(data.row_targets, max(size.tokens for size in self.sizes))
        self.stream = RowStream(self.sizes, self.limits, seed, mixture)
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

    def gold_sizes(self) -> list[tuple[int, int]]:
        """(P, F) of every Example's golds, where it has them and its content is read."""
        if not self.content:
            return []
        keys = [self._response_key(example) for example in self.examples if example.response is not None]
        return [size for key in keys if (size := self.store.sizes(key)) is not None]

    def at(self, numbers: Iterable[int]) -> list[tuple[int, list[int]]]:
        """(epoch, positions in `examples`) of rows of the endless training order, by their numbers."""
        with self._lock:
            return [self.stream.row(number) for number in numbers]

    def batch(
        self, plan: Sequence[tuple[int, list[int]]], first_row: int = 0, accumulate: int | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays of a `Batch` of these rows.

        Args:
          plan: (epoch, positions in `examples`) of each row, as `at` gives them; positions may be none.
          first_row: the place of the first of them in the whole micro-batch, to which flat indices refer.
          accumulate: A, of micro-batches of equal size that `plan` is cut into: arrays are then [A, ...].
        """
        size = len(plan) // (accumulate or 1)
        arrays = empty_batch(*self._arrays(size, accumulate))
        for place, (epoch, members) in enumerate(plan):
            micro, row = divmod(place, size)
            part = arrays if accumulate is None else {name: array[micro] for name, array in arrays.items()}
            self._fill(row_views(part, row, size), members, epoch, (first_row + row) * self._shape.data.row_tokens)
        return arrays

    def shapes(self, accumulate: int | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{name: (shape, dtype)} of the arrays of a whole micro-batch, or of `accumulate` of them: [A, ...]."""
        return batch_shapes(*self._arrays(self.config.data.rows, accumulate))

    def _arrays(self, size: int, accumulate: int | None) -> tuple:
        floats = self.store.dtype if self.store is not None else np.dtype(np.float16)
        leading = () if accumulate is None else (accumulate,)
        return self._shape, self.widths, size, floats, states_of(self.config, floats, self.cached), leading

    def _fill(self, row: dict[str, np.ndarray], members: list[int], epoch: int, offset: int) -> None:
        """Write Examples into a row; `offset` is added to flat indices."""
        cursor = utterance = 0
        for number, example_id in enumerate(members):
            rng = np.random.default_rng([self.seed, 1, epoch, example_id])
            drop_audio, drop_video, drop_profile = rng.random(3)
            data = self.config.data
            bare = self.train and self.style != "text" and drop_profile < data.profile_dropout
            bare &= self.config.prompt.profile_in_prompt == "auto"
            example, encoded, cast = self._augmented(example_id, bare, rng)
            start = offset + cursor
            swapped = example.history != self.examples[example_id].history
            if self.cached:
                self._place_states(row, example, number)
            else:
                self._place_text(row, encoded, cursor, number, start)
            heard = not (self.train and drop_audio < data.modality_dropout)
            seen = not (self.train and drop_video < data.modality_dropout)
            if self.word_dropout or self.text_dropout:
                first, last = self._dialogue(encoded)
                wordless = (heard or seen) and rng.random() < self.text_dropout
                words = row["tokens"][cursor + first : cursor + last]
                self._drop_words(words, 1.0 if wordless else self.word_dropout, rng)
            present = {"audio": heard, "video": seen}
            utterance = self._place_slots(row, encoded, start, utterance, present, cast.media if cast else {})
            self._place_gold(row, example, number, cast, content=not swapped)
            row["example_id"][number] = example_id
            cursor += len(encoded.ids)

    def _place_text(self, row, encoded: Encoded, cursor: int, number: int, start: int) -> None:
        """Tokens at `cursor` of the row, which is `start` of the whole grid."""
        length = len(encoded.ids)
        where, before = slice(cursor, cursor + length), slice(cursor, cursor + length - 1)
        row["tokens"][where] = encoded.ids
        row["segment_ids"][where] = number + 1
        row["positions"][where] = np.arange(length)
        row["targets"][before] = encoded.ids[1:]
        row["target_mask"][before] = encoded.loss[1:]
        row["label_mask"][before] = encoded.labels[1:]
        first, last = encoded.response
        span = np.arange(first, last)[: self.config.data.response_tokens] + start
        row["response_index"][number, : len(span)] = span
        if encoded.signals is not None:
            row["signal_index"][number] = start + encoded.signals + np.arange(2 * SIGNALS)

    def _place_states(self, row, example: Example, number: int) -> None:
        if self.states is None:
            raise RuntimeError("rows are cached, and no states are set")
        states = self.states[example.id]["response_states"]
        row["response_states"][number, : len(states)] = states
        row["response_index"][number, : len(states)] = np.arange(len(states))

    def computing(self) -> "Rows":
        """The same Examples as rows of tokens alone: what the states of `cached` rows are computed from."""
        one = copy.copy(self)
        one.cached, one.content, one.store = False, False, None
        one.config = one._shape = with_data(self.config, phonemes=0, frames=0, row_utterances=0)
        return one

    def _augmented(self, example_id: int, bare: bool, rng: np.random.Generator) -> tuple[Example, Encoded, Cast | None]:
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
        opening, closing = (np.nonzero(np.isin(encoded.ids[: encoded.prompt_length], ids))[0] for ids in self._braces)
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
        keys = {slot.key: media.get(slot.key, slot.key) for slot in encoded.slots}
        found = {key: self.store.get(stored, content=False) for key, stored in keys.items()}
        for slot in encoded.slots:
            features = found[slot.key]
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
