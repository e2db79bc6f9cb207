"""Section 4.1: what the machine hears and sees. One contract: preprocess (host) -> static shape -> device."""

from empatheia_jax.config import ConfigError, EncoderConfig
from empatheia_jax.encoders.contract import EncoderError, ModalityEncoder


def build_encoders(config: EncoderConfig) -> dict[str, ModalityEncoder]:
    """The encoder of each modality, {"audio": ..., "video": ...}, that `config.kind` names.

    Raises:
      ConfigError: when this version has no encoders of that kind.
    """
    if config.kind == "classical":
        from empatheia_jax.encoders.classical import ClassicalAudio, ClassicalVideo

        return {"audio": ClassicalAudio(config.audio_segments), "video": ClassicalVideo(config.video_frames)}
    raise ConfigError(f"encoders.kind {config.kind!r} is not part of this version: use 'classical'")


__all__ = ["EncoderError", "ModalityEncoder", "build_encoders"]
