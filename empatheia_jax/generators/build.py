"""One switch a generator kind: the backend that a config names."""

from empatheia_jax.config import ConfigError, GeneratorConfig
from empatheia_jax.generators.interfaces import FaceGenerator, SpeechGenerator


def build_generators(config: GeneratorConfig, face_size: int = 256) -> tuple[SpeechGenerator, FaceGenerator]:
    """The frozen speech and face generators; `face_size` is the side of the frames in pixels.

    Raises:
      ConfigError: when this version has no backend of that name.
    """
    if (config.speech, config.face) != ("classical", "classical"):
        raise ConfigError(
            f"generators.speech {config.speech!r}, generators.face {config.face!r}: this version has 'classical' only"
        )
    from empatheia_jax.generators.classical.face import ClassicalFace
    from empatheia_jax.generators.classical.voice import ClassicalSpeech

    return ClassicalSpeech(), ClassicalFace(face_size)
