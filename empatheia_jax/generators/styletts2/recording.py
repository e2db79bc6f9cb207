"""What a style is read from: a recording's log-mel, silence around it cut off."""

import librosa
import numpy as np

from empatheia_jax.generators.styletts2 import mel
from empatheia_jax.generators.styletts2.errors import StyleTTS2Error
from empatheia_jax.generators.styletts2.style_encoder import LEAST_FRAMES

TRIM_DB = 30  # below the loudest: silence around a reference


def reference_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mono float [samples] -> log-mel float32 [T, 80].

    Raises:
      StyleTTS2Error: not mono, not finite, silent, or shorter than the encoder sees (0.8 s at 24 kHz).
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise StyleTTS2Error(f"a reference is finite mono sound, not an array of shape {audio.shape}")
    if sample_rate != mel.SAMPLE_RATE:
        audio = librosa.resample(audio, orig_sr=sample_rate, target_sr=mel.SAMPLE_RATE)
    if not audio.size or not np.abs(audio).max() > 0:
        raise StyleTTS2Error("the reference is silent")
    audio, _ = librosa.effects.trim(audio, top_db=TRIM_DB)
    if 1 + len(audio) // mel.HOP < LEAST_FRAMES:
        raise StyleTTS2Error(
            f"the reference has {len(audio) / mel.SAMPLE_RATE:.2f} s of sound; a style needs at least "
            f"{(LEAST_FRAMES - 1) * mel.HOP / mel.SAMPLE_RATE:.2f}"
        )
    return mel.log_mel(audio)
