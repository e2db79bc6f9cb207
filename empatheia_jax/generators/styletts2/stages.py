"""The networks with their weights, compiled a stage and a shape at a time: lists of ragged rows in, lists out.

Shapes are few, so that in steady state nothing is compiled again: rows are padded to a power of two, phonemes, frames
and recordings to a `bucket`. Padding changes nothing but the time it takes (see `model`), so rows of like length go
together.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.buckets import bucket, power_of_two
from empatheia_jax.frozen import FrozenNetwork
from empatheia_jax.generators.styletts2 import sampler
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.errors import StyleTTS2Error
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.styletts2.source import HARMONICS
from empatheia_jax.weights import architecture_of, read_facts

SAMPLES_A_FRAME = 600
PULSE = 50  # samples that upstream cuts from HiFi-GAN's end: a click; here they are silence
MOST_ROWS = 16  # of text that go through at once
MOST_FRAMES = 4096  # of all rows together: about 2 GB in the vocoder

Rows = Sequence[np.ndarray]


class Stages:
    """A StyleTTS 2 from a converted folder, on the first device; weights come to it with the first call.

    What `_read`, `_style`, `_durations`, `_speak` and `_draw` take and give is for `torch_backend` to keep to.
    """

    def __init__(self, folder: Path | str, compute_dtype: str = "float32"):
        """Read what the weights are of.

        Args:
          compute_dtype: of the decoder and its vocoder, nearly all of the arithmetic. What decides on words, timing,
            pitch and style stays float32: a bfloat16 F0 of 200 Hz would be off by half a hertz.
        Raises:
          CheckpointError: no converted weights there. StyleTTS2Error: they are another network's.
        """
        family, sizes = architecture_of(Path(folder))
        if family != StyleTTS2Config.__name__:
            raise StyleTTS2Error(f"{folder}: weights of a {family}, not of StyleTTS 2")
        self.config = StyleTTS2Config(**sizes, compute_dtype=compute_dtype)
        self.sha256: str = read_facts(Path(folder))["sha256"]
        network = FrozenNetwork(self.config, StyleTTS2, str(folder), "generators.speech_weights")
        self._read = network.compiled(StyleTTS2.read)
        self._style = network.compiled(StyleTTS2.style)
        self._durations = network.compiled(StyleTTS2.durations)
        self._speak = network.compiled(_speak)
        self._draw = network.compiled(_draw)
        self._draw_guided = network.compiled(_draw_guided)

    def read(self, ids: Rows) -> list[np.ndarray]:
        """Symbol ids int [P] -> content float32 [P, 1280]."""

        def run(rows: list[int]) -> np.ndarray:
            return self._read(*_text([ids[i] for i in rows]))

        return _in_batches([len(row) for row in ids], run, MOST_ROWS)

    def style(self, mels: Rows) -> list[np.ndarray]:
        """Log-mels [T, 80], T >= 65 -> styles [256]."""

        def run(rows: list[int]) -> np.ndarray:
            return self._style(*_padded([mels[i] for i in rows], lambda size: bucket(size, 80, 4)))

        return _in_batches([len(row) for row in mels], run, MOST_ROWS, cut=False)

    def durations(self, contents: Rows, styles: Rows) -> list[np.ndarray]:
        """Contents [P, 1280] and styles [256] -> frames of 25 ms a phoneme, not yet whole [P]."""

        def run(rows: list[int]) -> np.ndarray:
            padded, lengths = _text([contents[i] for i in rows])
            return self._durations(padded, _stacked(styles, rows), lengths)

        return _in_batches([len(row) for row in contents], run, MOST_ROWS)

    def draw(self, words: Rows, references: Rows | None, seeds: Sequence[int], steps: int, scale: float) -> Rows:
        """Styles [256] that diffusion draws for h_bert [P, 768], near `references` [256] where the model has speakers.

        A row's noise depends on its seed alone.
        """

        def run(rows: list[int]) -> np.ndarray:
            padded, lengths = _text([words[i] for i in rows])
            given = None if references is None else _stacked(references, rows)
            keys = np.asarray(_filled([seeds[i] for i in rows]), np.uint32)
            arrays = (padded, lengths, given, keys, np.zeros(steps - 1, np.int8))
            return self._draw(*arrays) if scale == 1.0 else self._draw_guided(*arrays, np.float32(scale))

        return _in_batches([len(row) for row in words], run, MOST_ROWS, cut=False)

    def speak(self, contents: Rows, styles: Rows, frames: Rows, seeds: Sequence[int]) -> list[np.ndarray]:
        """Contents [P, 1280], styles [256], whole frames a phoneme int [P] -> waveforms float32 [600 L], -1..1."""
        totals = [int(np.sum(row)) for row in frames]

        def run(rows: list[int]) -> list[np.ndarray]:
            padded, lengths = _text([contents[i] for i in rows])
            whole, _ = _text([frames[i] for i in rows])
            size = bucket(max(totals[i] for i in rows), 40, 8)
            keys = np.asarray(_filled([seeds[i] for i in rows]), np.uint32)
            waves = self._speak(padded, _stacked(styles, rows), whole, lengths, keys, np.zeros(size, np.int8))
            return [self._finished(wave, totals[i]) for wave, i in zip(waves, rows, strict=False)]

        longest = bucket(max(totals, default=1), 40, 8)
        return _in_batches(totals, run, max(1, min(MOST_ROWS, MOST_FRAMES // longest)), cut=False)

    def _finished(self, wave: np.ndarray, frames: int) -> np.ndarray:
        wave = np.clip(wave[: SAMPLES_A_FRAME * frames].astype(np.float32), -1, 1)
        if self.config.decoder_type == "hifigan":
            wave[-PULSE:] = 0
        return wave


# What is compiled beside the model's own methods ----------------------------------------------------------------------


def source_noise(seed, frames: int) -> jax.Array:
    """Normal numbers [600 frames, 9] in the vocoder's source."""
    return jax.random.normal(jax.random.key(seed), (SAMPLES_A_FRAME * frames, HARMONICS))


