"""The classical C_video: a mouth shape for each video frame, from the phonemes spoken.

Each symbol has a shape; a frame takes that of the active symbol, blended at its edges with the neighbours' (mild
coarticulation). So the shape depends on the phoneme, the share of it elapsed and its neighbours, which is what the
content synchronizer's queries point to. Loudness scales the jaw a little.
"""

import functools

import numpy as np

from empatheia_jax.generators.interfaces import VIDEO_FPS, phoneme_of_video_frame
from empatheia_jax.generators.phonemes import SYMBOLS

CONTENT_NAMES = ("open", "wide", "round", "teeth", "press")
"""Coordinates of C_video, each 0..1: jaw, spread lips, rounded lips, teeth shown, lips closed tightly."""

_SHAPES: dict[str, tuple[float, float, float, float, float]] = {
    # vowels, open to close
    "aɑɒɐ": (0.95, 0.25, 0.05, 0.15, 0.0),
    "æ": (0.85, 0.65, 0.0, 0.35, 0.0),
    "ɛœ": (0.62, 0.55, 0.0, 0.40, 0.0),
    "ʌɜɝɞ": (0.60, 0.25, 0.10, 0.20, 0.0),
    "əɚɘɤ": (0.42, 0.25, 0.10, 0.25, 0.0),
    "eø": (0.46, 0.75, 0.0, 0.55, 0.0),
    "ɪʏᵻɨ": (0.32, 0.75, 0.0, 0.60, 0.0),
    "iy": (0.24, 1.00, 0.0, 0.80, 0.0),
    "ɔ": (0.78, 0.0, 0.55, 0.0, 0.0),
    "oɵ": (0.56, 0.0, 0.85, 0.0, 0.0),
    "ʊʉ": (0.34, 0.0, 0.80, 0.0, 0.0),
    "uɯ": (0.26, 0.0, 1.00, 0.0, 0.0),
    # lips
    "pbmɱɓʘ": (0.0, 0.15, 0.0, 0.0, 1.0),
    "fvʋⱱɸβ": (0.10, 0.35, 0.0, 0.75, 0.25),
    "wʍɥ": (0.18, 0.0, 1.0, 0.0, 0.0),
    # teeth and tongue
    "θð": (0.24, 0.35, 0.0, 0.65, 0.0),
    "szʦʣ": (0.10, 0.60, 0.0, 1.00, 0.0),
    "ʃʒʤʧʂʐɕʑ": (0.18, 0.0, 0.60, 0.95, 0.0),
    "tdnɾʈɖɳɗ": (0.20, 0.40, 0.0, 0.65, 0.0),
    "lɫɭɬɮʎʟɺ": (0.34, 0.35, 0.0, 0.40, 0.0),
    "rɹɻɽʀʁ": (0.24, 0.0, 0.55, 0.35, 0.0),
    "jʝ": (0.22, 0.85, 0.0, 0.70, 0.0),
    # behind the teeth: nearly neutral, the mouth mostly shows the neighbours
    "kɡgŋxɣqɢɴçcɟɲɰ": (0.30, 0.30, 0.0, 0.35, 0.0),
    "hɦħʕʔχʡʢʜ": (0.40, 0.25, 0.05, 0.15, 0.0),
}
_REST = (0.0, 0.1, 0.0, 0.0, 0.15)
_PAUSES = set(';:,.!?¡¿—…"«»“”')
_TRANSPARENT = set("ˈˌːˑʼʴʰʱʲʷˠˤ˞↓↑→↗↘'\N{COMBINING VERTICAL LINE BELOW} ")
"""Marks and word gaps: they have no shape, the mouth moves from one neighbour to the next."""

EDGE = 0.38  # share of a phoneme, at each end, over which it blends with its neighbour


@functools.cache
def _symbol_shapes() -> tuple[np.ndarray, np.ndarray]:
    """Return the shapes float32 [symbols, 5], and which symbols have one, bool [symbols]."""
    table = np.tile(np.array(_REST, np.float32), (len(SYMBOLS), 1))
    has_shape = np.ones(len(SYMBOLS), bool)
    lookup = {symbol: shape for symbols, shape in _SHAPES.items() for symbol in symbols}
    for index, symbol in enumerate(SYMBOLS):
        if symbol in lookup:
            table[index] = lookup[symbol]
        elif symbol in _TRANSPARENT:
            has_shape[index] = False
        elif index and symbol not in _PAUSES:
            table[index] = (0.35, 0.3, 0.1, 0.3, 0.0)
    return table, has_shape


