"""The arrays of a training step: `Batch`, and `BatchSpec`, from whose sizes they are made, empty or abstract.

Axis letters are those of `data.schema`.
"""

import dataclasses
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.features.records import FLOAT_DTYPES
from empatheia_jax.data.prompts.dialogue import PromptKind
from empatheia_jax.data.prompts.tokenizer import SIGNALS
from empatheia_jax.data.schema import UNKNOWN, Widths

ArrayT_co = TypeVar("ArrayT_co", covariant=True, bound=Any)
"""np.ndarray on the host, jax.Array in a step, jax.ShapeDtypeStruct before it is compiled."""

TOKEN_GRID = ("tokens", "segment_ids", "positions", "targets", "target_mask", "label_mask")
"""Names of the arrays [B, T]; all others are [K, ...] or [M, ...]."""
LABELS = ("emotion", "age", "gender", "timbre")
"""Names of the class labels."""
_MASKS = ("target_mask", "label_mask", "has_style_speech", "has_style_video")
_FLOATS = ("audio", "video", "gold_content_speech", "gold_content_video", "gold_style_speech", "gold_style_video")
_MINUS_ONE_PADDED = ("audio_start", "video_start", "example_id", "response_index", "signal_index", "phonemes")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch(Generic[ArrayT_co]):
    """The arrays of one (micro-)batch; all shapes are static. K = B * Examples a row, M = B * utterances a row.

    Rows are independent: the Examples (utterances) of row b are entries [b*K/B, (b+1)*K/B) of the K (M) axis, so
    every array shards over its first axis with `data x fsdp`. Indices into the token grid are flat: row * T + column;
    -1 is padding. "float" is the dtype in which the feature store has floats. Axes that a stage does not read have size
    0: M without slots, P and F without golds of content. A step's arrays have an accumulation axis A before all others.
    """

    tokens: ArrayT_co  # int32 [B, T]
    segment_ids: ArrayT_co  # int32 [B, T]; 0 is padding, Examples of a row count from 1
    positions: ArrayT_co  # int32 [B, T]; restart at 0 in each Example
    targets: ArrayT_co  # int32 [B, T]; the token that follows
    target_mask: ArrayT_co  # bool [B, T]; positions with L_emp
    label_mask: ArrayT_co  # bool [B, T]; targets that name a label (`encoder.EncodedExample.label_mask`)
    audio: ArrayT_co  # float [M, Na, Da]; encoder features of utterances
    video: ArrayT_co  # float [M, Nv, Dv]
    audio_start: ArrayT_co  # int32 [M]; flat index of the first <Aud>, -1: none (medium absent or dropped out)
    video_start: ArrayT_co  # int32 [M]; likewise of <Vid>
    example_id: ArrayT_co  # int32 [K]; position in the dataset, -1: padding
    response_index: ArrayT_co  # int32 [K, R]; flat positions whose input is a response token
    response_states: ArrayT_co  # [K, R, D]; r^t where it is cached, and then T = 0; else D = 0
    signal_index: ArrayT_co  # int32 [K, 32]; flat positions of <AUD1..16> <VID1..16>
    phonemes: ArrayT_co  # int32 [K, P]; symbol ids, -1: padding
    phoneme_frames: ArrayT_co  # int32 [K, P]; 25 ms frames each phoneme lasts
    gold_content_speech: ArrayT_co  # float [K, P, Cs]
    gold_content_video: ArrayT_co  # float [K, F, Cv]
    video_frames: ArrayT_co  # int32 [K]; valid frames of gold_content_video (0: no gold)
    gold_style_speech: ArrayT_co  # float [K, Ss]
    gold_style_video: ArrayT_co  # float [K, Sv]
    has_style_speech: ArrayT_co  # bool [K]
    has_style_video: ArrayT_co  # bool [K]
    emotion: ArrayT_co  # int32 [K] of 7, UNKNOWN: no label
    age: ArrayT_co  # int32 [K] of 4
    gender: ArrayT_co  # int32 [K] of 2
    timbre: ArrayT_co  # int32 [K] of 3

    @property
    def labels(self) -> dict[str, ArrayT_co]:
        """Class labels by name: int32 [K] each, negative where not known."""
        return {name: getattr(self, name) for name in LABELS}

    @property
    def golds(self) -> dict[str, ArrayT_co]:
        """What the latents are to be, by name: float [K, P, Cs], [K, F, Cv], [K, Ss], [K, Sv]."""
        names = ("content_speech", "content_video", "style_speech", "style_video")
        return {name: getattr(self, f"gold_{name}") for name in names}

    @property
    def gold_masks(self) -> dict[str, ArrayT_co]:
        """Where each of `golds` has a value: bool [K, P], [K, F], [K], [K]."""
        return {
            "content_speech": self.phonemes >= 0,
            "content_video": np.arange(self.gold_content_video.shape[-2]) < self.video_frames[..., None],
            "style_speech": self.has_style_speech,
            "style_video": self.has_style_video,
        }

    def row(self, number: int, rows: int) -> "Batch[ArrayT_co]":
        """Return views of row `number` of `rows`, without the row axis on the token grid: writing to them writes here.

        Its other arrays keep their first axis, which is then Examples (utterances) of this row.
        """
        views = {}
        for field in dataclasses.fields(self):
            array = getattr(self, field.name)
            share = len(array) // rows
            views[field.name] = (
                array[number] if field.name in TOKEN_GRID else array[number * share : (number + 1) * share]
            )
        return Batch(**views)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """Sizes and dtypes of a `Batch`; a size is 0 where the stage does not read the arrays of that axis."""

    rows: int  # B
    row_tokens: int  # T
    row_examples: int  # K / B
    row_utterances: int  # M / B
    response_tokens: int  # R
    phonemes: int  # P
    frames: int  # F
    widths: Widths
    float_dtype: np.dtype  # of features and golds
    state_width: int  # D of `response_states`
    state_dtype: np.dtype

    @classmethod
    def for_stage(
        cls,
        config: Config,
        prompt_kind: PromptKind,
        widths: Widths,
        *,
        float_dtype: np.dtype | None,
        content: bool,
        cached: bool = False,
    ) -> "BatchSpec":
        """Return the spec of a stage's global micro-batches.

        Args:
          config: the run's, with the shapes of the stage.
          prompt_kind: of the stage; "text" has no slots.
          widths: of encoders and generators.
          float_dtype: of the feature store; None: there is no store.
          content: whether the golds of content are read.
          cached: whether there are states of the LLM in place of tokens.
        """
        data, stored = config.data, float_dtype is not None
        float_dtype = np.dtype(float_dtype if stored else np.float16)
        return cls(
            rows=data.rows,
            row_tokens=0 if cached else data.row_tokens,
            row_examples=data.row_examples,
            row_utterances=data.row_utterances if stored and prompt_kind != "text" else 0,
            response_tokens=data.response_tokens,
            phonemes=data.phonemes if stored and content else 0,
            frames=data.frames if stored and content else 0,
            widths=widths,
            float_dtype=float_dtype,
            state_width=config.llm.width if cached else 0,
            state_dtype=np.dtype(FLOAT_DTYPES[config.llm.compute_dtype]) if cached else float_dtype,
        )

    def abstract(self, accumulate: int | None = None) -> Batch[jax.ShapeDtypeStruct]:
        """Return shapes and dtypes of a micro-batch's arrays, or of `accumulate` of them: [A, ...]."""
        widths = self.widths
        k, m = self.rows * self.row_examples, self.rows * self.row_utterances
        p, f, r = self.phonemes, self.frames, self.response_tokens
        shapes = {
            **dict.fromkeys(TOKEN_GRID, (self.rows, self.row_tokens)),
            "audio": (m, *widths.audio),
            "video": (m, *widths.video),
            "audio_start": (m,),
            "video_start": (m,),
            "example_id": (k,),
            "response_index": (k, r),
            "response_states": (k, r, self.state_width),
            "signal_index": (k, 2 * SIGNALS),
            "phonemes": (k, p),
            "phoneme_frames": (k, p),
            "gold_content_speech": (k, p, widths.content_speech),
            "gold_content_video": (k, f, widths.content_video),
            "video_frames": (k,),
            "gold_style_speech": (k, widths.style_speech),
            "gold_style_video": (k, widths.style_video),
            "has_style_speech": (k,),
            "has_style_video": (k,),
            **dict.fromkeys(LABELS, (k,)),
        }
        dtypes = dict.fromkeys(shapes, np.dtype(np.int32)) | dict.fromkeys(_MASKS, np.dtype(bool))
        dtypes |= dict.fromkeys(_FLOATS, self.float_dtype) | {"response_states": self.state_dtype}
        leading = () if accumulate is None else (accumulate,)
        return Batch(**{n: jax.ShapeDtypeStruct((*leading, *shape), dtypes[n]) for n, shape in shapes.items()})

    def empty(self, accumulate: int | None = None) -> Batch[np.ndarray]:
        """Return arrays of padding, shaped as `abstract`.

        Large arrays are zeros that have not been written to: the system gives them memory where something is written.
        """
        batch = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.abstract(accumulate))
        for name in _MINUS_ONE_PADDED:
            getattr(batch, name).fill(-1)
        for label in batch.labels.values():
            label.fill(UNKNOWN)
        return batch
