"""StyleTTS 2 as a speech generator (`interfaces.SpeechGenerator`), and as a stand-alone text-to-speech system."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.generators import phonemes as symbols
from empatheia_jax.generators.interfaces import PHONEME_FRAME_SECONDS, Speech
from empatheia_jax.generators.styletts2.config import DEFAULT_OPTIONS, SAMPLE_RATE, StyleTTS2Error, SynthesisOptions
from empatheia_jax.generators.styletts2.networks import Networks
from empatheia_jax.generators.styletts2.style import log_mel, pad_reference, trim_reference
from empatheia_jax.generators.styletts2.text import PhonemizedText, phonemize_text

END_FRAMES = 5  # added to the last phoneme by the model of one speaker, as upstream does, so that its sound is not cut


class StyleTTS2Speech:
    """Frozen StyleTTS 2 with the weights of a converted folder, on the first device.

    Most methods take one utterance; those in the plural or ending in `_many` take many and give the same results, up to
    rounding.
    """

    name = "styletts2"
    version = 1
    sample_rate = SAMPLE_RATE
    on_device = True
    references_padded = 0

    def __init__(self, weights: Path | str, compute_dtype: str = "float32", refine: bool = False):
        """Read the architecture of the weights; they are loaded when first used.

        Args:
          weights: the output of `python -m converters styletts2`.
          compute_dtype: dtype of the decoder (see `Networks`).
          refine: whether `speak` samples a style by diffusion with the given style as its reference, as upstream does
            with a recording's, instead of using it unchanged. A model of one speaker samples without a reference and
            cannot refine.

        Raises:
          CheckpointError: no converted weights in the folder.
          StyleTTS2Error: the weights are another network's, or cannot refine.
        """
        networks = Networks(weights, compute_dtype)
        if not networks.config.style_networks:
            raise StyleTTS2Error(f"{weights}: no style networks in these weights (Kokoro's): use the generator kokoro")
        self._set_networks(networks, refine)

    def _set_networks(self, networks: Networks, refine: bool) -> None:
        self.networks = networks
        self.config = self.networks.config
        self.content_dim = self.config.hidden_dim + self.config.plbert_hidden
        self.style_dim = 2 * self.config.style_dim
        self.refine = refine
        if refine and not self.config.multispeaker:
            raise StyleTTS2Error("a model of one speaker does not refine a given style")

    @property
    def identity(self) -> dict:
        """The values that content, style and durations depend on, for JSON."""
        return {"weights": self.networks.sha256}

    # The generator's interface

    def phonemes(self, text: str) -> np.ndarray:
        """Return the symbol ids int32 [P] of a text, leading 0 included.

        Raises:
          PhonemeError: nothing to pronounce, or more than `phonemes.MAX_PHONEMES` symbols.
        """
        return symbols.encode(symbols.phonemize(text))

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """Return gold C_speech float32 [P, 1280] of symbol ids [P]: h_text 512, h_bert 768 before its projection."""
        return self.contents([phonemes])[0]

    def contents(self, phonemes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return `content` of many texts."""
        return self.networks.encode_text([np.asarray(ids, np.int32) for ids in phonemes])

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray | None = None) -> np.ndarray:
        """Return gold S_speech of a recording: float32 [256], acoustic 128 and prosodic 128.

        Args:
          audio: mono float [samples].
          sample_rate: its rate in Hz.
          phonemes: not used; part of the interface.

        Raises:
          StyleTTS2Error: not mono, not finite, or silent.
        """
        return self.networks.style([self.prepare(audio, sample_rate)])[0]

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Return int32 [P] of 25 ms: the durations predicted for the recording's style, scaled to its length."""
        prepared = self.prepare(audio, sample_rate)
        return self.golds([prepared], [phonemes], [len(audio) / sample_rate])[0]["phoneme_frames"]

    def prepare(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return a recording's log-mel [T, 80], the input of `golds`; needs no weights and no device.

        One shorter than the encoder needs is padded, and counted in `references_padded`.

        Raises:
          StyleTTS2Error: as `style`.
        """
        trimmed = trim_reference(audio, sample_rate)
        padded = pad_reference(trimmed)
        self.references_padded += len(padded) > len(trimmed)
        return log_mel(padded)

    def golds(
        self, prepared: Sequence[np.ndarray], phonemes: Sequence[np.ndarray], seconds: Sequence[float]
    ) -> list[dict[str, np.ndarray]]:
        """Return content_speech, style_speech and phoneme_frames of recordings whose words are known.

        Args:
          prepared: result of `prepare` for each recording.
          phonemes: symbol ids [P] of each recording's words.
          seconds: length of each recording.
        """
        styles, contents = self.networks.style(prepared), self.contents(phonemes)
        durations = self.networks.durations(contents, styles)
        return [
            {"content_speech": content, "style_speech": style, "phoneme_frames": scale_durations(duration, length)}
            for content, style, duration, length in zip(contents, styles, durations, seconds, strict=True)
        ]

    def agreement(self, content: np.ndarray, phonemes: np.ndarray) -> float:
        """Return the share (0..1) of positions whose h_text in `content` [P, 1280] is nearest to the right symbol's.

        The distance is the cosine to the generator's own h_text of the phonemes [P].
        """
        width = self.config.hidden_dim
        content, own = content[:, :width], self.content(phonemes)[:, :width]
        similarity = content @ (own / np.maximum(np.linalg.norm(own, axis=-1, keepdims=True), 1e-9)).T
        return float(np.mean(np.asarray(phonemes)[similarity.argmax(axis=-1)] == phonemes))

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray, seed: int = 0) -> Speech:
        """Synthesize speech from latents.

        Args:
          content: C_speech [P, 1280].
          style: S_speech [256].
          phonemes: symbol ids [P]; negative where content is padding.
          seed: seed of the noise.

        Raises:
          StyleTTS2Error: a wrong shape, or values that are not finite.
        """
        return self.speak_many([content], [style], [phonemes], SynthesisOptions(seed=seed))[0]

    def speak_many(
        self,
        contents: Sequence[np.ndarray],
        styles: Sequence[np.ndarray],
        phonemes: Sequence[np.ndarray],
        options: SynthesisOptions = DEFAULT_OPTIONS,
    ) -> list[Speech]:
        """Synthesize many utterances, each as `speak`.

        Args:
          contents: C_speech [P, 1280] of each utterance.
          styles: S_speech [256] of each utterance.
          phonemes: symbol ids [P] of each utterance; negative where its content is padding.
          options: speed and seed, and with `refine` those of style diffusion.

        Raises:
          StyleTTS2Error: as `speak`.
        """
        for latents in zip(contents, styles, phonemes, strict=True):
            self._check_latents(*latents)
        masks = [np.asarray(ids) >= 0 for ids in phonemes]
        contents = [np.asarray(content, np.float32)[mask] for content, mask in zip(contents, masks, strict=True)]
        styles, seeds = [np.asarray(style, np.float32) for style in styles], [options.seed] * len(styles)
        if self.refine:
            sampled = self._sample_styles(contents, styles, seeds, options)
            styles = [self._mix_styles(new, style, options) for new, style in zip(sampled, styles, strict=True)]
        speeches = self._synthesize(contents, styles, seeds, options.speed)
        return [
            Speech(speech.audio, speech.sample_rate, _scatter(speech.phoneme_frames, mask))
            for speech, mask in zip(speeches, masks, strict=True)
        ]

    # Text to speech

    def phonemized(self, text: str | PhonemizedText) -> PhonemizedText:
        """Return a text's phonemes by sentence, as the network reads them.

        Raises:
          PhonemeError: nothing to pronounce.
        """
        return text if isinstance(text, PhonemizedText) else phonemize_text(text)

    def synthesize_many(
        self,
        texts: Sequence[str | PhonemizedText],
        references: Sequence[np.ndarray] | None = None,
        options: SynthesisOptions = DEFAULT_OPTIONS,
    ) -> list[Speech]:
        """Speak many texts in batches, each as `synthesize`.

        Args:
          texts: the texts.
          references: style of a recording [256] for each text, which a model of many speakers needs.
          options: as in `stream`.

        Raises:
          PhonemeError: a text without anything to pronounce.
          StyleTTS2Error: references are missing, or not wanted.
        """
        phonemized = [self.phonemized(text) for text in texts]
        self._check_reference(references)
        ids = [sentence for text in phonemized for sentence in text.sentences]
        owners = [number for number, text in enumerate(phonemized) for _ in text.sentences]
        seeds = [options.seed + number for text in phonemized for number in range(len(text.sentences))]
        contents = self.contents(ids)
        repeated = None if references is None else [references[owner] for owner in owners]
        styles, previous = [], {}
        for owner, style, reference in zip(
            owners,
            self._sample_styles(contents, repeated, seeds, options),
            repeated or [None] * len(owners),
            strict=True,
        ):
            previous[owner] = self._carry_style(style, previous.get(owner), reference, options)
            styles.append(previous[owner])
        speeches = self._synthesize(contents, styles, seeds, options.speed)
        return [
            concatenate([speech for speech, owner in zip(speeches, owners, strict=True) if owner == number])
            for number in range(len(phonemized))
        ]

    def stream(
        self,
        text: str | PhonemizedText,
        reference: np.ndarray | None = None,
        options: SynthesisOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Speech]:
        """Yield a text's speech by sentences, computing the next while the caller plays one.

        The style is carried over from sentence to sentence.

        Args:
          text: the text.
          reference: style of a recording [256], which a model of many speakers needs.
          options: options of synthesis.

        Raises:
          PhonemeError: nothing to pronounce.
          StyleTTS2Error: the reference is missing, or not wanted.
        """
        self._check_reference(reference)
        parts = self._sentences(self.phonemized(text), reference, options)
        with concurrent.futures.ThreadPoolExecutor(1, "styletts2") as pool:
            future = pool.submit(next, parts, None)
            while (part := future.result()) is not None:
                future = pool.submit(next, parts, None)
                yield part

    def synthesize(
        self,
        text: str | PhonemizedText,
        reference: np.ndarray | None = None,
        options: SynthesisOptions = DEFAULT_OPTIONS,
    ) -> Speech:
        """Speak a text; arguments and errors as of `stream`."""
        return concatenate(list(self.stream(text, reference, options)))

    def _sentences(self, text: PhonemizedText, reference, options: SynthesisOptions) -> Iterator[Speech]:
        references, previous = None if reference is None else [reference], None
        for number, ids in enumerate(text.sentences):
            contents, seeds = self.contents([ids]), [options.seed + number]
            (sampled,) = self._sample_styles(contents, references, seeds, options)
            previous = self._carry_style(sampled, previous, reference, options)
            yield from self._synthesize(contents, [previous], seeds, options.speed)

    # Steps of synthesis

    def _sample_styles(self, contents, references, seeds, options: SynthesisOptions) -> Sequence[np.ndarray]:
        words = [content[:, self.config.hidden_dim :] for content in contents]
        references = references if self.config.multispeaker else None
        return self.networks.sample_style(words, references, seeds, options.steps, scale=options.embedding_scale)

    def _carry_style(self, sampled, previous, reference, options: SynthesisOptions) -> np.ndarray:
        """Mix a sampled style with the previous sentence's, then with the reference, as upstream for long texts."""
        if previous is not None:
            sampled = options.carry * previous + (1 - options.carry) * sampled
        return sampled if reference is None else self._mix_styles(sampled, reference, options)

    def _mix_styles(self, sampled, reference, options: SynthesisOptions) -> np.ndarray:
        share = np.repeat(np.array([options.alpha, options.beta], np.float32), self.config.style_dim)
        return share * sampled + (1 - share) * reference

    def _synthesize(self, contents, styles, seeds, speed: float) -> list[Speech]:
        frames = []
        for durations in self.networks.durations(contents, styles):
            rounded = np.maximum(np.round(durations / speed), 1).astype(np.int32)
            if not self.config.multispeaker:
                rounded[-1] += END_FRAMES
            frames.append(rounded)
        waves = self.networks.speak(contents, styles, frames, seeds)
        return [Speech(wave, self.sample_rate, rounded) for wave, rounded in zip(waves, frames, strict=True)]

    def _check_latents(self, content, style, phonemes) -> None:
        expected = (("C_speech", content, (len(phonemes), self.content_dim)), ("S_speech", style, (self.style_dim,)))
        for name, array, shape in expected:
            array = np.asarray(array)
            if array.shape != shape or not np.isfinite(array).all():
                raise StyleTTS2Error(f"{name} of shape {array.shape}: wanted finite numbers of shape {shape}")
        if not (np.asarray(phonemes) >= 0).any():
            raise StyleTTS2Error("content without a phoneme")

    def _check_reference(self, reference) -> None:
        if self.config.multispeaker != (reference is not None):
            needed = "needs a reference recording: it knows no voice of its own"
            raise StyleTTS2Error(f"this model {needed if self.config.multispeaker else 'has one voice: no reference'}")


def scale_durations(durations: np.ndarray, seconds: float) -> np.ndarray:
    """Scale durations float [P] of any unit to units of 25 ms, int32 [P], that sum to `seconds` and at least to 1."""
    total = max(1, round(seconds / PHONEME_FRAME_SECONDS))
    ends = np.round(np.cumsum(durations, dtype=np.float64) * total / np.sum(durations, dtype=np.float64))
    return np.diff(ends.astype(np.int64), prepend=0).astype(np.int32)


def concatenate(parts: list[Speech]) -> Speech:
    """Return the sentences one after the other."""
    audio = np.concatenate([part.audio for part in parts])
    return Speech(audio, parts[0].sample_rate, np.concatenate([part.phoneme_frames for part in parts]))


def _scatter(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return int32 [len(mask)] with `frames` where `mask` is true, 0 elsewhere."""
    scattered = np.zeros(len(mask), np.int32)
    scattered[mask] = frames
    return scattered
