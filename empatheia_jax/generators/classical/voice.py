"""The classical speech generator: espeak-ng steered by C_speech and S_speech; needs no weights.

It implements `interfaces.SpeechGenerator`. `speak` inverts the measured style: espeak is asked for the pitch, range and
rate that should give it, the result is measured, and the request corrected; tilt and energy are set by a filter and a
gain afterwards.
"""

import dataclasses

import numpy as np
import scipy.fft

from empatheia_jax.generators import phonemes as text
from empatheia_jax.generators.classical import articulation, speech_style, timing, voices
from empatheia_jax.generators.classical.espeak import MAX_RATE, MIN_RATE, Rendering, espeak
from empatheia_jax.generators.classical.measure import Analysis, analyse, bin_frequencies, sounding_level
from empatheia_jax.generators.classical.speech_style import SAMPLE_RATE, STYLE_DIM, UNITS, Measures, Reference
from empatheia_jax.generators.interfaces import Speech

_TAIL_SECONDS = 0.12  # silence kept after the last sound
_ROUNDS = 3
_TOLERANCE = np.array([0.3, 0.1, 0.02])  # semitones, log ratio, log ratio: close enough to stop correcting
_FILTER_ROUNDS = 4
_PEAK = 0.98


@dataclasses.dataclass(frozen=True)
class _Request:
    """What espeak is asked for: F0 of the contour's foot (semitones above 100 Hz), its span in semitones, log rate."""

    foot: float
    span: float
    log_rate: float

    def render(self, base: Reference, age: str, gender: str) -> Rendering:
        low = 100.0 * 2 ** (self.foot / 12)
        rate = float(np.exp(np.clip(self.log_rate, np.log(MIN_RATE), np.log(MAX_RATE))))
        spec = voices.voice_spec(age, gender)
        return espeak().synth(base.script.markup, spec, low, low * 2 ** (self.span / 12), rate)


class ClassicalSpeech:
    """Frozen formant speech of eight voices (age x gender) with a measurable, invertible style."""

    name = "classical"
    version = 2  # 2: numbers, amounts and abbreviations are spoken as words
    on_device = False
    sample_rate = SAMPLE_RATE
    content_dim = articulation.CONTENT_DIM
    style_dim = STYLE_DIM

    def phonemes(self, sentence: str) -> np.ndarray:
        """Text -> symbol ids int32 [P], leading 0 included. Raises PhonemeError."""
        return text.encode(text.phonemize(sentence))

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """Gold C_speech: ids [P] -> articulatory features float32 [P, content_dim]; padding (-1) is 0."""
        phonemes = np.asarray(phonemes)
        return articulation.symbol_features()[np.maximum(phonemes, 0)]

    def decode_content(self, content: np.ndarray) -> np.ndarray:
        """C_speech [P, content_dim] -> ids int32 [P] of the nearest symbols."""
        return articulation.nearest_symbols(content)

    def agreement(self, content: np.ndarray, phonemes: np.ndarray) -> float:
        """Share of positions of C_speech [P, content_dim] whose nearest symbol is that of `phonemes` [P]."""
        return float(np.mean(self.decode_content(content) == phonemes))

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """Gold S_speech of a recording float [samples]: float32 [style_dim] (`speech_style`)."""
        return speech_style.style_of(audio, sample_rate, phonemes)

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """int32 [P] of 25 ms frames: the reference rendering's durations stretched over the sounding part."""
        base = speech_style.reference(phonemes)
        analysis = analyse(audio, sample_rate)
        lead, seconds = timing.symbol_seconds(base.rendering, base.script.units, base.ipa)
        # the rendering's closing pause lies outside its sounding part, as the recording's does
        ends = np.cumsum(seconds)
        sounding = base.measures.seconds
        seconds = np.diff(np.minimum(ends, sounding), prepend=0.0) * (analysis.end - analysis.start) / sounding
        return _place(timing.to_frames(analysis.start, seconds, len(audio) / sample_rate), phonemes)

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray) -> Speech:
        """C_speech [P, content_dim], S_speech [style_dim] -> 24 kHz speech of the symbols nearest to the content.

        `phonemes` [P] only says where the content is padding (negative ids).

        Raises:
          VoiceError: a wrong shape, values that are not finite, or content without a sound.
        """
        content, style = np.asarray(content, np.float32), np.asarray(style, np.float64)
        _check(content, style, phonemes)
        ids = np.where(np.asarray(phonemes) < 0, -1, self.decode_content(content))
        base = speech_style.reference(ids)
        style = np.clip(style, -speech_style.STYLE_LIMIT, speech_style.STYLE_LIMIT)
        rendering, audio, analysis = _perform(base, style)
        audio = audio[: int((analysis.end + _TAIL_SECONDS) * SAMPLE_RATE)]
        audio = _finish(audio, speech_style.measures_of(analysis), base, style)
        lead, seconds = timing.symbol_seconds(rendering, base.script.units, base.ipa)
        frames = timing.to_frames(lead, seconds, len(audio) / SAMPLE_RATE)
        return Speech(audio.astype(np.float32), SAMPLE_RATE, _place(frames, ids))


