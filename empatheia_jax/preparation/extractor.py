"""What `empatheia extract` makes of one utterance: its features and golds."""

import contextlib
from typing import Any

import numpy as np

from empatheia_jax.config import Config
from empatheia_jax.data.features.store import MAX_SIDE, STYLE_FRAMES
from empatheia_jax.data.media.containers import Recording
from empatheia_jax.data.media.reading import read_audio, read_video
from empatheia_jax.data.schema import Profile
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.generators.interfaces import ConstructsStyle, OnDeviceFaceGenerator, OnDeviceSpeechGenerator
from empatheia_jax.preparation.jobs import ExtractError, Job
from empatheia_jax.preparation.on_device import PREPARED_CLIP, PREPARED_SPEECH, SAMPLES


class Extractor:
    """Turns a Job into the arrays of its record; each worker has one."""

    def __init__(self, config: Config):
        self.encoders = build_encoders(config.encoders)
        self.speech, self.face = build_generators(config.generators)
        self.limits: dict[str, Any] = {
            "max_seconds": config.data.max_seconds,
            "max_megabytes": config.data.max_megabytes,
        }

    def __call__(self, job: Job) -> tuple[dict[str, np.ndarray], list[dict], list[str]]:
        """Extract one utterance.

        For an encoder that is `on_device`, "audio" or "video" is the output of its `preprocess`, which `encode_records`
        encodes later. For a generator that is `on_device`, `SAMPLES`, `PREPARED_SPEECH` or `PREPARED_CLIP` are in the
        place of its golds, which `add_golds` computes later.

        Returns:
          The record's arrays by name, what was rejected: [{key, modality, file, error}], and notes on recordings.
        """
        notes: list[str] = []
        options: dict[str, Any] = {**self.limits, "notes": notes}
        arrays: dict[str, np.ndarray] = {}
        rejected: list[dict] = []

        @contextlib.contextmanager
        def attempt(modality: str, file: Recording):
            try:
                yield
            except (ValueError, OSError) as error:  # unusable media; other errors are bugs and are raised
                reason = str(error) if str(file) in str(error) else f"{file}: {error}"
                rejected.append({"key": job.key, "modality": modality, "file": str(file), "error": reason})

        if job.audio is not None:
            with attempt("audio", job.audio):
                arrays["audio"] = self._audio_features(job.audio, options)
        if job.video is not None:
            with attempt("video", job.video):
                count = self.encoders["video"].feature_shape[0] if job.text is None else STYLE_FRAMES
                frames = read_video(job.video, count=count, max_side=MAX_SIDE, **options)
                arrays["video"] = self._encode("video", frames)
                if job.text is not None and isinstance(self.face, OnDeviceFaceGenerator):
                    clip = read_video(job.video, max_frames=self.face.style_frames, max_side=MAX_SIDE, **options)
                    arrays[PREPARED_CLIP] = self.face.prepare(clip)
                elif job.text is not None:
                    arrays["style_video"] = self.face.style(frames)
        if job.audio is not None and job.text is not None and "audio" in arrays:
            with attempt("gold", job.audio):
                arrays |= self._extract_golds(job.audio, job.text, job.performance)
        return arrays, rejected, list(dict.fromkeys(notes))  # a file that is read twice is noted once

    def repairs(self) -> dict[str, int]:
        """Return how often so far something was used that is not as it should be, by what was done about it."""
        padded = self.speech.references_padded if isinstance(self.speech, OnDeviceSpeechGenerator) else 0
        return {"faces_missed": self.encoders["video"].faces_missed, "references_padded": padded}

    def _audio_features(self, path: Recording, options: dict[str, Any]) -> np.ndarray:
        return self._encode("audio", read_audio(path, self.encoders["audio"].sample_rate, **options))

    def _encode(self, modality: str, media: np.ndarray) -> np.ndarray:
        """Return the features, or only the preprocessed input of an encoder that is `on_device`."""
        encoder = self.encoders[modality]
        prepared = encoder.preprocess(media)
        return prepared if encoder.on_device else encoder.encode([prepared])[0]

    def _extract_golds(
        self, path: Recording, text: str, performance: tuple[Profile, str] | None
    ) -> dict[str, np.ndarray]:
        """Compute the gold targets of a recording whose text is known, by the generators.

        Raises:
          ExtractError: the generator constructs styles, and whose the voice is or its emotion is not known.
        """
        rate = self.speech.sample_rate
        audio = read_audio(path, rate, **self.limits)
        phonemes = self.speech.phonemes(text)
        if isinstance(self.speech, ConstructsStyle):
            if performance is None:
                raise ExtractError(
                    f"generators.speech {self.speech.name!r} makes a style from the listener's profile and the "
                    "speaker_emotion, of which this turn has not both"
                )
            return {"phonemes": phonemes, SAMPLES: audio, PREPARED_SPEECH: self.speech.style_for(*performance)}
        if isinstance(self.speech, OnDeviceSpeechGenerator):
            return {"phonemes": phonemes, SAMPLES: audio, PREPARED_SPEECH: self.speech.prepare(audio, rate)}
        phoneme_frames = self.speech.align(audio, rate, phonemes)
        golds = {
            "phonemes": phonemes,
            "phoneme_frames": phoneme_frames,
            "content_speech": self.speech.content(phonemes),
            "style_speech": self.speech.style(audio, rate, phonemes),
        }
        if self.face.on_device:
            return golds | {SAMPLES: audio}
        return golds | {"content_video": self.face.content(audio, rate, phonemes, phoneme_frames)}
