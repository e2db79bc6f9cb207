"""DreamTalk's networks with their weights, compiled once each for chunks of fixed size.

Frames depend on each other only through their windows, so splitting a clip into chunks does not change the result.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from empatheia_jax.checkpoints.frozen_network import FrozenNetwork
from empatheia_jax.checkpoints.weights import is_weights, read_architecture, read_metadata
from empatheia_jax.encoders.hubert import SAMPLE_RATE as AUDIO_SAMPLE_RATE
from empatheia_jax.encoders.hubert import Hubert, HubertConfig, normalise_waveform, padded_samples
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, DreamTalkError, Face3DConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.diffusion import Denoiser, ddim, ddim_steps, ddpm, guided_denoiser
from empatheia_jax.generators.dreamtalk.encoders import audio_window_index
from empatheia_jax.generators.dreamtalk.face3d import Face3D
from empatheia_jax.generators.dreamtalk.motion import window_index
from empatheia_jax.generators.dreamtalk.renderer import Renderer
from empatheia_jax.runtime.buckets import next_power_of_two

PARTS = {
    "denoiser": (Denoiser, DreamTalkConfig),
    "renderer": (Renderer, RendererConfig),
    "face3d": (Face3D, Face3DConfig),
    "wav2vec": (Hubert, HubertConfig),
}
MOTION_CHUNK, RENDER_CHUNK, FACE_CHUNK = 64, 8, 8  # frames in a chunk


class Networks:
    """DreamTalk's networks from a converted folder; weights are loaded with the first call.

    `torch_backend` replaces `_project`, `_windows`, `_style`, `_sample_expression`, `_render` and `_audio_features` by
    functions of the same arguments and results.
    """

    def __init__(
        self, folder: Path | str, *, sampler: Literal["ddim", "ddpm"] = "ddim", steps: int = 10, scale: float = 1.0
    ):
        """Read the architecture of the weights.

        Args:
          folder: the output of `python -m converters dreamtalk`.
          sampler: "ddim", as in the published script, or "ddpm", as in the paper, in 1000 steps.
          steps: steps of DDIM.
          scale: strength of guidance by the style; at 1 the unconditional pass is not computed.

        Raises:
          DreamTalkError: no denoiser or renderer in the folder, or another network in their place.
          ValueError: steps that do not divide 1000.
        """
        self.folder = Path(folder)
        if sampler == "ddim":
            ddim_steps(steps)
        self.config: DreamTalkConfig = self._config("denoiser")
        self.renderer_config: RendererConfig = self._config("renderer")
        denoiser = self._network("denoiser", self.config)
        self._project = denoiser.compile(lambda model, features: model.content_encoder.project(features))
        self._windows = denoiser.compile(lambda model, features, index: model.content_encoder.windows(features, index))
        self._style = denoiser.compile(lambda model, clips, lengths: model.style_encoder(clips, lengths))
        self._sample_expression = denoiser.compile(
            functools.partial(_sample_expression, sampler=sampler, steps=steps, scale=scale)
        )
        self._render = self._network("renderer", self.renderer_config).compile(Renderer.__call__)

    def has(self, part: str) -> bool:
        """Return whether the folder holds a part; "wav2vec" and "face3d" may be missing."""
        return is_weights(self.folder / part)

    def sha256(self, part: str) -> str:
        """Return the hash of a part's weights, empty if it is missing."""
        return read_metadata(self.folder / part)["sha256"] if self.has(part) else ""

    def _config(self, part: str):
        network, config = PARTS[part]
        if not self.has(part):
            flag = "--input" if part == "denoiser" else f"--{part}"
            raise DreamTalkError(f"{self.folder}: no {part} in it; `python -m converters dreamtalk {flag}` writes it")
        family, sizes = read_architecture(self.folder / part)
        if family != config.__name__:
            raise DreamTalkError(f"{self.folder / part}: weights of a {family}, not of a {network.__name__}")
        return config(**sizes)

    def _network(self, part: str, config) -> FrozenNetwork:
        return FrozenNetwork(config, PARTS[part][0], str(self.folder / part), "generators.face_weights")

    @functools.cached_property
    def _audio_features(self):
        network = self._network("wav2vec", self._config("wav2vec"))
        return network.compile(lambda hubert, waveform, lengths: hubert(waveform, lengths)[0])

    @functools.cached_property
    def _coefficients(self):
        return self._network("face3d", self._config("face3d")).compile(Face3D.__call__)

    # Stages of rendering

    def audio_features(self, audio: np.ndarray) -> np.ndarray:
        """Return wav2vec 2.0's features float32 [R, 1024], 50 per second, of mono audio [samples] at 16 kHz.

        Raises:
          DreamTalkError: shorter than a frame of video (45 ms), or not finite mono audio.
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 1 or not np.isfinite(audio).all():
            raise DreamTalkError(f"speech is finite mono sound, not an array of shape {audio.shape}")
        count = (len(audio) - 400) // 320 + 1
        if count < 2:
            raise DreamTalkError(f"{len(audio) / AUDIO_SAMPLE_RATE:.3f} s of speech: a frame of video needs 0.045")
        padded = np.zeros((1, padded_samples(len(audio))), np.float32)
        padded[0, : len(audio)] = normalise_waveform(audio)
        return self._audio_features(padded, np.array([len(audio)], np.int32))[0, :count]

    def project(self, features: np.ndarray) -> np.ndarray:
        """Project audio features [R, 1024], zeros being silence, to float32 [R, 256]."""
        return self._project(_pad(features))[: len(features)]

    def windows(self, projected: np.ndarray, frames: int) -> np.ndarray:
        """Return content float32 [frames, 11, 256] of projected features [R, 256]; after their end it is silent."""
        index = audio_window_index(len(projected), self.config.window, frames)
        padded = _pad(projected)
        return np.concatenate([self._windows(padded, chunk)[:count] for chunk, count in _chunks(index, MOTION_CHUNK)])

    def content(self, features: np.ndarray, frames: int) -> np.ndarray:
        """Return content float32 [frames, 11, 256] of audio features [R, 1024]."""
        return self.windows(self.project(features), frames)

    def style(self, expression: np.ndarray) -> np.ndarray:
        """Return the style code float32 [256] of the first 256 frames of a clip's expression [n, 64], n at least 1."""
        frames = self.config.style_frames
        clip = np.zeros((1, frames, expression.shape[1]), np.float32)
        count = min(len(expression), frames)
        clip[0, :count] = expression[:count]
        return self._style(clip, np.array([count], np.int32))[0]

    def sample_expression(self, content: np.ndarray, style: np.ndarray, seed: int = 0) -> np.ndarray:
        """Sample expression coefficients float32 [F, 64] for content [F, 11, 256] and a style code [256]."""
        chunks = [
            self._sample_expression(chunk, style[None], np.uint32(seed), np.int32(number))[:count]
            for number, (chunk, count) in enumerate(_chunks(content, MOTION_CHUNK))
        ]
        return np.concatenate(chunks)

    def render(self, portrait: np.ndarray, motion: np.ndarray) -> Iterator[np.ndarray]:
        """Yield frames uint8 [256, 256, 3] of a portrait uint8 [256, 256, 3] and motion [F, 73], computed by chunks."""
        for index, count in _chunks(window_index(len(motion)), RENDER_CHUNK):
            yield from self._render(portrait, motion[index])[:count]

    def coefficients(self, faces: np.ndarray) -> np.ndarray:
        """Return the 3DMM coefficients float32 [n, 257] of aligned faces uint8 [n, 224, 224, 3]."""
        coefficients = []
        for chunk, count in _chunks(faces, FACE_CHUNK):
            coefficients.append(self._coefficients(chunk.astype(np.float32) / 255)[:count])
        return np.concatenate(coefficients)


