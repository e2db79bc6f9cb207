"""Build the speech and the face generator that a config names."""

import dataclasses
import importlib.util
from pathlib import Path

from empatheia_jax.checkpoints.weights import is_weights, read_metadata
from empatheia_jax.config import ConfigError, GeneratorConfig
from empatheia_jax.generators.interfaces import FaceGenerator, SpeechGenerator

PUBLISHED_WIDTHS = {
    "styletts2": (512 + 768, 128 + 128),
    "kokoro": (512 + 768, 128 + 128 + 4),
    "dreamtalk": (11 * 256, 256),
    "dreamtalk compact": (2 * 256, 256),
}
"""(content_dim, style_dim) of the neural generators. Speech: text encoder and PL-BERT; acoustic and prosodic style, and
for Kokoro the manner. Face: a window of 11 audio vectors per frame or (compact) the two projected audio features of its
40 ms, and the style code. Used by plans, which are made before there are weights to read the widths from."""


def build_generators(config: GeneratorConfig, face_size: int = 256) -> tuple[SpeechGenerator, FaceGenerator]:
    """Build the frozen speech and face generators; their weights are loaded when first used.

    Args:
      config: backends, folders of weights and their settings.
      face_size: side of the classical face's frames in pixels; DreamTalk's frames have a fixed size.

    Returns:
      The speech generator and the face generator.

    Raises:
      ConfigError: a setting does not fit its backend, or torch is not installed.
      CheckpointError: no converted weights in `speech_weights`.
      PartError: Kokoro's weights are neither given nor fetched.
      DreamTalkError: no converted weights in `face_weights`.
      TorchBackendError: no checkout, dependency or checkpoint of the original.
    """
    return _speech(config), _face(config, face_size)


def _speech(config: GeneratorConfig) -> SpeechGenerator:
    if config.speech == "classical":
        if config.speech_weights or config.style_refine != "none":
            raise ConfigError(
                "generators.speech 'classical' has no weights and no diffusion: leave speech_weights and style_refine, "
                "or set generators.speech styletts2"
            )
        from empatheia_jax.generators.classical.voice import ClassicalSpeech

        return ClassicalSpeech()
    if config.speech == "styletts2":
        if not config.speech_weights:
            raise ConfigError(
                "generators.speech_weights is empty: give the folder that `python -m converters styletts2` wrote"
            )
        from empatheia_jax.generators.styletts2.voice import StyleTTS2Speech

        return StyleTTS2Speech(config.speech_weights, config.speech_dtype, config.style_refine == "diffusion")
    if config.speech == "kokoro":
        if config.style_refine != "none":
            raise ConfigError("generators.speech 'kokoro' has no diffusion of styles: leave style_refine")
        from empatheia_jax.generators.styletts2.kokoro import KokoroSpeech

        return KokoroSpeech(config.speech_weights, config.speech_dtype)
    _require_torch("speech")
    from empatheia_jax.generators.torch_backend.styletts2 import TorchStyleTTS2Speech

    sha256 = read_metadata(config.speech_weights)["sha256"] if config.speech_weights else ""
    return TorchStyleTTS2Speech(config.torch, sha256, config.style_refine == "diffusion")


def _face(config: GeneratorConfig, face_size: int) -> FaceGenerator:
    if config.face == "classical":
        if config.face_weights or config.face_content != "windows":
            raise ConfigError(
                "generators.face 'classical' has no weights and one content: leave face_weights and face_content, or "
                "set generators.face dreamtalk"
            )
        from empatheia_jax.generators.classical.face import ClassicalFace

        return ClassicalFace(face_size)
    if config.face == "dreamtalk":
        if not config.face_weights:
            raise ConfigError(
                "generators.face_weights is empty: give the folder that `python -m converters dreamtalk` wrote"
            )
        from empatheia_jax.generators.dreamtalk.face import DreamTalkFace

        compact = config.face_content == "compact"
        return DreamTalkFace(config.face_weights, sampler=config.face_sampler, compact=compact)
    _require_torch("face")
    from empatheia_jax.generators.torch_backend.dreamtalk import TorchDreamTalkFace

    return TorchDreamTalkFace(config)


def _require_torch(kind: str) -> None:
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(f"generators.{kind} 'torch' needs torch: pip install -e '.[originals]'")


def generator_widths(config: GeneratorConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (content_dim, style_dim) of the speech and of the face generator, without building networks.

    They are read from the converted weights where there are some, else from `PUBLISHED_WIDTHS`.
    """
    config = dataclasses.replace(config, **config.target_backend)

    def widths(kind: str, name: str, part: str, build) -> tuple[int, int]:
        folder = getattr(config, f"{kind}_weights")
        if name == "classical" or (folder and is_weights(Path(folder) / part)):
            generator = build()
            return generator.content_dim, generator.style_dim
        if kind == "face" and config.face_content == "compact":
            name = f"{name} compact"
        return PUBLISHED_WIDTHS[name]

    speech = widths("speech", config.speech, "", lambda: _speech(config))
    return speech, widths("face", config.face, "denoiser", lambda: _face(config, 256))