def phoneme_shapes(phonemes: np.ndarray) -> np.ndarray:
    """Return the mouth shape float32 [P, 5] of every position of symbol ids [P].

    A mark or a word gap takes the mean of the nearest neighbours that have a shape.
    """
    table, has_shape = _symbol_shapes()
    ids = np.clip(np.asarray(phonemes), 0, len(SYMBOLS) - 1)
    shapes, real = table[ids].copy(), np.nonzero(has_shape[ids])[0]
    if not len(real):
        return np.tile(np.array(_REST, np.float32), (len(ids), 1))
    for position in np.nonzero(~has_shape[ids])[0]:
        after = np.searchsorted(real, position)
        before = real[max(after - 1, 0)]
        following = real[min(after, len(real) - 1)]
        shapes[position] = 0.5 * (table[ids[before]] + table[ids[following]])
    return shapes


def mouth_content(
    audio: np.ndarray | None, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray
) -> np.ndarray:
    """Return the C_video of a recording whose phonemes are known.

    Args:
      audio: float32 [samples], or None: loudness does not scale the jaw.
      sample_rate: Hz.
      phonemes: symbol ids int32 [P].
      phoneme_frames: int32 [P], 25 ms frames that each lasts.

    Returns:
      float32 [F, 5], F = `video_frame_count(phoneme_frames)`.

    Raises:
      ValueError: lengths differ or nothing lasts.
    """
    phonemes, durations = np.asarray(phonemes), np.asarray(phoneme_frames)
    if phonemes.shape != durations.shape or phonemes.ndim != 1:
        raise ValueError(f"phonemes {phonemes.shape} and phoneme_frames {durations.shape} must be equal [P]")
    if not durations.sum():
        raise ValueError("all phonemes last 0 frames: there is nothing to show")
    # a symbol that lasts 0 frames is never visible, so it must not be a neighbour either
    visible = np.nonzero(durations)[0]
    shapes = phoneme_shapes(phonemes)[visible]
    index, fraction = phoneme_of_video_frame(durations[visible])
    before, after = np.maximum(index - 1, 0), np.minimum(index + 1, len(visible) - 1)
    from_before = 0.5 * _ease(1 - fraction / EDGE)[:, None]
    to_after = 0.5 * _ease((fraction - (1 - EDGE)) / EDGE)[:, None]
    content = shapes[index] * (1 - from_before - to_after) + shapes[before] * from_before + shapes[after] * to_after
    if audio is not None and len(audio):
        content[:, 0] *= _loudness(np.asarray(audio, np.float32), sample_rate, len(content))
    return np.clip(content, 0.0, 1.0).astype(np.float32)


def sample_content(rng: np.random.Generator, frame_count: int) -> np.ndarray:
    """Return C_video [frame_count, 5] of invented speech, syllables between two pauses, to calibrate measurements."""
    vowels, consonants = "aɑæɛʌəeɪiɔoʊu", "pbmfvwθszʃtdnlɹjkɡh"
    lengths, symbols = [int(rng.integers(2, 6))], ["."]
    while sum(lengths) * 0.625 < frame_count - 4:
        for options, longest in ((consonants, 4), (vowels, 7)):
            symbols.append(options[int(rng.integers(len(options)))])
            lengths.append(int(rng.integers(2, longest)))
        if rng.random() < 0.06:
            symbols.append(",")
            lengths.append(int(rng.integers(3, 8)))
    symbols.append(".")
    lengths.append(2 * frame_count)
    ids = np.array([SYMBOLS.index(symbol) for symbol in symbols])
    return mouth_content(None, 0, ids, np.array(lengths))[:frame_count]


def _ease(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def _loudness(audio: np.ndarray, sample_rate: int, frame_count: int) -> np.ndarray:
    """Return a jaw factor 0.85..1.1 for each video frame, from its level relative to the recording's loud parts."""
    edges = np.minimum((np.arange(frame_count + 1) * sample_rate / VIDEO_FPS).astype(int), len(audio))
    power = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64) ** 2)])
    level = np.sqrt((power[edges[1:]] - power[edges[:-1]]) / np.maximum(edges[1:] - edges[:-1], 1))
    return 0.85 + 0.25 * np.clip(level / max(np.percentile(level, 90), 1e-6), 0, 1)
