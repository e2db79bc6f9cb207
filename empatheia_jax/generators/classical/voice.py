"""The classical speech generator: espeak-ng controlled by C_speech and S_speech; needs no weights.

It implements `interfaces.SpeechGenerator`. `speak` inverts the style measurement: espeak is given the pitch, range and
rate that should yield the style, the result is measured, and the request corrected; tilt and energy are set by a filter
and a gain afterwards.
"""

import dataclasses

import numpy as np
import scipy.fft

from empatheia_jax.generators.classical import articulation, speech_style, timing, voices
from empatheia_jax.generators.classical.espeak import MAX_RATE, MIN_RATE, Rendering, espeak
from empatheia_jax.generators.classical.measure import Analysis, analyse, bin_frequencies, sounding_level
from empatheia_jax.generators.classical.speech_style import SAMPLE_RATE, STYLE_DIM, UNITS, Measures, Reference
from empatheia_jax.generators.interfaces import Speech
from empatheia_jax.generators.phonemes import PAD_ID, encode, phonemize

_TAIL_SECONDS = 0.12  # silence kept after the last sound
_RENDERINGS = 3  # the most that one style is corrected by
_TOLERANCE = np.array([0.3, 0.1, 0.02])  # semitones, log ratio, log ratio: close enough to stop correcting
_FILTER_CORRECTIONS = 4
_PEAK = 0.98


@dataclasses.dataclass(frozen=True)
class _Request:
    """What espeak is asked for."""

    foot: float  # lowest F0 of the contour, semitones above 100 Hz
    span: float  # from the lowest to the highest F0, semitones
    log_rate: float  # log of words a minute

    def render(self, reference: Reference, age: str, gender: str) -> Rendering:
        """Speak the phonemes of `reference` with the voice of an age and gender."""
        low = 100.0 * 2 ** (self.foot / 12)
        rate = float(np.exp(np.clip(self.log_rate, np.log(MIN_RATE), np.log(MAX_RATE))))
        spec = voices.voice_spec(age, gender)
        return espeak().synth(reference.script.markup, spec, low, low * 2 ** (self.span / 12), rate=rate)


class ClassicalSpeech:
    """The `interfaces.SpeechGenerator` of eight formant voices (age x gender) with a measurable, invertible style."""

    name = "classical"
    version = 2  # 2: numbers, amounts and abbreviations are spoken as words
    on_device = False
    sample_rate = SAMPLE_RATE
    content_dim = articulation.CONTENT_DIM
    style_dim = STYLE_DIM

    def phonemes(self, sentence: str) -> np.ndarray:
        """Return the symbol ids int32 [P] of a sentence, leading 0 included.

        Raises:
          PhonemeError: the sentence has no phonemes, or they cannot be found.
        """
        return encode(phonemize(sentence))

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """Return the gold C_speech, articulatory features float32 [P, content_dim], of ids [P]; padding (-1) gets 0."""
        phonemes = np.asarray(phonemes)
        return articulation.symbol_features()[np.maximum(phonemes, 0)]

    def decode_content(self, content: np.ndarray) -> np.ndarray:
        """Return the ids int32 [P] of the symbols nearest to C_speech [P, content_dim]."""
        return articulation.nearest_symbols(content)

    def agreement(self, content: np.ndarray, phonemes: np.ndarray) -> float:
        """Return the share of positions of C_speech [P, content_dim] whose nearest symbol is that of `phonemes` [P]."""
        return float(np.mean(self.decode_content(content) == phonemes))

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Return the gold S_speech float32 [style_dim] of a recording; see `speech_style.measure_style`."""
        return speech_style.measure_style(audio, sample_rate, phonemes)

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Return 25 ms frames int32 [P]: the reference rendering's durations stretched over the sounding part."""
        reference = speech_style.speak_reference(phonemes)
        analysis = analyse(audio, sample_rate)
        _, seconds = timing.symbol_seconds(reference.rendering, reference.script.units, reference.ipa)
        # the rendering's closing pause lies outside its sounding part, as the recording's does
        sounding = reference.measures.seconds
        seconds = (
            np.diff(np.minimum(np.cumsum(seconds), sounding), prepend=0.0) * (analysis.end - analysis.start) / sounding
        )
        return _place_frames(timing.to_frames(analysis.start, seconds, len(audio) / sample_rate), phonemes)

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray) -> Speech:
        """Speak the symbols nearest to the content, at 24 kHz.

        Args:
          content: C_speech [P, content_dim].
          style: S_speech [style_dim].
          phonemes: ids [P]; they only say where the content is padding (negative ids).

        Raises:
          VoiceError: a wrong shape, values that are not finite, or content without a sound.
        """
        content, style = np.asarray(content, np.float32), np.asarray(style, np.float64)
        _check_request(content, style, phonemes)
        ids = np.where(np.asarray(phonemes) < 0, -1, self.decode_content(content))
        reference = speech_style.speak_reference(ids)
        style = np.clip(style, -speech_style.STYLE_LIMIT, speech_style.STYLE_LIMIT)
        rendering, audio, analysis = _synthesize(reference, style)
        audio = audio[: int((analysis.end + _TAIL_SECONDS) * SAMPLE_RATE)]
        audio = _apply_spectrum_and_level(audio, speech_style.measures_from(analysis), reference, style)
        lead, seconds = timing.symbol_seconds(rendering, reference.script.units, reference.ipa)
        frames = timing.to_frames(lead, seconds, len(audio) / SAMPLE_RATE)
        return Speech(audio.astype(np.float32), SAMPLE_RATE, _place_frames(frames, ids))


