"""Shapes and empty arrays of a `schema.Batch`, and views of one row: rows are written in place, not copied in."""

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.prompts.tokenizer import SIGNALS
from empatheia_jax.data.schema import UNKNOWN, Batch, Widths

# Names of the arrays [B, T]; all others are [K, ...] or [M, ...].
TOKEN_GRID = ("tokens", "segment_ids", "positions", "targets", "target_mask", "label_mask")
_MINUS_ONE_PADDED = ("audio_start", "video_start", "example_id", "response_index", "signal_index", "phonemes")
_LABELS = ("emotion", "age", "gender", "timbre")


def batch_shapes(
    config: Config,
    widths: Widths,
    rows: int,
    *,
    float_dtype: np.dtype,
    states_spec: tuple[int, np.dtype],
    leading: tuple[int, ...] = (),
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return {name: (shape, dtype)} of the arrays of a `Batch` of `rows` rows.

    Args:
      config: gives the sizes of a row (`config.data`).
      widths: of encoders and generators.
      rows: B.
      float_dtype: dtype of features and golds.
      states_spec: (D, dtype) of `response_states`; D is 0 where the LLM computes them.
      leading: axes before the rows, such as the accumulation's.
    """
    data = config.data
    t, k, m = data.row_tokens, rows * data.row_examples, rows * data.row_utterances
    p, f, r = data.phonemes, data.frames, data.response_tokens
    shapes = {
        **dict.fromkeys(TOKEN_GRID, (rows, t)),
        "audio": (m, *widths.audio),
        "video": (m, *widths.video),
        "audio_start": (m,),
        "video_start": (m,),
        "example_id": (k,),
        "response_index": (k, r),
        "response_states": (k, r, states_spec[0]),
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
        **dict.fromkeys(_LABELS, (k,)),
    }
    dtypes = dict.fromkeys(("target_mask", "label_mask", "has_style_speech", "has_style_video"), np.dtype(bool))
    dtypes |= {name: float_dtype for name in shapes if name in ("audio", "video") or name.startswith("gold_")}
    dtypes["response_states"] = states_spec[1]
    return {name: ((*leading, *shape), np.dtype(dtypes.get(name, np.int32))) for name, shape in shapes.items()}


def empty_batch(shapes: dict[str, tuple[tuple[int, ...], np.dtype]]) -> dict[str, np.ndarray]:
    """Return arrays of padding with the shapes and dtypes that `batch_shapes` gives.

    Large arrays are zeros that have not been written to: the system gives them memory where something is written.
    """
    batch = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    for name in _MINUS_ONE_PADDED:
        batch[name].fill(-1)
    for name in _LABELS:
        batch[name].fill(UNKNOWN)
    return Batch(**batch).asdict()


def row_views(batch: dict[str, np.ndarray], row: int, rows: int) -> dict[str, np.ndarray]:
    """Return views of row `row` of `rows`, without the row axis on the token grid: writing to them writes the batch."""
    views = {}
    for name, array in batch.items():
        share = len(array) // rows
        views[name] = array[row] if name in TOKEN_GRID else array[row * share : (row + 1) * share]
    return views
