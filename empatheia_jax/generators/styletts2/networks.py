"""StyleTTS 2's networks with their weights, compiled: lists of utterances in, lists out.

Shapes are few, so that in steady state nothing is compiled again: batches are padded to a power of two; phonemes,
frames and recordings to a `bucket`. Padding changes only the time it takes (see `model`), so utterances of similar
length are batched together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork
from empatheia_jax.checkpoints.weights import read_architecture, read_metadata
from empatheia_jax.generators.styletts2 import diffusion
from empatheia_jax.generators.styletts2.config import SAMPLES_PER_FRAME, StyleTTS2Config, StyleTTS2Error
from empatheia_jax.generators.styletts2.decoder import HARMONICS
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.runtime.buckets import bucket, next_power_of_two

CLICK_SAMPLES = 50  # at the end of HiFi-GAN's output is a click, which upstream cuts off; here it is silenced
MAX_BATCH = 16  # utterances in a batch
MAX_FRAMES = 4096  # of all utterances of a batch together: about 2 GB in the vocoder

Arrays = Sequence[np.ndarray]


class Networks:
    """A StyleTTS 2 from a converted folder; weights are loaded with the first call.

    `torch_backend` replaces `_encode_text`, `_style`, `_durations`, `_speak`, `_sample_style` and
    `_sample_style_guided` by functions of the same arguments and results.
    """

    def __init__(self, folder: Path | str, compute_dtype: str = "float32"):
        """Read the architecture of the weights.

        Args:
          folder: the output of `python -m converters styletts2`.
          compute_dtype: dtype of the decoder and its vocoder, which are nearly all of the arithmetic. Text, timing,
            pitch and style stay float32: a bfloat16 F0 of 200 Hz would be off by half a hertz.

        Raises:
          CheckpointError: no converted weights in the folder.
          StyleTTS2Error: the weights are another network's.
        """
        family, sizes = read_architecture(Path(folder))
        if family != StyleTTS2Config.__name__:
            raise StyleTTS2Error(f"{folder}: weights of a {family}, not of StyleTTS 2")
        self.config = StyleTTS2Config(**sizes, compute_dtype=compute_dtype)
        self.sha256: str = read_metadata(Path(folder))["sha256"]
        network = FrozenNetwork(self.config, StyleTTS2, str(folder), "generators.speech_weights")
        self._encode_text = network.compile(StyleTTS2.encode_text)
        self._style = network.compile(StyleTTS2.style)
        self._durations = network.compile(StyleTTS2.durations)
        self._speak = network.compile(_speak)
        self._sample_style = network.compile(_sample_style)
        self._sample_style_guided = network.compile(_sample_style_guided)

    def encode_text(self, ids: Arrays) -> list[np.ndarray]:
        """Return the content float32 [P, 1280] of each text's symbol ids int [P]."""

        def run(indices: list[int]) -> np.ndarray:
            return self._encode_text(*_pad_phonemes([ids[i] for i in indices]))

        return _run_in_batches([len(text) for text in ids], run, MAX_BATCH)

    def style(self, mels: Arrays) -> list[np.ndarray]:
        """Return the style [256] of each recording's log-mel [T, 80], T >= 65."""

        def run(indices: list[int]) -> np.ndarray:
            return self._style(*_pad([mels[i] for i in indices], lambda size: bucket(size, 80, 4)))

        return _run_in_batches([len(mel) for mel in mels], run, MAX_BATCH, trim=False)

    def durations(self, contents: Arrays, styles: Arrays) -> list[np.ndarray]:
        """Return each phoneme's frames of 25 ms, not rounded, [P], for contents [P, 1280] and styles [256]."""

        def run(indices: list[int]) -> np.ndarray:
            padded, lengths = _pad_phonemes([contents[i] for i in indices])
            return self._durations(padded, _stack(styles, indices), lengths)

        return _run_in_batches([len(content) for content in contents], run, MAX_BATCH)

    def sample_style(
        self, words: Arrays, references: Arrays | None, seeds: Sequence[int], steps: int, *, scale: float
    ) -> Arrays:
        """Sample styles [256] by style diffusion.

        Args:
          words: h_bert [P, 768] of each text.
          references: style [256] of each text's reference recording; None in a model of one speaker.
          seeds: seed of each text's noise, which depends on nothing else.
          steps: diffusion steps.
          scale: strength of guidance by the text; 1 is none.
        """

        def run(indices: list[int]) -> np.ndarray:
            padded, lengths = _pad_phonemes([words[i] for i in indices])
            stacked = None if references is None else _stack(references, indices)
            keys = np.asarray(_fill_batch([seeds[i] for i in indices]), np.uint32)
            arrays = (padded, lengths, stacked, keys, np.zeros(steps - 1, np.int8))
            return (
                self._sample_style(*arrays) if scale == 1.0 else self._sample_style_guided(*arrays, np.float32(scale))
            )

        return _run_in_batches([len(text) for text in words], run, MAX_BATCH, trim=False)

    def speak(
        self,
        contents: Arrays,
        styles: Arrays,
        frames: Arrays,
        seeds: Sequence[int],
        *,
        manners: Arrays | None = None,
    ) -> list[np.ndarray]:
        """Synthesize waveforms float32 [600 L], -1..1.

        Args:
          contents: [P, 1280] of each utterance.
          styles: [256] of each utterance.
          frames: int [P] of each utterance, units of 25 ms that sum to L.
          seeds: seed of each utterance's source noise.
          manners: [4] of each utterance (`manner.shape_f0`); None: F0 as predicted.
        """
        totals = [int(np.sum(durations)) for durations in frames]

        def run(indices: list[int]) -> list[np.ndarray]:
            padded, lengths = _pad_phonemes([contents[i] for i in indices])
            padded_frames, _ = _pad_phonemes([frames[i] for i in indices])
            size = bucket(max(totals[i] for i in indices), 40, 8)
            keys = np.asarray(_fill_batch([seeds[i] for i in indices]), np.uint32)
            arrays = [padded, _stack(styles, indices), padded_frames, lengths, keys, np.zeros(size, np.int8)]
            waves = self._speak(*arrays, *([] if manners is None else [_stack(manners, indices)]))
            return [self._finish(wave, totals[i]) for wave, i in zip(waves, indices, strict=False)]

        longest = bucket(max(totals, default=1), 40, 8)
        return _run_in_batches(totals, run, max(1, min(MAX_BATCH, MAX_FRAMES // longest)), trim=False)

    def _finish(self, wave: np.ndarray, frames: int) -> np.ndarray:
        wave = np.clip(wave[: SAMPLES_PER_FRAME * frames].astype(np.float32), -1, 1)
        if self.config.decoder_type == "hifigan":
            wave[-CLICK_SAMPLES:] = 0
        return wave


# Functions compiled besides the model's own methods -------------------------------------------------------------------


def source_noise(seed, frames: int) -> jax.Array:
    """Return the normal noise [600 frames, 9] of the vocoder's source."""
    return jax.random.normal(jax.random.key(seed), (SAMPLES_PER_FRAME * frames, HARMONICS))


def style_noise(seed, steps: int, width: int) -> jax.Array:
    """Return the normal noise [steps, width] of style diffusion: its start, then one row for each update."""
    key = jax.random.fold_in(jax.random.key(seed), 1)  # independent of the source's noise
    return jax.random.normal(key, (steps, width))


def _speak(model: StyleTTS2, *arrays):
    """Synthesize waveforms.

    Args:
      model: the networks.
      *arrays: content, style, phoneme_frames, lengths, seeds, `size` [L], whose shape is the number of frames that
        there is room for, and the manner where one is given.
    """
    content, style, frames, lengths, seeds, size, *manner = arrays
    noise = jax.vmap(lambda seed: source_noise(seed, size.shape[0]))(seeds)
    return model.speak(content, style, frames, noise, lengths=lengths, manner=manner[0] if manner else None)


def _sample_style(model: StyleTTS2, *arrays, scale=1.0):
    """Sample styles.

    Args:
      model: the networks.
      *arrays: words, lengths, reference, seeds, and `steps` [n - 1], whose shape is the number of updates.
      scale: strength of guidance; 1 evaluates the network once per call.
    """
    words, lengths, reference, seeds, steps = arrays
    per_utterance = jax.vmap(lambda seed: style_noise(seed, steps.shape[0] + 1, 2 * model.config.style_dim))(seeds)
    noise = jnp.swapaxes(per_utterance, 0, 1)  # [n, B, 256]

    def denoise(x, sigma):
        return model.diffusion(x, sigma, words, reference, lengths=lengths, embedding_scale=scale)

    return diffusion.sample(denoise, noise[0], noise[1:])[0]


def _sample_style_guided(model: StyleTTS2, *arrays):
    return _sample_style(model, *arrays[:-1], scale=arrays[-1])


# Batches of utterances of different length ----------------------------------------------------------------------------


def _run_in_batches(
    lengths: list[int], run: Callable[[list[int]], Iterable], max_batch: int, trim: bool = True
) -> list:
    """Run batches of utterances of similar length.

    Args:
      lengths: length of every utterance.
      run: indices of a batch -> its results, padded ones behind.
      max_batch: most utterances in a batch.
      trim: cut each result to its utterance's length.

    Returns:
      The results in the order of `lengths`.
    """
    results: list = [None] * len(lengths)
    for indices in _group_by_length(lengths, max_batch):
        for i, result in zip(indices, run(indices), strict=False):
            results[i] = result[: lengths[i]] if trim else result
    return results


def _group_by_length(lengths: list[int], max_batch: int) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for start in range(0, len(order), max_batch):
        yield order[start : start + max_batch]


def _fill_batch(values: list) -> list:
    """Repeat the first value at the end until their number is a power of two."""
    return values + values[:1] * (next_power_of_two(len(values)) - len(values))


def _stack(arrays: Arrays, indices: list[int]) -> np.ndarray:
    return np.stack(_fill_batch([np.asarray(arrays[i], np.float32) for i in indices]))


def _pad(arrays: Arrays, size_for: Callable[[int], int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays as one [B, T, ...], zero-padded, and their lengths int32 [B]."""
    arrays = _fill_batch(list(arrays))
    lengths = np.array([len(array) for array in arrays], np.int32)
    padded = np.zeros((len(arrays), size_for(int(lengths.max())), *arrays[0].shape[1:]), arrays[0].dtype)
    for target, array in zip(padded, arrays, strict=True):
        target[: len(array)] = array
    return padded, lengths


def _pad_phonemes(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    return _pad(arrays, lambda size: bucket(size, 32, 4))