def _synthesize(reference: Reference, style: np.ndarray) -> tuple[Rendering, np.ndarray, Analysis]:
    """Speak with the pitch, range and rate of a style; returns the rendering, its audio at 24 kHz and its analysis."""
    age, gender = voices.nearest_voice(style[speech_style.VOICE])
    requested = style[:3] * UNITS[:3]
    request = _first_request(reference.measures, requested)
    attempts = []
    for _ in range(_RENDERINGS):
        rendering = request.render(reference, age, gender)
        audio = speech_style.to_24k(rendering.audio, rendering.sample_rate)
        analysis = analyse(audio, SAMPLE_RATE)
        measures = speech_style.measures_from(analysis)
        error = requested - speech_style.compare(measures, reference.measures)[:3] * UNITS[:3]
        excess = float(np.abs(error / _TOLERANCE).max())
        attempts.append((excess, rendering, audio, analysis))
        if excess < 1.0:
            break
        request = _correct_request(request, error, measures, reference.measures)
    return min(attempts, key=lambda attempt: attempt[0])[1:]


_REFERENCE_FOOT = 12 * np.log2(speech_style.REFERENCE_LOW / 100.0)
_REFERENCE_SPAN = 12 * np.log2(speech_style.REFERENCE_HIGH / speech_style.REFERENCE_LOW)


def _first_request(reference: Measures, requested: np.ndarray) -> _Request:
    """Return a request for the style, given that the F0 contour keeps its shape.

    Its height above the foot and its spread then both grow with the span.
    """
    level, spread, rate = requested
    span = _REFERENCE_SPAN * np.exp(spread)
    height = (reference.f0 - _REFERENCE_FOOT) if np.isfinite(reference.f0) else _REFERENCE_SPAN / 2
    foot = _REFERENCE_FOOT + height + level - height * span / _REFERENCE_SPAN
    return _Request(foot, span, np.log(speech_style.REFERENCE_RATE) + rate * 1.15)


def _correct_request(request: _Request, error: np.ndarray, measures: Measures, reference: Measures) -> _Request:
    level, spread, rate = error
    span = request.span * np.exp(np.clip(spread, -0.7, 0.7))
    height = (measures.f0 - request.foot) if np.isfinite(measures.f0) else request.span / 2
    foot = request.foot + level + height * (1 - span / request.span)
    return _Request(foot, span, request.log_rate + rate * 1.1)


def _apply_spectrum_and_level(
    audio: np.ndarray, measures: Measures, reference: Reference, style: np.ndarray
) -> np.ndarray:
    """Give audio the style's spectral shape by a filter, then its energy by a gain (held under full scale)."""
    audio = _filter(audio, _filter_shape(measures.power, reference.measures.power, style))
    level = reference.measures.level + style[speech_style.ENERGY] * UNITS[speech_style.ENERGY]
    audio = audio * 10 ** ((level - sounding_level(audio, SAMPLE_RATE)) / 20)
    peak = np.abs(audio).max()
    return audio if peak <= _PEAK else audio * (_PEAK / peak)


def _filter_shape(power: np.ndarray, reference: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Return tilt and ripples [5] of the filter after which the style's spectral shape is measured.

    Bands are wide, so the filter is judged by what it does to the power spectrum, and corrected.
    """
    requested = (style * UNITS)[speech_style.SPECTRAL]
    shape = np.zeros(len(requested))
    for _ in range(_FILTER_CORRECTIONS):
        filtered = power * 10 ** (speech_style.shape_gain(shape) / 10)
        shape = shape + requested - speech_style.spectral_shape(filtered, reference)
    return shape


def _filter(audio: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Filter audio by the curve with tilt and ripples `shape` [5], with zero phase."""
    size = scipy.fft.next_fast_len(len(audio) + 2400, real=True)
    frequency = scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = 10 ** (np.interp(frequency, bin_frequencies(SAMPLE_RATE), speech_style.shape_gain(shape)) / 20)
    spectrum = np.asarray(scipy.fft.rfft(audio, size)) * gain.astype(np.float32)
    return np.asarray(scipy.fft.irfft(spectrum, size))[: len(audio)]


def _place_frames(frames: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return int32 [P] with frames [1 + symbols] at the positions of ids [P]: the lead at the first, 0 at padding."""
    placed = np.zeros(len(ids), np.int32)
    real = np.nonzero(np.asarray(ids) > PAD_ID)[0]
    placed[real] = frames[1:]
    placed[0] += frames[0]
    return placed


def _check_request(content: np.ndarray, style: np.ndarray, phonemes: np.ndarray) -> None:
    if content.ndim != 2 or content.shape[1] != articulation.CONTENT_DIM or len(content) != len(phonemes):
        raise speech_style.VoiceError(
            f"content must be [{len(phonemes)}, {articulation.CONTENT_DIM}], not {list(content.shape)}"
        )
    if style.shape != (STYLE_DIM,):
        raise speech_style.VoiceError(f"style must be [{STYLE_DIM}], not {list(style.shape)}")
    if not (np.isfinite(content).all() and np.isfinite(style).all()):
        raise speech_style.VoiceError("content and style must be finite")
