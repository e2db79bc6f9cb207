"""Examples of one split under one kind of prompt, as rows of a packed batch."""

import copy
import dataclasses
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.batches.arrays import batch_shapes, empty_batch, row_views
from empatheia_jax.data.batches.encoder import EncodedExample, class_labels, encode_example, prompt_profile
from empatheia_jax.data.batches.packing import Bounds, ExampleSize, Mixture, RowLimits, RowStream, check_fits
from empatheia_jax.data.batches.recast import SpeakerAssignment, SpeakerSubstitution
from empatheia_jax.data.batches.word_swap import WordSwap
from empatheia_jax.data.features.records import FLOAT_DTYPES
from empatheia_jax.data.prompts.dialogue import PromptKind
from empatheia_jax.data.prompts.tokenizer import SIGNALS, Tokenizer
from empatheia_jax.data.schema import Example, Profile, Widths

SPARE_TOKENS = 8  # by which swapped words and another profile may be longer than what they replace


@dataclasses.dataclass
class DroppedCounts:
    """Counts of what a batch cannot hold, taken as Examples are encoded: nothing is left out silently."""

    responses_cut: int = 0  # longer than data.response_tokens: r^t is read from the first of them
    contents_too_long: int = 0  # more phonemes or frames than data.phonemes, data.frames: no content loss
    without_gold: int = 0  # no features of the response: no content or style loss

    def __str__(self) -> str:
        counts = {name: count for name, count in dataclasses.asdict(self).items() if count}
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "nothing dropped"


