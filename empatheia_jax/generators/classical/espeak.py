"""The espeak-ng library through ctypes: phoneme mnemonics in, samples and phoneme events out.

The library is loaded at run time from `espeakng-loader` (the `voice` extra). It keeps its state in globals, so there is
one `Espeak` a process behind a lock, and every call starts it afresh: the same request always gives the same samples.
"""

import ctypes
import dataclasses
import functools
import tempfile
import threading

import numpy as np

from empatheia_jax.generators.phonemes import espeak_files


class EspeakError(RuntimeError):
    """espeak-ng refused a call: the library or its data is broken."""


@dataclasses.dataclass(frozen=True)
class VoiceSpec:
    """A formant voice. Tuples have one entry a formant, 0 (the voicing bar) to 8.

    Attributes:
      name: what errors call it.
      frequency: formant frequencies, per cent of espeak's English voice.
      height: formant heights, per cent of espeak's English voice.
      width: formant widths, per cent of espeak's English voice.
      breath: noise through formants 1 to 8, 0: none.
      voicing: loudness of voiced sounds, per cent.
      consonants: loudness of unvoiced consonants, per cent.
    """

    name: str
    frequency: tuple[int, ...]
    height: tuple[int, ...]
    width: tuple[int, ...] = (100,) * 9
    breath: tuple[int, ...] = (0,) * 8
    voicing: int = 100
    consonants: int = 100

    def file_text(self, low: int, high: int) -> str:
        """Return the text of espeak's voice file for speech between `low` and `high` Hz."""
        formants = [
            f"formant {i} {f} {h} {w}"
            for i, (f, h, w) in enumerate(zip(self.frequency, self.height, self.width, strict=True))
        ]
        return "\n".join(
            [
                # flutter and roughness are off: their phases survive a restart of the library, so that speech would
                # depend on what was spoken before
                f"name {self.name}",
                "language en-us",
                "phonemes en-us",
                "dictrules 3 6",
                "flutter 0",
                "roughness 0",
                f"pitch {low} {high}",
                f"voicing {self.voicing}",
                f"consonants {self.consonants}",
                *formants,
                "breath " + " ".join(map(str, self.breath)),
                "",
            ]
        )


@dataclasses.dataclass(frozen=True)
class PhonemeEvent:
    """A phoneme (IPA with stress; "" is a pause) that espeak speaks from sample `start` up to `end`."""

    ipa: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Rendering:
    """Speech rendered by espeak: float32 [samples] in -1..1, and its phonemes in order, covering all samples."""

    audio: np.ndarray
    sample_rate: int
    events: tuple[PhonemeEvent, ...]


MIN_RATE, MAX_RATE = 80, 400  # words a minute; above, espeak changes its method (sonic) and its timing with it
MIN_HZ, MAX_HZ = 50, 480

_PHONEME_EVENT = 7
_SYNCHRONOUS = 2
_OPTIONS = 0x1 | 0x2 | 0x8000  # phoneme events, as IPA, and never exit the process
_UTF8_PHONEMES_ENDPAUSE = 0x1 | 0x100 | 0x1000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_DEFAULT_PITCH, _DEFAULT_RANGE = 50, 50


class _EventName(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventName),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The loaded espeak-ng library. Use `espeak()`: a second instance would share the library's globals."""

    def __init__(self):
        library, data = espeak_files()
        self._data = data.encode()
        self._lock = threading.Lock()
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._library = ctypes.CDLL(library)
        size, unsigned, pointer = ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            size,
            unsigned,
            ctypes.c_int,
            unsigned,
            unsigned,
            pointer,
            pointer,
        ]
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._callback = _Callback(self._receive)  # kept: espeak holds only the address
        self._started = False

    def synth(self, mnemonics: str, voice: VoiceSpec, low: float, high: float, *, rate: float) -> Rendering:
        """Speak phoneme mnemonics: `[[h@l'oU]], [[D'e@]].` (or plain text).

        Args:
          mnemonics: espeak's input; phonemes between double brackets, punctuation outside makes the clauses.
          voice: the formant voice.
          low: Hz, about the lowest F0 of a statement.
          high: Hz, about the highest F0 of a statement.
          rate: words a minute, clipped to `MIN_RATE`..`MAX_RATE`.

        Raises:
          EspeakError: espeak refuses the voice or the mnemonics, or cannot read its data.
        """
        low = int(round(min(max(low, MIN_HZ), MAX_HZ - 4)))
        high = int(round(min(max(high, low + 2), MAX_HZ)))
        with self._lock:
            self._restart()
            self._set_voice(voice, low, high)
            for parameter, value in (
                (_RATE, min(max(rate, MIN_RATE), MAX_RATE)),
                (_VOLUME, 80),  # leaves headroom
                (_PITCH, _DEFAULT_PITCH),
                (_RANGE, _DEFAULT_RANGE),
            ):
                self._library.espeak_SetParameter(parameter, int(round(value)), 0)
            self._chunks.clear()
            self._events.clear()
            text = mnemonics.encode()
            if self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8_PHONEMES_ENDPAUSE, None, None):
                raise EspeakError(f"espeak-ng could not speak {mnemonics[:60]!r}")
            return self._rendering()

    def _restart(self) -> None:
        """Initialise the library again (0.6 ms): wave phase, echo and noise otherwise carry over from the last call."""
        if self._started:
            self._library.espeak_Terminate()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, self._data, _OPTIONS)
        if self.sample_rate <= 0:
            raise EspeakError(f"espeak-ng cannot read its data in {self._data.decode()}")
        self._started = True
        self._library.espeak_ng_SetRandSeed(1)
        self._library.espeak_SetSynthCallback(self._callback)

    def _set_voice(self, voice: VoiceSpec, low: int, high: int) -> None:
        """Set the voice by a temporary file (espeak reads no other way), so that none is left or shared with a fork."""
        with tempfile.NamedTemporaryFile("w", prefix="empatheia-voice-") as file:
            file.write(voice.file_text(low, high))
            file.flush()
            if self._library.espeak_SetVoiceByFile(file.name.encode()):
                raise EspeakError(f"espeak-ng refused the voice {voice.name!r}")

    def _receive(self, samples, count, events) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type:
            if events[index].type == _PHONEME_EVENT:
                self._events.append((events[index].sample, events[index].id.string.decode("utf-8", "ignore")))
            index += 1
        return 0

    def _rendering(self) -> Rendering:
        samples = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)
        starts = [min(start, len(samples)) for start, _ in self._events] + [len(samples)]
        events = [
            PhonemeEvent(ipa, starts[i], max(starts[i], starts[i + 1])) for i, (_, ipa) in enumerate(self._events)
        ]
        if starts[0] > 0:
            events.insert(0, PhonemeEvent("", 0, starts[0]))
        return Rendering(samples.astype(np.float32) / 32768.0, self.sample_rate, tuple(events))


@functools.cache
def espeak() -> Espeak:
    """Return the process's espeak-ng, loaded at the first call."""
    return Espeak()
