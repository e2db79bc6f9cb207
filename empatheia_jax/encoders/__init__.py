"""Speech and video encoders (section 4.1) behind one contract: preprocess (host) -> static shape -> device."""

import dataclasses

from empatheia_jax.config import EncoderConfig
from empatheia_jax.encoders.contract import EncoderError, ModalityEncoder


def build_encoders(config: EncoderConfig) -> dict[str, ModalityEncoder]:
    """Build the encoders that `config.kind` names: {"audio": ..., "video": ...}.

    Weights are read by the first `encode`; their identity already by `settings`.
    """
    if config.kind == "classical":
        from empatheia_jax.encoders.classical_audio import ClassicalAudio
        from empatheia_jax.encoders.classical_video import ClassicalVideo

        return {"audio": ClassicalAudio(config.audio_segments), "video": ClassicalVideo(config.video_frames)}
    from empatheia_jax.encoders.clip import ClipVideo, ClipVisionConfig
    from empatheia_jax.encoders.hubert import HubertAudio, HubertConfig

    hubert, clip = (
        dataclasses.replace(preset, compute_dtype=config.compute_dtype, param_dtype=config.compute_dtype)
        for preset in (getattr(HubertConfig, config.hubert)(), getattr(ClipVisionConfig, config.clip)())
    )
    return {
        "audio": HubertAudio(hubert, config.hubert_weights, config.audio_segments),
        "video": ClipVideo(clip, config.clip_weights, config.video_frames),
    }


__all__ = ["EncoderError", "ModalityEncoder", "build_encoders"]
