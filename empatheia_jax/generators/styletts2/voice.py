"""StyleTTS 2 as a speech generator (`interfaces.SpeechGenerator`), and by itself: text and a voice in, speech out.

Everything that is compiled has static shapes: phonemes, frames and recordings are padded to a few lengths, each at most
half as long again as the one before, and padding changes nothing; in steady state nothing is compiled again.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from flax import nnx

from empatheia_jax.generators import phonemes as text_module
from empatheia_jax.generators.interfaces import Speech
from empatheia_jax.generators.styletts2 import mel, sampler
from empatheia_jax.generators.styletts2.config import StyleTTS2Config
from empatheia_jax.generators.styletts2.model import StyleTTS2
from empatheia_jax.generators.styletts2.source import HARMONICS
from empatheia_jax.generators.styletts2.style_encoder import LEAST_FRAMES
from empatheia_jax.weights import load_weights, read_facts

SAMPLES_A_FRAME = 600
TRIM_DB = 30  # below the loudest: silence around a reference
PULSE = 50  # samples that upstream cuts from HiFi-GAN's end
PHONEME_BUCKET, FRAME_BUCKET, MEL_BUCKET = 32, 40, 80


class StyleTTS2Error(ValueError):
    """Weights, a recording or a setting that cannot be spoken with: says which and why."""


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a text is spoken; the values are upstream's.

    alpha, beta: how much of the sampled acoustic and prosodic style replaces the reference's (0: the reference alone).
    steps: of style diffusion. embedding_scale: guidance by the words. speed: 1.2 is a fifth faster. carry: how much of
    the previous sentence's style stays.
    """

    alpha: float = 0.3
    beta: float = 0.7
    steps: int = 5
    embedding_scale: float = 1.0
    speed: float = 1.0
    carry: float = 0.7
    seed: int = 0

    def __post_init__(self):
        for name in ("alpha", "beta", "carry"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise StyleTTS2Error(f"{name} {getattr(self, name)} is not in 0..1")
        if not 0.25 <= self.speed <= 4.0:
            raise StyleTTS2Error(f"speed {self.speed} is not in 0.25..4")
        if not 2 <= self.steps <= 1000:
            raise StyleTTS2Error(f"{self.steps} steps of diffusion: give 2 to 1000")


class StyleTTS2Speech:
    """Frozen StyleTTS 2 with the weights of a converted folder, on the first device."""

    name = "styletts2"
    sample_rate = mel.SAMPLE_RATE

    def __init__(self, weights: Path | str):
        """Load the weights.

        Raises:
          CheckpointError: no converted weights there. StyleTTS2Error: they are another network's.
        """
        facts = dict(read_facts(Path(weights))["architecture"])
        if (family := facts.pop("family")) != StyleTTS2Config.__name__:
            raise StyleTTS2Error(f"{weights}: weights of a {family}, not of StyleTTS 2")
        self.config = StyleTTS2Config(**{name: _tuple(value) for name, value in facts.items()})
        self.content_dim = self.config.hidden_dim + self.config.plbert_hidden
        self.style_dim = 2 * self.config.style_dim
        self._graphdef, shapes = nnx.split(nnx.eval_shape(lambda: StyleTTS2(self.config)))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
        self._state = load_weights(Path(weights), placed)

    @functools.cached_property
    def _run(self):
        """The compiled stages, by name: each takes arrays and gives numpy."""

        def compiled(function, **static):
            traced = jax.jit(lambda state, *arrays: function(nnx.merge(self._graphdef, state), *arrays), **static)
            return lambda *arrays: jax.device_get(traced(self._state, *arrays))

        def draw(model, words, lengths, reference, key, steps, scale):
            noise = jax.random.normal(key, (steps.shape[0] + 1, words.shape[0], self.style_dim))

            def denoise(x, sigma):
                return model.diffusion(x, sigma, words, reference, lengths, scale)

            return sampler.sample(denoise, noise[0], noise[1:])[0]

        def speak(model, content, style, frames, lengths, keys, size):
            draw_row = lambda key: jax.random.normal(key, (SAMPLES_A_FRAME * size.shape[0], HARMONICS))  # noqa: E731
            return model.speak(content, style, frames, jax.vmap(draw_row)(keys), lengths)

        return {
            "read": compiled(StyleTTS2.read), "style": compiled(StyleTTS2.style),
            "durations": compiled(StyleTTS2.durations), "speak": compiled(speak),
            # Without guidance the network runs once a call, with it twice.
            "draw": compiled(functools.partial(draw, scale=1.0)), "draw_guided": compiled(draw),
        }  # fmt: skip

    # The generator's interface

    def phonemes(self, text: str) -> np.ndarray:
        """Text -> symbol ids int32 [P], leading 0 included. Raises PhonemeError."""
        return text_module.encode(text_module.phonemize(text))

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """Gold C_speech: ids [P] -> float32 [P, 1280], h_text 512 and h_bert 768 before its projection."""
        tokens, lengths = _padded(np.asarray(phonemes, np.int32)[None], PHONEME_BUCKET), np.array([len(phonemes)])
        return self._run["read"](tokens, lengths)[0, : len(phonemes)]

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray | None = None) -> np.ndarray:
        """Gold S_speech of a recording, mono float [samples]: float32 [256], acoustic 128 and prosodic 128.

        Raises:
          StyleTTS2Error: not mono, not finite, silent, or shorter than the encoder sees (0.8 s at 24 kHz).
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 1 or not np.isfinite(audio).all():
            raise StyleTTS2Error(f"a reference is finite mono sound, not an array of shape {audio.shape}")
        if sample_rate != self.sample_rate:
            audio = librosa.resample(audio, orig_sr=sample_rate, target_sr=self.sample_rate)
        if not audio.size or not np.abs(audio).max() > 0:
            raise StyleTTS2Error("the reference is silent")
        audio, _ = librosa.effects.trim(audio, top_db=TRIM_DB)
        frames = 1 + len(audio) // mel.HOP
        if frames < LEAST_FRAMES:
            raise StyleTTS2Error(
                f"the reference has {len(audio) / self.sample_rate:.2f} s of sound; a style needs at least "
                f"{(LEAST_FRAMES - 1) * mel.HOP / self.sample_rate:.2f}"
            )
        padded = _padded(mel.log_mel(audio)[None], MEL_BUCKET)
        return self._run["style"](padded, np.array([frames]))[0]

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """int32 [P] of 25 ms: the predictor's durations under the recording's style, stretched to the recording."""
        content, style = self.content(phonemes), self.style(audio, sample_rate)
        total = max(1, round(len(audio) / sample_rate / 0.025))
        predicted = self._durations(content, style)
        ends = np.round(np.cumsum(predicted) * total / predicted.sum()).astype(np.int64)
        return np.diff(ends, prepend=0).astype(np.int32)

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray, seed: int = 0) -> Speech:
        """C_speech [P, 1280] and S_speech [256] -> speech; `phonemes` [P] says where content is padding (negative).

        Raises:
          StyleTTS2Error: a wrong shape, or values that are not finite.
        """
        return self._speak(content, style, phonemes, 1.0, seed)

    # By itself

    def stream(self, text: str, reference: np.ndarray | None = None, manner: Manner | None = None) -> Iterator[Speech]:
        """Speak a text sentence by sentence, each as soon as it is made; the style is carried over between them.

        Args:
          reference: style of a recording [256], which a model of many speakers needs.
        Raises:
          PhonemeError: nothing to pronounce. StyleTTS2Error: a reference missing, or one too many.
        """
        manner = manner or Manner()
        if self.config.multispeaker != (reference is not None):
            one = "needs a reference recording: it knows no voice of its own"
            raise StyleTTS2Error(f"this model {one if self.config.multispeaker else 'has one voice: no reference'}")
        before = None
        for number, ids in enumerate(sentences(text)):
            content = self.content(ids)
            style = self._sampled(content, len(ids), reference, manner, number)
            if before is not None:
                style = manner.carry * before + (1 - manner.carry) * style
            if reference is not None:
                share = np.repeat([manner.alpha, manner.beta], self.config.style_dim)
                style = share * style + (1 - share) * reference
            before = style
            yield self._speak(content, style, ids, manner.speed, manner.seed + number)

    def synthesize(self, text: str, reference: np.ndarray | None = None, manner: Manner | None = None) -> Speech:
        """As `stream`, all in one."""
        parts = list(self.stream(text, reference, manner))
        audio = np.concatenate([part.audio for part in parts])
        return Speech(audio, self.sample_rate, np.concatenate([part.phoneme_frames for part in parts]))

    def _sampled(self, content, count: int, reference, manner: Manner, number: int) -> np.ndarray:
        words = _padded(content[None, :, self.config.hidden_dim :], PHONEME_BUCKET)
        given = None if reference is None else np.asarray(reference, np.float32)[None]
        key = jax.random.fold_in(jax.random.key(manner.seed), number)
        arrays = (words, np.array([count]), given, key, np.zeros(manner.steps - 1))
        if manner.embedding_scale == 1.0:
            return self._run["draw"](*arrays)[0]
        return self._run["draw_guided"](*arrays, jnp.float32(manner.embedding_scale))[0]

    def _durations(self, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        padded = _padded(np.asarray(content, np.float32)[None], PHONEME_BUCKET)
        found = self._run["durations"](padded, np.asarray(style, np.float32)[None], np.array([len(content)]))
        return found[0, : len(content)]

    def _speak(self, content, style, phonemes, speed: float, seed: int) -> Speech:
        content, style, phonemes = (np.asarray(x) for x in (content, style, phonemes))
        for name, array, shape in (("C_speech", content, (len(phonemes), self.content_dim)),
                                   ("S_speech", style, (self.style_dim,))):  # fmt: skip
            if array.shape != shape or not np.isfinite(array).all():
                raise StyleTTS2Error(f"{name} of shape {array.shape}: wanted finite numbers of shape {shape}")
        kept = phonemes >= 0
        if not kept.any():
            raise StyleTTS2Error("content without a phoneme")
        content = content[kept]
        whole = np.maximum(np.round(self._durations(content, style) / speed), 1).astype(np.int32)
        if not self.config.multispeaker:
            whole[-1] += 5  # as upstream's: the last sound is not cut
        size = bucket(int(whole.sum()), FRAME_BUCKET)
        padded = _padded(content[None].astype(np.float32), PHONEME_BUCKET)
        frames = np.zeros((1, padded.shape[1]), np.int32)
        frames[0, : len(whole)] = whole
        keys = jax.random.split(jax.random.key(seed), 1)
        wave = self._run["speak"](
            padded, style[None].astype(np.float32), frames, np.array([len(whole)]), keys, np.zeros(size, np.int8)
        )[0]  # fmt: skip
        wave = wave[: SAMPLES_A_FRAME * int(whole.sum())]
        if self.config.decoder_type == "hifigan":
            wave = np.concatenate([wave[:-PULSE], np.zeros(PULSE, np.float32)])
        placed = np.zeros(len(phonemes), np.int32)
        placed[kept] = whole
        return Speech(np.clip(wave, -1, 1).astype(np.float32), self.sample_rate, placed)


def sentences(text: str) -> Iterator[np.ndarray]:
    """Symbol ids int32 [P] of each sentence that can be pronounced; one that is too long is cut at words.

    Raises:
      PhonemeError: nothing to pronounce, or a word longer than the network reads.
    """
    spoken = 0
    for sentence in text_module.split_sentences(text):
        try:
            ipa = text_module.phonemize(sentence)
        except text_module.PhonemeError:
            if spoken or len(text_module.split_sentences(text)) > 1:
                continue  # a dash, an emoji between sentences
            raise
        words, line = ipa.split(" "), ""
        for word in words:
            if len(line) + len(word) + 2 > text_module.MAX_PHONEMES and line:
                yield text_module.encode(line)
                spoken, line = spoken + 1, ""
            line = f"{line} {word}".strip()
        if line:
            yield text_module.encode(line)
            spoken += 1
    if not spoken:
        raise text_module.PhonemeError("nothing to pronounce: give a text with words")


def bucket(length: int, least: int) -> int:
    """The smallest of least x 1, 1.5, 2, 3, 4, 6, 8 ... that is at least `length`."""
    size = least
    while size < length:
        size *= 2
    return size * 3 // 4 if size > least and size * 3 // 4 >= length else size


def _padded(array: np.ndarray, least: int) -> np.ndarray:
    """[B, T, ...] with zeros behind, T up to a `bucket`."""
    more = bucket(array.shape[1], least) - array.shape[1]
    return np.pad(array, [(0, 0), (0, more), *[(0, 0)] * (array.ndim - 2)])


def _tuple(value):
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
