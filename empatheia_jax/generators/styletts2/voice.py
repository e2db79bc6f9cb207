"""StyleTTS 2 as a speech generator (`interfaces.SpeechGenerator`), and by itself: text and a voice in, speech out."""

import concurrent.futures
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.generators import phonemes as symbols
from empatheia_jax.generators.interfaces import PHONEME_FRAME_SECONDS, Speech
from empatheia_jax.generators.styletts2 import mel
from empatheia_jax.generators.styletts2.errors import StyleTTS2Error
from empatheia_jax.generators.styletts2.manner import Manner
from empatheia_jax.generators.styletts2.recording import reference_mel
from empatheia_jax.generators.styletts2.script import Script, read_script
from empatheia_jax.generators.styletts2.stages import Stages

END_FRAMES = 5  # that the model of one speaker adds to the last sound, as upstream's: it is not cut


class StyleTTS2Speech:
    """Frozen StyleTTS 2 with the weights of a converted folder, on the first device.

    Every method takes one utterance; those in the plural take many and give what one by one would, to rounding.
    """

    name = "styletts2"
    version = 1
    sample_rate = mel.SAMPLE_RATE
    on_device = True

    def __init__(self, weights: Path | str, compute_dtype: str = "float32", refine: bool = False):
        """Read what the weights are of; they are loaded when first used.

        Args:
          compute_dtype: of the decoder (`Stages`).
          refine: `speak` takes the style as the reference from which diffusion draws one for the words, as upstream
            does with a recording's, instead of as it is. A model of one speaker draws without a reference: refused.
        Raises:
          CheckpointError: no converted weights there. StyleTTS2Error: they are another network's, or cannot refine.
        """
        self._use(Stages(weights, compute_dtype), refine)

    def _use(self, stages: Stages, refine: bool) -> None:
        self.stages = stages
        self.config = self.stages.config
        self.content_dim = self.config.hidden_dim + self.config.plbert_hidden
        self.style_dim = 2 * self.config.style_dim
        self.refine = refine
        if refine and not self.config.multispeaker:
            raise StyleTTS2Error("a model of one speaker does not refine a given style")

    @property
    def identity(self) -> dict:
        """What content, style and durations depend on, as JSON values."""
        return {"weights": self.stages.sha256}

    # The generator's interface

    def phonemes(self, text: str) -> np.ndarray:
        """Text -> symbol ids int32 [P], leading 0 included. Raises PhonemeError."""
        return symbols.encode(symbols.phonemize(text))

    def content(self, phonemes: np.ndarray) -> np.ndarray:
        """Gold C_speech: ids [P] -> float32 [P, 1280], h_text 512 and h_bert 768 before its projection."""
        return self.contents([phonemes])[0]

    def contents(self, phonemes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`content` of many."""
        return self.stages.read([np.asarray(ids, np.int32) for ids in phonemes])

    def style(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray | None = None) -> np.ndarray:
        """Gold S_speech of a recording, mono float [samples]: float32 [256], acoustic 128 and prosodic 128.

        Raises:
          StyleTTS2Error: not mono, not finite, silent, or shorter than the encoder sees (0.8 s at 24 kHz).
        """
        return self.stages.style([self.prepare(audio, sample_rate)])[0]

    def align(self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray) -> np.ndarray:
        """int32 [P] of 25 ms: the predictor's durations under the recording's style, stretched to the recording."""
        prepared = self.prepare(audio, sample_rate)
        return self.golds([prepared], [phonemes], [len(audio) / sample_rate])[0]["phoneme_frames"]

    def prepare(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """A recording -> what `golds` takes, log-mel [T, 80]; needs no weights and no device. Raises StyleTTS2Error."""
        return reference_mel(audio, sample_rate)

    def golds(
        self, prepared: Sequence[np.ndarray], phonemes: Sequence[np.ndarray], seconds: Sequence[float]
    ) -> list[dict[str, np.ndarray]]:
        """Of recordings of known words and lengths: their content_speech, style_speech and phoneme_frames."""
        styles, contents = self.stages.style(prepared), self.contents(phonemes)
        durations = self.stages.durations(contents, styles)
        return [
            {"content_speech": content, "style_speech": style, "phoneme_frames": stretched(duration, length)}
            for content, style, duration, length in zip(contents, styles, durations, seconds, strict=True)
        ]

    def agreement(self, content: np.ndarray, phonemes: np.ndarray) -> float:
        """Share of positions whose h_text in `content` [P, 1280] is most like that of the right symbol, 0..1.

        Compared, by cosine, with the generator's own h_text of these phonemes [P].
        """
        width = self.config.hidden_dim
        given, own = content[:, :width], self.content(phonemes)[:, :width]
        likeness = given @ (own / np.maximum(np.linalg.norm(own, axis=-1, keepdims=True), 1e-9)).T
        return float(np.mean(np.asarray(phonemes)[likeness.argmax(axis=-1)] == phonemes))

    def speak(self, content: np.ndarray, style: np.ndarray, phonemes: np.ndarray, seed: int = 0) -> Speech:
        """C_speech [P, 1280] and S_speech [256] -> speech; `phonemes` [P] says where content is padding (negative).

        Raises:
          StyleTTS2Error: a wrong shape, or values that are not finite.
        """
        return self.speak_many([content], [style], [phonemes], Manner(seed=seed))[0]

    def speak_many(
        self,
        contents: Sequence[np.ndarray],
        styles: Sequence[np.ndarray],
        phonemes: Sequence[np.ndarray],
        manner: Manner | None = None,
    ) -> list[Speech]:
        """`speak` of many; of `manner` the speed and the seed, and for `refine` the rest too."""
        manner = manner or Manner()
        for one in zip(contents, styles, phonemes, strict=True):
            self._check(*one)
        kept = [np.asarray(ids) >= 0 for ids in phonemes]
        contents = [np.asarray(rows, np.float32)[keep] for rows, keep in zip(contents, kept, strict=True)]
        styles, seeds = [np.asarray(style, np.float32) for style in styles], [manner.seed] * len(styles)
        if self.refine:
            drawn = self._drawn(contents, styles, seeds, manner)
            styles = [self._mixed(new, style, manner) for new, style in zip(drawn, styles, strict=True)]
        spoken = self._spoken(contents, styles, seeds, manner.speed)
        return [
            Speech(speech.audio, speech.sample_rate, _placed(speech.phoneme_frames, keep))
            for speech, keep in zip(spoken, kept, strict=True)
        ]

    # By itself

    def say(
        self,
        texts: Sequence[str | Script],
        references: Sequence[np.ndarray] | None = None,
        manner: Manner | None = None,
    ) -> list[Speech]:
        """Speak many texts at once, each from its own reference style [256] where the model has speakers.

        Raises:
          PhonemeError: a text without anything to pronounce. StyleTTS2Error: references missing, or too many.
        """
        manner, scripts = manner or Manner(), [_script(text) for text in texts]
        self._check_reference(references)
        ids = [sentence for script in scripts for sentence in script.sentences]
        owners = [number for number, script in enumerate(scripts) for _ in script.sentences]
        seeds = [manner.seed + number for script in scripts for number in range(len(script.sentences))]
        contents = self.contents(ids)
        near = None if references is None else [references[owner] for owner in owners]
        styles, before = [], {}
        for number, (owner, drawn) in enumerate(zip(owners, self._drawn(contents, near, seeds, manner), strict=True)):
            before[owner] = self._carried(drawn, before.get(owner), None if near is None else near[number], manner)
            styles.append(before[owner])
        spoken = self._spoken(contents, styles, seeds, manner.speed)
        return [
            joined([speech for speech, owner in zip(spoken, owners, strict=True) if owner == number])
            for number in range(len(scripts))
        ]

    def stream(
        self, text: str | Script, reference: np.ndarray | None = None, manner: Manner | None = None
    ) -> Iterator[Speech]:
        """Speak a text sentence by sentence, the style carried over: the next is made while one is being heard.

        Args:
          reference: style of a recording [256], which a model of many speakers needs.
        Raises:
          PhonemeError: nothing to pronounce. StyleTTS2Error: a reference missing, or one too many.
        """
        manner = manner or Manner()
        self._check_reference(reference)
        parts = self._sentences(_script(text), reference, manner)
        with concurrent.futures.ThreadPoolExecutor(1, "styletts2") as pool:
            made = pool.submit(next, parts, None)
            while (part := made.result()) is not None:
                made = pool.submit(next, parts, None)
                yield part

    def synthesize(
        self, text: str | Script, reference: np.ndarray | None = None, manner: Manner | None = None
    ) -> Speech:
        """As `stream`, all in one."""
        return joined(list(self.stream(text, reference, manner)))

    def _sentences(self, script: Script, reference, manner: Manner) -> Iterator[Speech]:
        near, before = None if reference is None else [reference], None
        for number, ids in enumerate(script.sentences):
            contents, seeds = self.contents([ids]), [manner.seed + number]
            (drawn,) = self._drawn(contents, near, seeds, manner)
            before = self._carried(drawn, before, reference, manner)
            yield from self._spoken(contents, [before], seeds, manner.speed)

    # Steps

    def _drawn(self, contents, references, seeds, manner: Manner) -> Sequence[np.ndarray]:
        words = [content[:, self.config.hidden_dim :] for content in contents]
        near = references if self.config.multispeaker else None
        return self.stages.draw(words, near, seeds, manner.steps, manner.embedding_scale)

    def _carried(self, drawn, before, reference, manner: Manner) -> np.ndarray:
        """Upstream's long form: what was drawn, mixed with the previous sentence's style, then with the reference."""
        if before is not None:
            drawn = manner.carry * before + (1 - manner.carry) * drawn
        return drawn if reference is None else self._mixed(drawn, reference, manner)

    def _mixed(self, drawn, reference, manner: Manner) -> np.ndarray:
        share = np.repeat(np.float32([manner.alpha, manner.beta]), self.config.style_dim)
        return share * drawn + (1 - share) * reference

    def _spoken(self, contents, styles, seeds, speed: float) -> list[Speech]:
        frames = []
        for duration in self.stages.durations(contents, styles):
            whole = np.maximum(np.round(duration / speed), 1).astype(np.int32)
            if not self.config.multispeaker:
                whole[-1] += END_FRAMES
            frames.append(whole)
        waves = self.stages.speak(contents, styles, frames, seeds)
        return [Speech(wave, self.sample_rate, whole) for wave, whole in zip(waves, frames, strict=True)]

    def _check(self, content, style, phonemes) -> None:
        wanted = (("C_speech", content, (len(phonemes), self.content_dim)), ("S_speech", style, (self.style_dim,)))
        for name, array, shape in wanted:
            array = np.asarray(array)
            if array.shape != shape or not np.isfinite(array).all():
                raise StyleTTS2Error(f"{name} of shape {array.shape}: wanted finite numbers of shape {shape}")
        if not (np.asarray(phonemes) >= 0).any():
            raise StyleTTS2Error("content without a phoneme")

    def _check_reference(self, reference) -> None:
        if self.config.multispeaker != (reference is not None):
            one = "needs a reference recording: it knows no voice of its own"
            raise StyleTTS2Error(f"this model {one if self.config.multispeaker else 'has one voice: no reference'}")


def stretched(durations: np.ndarray, seconds: float) -> np.ndarray:
    """Durations float [P] of any scale -> whole units of 25 ms int32 [P] that cover `seconds`, at least one in all."""
    total = max(1, round(seconds / PHONEME_FRAME_SECONDS))
    ends = np.round(np.cumsum(durations, dtype=np.float64) * total / np.sum(durations, dtype=np.float64))
    return np.diff(ends.astype(np.int64), prepend=0).astype(np.int32)


def joined(parts: list[Speech]) -> Speech:
    """Sentences one after the other."""
    audio = np.concatenate([part.audio for part in parts])
    return Speech(audio, parts[0].sample_rate, np.concatenate([part.phoneme_frames for part in parts]))


def _placed(frames: np.ndarray, kept: np.ndarray) -> np.ndarray:
    placed = np.zeros(len(kept), np.int32)
    placed[kept] = frames
    return placed


def _script(text: str | Script) -> Script:
    return text if isinstance(text, Script) else read_script(text)