def _perform(base: Reference, style: np.ndarray) -> tuple[Rendering, np.ndarray, Analysis]:
    """Let espeak speak in the asked pitch, range and rate; returns what it did, the audio at 24 kHz, its analysis."""
    age, gender = voices.nearest_voice(style[speech_style.VOICE])
    wanted = style[:3] * UNITS[:3]
    request = _first_request(base.measures, wanted)
    best, least = None, np.inf
    for _ in range(_ROUNDS):
        rendering = request.render(base, age, gender)
        audio = speech_style.to_24k(rendering.audio, rendering.sample_rate)
        analysis = analyse(audio, SAMPLE_RATE)
        measures = speech_style.measures_of(analysis)
        error = wanted - speech_style.compare(measures, base.measures)[:3] * UNITS[:3]
        miss = float(np.abs(error / _TOLERANCE).max())
        if miss < least:
            best, least = (rendering, audio, analysis), miss
        if miss < 1.0:
            break
        request = _corrected(request, error, measures, base.measures)
    return best


_REFERENCE_FOOT = 12 * np.log2(speech_style.REFERENCE_LOW / 100.0)
_REFERENCE_SPAN = 12 * np.log2(speech_style.REFERENCE_HIGH / speech_style.REFERENCE_LOW)


def _first_request(base: Measures, wanted: np.ndarray) -> _Request:
    """The contour keeps its shape: its height above the foot and its spread both grow with the span."""
    level, spread, rate = wanted
    span = _REFERENCE_SPAN * np.exp(spread)
    height = (base.f0 - _REFERENCE_FOOT) if np.isfinite(base.f0) else _REFERENCE_SPAN / 2
    foot = _REFERENCE_FOOT + height + level - height * span / _REFERENCE_SPAN
    return _Request(foot, span, np.log(speech_style.REFERENCE_RATE) + rate * 1.15)


def _corrected(request: _Request, error: np.ndarray, measures: Measures, base: Measures) -> _Request:
    level, spread, rate = error
    span = request.span * np.exp(np.clip(spread, -0.7, 0.7))
    height = (measures.f0 - request.foot) if np.isfinite(measures.f0) else request.span / 2
    foot = request.foot + level + height * (1 - span / request.span)
    return _Request(foot, span, request.log_rate + rate * 1.1)


def _finish(audio: np.ndarray, measures: Measures, base: Reference, style: np.ndarray) -> np.ndarray:
    """Spectral shape by a filter, then energy by a gain (held under full scale)."""
    audio = _filter(audio, _needed_shape(measures.power, base.measures.power, style))
    target = base.measures.level + style[speech_style.ENERGY] * UNITS[speech_style.ENERGY]
    audio = audio * 10 ** ((target - sounding_level(audio, SAMPLE_RATE)) / 20)
    peak = np.abs(audio).max()
    return audio if peak <= _PEAK else audio * (_PEAK / peak)


def _needed_shape(power: np.ndarray, base: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Tilt and ripples [5] of the filter after which the asked shape is measured.

    Bands are wide, so the filter is judged by what it does to the power spectrum, and corrected.
    """
    wanted = (style * UNITS)[speech_style.SPECTRAL]
    shape = np.zeros(len(wanted))
    for _ in range(_FILTER_ROUNDS):
        filtered = power * 10 ** (speech_style.shape_gain(shape) / 10)
        shape = shape + wanted - speech_style.spectral_shape(filtered, base)
    return shape


def _filter(audio: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Filter with tilt and ripples `shape` [5], zero phase."""
    size = scipy.fft.next_fast_len(len(audio) + 2400, real=True)
    frequency = scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = 10 ** (np.interp(frequency, bin_frequencies(SAMPLE_RATE), speech_style.shape_gain(shape)) / 20)
    return scipy.fft.irfft(scipy.fft.rfft(audio, size) * gain.astype(np.float32), size)[: len(audio)]


def _place(frames: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """[1 + symbols] frames onto the positions of ids [P]: the lead on the first, nothing on padding."""
    placed = np.zeros(len(ids), np.int32)
    real = np.nonzero(np.asarray(ids) > text.PAD_ID)[0]
    placed[real] = frames[1:]
    placed[0] += frames[0]
    return placed


def _check(content: np.ndarray, style: np.ndarray, phonemes: np.ndarray) -> None:
    if content.ndim != 2 or content.shape[1] != articulation.CONTENT_DIM or len(content) != len(phonemes):
        raise speech_style.VoiceError(
            f"content must be [{len(phonemes)}, {articulation.CONTENT_DIM}], not {list(content.shape)}"
        )
    if style.shape != (STYLE_DIM,):
        raise speech_style.VoiceError(f"style must be [{STYLE_DIM}], not {list(style.shape)}")
    if not (np.isfinite(content).all() and np.isfinite(style).all()):
        raise speech_style.VoiceError("content and style must be finite")