def _pad(features: np.ndarray) -> np.ndarray:
    """Pad features [R, D] with zeros to one of few lengths, so that few programs are compiled."""
    padded = np.zeros((128 * next_power_of_two(-(-len(features) // 128)), features.shape[1]), np.float32)
    padded[: len(features)] = features
    return padded


def _chunks(array: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield chunks [size, ...] and how many of their entries are real: the last chunk repeats its last entry."""
    for start in range(0, len(array), size):
        chunk = array[start : start + size]
        yield np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)]), len(chunk)


def _sample_expression(model: Denoiser, *arrays, sampler: str, steps: int, scale: float) -> jax.Array:
    """Sample the expression [L, 64] of a chunk.

    Args:
      model: the denoising network.
      *arrays: content [L, 11, 256], style [1, 256], the seed and the chunk's number, which give the noise.
      sampler: "ddim" or "ddpm".
      steps: steps of DDIM.
      scale: strength of guidance by the style.
    """
    content, style, seed, number = arrays
    shape = (1, content.shape[0], model.config.expression_dim)
    noise, step_noise = chunk_noise(seed, number, shape)

    def network(x, t, code):
        return model(x, t, content[None], code)

    null = style if scale == 1.0 else model.style_encoder.null()
    denoise = guided_denoiser(network, null, style, scale)
    if sampler == "ddim":
        return ddim(denoise, noise, steps)[0][0]
    return ddpm(denoise, noise, step_noise)[0]


def chunk_noise(seed, number, shape: tuple[int, ...]) -> tuple[jax.Array, Callable]:
    """Return the normal noise that a chunk starts from, and a function of step t to the noise that DDPM adds there."""
    key = jax.random.fold_in(jax.random.key(seed), number)
    return jax.random.normal(key, shape), lambda t: jax.random.normal(jax.random.fold_in(key, t), shape)
