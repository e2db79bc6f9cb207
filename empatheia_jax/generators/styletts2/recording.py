"""The input of the style encoders: a recording's log-mel without the silence around it."""

import librosa
import numpy as np

from empatheia_jax.generators.styletts2 import mel
from empatheia_jax.generators.styletts2.errors import StyleTTS2Error
from empatheia_jax.generators.styletts2.style_encoder import MIN_FRAMES

TRIM_DB = 30  # what is this far below the loudest frame counts as silence


def reference_mel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the log-mel float32 [T, 80] of a recording, trimmed and resampled to 24 kHz.

    Args:
      audio: mono float [samples].
      sample_rate: its rate in Hz.

    Raises:
      StyleTTS2Error: not mono, not finite, silent, or shorter than the encoder needs (0.8 s).
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise StyleTTS2Error(f"a reference is finite mono sound, not an array of shape {audio.shape}")
    if sample_rate != mel.SAMPLE_RATE:
        audio = librosa.resample(audio, orig_sr=sample_rate, target_sr=mel.SAMPLE_RATE)
    if not audio.size or not np.abs(audio).max() > 0:
        raise StyleTTS2Error("the reference is silent")
    audio, _ = librosa.effects.trim(audio, top_db=TRIM_DB)
    if 1 + len(audio) // mel.HOP < MIN_FRAMES:
        raise StyleTTS2Error(
            f"the reference has {len(audio) / mel.SAMPLE_RATE:.2f} s of sound; a style needs at least "
            f"{(MIN_FRAMES - 1) * mel.HOP / mel.SAMPLE_RATE:.2f}"
        )
    return mel.log_mel(audio)
