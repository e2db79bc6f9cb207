"""Encoded Examples of one split, placed into the arrays of batches."""

import copy
import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.batches.augmenter import AugmentedExample, Augmenter
from empatheia_jax.data.batches.batch import Batch, BatchSpec
from empatheia_jax.data.batches.encoder import ExampleEncoder, class_labels
from empatheia_jax.data.batches.packer import Bounds, ExampleSize, Mixture, RowLimits, RowStream, check_fits
from empatheia_jax.data.prompts.dialogue import PromptKind
from empatheia_jax.data.prompts.tokenizer import SIGNALS, Tokenizer
from empatheia_jax.data.schema import Example, Widths


@dataclasses.dataclass
class DroppedCounts:
    """Counts of what a batch cannot hold, taken as Examples are encoded: nothing is left out silently."""

    responses_cut: int = 0  # longer than data.response_tokens: r^t is read from the first of them
    contents_too_long: int = 0  # more phonemes or frames than data.phonemes, data.frames: no content loss
    without_gold: int = 0  # no features of the response: no content or style loss

    def __str__(self) -> str:
        counts = {name: count for name, count in dataclasses.asdict(self).items() if count}
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "nothing dropped"


class BatchBuilder:
    """Examples of one split under one kind of prompt: encoded, planned into batch rows, and written into numpy arrays.

    Attributes:
      examples: all of the split.
      encoded: the same, as token ids.
      config: the run's, with the shapes of the stage.
      spec: of a global micro-batch.
      sizes: of every Example, augmented or not.
      limits: of a row.
      bounds: over all rows.
      stream: the endless training order.
      states: the LLM's states of every Example, to be set before the first batch where they are cached.
      dropped: what batches cannot hold.
    """

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
          train: whether Examples are augmented (`augmenter`).
          seed: of order and draws.
          learn_text: L_emp is taken, so words may be exchanged and blanked; Examples with other words than their
            recordings have no content gold.
          learn_profile: the listener's profile is repeated after </s>, with loss (`encoder.encode_example`).
          content: read the golds of content; without, and without slots in the prompt, their arrays are of size 0.
          cached: batches have `response_states` of the LLM and no tokens; their rows hold the same Examples as they
            would with tokens.
          mixture: how often an epoch has the Examples of which corpus; None: each once.

        Raises:
          RecordError: an Example that no row can hold, or one without the profile that the config demands.
        """
        self.examples, self.config, self.store, self.seed = examples, config, store, seed
        self.spec = BatchSpec.for_stage(
            config,
            prompt_kind,
            widths,
            float_dtype=store.dtype if store is not None else None,
            content=content,
            cached=cached,
        )
        self.cached = cached
        self.states: Any = None  # a FeatureStore, once there is one
        self.content = content and prompt_kind != "slots" and store is not None
        self._augmenter = Augmenter(
            examples,
            ExampleEncoder(prompt_kind, config, tokenizer, learn_profile),
            train=train,
            seed=seed,
            learn_text=learn_text,
            has_media=store is not None,
        )
        self.encoded, spare = self._augmenter.encoded, self._augmenter.spare
        data = config.data
        self.limits = RowLimits(data.row_tokens, data.row_targets, self.spec.row_utterances, data.row_examples)
        self.sizes = [
            ExampleSize(len(e.ids) + spare, int(e.loss_mask.sum()) + spare, len({slot.key for slot in e.slots}))
            for e in self.encoded
        ]
        check_fits(self.sizes, self.limits, [example.id for example in examples])
        self.bounds = Bounds(data.row_targets, max(size.tokens for size in self.sizes))
        self.stream = RowStream(self.sizes, self.limits, seed, mixture)
        self._lock = threading.Lock()
        self.dropped = self._count_dropped()

    def _count_dropped(self) -> DroppedCounts:
        dropped, spec = DroppedCounts(), self.spec
        for example, encoded in zip(self.examples, self.encoded, strict=True):
            dropped.responses_cut += encoded.response_span[1] - encoded.response_span[0] > spec.response_tokens
            sizes = (
                self.store.gold_sizes(example.utterance_key(example.response))
                if self.store and example.response
                else None
            )
            if sizes is None:
                dropped.without_gold += 1
            elif self.content and (sizes[0] > spec.phonemes or sizes[1] > spec.frames):
                dropped.contents_too_long += 1
        return dropped

    def gold_sizes(self) -> list[tuple[int, int]]:
        """Return (P, F) of every Example's golds, where it has them and its content is read."""
        if not self.content:
            return []
        keys = [example.utterance_key(example.response) for example in self.examples if example.response is not None]
        return [size for key in keys if (size := self.store.gold_sizes(key)) is not None]

    def plan(self, numbers: Iterable[int]) -> list[tuple[int, list[int]]]:
        """Return (epoch, positions in `examples`) of rows of the endless training order, by their numbers."""
        with self._lock:
            return [self.stream.row(number) for number in numbers]

    def batch(
        self, plan: Sequence[tuple[int, list[int]]], first_row: int = 0, accumulate: int | None = None
    ) -> Batch[np.ndarray]:
        """Return the arrays of these rows.

        Args:
          plan: (epoch, positions in `examples`) of each row, as `self.plan` gives them; a row may have no Examples.
          first_row: index of the first of them in the global micro-batch, which flat indices refer to.
          accumulate: A, the number of micro-batches of equal size that `plan` is cut into: arrays are then [A, ...].
        """
        size = len(plan) // (accumulate or 1)
        arrays = dataclasses.replace(self.spec, rows=size).empty(accumulate)
        for index, (epoch, members) in enumerate(plan):
            micro, row = divmod(index, size)
            part = arrays if accumulate is None else jax.tree.map(lambda array, micro=micro: array[micro], arrays)
            self._fill_row(part.row(row, size), members, epoch, (first_row + row) * self.spec.row_tokens)
        return arrays

    def token_rows(self) -> "BatchBuilder":
        """Return the same Examples as rows of tokens alone, from which the states of `cached` rows are computed."""
        rows = copy.copy(self)
        rows.cached, rows.content, rows.store = False, False, None
        rows.spec = BatchSpec.for_stage(self.config, "text", self.spec.widths, float_dtype=None, content=False)
        return rows

    def _fill_row(self, row: Batch[np.ndarray], members: list[int], epoch: int, offset: int) -> None:
        """Write Examples into a row; `offset` is added to flat indices."""
        cursor = utterances = 0
        for number, index in enumerate(members):
            augmented = self._augmenter.draw(index, epoch)
            row.example_id[number] = index
            if self.cached:
                self._place_states(row, number, augmented.example)
            else:
                self._place_tokens(row, number, augmented, cursor=cursor, start=offset + cursor)
            if self.store is not None:
                utterances += self._place_slots(row, augmented, first=utterances, start=offset + cursor)
            self._place_golds(row, number, augmented)
            cursor += len(augmented.encoded.ids)

    def _place_tokens(
        self, row: Batch[np.ndarray], number: int, augmented: AugmentedExample, *, cursor: int, start: int
    ) -> None:
        """Write the tokens of Example `number` at column `cursor` of the row, flat index `start` of the token grid."""
        encoded = augmented.encoded
        length = len(encoded.ids)
        columns, inputs = slice(cursor, cursor + length), slice(cursor, cursor + length - 1)
        row.tokens[columns] = augmented.inputs
        row.segment_ids[columns] = number + 1
        row.positions[columns] = np.arange(length)
        row.targets[inputs] = encoded.ids[1:]
        row.target_mask[inputs] = encoded.loss_mask[1:]
        row.label_mask[inputs] = encoded.label_mask[1:]
        first, last = encoded.response_span
        span = np.arange(first, last)[: self.spec.response_tokens] + start
        row.response_index[number, : len(span)] = span
        if encoded.signals_start is not None:
            row.signal_index[number] = start + encoded.signals_start + np.arange(2 * SIGNALS)

    def _place_states(self, row: Batch[np.ndarray], number: int, example: Example) -> None:
        if self.states is None:
            raise RuntimeError("the LLM's states are cached, and none are set: set `states` before the first batch")
        states = self.states[example.id]["response_states"]
        row.response_states[number, : len(states)] = states
        row.response_index[number, : len(states)] = np.arange(len(states))

    def _place_slots(self, row: Batch[np.ndarray], augmented: AugmentedExample, *, first: int, start: int) -> int:
        """Write the features of an Example's slots; the placeholders of a modality that is not shown stay.

        Args:
          row: to write to.
          augmented: the Example.
          first: index of its first utterance on the row's M axis.
          start: flat index of its first token.

        Returns:
          How many utterances were written.
        """
        substitutes = augmented.assignment.feature_keys if augmented.assignment else {}
        arrays = {"audio": (row.audio, row.audio_start), "video": (row.video, row.video_start)}
        indices: dict[str, int] = {}
        keys = {slot.key for slot in augmented.encoded.slots}
        stored = {key: self.store.get(substitutes.get(key, key), content=False) for key in keys}
        for slot in augmented.encoded.slots:
            features = stored[slot.key]
            if features is None or slot.modality not in features:
                continue
            index = indices.setdefault(slot.key, first + len(indices))
            values, starts = arrays[slot.modality]
            values[index] = features[slot.modality]
            if augmented.shown[slot.modality]:
                starts[index] = start + slot.position
        return len(indices)

    def _place_golds(self, row: Batch[np.ndarray], number: int, augmented: AugmentedExample) -> None:
        """Write labels and golds of Example `number`."""
        example, assignment = augmented.example, augmented.assignment
        labels = row.labels
        for name, value in class_labels(example).items():
            labels[name][number] = value
        if self.store is None or example.response is None:
            return
        content = self.content and augmented.is_spoken
        gold = self.store.get(example.utterance_key(example.response), content=content) or {}
        styles = gold if assignment is None else self.store.get(assignment.style_key, content=False) or {}
        if "style_speech" in styles:
            row.gold_style_speech[number], row.has_style_speech[number] = styles["style_speech"], True
        if "style_video" in styles:
            row.gold_style_video[number], row.has_style_video[number] = styles["style_video"], True
        phonemes, frames = gold.get("phonemes"), gold.get("content_video")
        if not content or phonemes is None or frames is None:
            return
        count = len(phonemes)
        if count > self.spec.phonemes or len(frames) > self.spec.frames:
            return
        row.phonemes[number, :count] = phonemes
        row.phoneme_frames[number, :count] = gold["phoneme_frames"]
        row.gold_content_speech[number, :count] = gold["content_speech"]
        row.gold_content_video[number, : len(frames)] = frames
        row.video_frames[number] = len(frames)