def replace_data_fields(config: Config, **fields) -> Config:
    """Return the config with fields of `data` replaced."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def zero_unread_sizes(
    config: Config, prompt_kind: PromptKind, *, content: bool, stored: bool, cached: bool = False
) -> Config:
    """Return the config with size 0 in `data` for the arrays that are not read (see `schema.Batch`).

    Args:
      config: the run's, with the shapes of the stage.
      prompt_kind: of the stage; "text" has no slots.
      content: whether the golds of content are read.
      stored: whether there is a feature store at all.
      cached: whether rows have states of the LLM in place of tokens.
    """
    if not content or not stored:
        config = replace_data_fields(config, phonemes=0, frames=0)
    if prompt_kind == "text" or not stored:
        config = replace_data_fields(config, row_utterances=0)
    return replace_data_fields(config, row_tokens=0) if cached else config


def response_states_spec(config: Config, float_dtype: np.dtype, cached: bool) -> tuple[int, np.dtype]:
    """Return (D, dtype) of a batch's `response_states`: the LLM's where they are cached, else D 0."""
    return (config.llm.width, FLOAT_DTYPES[config.llm.compute_dtype]) if cached else (0, float_dtype)


class Rows:
    """Examples of one split under one kind of prompt: encoded, planned into rows, and written into numpy arrays."""

    def __init__(
        self,
        examples: list[Example],
        prompt_kind: PromptKind,
        config: Config,
        tokenizer: Tokenizer,
        *,
        store,
        widths: Widths,
        train: bool,
        seed: int,
        learn_text: bool = False,
        learn_profile: bool = False,
        content: bool = True,
        cached: bool = False,
        mixture: Mixture | None = None,
    ):
        """Encode the Examples and plan their rows.

        Args:
          examples: all of the split.
          prompt_kind: of the stage.
          config: the run's, with the shapes of the stage.
          tokenizer: the run's.
          store: its `get` and `gold_sizes` map an utterance key to stored arrays and their sizes, or to None
            (`features.FeatureStore`); None: no media.
          widths: of the stored arrays.
          train: apply modality and profile dropout and augmentation, drawn from (seed, epoch, Example), so that a
            resumed run draws the same.
          seed: of order and draws.
          learn_text: L_emp is taken, so `data.word_swap` and `data.word_dropout` apply; swapped Examples have no
            content gold, since their recordings have other words.
          learn_profile: the listener's profile is repeated after </s>, with loss (`encoded.encode_example`).
          content: read the golds of content; without, and without slots in the prompt, their arrays are of size 0.
          cached: rows have `response_states` of the LLM (from `self.states`, to be set before the first row) and no
            tokens; they hold the same Examples as they would with tokens.
          mixture: how often an epoch has the Examples of which corpus; None: each once.

        Raises:
          RecordError: an Example that no row can hold, or one without the profile that the config demands.
        """
        config = zero_unread_sizes(config, prompt_kind, content=content, stored=store is not None)
        self.examples, self.config, self.store, self.widths = examples, config, store, widths
        self.content = content and prompt_kind != "slots" and store is not None
        self.cached, self.states = cached, None
        self.train, self.seed, self.prompt_kind, self.tokenizer = train, seed, prompt_kind, tokenizer
        self.learn_profile = learn_profile
        data = config.data
        self.limits = RowLimits(data.row_tokens, data.row_targets, data.row_utterances, data.row_examples)
        self.word_swap = WordSwap(examples) if train and learn_text and data.word_swap else None
        # In stage 2 the LLM's inputs stay fixed.
        substitutes = train and store is not None and (learn_text or prompt_kind != "text")
        self.speaker_substitution = SpeakerSubstitution(examples) if substitutes and data.recast else None
        self.word_dropout = data.word_dropout if train and learn_text else 0.0
        self.text_dropout = data.text_dropout if train and learn_text and prompt_kind == "all" else 0.0
        self._brace_tokens: list[list[int]] = [[], []]
        if self.word_dropout or self.text_dropout:
            texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
            self._brace_tokens = [[i for i, text in enumerate(texts) if brace in text] for brace in "{}"]
        self.encoded, self.encoded_without_profile = [], []
        for example in examples:
            profile = prompt_profile(example, config)
            self.encoded.append(self._encode(example, profile))
            self.encoded_without_profile.append(
                self._encode(example, None) if profile is not None else self.encoded[-1]
            )
        self._shape_config = replace_data_fields(config, row_tokens=0) if cached else config
        spare = SPARE_TOKENS if self.word_swap or self.speaker_substitution else 0
        self.sizes = [
            ExampleSize(len(e.ids) + spare, int(e.loss_mask.sum()) + spare, len({slot.key for slot in e.slots}))
            for e in self.encoded
        ]
        check_fits(self.sizes, self.limits, [example.id for example in examples])
        self.bounds = Bounds(data.row_targets, max(size.tokens for size in self.sizes))
        self.stream = RowStream(self.sizes, self.limits, seed, mixture)
        self._lock = threading.Lock()
        self.dropped = self._count_dropped()

    def _encode(self, example: Example, profile: Profile | None) -> EncodedExample:
        return encode_example(
            example, self.prompt_kind, self.config, self.tokenizer, profile=profile, learn_profile=self.learn_profile
        )

    def _count_dropped(self) -> DroppedCounts:
        dropped, data = DroppedCounts(), self.config.data
        for example, encoded in zip(self.examples, self.encoded, strict=True):
            dropped.responses_cut += encoded.response_span[1] - encoded.response_span[0] > data.response_tokens
            sizes = self.store.gold_sizes(self._response_key(example)) if self.store and example.response else None
            if sizes is None:
                dropped.without_gold += 1
            elif self.content and (sizes[0] > data.phonemes or sizes[1] > data.frames):
                dropped.contents_too_long += 1
        return dropped

    def _response_key(self, example: Example) -> str:
        return example.utterance_key(example.response)

    def gold_sizes(self) -> list[tuple[int, int]]:
        """Return (P, F) of every Example's golds, where it has them and its content is read."""
        if not self.content:
            return []
        keys = [self._response_key(example) for example in self.examples if example.response is not None]
        return [size for key in keys if (size := self.store.gold_sizes(key)) is not None]

    def plan(self, numbers: Iterable[int]) -> list[tuple[int, list[int]]]:
        """Return (epoch, positions in `examples`) of rows of the endless training order, by their numbers."""
        with self._lock:
            return [self.stream.row(number) for number in numbers]

    def batch(
        self, plan: Sequence[tuple[int, list[int]]], first_row: int = 0, accumulate: int | None = None
    ) -> dict[str, np.ndarray]:
        """Return the arrays of a `Batch` of these rows.

        Args:
          plan: (epoch, positions in `examples`) of each row, as `self.plan` gives them; a row may have no Examples.
          first_row: index of the first of them in the global micro-batch, which flat indices refer to.
          accumulate: A, the number of micro-batches of equal size that `plan` is cut into: arrays are then [A, ...].
        """
        size = len(plan) // (accumulate or 1)
        arrays = empty_batch(self._batch_shapes(size, accumulate))
        for index, (epoch, members) in enumerate(plan):
            micro, row = divmod(index, size)
            part = arrays if accumulate is None else {name: array[micro] for name, array in arrays.items()}
            offset = (first_row + row) * self._shape_config.data.row_tokens
            self._fill_row(row_views(part, row, size), members, epoch, offset)
        return arrays

    def shapes(self, accumulate: int | None = None) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return {name: (shape, dtype)} of a global micro-batch's arrays, or of `accumulate` of them: [A, ...]."""
        return self._batch_shapes(self.config.data.rows, accumulate)

    def _batch_shapes(self, rows: int, accumulate: int | None) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        float_dtype = self.store.dtype if self.store is not None else np.dtype(np.float16)
        return batch_shapes(
            self._shape_config,
            self.widths,
            rows,
            float_dtype=float_dtype,
            states_spec=response_states_spec(self.config, float_dtype, self.cached),
            leading=() if accumulate is None else (accumulate,),
        )

    def _fill_row(self, row: dict[str, np.ndarray], members: list[int], epoch: int, offset: int) -> None:
        """Write Examples into a row; `offset` is added to flat indices."""
        cursor = utterances = 0
        for number, example_id in enumerate(members):
            rng = np.random.default_rng([self.seed, 1, epoch, example_id])
            audio_draw, video_draw, profile_draw = rng.random(3)
            data = self.config.data
            without_profile = self.train and self.prompt_kind != "text" and profile_draw < data.profile_dropout
            without_profile &= self.config.prompt.profile_in_prompt == "auto"
            example, encoded, assignment = self._augment(example_id, without_profile, rng)
            start = offset + cursor
            swapped = example.history != self.examples[example_id].history
            if self.cached:
                self._place_states(row, example, number)
            else:
                self._place_tokens(row, encoded, number, cursor=cursor, start=start)
            has_audio = not (self.train and audio_draw < data.modality_dropout)
            has_video = not (self.train and video_draw < data.modality_dropout)
            if self.word_dropout or self.text_dropout:
                first, last = self._dialogue_span(encoded)
                without_text = (has_audio or has_video) and rng.random() < self.text_dropout
                dialogue = row["tokens"][cursor + first : cursor + last]
                self._blank_words(dialogue, 1.0 if without_text else self.word_dropout, rng)
            utterances = self._place_slots(
                row,
                encoded,
                first=utterances,
                start=start,
                present={"audio": has_audio, "video": has_video},
                feature_keys=assignment.feature_keys if assignment else {},
            )
            self._place_golds(row, example, number, assignment, content=not swapped)
            row["example_id"][number] = example_id
            cursor += len(encoded.ids)

    def _place_tokens(self, row, encoded: EncodedExample, number: int, *, cursor: int, start: int) -> None:
        """Write the tokens of Example `number` at column `cursor` of the row, flat index `start` of the token grid."""
        length = len(encoded.ids)
        columns, inputs = slice(cursor, cursor + length), slice(cursor, cursor + length - 1)
        row["tokens"][columns] = encoded.ids
        row["segment_ids"][columns] = number + 1
        row["positions"][columns] = np.arange(length)
        row["targets"][inputs] = encoded.ids[1:]
        row["target_mask"][inputs] = encoded.loss_mask[1:]
        row["label_mask"][inputs] = encoded.label_mask[1:]
        first, last = encoded.response_span
        span = np.arange(first, last)[: self.config.data.response_tokens] + start
        row["response_index"][number, : len(span)] = span
        if encoded.signals_start is not None:
            row["signal_index"][number] = start + encoded.signals_start + np.arange(2 * SIGNALS)

    def _place_states(self, row, example: Example, number: int) -> None:
        if self.states is None:
            raise RuntimeError("rows are cached, and no states are set")
        states = self.states[example.id]["response_states"]
        row["response_states"][number, : len(states)] = states
        row["response_index"][number, : len(states)] = np.arange(len(states))

    def token_rows(self) -> "Rows":
        """Return the same Examples as rows of tokens alone, from which the states of `cached` rows are computed."""
        rows = copy.copy(self)
        rows.cached, rows.content, rows.store = False, False, None
        rows.config = rows._shape_config = replace_data_fields(self.config, phonemes=0, frames=0, row_utterances=0)
        return rows

    def _augment(
        self, example_id: int, without_profile: bool, rng: np.random.Generator
    ) -> tuple[Example, EncodedExample, SpeakerAssignment | None]:
        """Return the Example with words swapped and speakers substituted; unchanged if it would exceed its size."""
        data, original = self.config.data, self.examples[example_id]
        example, assignment = original, None
        if self.word_swap and rng.random() < data.word_swap:
            example = self.word_swap(example, rng)
        if self.speaker_substitution and rng.random() < data.recast:
            assignment = self.speaker_substitution(example, rng)
        if assignment is not None:
            example = dataclasses.replace(example, listener_profile=assignment.listener_profile)
        if example is not original:
            encoded = self._encode(example, None if without_profile else prompt_profile(example, self.config))
            planned = self.sizes[example_id]
            if len(encoded.ids) <= planned.tokens and encoded.loss_mask.sum() <= planned.targets:
                return example, encoded, assignment
        return original, (self.encoded_without_profile if without_profile else self.encoded)[example_id], None

    def _dialogue_span(self, encoded: EncodedExample) -> tuple[int, int]:
        """Return the span between a prompt's braces: the instruction comes before it, the profile after it."""
        prompt = encoded.ids[: encoded.prompt_length]
        opening, closing = (np.nonzero(np.isin(prompt, tokens))[0] for tokens in self._brace_tokens)
        first = int(opening[0]) + 1 if len(opening) else 1
        return first, int(closing[-1]) if len(closing) else encoded.prompt_length

    def _blank_words(self, dialogue: np.ndarray, share: float, rng: np.random.Generator) -> None:
        """Overwrite a share of a dialogue's tokens with padding, in place; slots stay."""
        blank = rng.random(len(dialogue)) < share
        blank &= dialogue < self.tokenizer.vocab_size
        dialogue[blank] = self.tokenizer.pad_id

    def _place_slots(
        self,
        row,
        encoded: EncodedExample,
        *,
        first: int,
        start: int,
        present: dict[str, bool],
        feature_keys: dict[str, str],
    ) -> int:
        """Write the features of an Example's slots.

        Args:
          row: to write to.
          encoded: the Example.
          first: index of its first utterance on the row's M axis.
          start: flat index of its first token.
          present: whether a modality is shown; the placeholders of one that is dropped out stay.
          feature_keys: store keys to read in place of the slots' own.
        Returns:
          The index after its last utterance.
        """
        if self.store is None or not encoded.slots:
            return first
        indices: dict[str, int] = {}
        keys = {slot.key: feature_keys.get(slot.key, slot.key) for slot in encoded.slots}
        stored = {key: self.store.get(store_key, content=False) for key, store_key in keys.items()}
        for slot in encoded.slots:
            features = stored[slot.key]
            if features is None or slot.modality not in features:
                continue
            index = indices.setdefault(slot.key, first + len(indices))
            row[slot.modality][index] = features[slot.modality]
            if present[slot.modality]:
                row[f"{slot.modality}_start"][index] = start + slot.position
        return first + len(indices)

    def _place_golds(
        self, row, example: Example, number: int, assignment: SpeakerAssignment | None, *, content: bool
    ) -> None:
        """Write labels and golds; `content` is False where the words are no longer those of the recording."""
        for name, value in class_labels(example).items():
            row[name][number] = value
        if self.store is None or example.response is None:
            return
        content &= self.content
        gold = self.store.get(self._response_key(example), content=content) or {}
        styles = gold if assignment is None else self.store.get(assignment.style_key, content=False) or {}
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
