"""Speech and video encoders (section 4.1) behind one contract: preprocess (host) -> static shape -> device."""

import dataclasses

from empatheia_jax.config import EncoderConfig
from empatheia_jax.encoders.contract import EncoderError, ModalityEncoder


def build_encoders(config: EncoderConfig) -> dict[str, ModalityEncoder]:
    """Build the encoders that the config names: {"audio": ..., "video": ...}.

    Weights are read by the first `encode`; their identity already by `settings`.
    """
    return {"audio": _build_audio(config), "video": _build_video(config)}


def _build_audio(config: EncoderConfig) -> ModalityEncoder:
    if config.audio == "classical":
        from empatheia_jax.encoders.classical_audio import ClassicalAudio

        return ClassicalAudio(config.audio_segments)
    from empatheia_jax.encoders.hubert import HubertAudio, HubertConfig

    preset = getattr(HubertConfig, config.hubert)()
    return HubertAudio(_in_dtype(preset, config.compute_dtype), config.hubert_weights, config.audio_segments)


def _build_video(config: EncoderConfig) -> ModalityEncoder:
    if config.video == "classical":
        from empatheia_jax.encoders.classical_video import ClassicalVideo

        return ClassicalVideo(config.video_frames)
    from empatheia_jax.encoders.clip import ClipVideo, ClipVisionConfig

    preset = getattr(ClipVisionConfig, config.clip)()
    return ClipVideo(_in_dtype(preset, config.compute_dtype), config.clip_weights, config.video_frames)


def _in_dtype(preset, dtype: str):
    return dataclasses.replace(preset, compute_dtype=dtype, param_dtype=dtype)


__all__ = ["EncoderError", "ModalityEncoder", "build_encoders"]