def style_noise(seed, steps: int, width: int) -> jax.Array:
    """Normal numbers [steps, width] from which diffusion draws a style: its beginning, and one for each update."""
    key = jax.random.fold_in(jax.random.key(seed), 1)  # not what the source is made of
    return jax.random.normal(key, (steps, width))


def _speak(model: StyleTTS2, content, style, frames, lengths, seeds, size):
    """`size` [L] says by its shape how many frames there is room for."""

    noise = jax.vmap(lambda seed: source_noise(seed, size.shape[0]))(seeds)
    return model.speak(content, style, frames, noise, lengths)


def _draw(model: StyleTTS2, words, lengths, reference, seeds, steps, scale=1.0):
    """`steps` [n - 1] says by its shape how many updates there are; a `scale` of 1 runs the network once a call."""

    rows = jax.vmap(lambda seed: style_noise(seed, steps.shape[0] + 1, 2 * model.config.style_dim))(seeds)
    noise = jnp.swapaxes(rows, 0, 1)  # [n, B, 256]

    def denoise(x, sigma):
        return model.diffusion(x, sigma, words, reference, lengths, scale)

    return sampler.sample(denoise, noise[0], noise[1:])[0]


def _draw_guided(model: StyleTTS2, words, lengths, reference, seeds, steps, scale):
    return _draw(model, words, lengths, reference, seeds, steps, scale)


# Ragged rows ----------------------------------------------------------------------------------------------------------


def _in_batches(lengths: list[int], run: Callable[[list[int]], Sequence], most: int, cut: bool = True) -> list:
    """Results of `run(indices)` for all rows, in order; rows of like length together, `cut` to their lengths."""
    found: list = [None] * len(lengths)
    for rows in _groups(lengths, most):
        for i, result in zip(rows, run(rows), strict=False):
            found[i] = result[: lengths[i]] if cut else result
    return found


def _groups(lengths: list[int], most: int) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), most):
        yield order[start : start + most]


def _filled(rows: list) -> list:
    """As many rows as the next power of two; those beyond repeat the first."""
    return rows + rows[:1] * (power_of_two(len(rows)) - len(rows))


def _stacked(rows: Rows, chosen: list[int]) -> np.ndarray:
    return np.stack(_filled([np.asarray(rows[i], np.float32) for i in chosen]))


def _padded(rows: Rows, size_of: Callable[[int], int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows [B, T, ...] with zeros behind, their lengths int32 [B])."""
    rows = _filled(list(rows))
    lengths = np.array([len(row) for row in rows], np.int32)
    padded = np.zeros((len(rows), size_of(int(lengths.max())), *rows[0].shape[1:]), rows[0].dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded, lengths


def _text(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    return _padded(rows, lambda size: bucket(size, 32, 4))
