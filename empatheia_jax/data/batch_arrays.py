"""The arrays of a `schema.Batch`, empty, and a row's share of them: rows are written where they will be used."""

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.schema import UNKNOWN, Batch, Widths
from empatheia_jax.data.tokenizer import SIGNALS

GRID = ("tokens", "segment_ids", "positions", "targets", "target_mask", "label_mask")  # [B, T]; others [K or M, ...]
_PADDING = ("audio_start", "video_start", "example_id", "response_index", "signal_index", "phonemes")  # -1, not 0
_LABELS = ("emotion", "age", "gender", "timbre")


def batch_shapes(
    config: Config,
    widths: Widths,
    rows: int,
    floats: np.dtype,
    states: tuple[int, np.dtype],
    leading: tuple[int, ...] = (),
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{name: (shape, dtype)} of the arrays of a `Batch` of `rows` rows.

    Args:
      floats: dtype of features and golds. states: (D, dtype) of `response_states`, D 0 where they are computed.
      leading: axes before the rows, such as the accumulation's.
    """
    data = config.data
    t, k, m = data.row_tokens, rows * data.row_examples, rows * data.row_utterances
    p, f, r = data.phonemes, data.frames, data.response_tokens
    shapes = {
        **dict.fromkeys(GRID, (rows, t)),
        "audio": (m, *widths.audio),
        "video": (m, *widths.video),
        "audio_start": (m,),
        "video_start": (m,),
        "example_id": (k,),
        "response_index": (k, r),
        "response_states": (k, r, states[0]),
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
    kinds = dict.fromkeys(("target_mask", "label_mask", "has_style_speech", "has_style_video"), np.dtype(bool))
    kinds |= {name: floats for name in shapes if name in ("audio", "video") or name.startswith("gold_")}
    kinds["response_states"] = states[1]
    return {name: ((*leading, *shape), np.dtype(kinds.get(name, np.int32))) for name, shape in shapes.items()}


def empty_batch(*what, **named) -> dict[str, np.ndarray]:
    """Rows of padding; arguments as those of `batch_shapes`.

    Large arrays are zeros that nobody has touched: the system gives them memory where something is written.
    """
    batch = {name: np.zeros(shape, dtype) for name, (shape, dtype) in batch_shapes(*what, **named).items()}
    for name in _PADDING:
        batch[name].fill(-1)
    for name in _LABELS:
        batch[name].fill(UNKNOWN)
    return Batch(**batch).asdict()


def row_views(batch: dict[str, np.ndarray], row: int, rows: int) -> dict[str, np.ndarray]:
    """Row `row` of `rows`, without the row axis on the token grid: writing to it writes into the batch."""
    views = {}
    for name, array in batch.items():
        share = len(array) // rows
        views[name] = array[row] if name in GRID else array[row * share : (row + 1) * share]
    return views
