"""One switch a generator kind: the backend that a config names."""

from empatheia_jax.config import ConfigError, GeneratorConfig
from empatheia_jax.generators.interfaces import FaceGenerator, SpeechGenerator

PUBLISHED_WIDTHS = {"styletts2": (512 + 768, 128 + 128), "dreamtalk": (11 * 256, 256)}
"""(content_dim, style_dim) of appendix D.2's generators: text encoder and PL-BERT, acoustic and prosodic style; a
window of 11 audio vectors a frame, style code. Until the generators are here to say it themselves."""


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


def generator_widths(config: GeneratorConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """(content_dim, style_dim) of the speech and of the face generator, from their classes or the published table.

    Raises:
      ConfigError: for "torch", whose widths only the user's own checkout knows.
    """
    from empatheia_jax.generators.classical.face import ClassicalFace
    from empatheia_jax.generators.classical.voice import ClassicalSpeech

    def widths(kind: str, name: str, classical: type) -> tuple[int, int]:
        if name == "classical":
            return classical.content_dim, classical.style_dim
        if name not in PUBLISHED_WIDTHS:
            raise ConfigError(f"generators.{kind} {name!r}: its widths are not known without it")
        return PUBLISHED_WIDTHS[name]

    return widths("speech", config.speech, ClassicalSpeech), widths("face", config.face, ClassicalFace)
