"""Kokoro-82M (hexgrad, Apache-2.0) as a speech generator: StyleTTS 2 trained by others, without what makes styles.

Its style encoders and its style diffusion were never released, so it can neither imitate a recording nor draw a style.
S_speech is instead known by construction: a voice vector [256] (`voices`) and the manner [4] of speaking (`manner`).
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from empatheia_jax.data.schema import Profile
from empatheia_jax.generators import phonemes as symbols
from empatheia_jax.generators.interfaces import Speech
from empatheia_jax.generators.styletts2.config import DEFAULT_OPTIONS, StyleTTS2Error, SynthesisOptions
from empatheia_jax.generators.styletts2.manner import MANNER_DIM, MANNER_LIMIT, MANNER_NAMES, scale_energy, scale_rate
from empatheia_jax.generators.styletts2.networks import Networks
from empatheia_jax.generators.styletts2.text import PhonemizedText, phonemize_text
from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech, scale_durations
from empatheia_jax.generators.styletts2.voices import speech_style_for
from empatheia_jax.trained_parts.home import part_folder

SYMBOLS = frozenset(';:,.!?—…"“” abcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴøɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ↓→↗↘ᵻ')
"""The symbols that Kokoro was trained with and that have the same id in the common table."""
_IDS = np.array(sorted(symbols.SYMBOL_ID[symbol] for symbol in SYMBOLS))

CLAUSE_ENDS = np.array([symbols.SYMBOL_ID[symbol] for symbol in ",;:—…"])
SHORTEST_CLAUSE = 16  # symbols on either side of a cut: about a second


class KokoroSpeech(StyleTTS2Speech):
    """Frozen Kokoro, on the first device.

    `references_padded` stays 0: no recording's style is read.
    """

    name = "kokoro"
    version = 1

    def __init__(self, weights: Path | str = "", compute_dtype: str = "float32"):
        """Read the architecture of the weights; they are loaded when first used.

        Args:
          weights: the output of `python -m converters kokoro`, or empty for where `empatheia fetch kokoro` put it.
          compute_dtype: dtype of the decoder (see `Networks`).

        Raises:
          PartError: no weights are given, and none were fetched.
          CheckpointError: no converted weights in the folder.
          StyleTTS2Error: the weights are another network's.
        """
        networks = Networks(weights or part_folder("kokoro") / "weights", compute_dtype)
        if networks.config.style_networks:
            raise StyleTTS2Error(f"{weights}: weights of a StyleTTS 2 with style encoders: use the generator styletts2")
        self._set_networks(networks, refine=False)
        self.voice_dim, self.style_dim = self.style_dim, self.style_dim + MANNER_DIM

    def phonemes(self, text: str) -> np.ndarray:
        """Return the symbol ids int32 [P] of a text, a 0 at both ends, without symbols that Kokoro does not know.

        Raises:
          PhonemeError: nothing to pronounce, or more than `phonemes.MAX_PHONEMES` symbols.
        """
        return close_ids(super().phonemes(text))[0]

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray | None = None) -> NoReturn:
        """Refuse to read a style: the network for it was never released.

        Raises:
          StyleTTS2Error: always.
        """
        raise StyleTTS2Error(
            "Kokoro cannot take a voice from a recording: its style encoders were never released. Choose one of its "
            "voices, or the generator styletts2"
        )

    def style_for(self, profile: Profile, emotion: str) -> np.ndarray:
        """Return S_speech float32 [260] of an avatar with one of the 7 avatar emotions (`voices.speech_style_for`)."""
        return speech_style_for(profile, emotion)

    def notes_on_style(self, style: np.ndarray) -> list[str]:
        """Return a note where the manner of S_speech [260] is beyond `manner.MANNER_LIMIT`, to which it is clipped."""
        beyond = np.abs(style[self.voice_dim :]) > MANNER_LIMIT
        names = [name.replace("_", " ") for name, out in zip(MANNER_NAMES, beyond, strict=True) if out]
        limit = f"{MANNER_LIMIT:g} units, and was spoken at that limit"
        return [f"the predicted manner ({', '.join(names)}) lies beyond {limit}"] if names else []

    def prepare(self, audio: np.ndarray, sample_rate: int) -> NoReturn:
        """Refuse, as `style`: `golds` takes styles."""
        self.style(audio, sample_rate)

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> NoReturn:
        """Refuse, as `style`: durations are predicted for a style, which no recording gives."""
        self.style(audio, sample_rate)

    def golds(
        self, prepared: Sequence[np.ndarray], phonemes: Sequence[np.ndarray], seconds: Sequence[float]
    ) -> list[dict[str, np.ndarray]]:
        """Return content_speech, style_speech and phoneme_frames of sentences whose style is known.

        Args:
          prepared: S_speech [260] of each sentence (`style_for`).
          phonemes: symbol ids [P] of each sentence.
          seconds: length of each recording, to which the predicted durations are scaled.
        """
        contents = self.contents(phonemes)
        durations = self.networks.durations(contents, [style[: self.voice_dim] for style in prepared])
        return [
            {"content_speech": content, "style_speech": style, "phoneme_frames": scale_durations(duration, length)}
            for content, style, duration, length in zip(contents, prepared, durations, seconds, strict=True)
        ]

    def phonemized(self, text: str | PhonemizedText) -> PhonemizedText:
        """Return a text's phonemes by sentence as Kokoro reads them (`phonemes`); the rest is counted.

        Raises:
          PhonemeError: nothing to pronounce.
        """
        if isinstance(text, PhonemizedText):
            return text
        phonemized, dropped = phonemize_text(text, symbols.MAX_PHONEMES - 1), Counter()
        sentences = []
        for ids in phonemized.sentences:
            closed, unknown = close_ids(ids)
            dropped.update(unknown)
            sentences.append(closed)
        dropped.update(phonemized.dropped_symbols)
        return PhonemizedText(tuple(sentences), dict(dropped), phonemized.dropped_parts)

    def stream(
        self,
        text: str | PhonemizedText,
        reference: np.ndarray | None = None,
        options: SynthesisOptions = DEFAULT_OPTIONS,
    ) -> Iterator[Speech]:
        """Yield a text's speech by sentences, the first by clauses, so that sound begins early.

        Args:
          text: the text.
          reference: S_speech [260], for all of it.
          options: its speed and seed are used.

        Raises:
          PhonemeError: nothing to pronounce.
          StyleTTS2Error: no style.
        """
        phonemized = self.phonemized(text)
        sentences = (*split_clauses(phonemized.sentences[0]), *phonemized.sentences[1:])
        return super().stream(dataclasses.replace(phonemized, sentences=sentences), reference, options)

    # Steps of synthesis: one given style for every sentence of a text

    def _check_reference(self, reference) -> None:
        if reference is None:
            raise StyleTTS2Error("Kokoro needs a style: name a voice, or an avatar's profile")

    def _sample_styles(self, contents, references, seeds, options) -> Sequence[np.ndarray]:
        return references

    def _carry_style(self, sampled, previous, reference, options) -> np.ndarray:
        return reference

    def _synthesize(self, contents, styles, seeds, speed: float) -> list[Speech]:
        voices, manners = zip(*(np.split(np.asarray(style), [self.voice_dim]) for style in styles), strict=True)
        frames = [
            np.maximum(np.round(scale_rate(durations, manner) / speed), 1).astype(np.int32)
            for durations, manner in zip(self.networks.durations(contents, voices), manners, strict=True)
        ]
        waves = self.networks.speak(contents, voices, frames, seeds, manners=manners)
        return [
            Speech(scale_energy(wave, manner), self.sample_rate, rounded)
            for wave, manner, rounded in zip(waves, manners, frames, strict=True)
        ]


def split_clauses(ids: np.ndarray) -> list[np.ndarray]:
    """Cut a sentence's symbol ids [P], closed by 0 at both ends, after its commas and the like; each part is closed."""
    parts, start, body = [], 0, ids[1:-1]
    for end in np.flatnonzero(np.isin(body, CLAUSE_ENDS)) + 1:
        if min(end - start, len(body) - end) >= SHORTEST_CLAUSE:
            parts.append(body[start:end])
            start = end
    return [np.pad(part, 1).astype(np.int32) for part in (*parts, body[start:])]


def close_ids(ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return symbol ids as Kokoro reads them, and the symbols it does not know.

    Args:
      ids: int32 [P], with the leading 0.

    Returns:
      int32 [Q] with a 0 at both ends, Q <= P + 1; the symbols left out.

    Raises:
      PhonemeError: Q is above `phonemes.MAX_PHONEMES`.
    """
    body = ids[1:]
    known = np.isin(body, _IDS)
    closed = np.concatenate([[symbols.PAD_ID], body[known], [symbols.PAD_ID]]).astype(np.int32)
    if len(closed) > symbols.MAX_PHONEMES:
        raise symbols.PhonemeError(
            f"{len(closed)} phoneme symbols, the limit is {symbols.MAX_PHONEMES}: split the text with split_sentences()"
        )
    return closed, [symbols.SYMBOLS[i] for i in body[~known]]
