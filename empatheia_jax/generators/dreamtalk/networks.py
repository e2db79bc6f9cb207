"""The networks with their weights, compiled once each: chunks of fixed size go through, whatever the length.

Frames see each other only through their windows, so cutting a clip changes nothing.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from empatheia_jax.buckets import power_of_two
from empatheia_jax.encoders.hubert import Hubert, HubertConfig
from empatheia_jax.encoders.hubert_audio import SAMPLE_RATE as HEARING_RATE
from empatheia_jax.encoders.hubert_audio import normalised, padded_samples
from empatheia_jax.frozen import FrozenNetwork
from empatheia_jax.generators.dreamtalk import sampler
from empatheia_jax.generators.dreamtalk.config import DreamTalkConfig, Face3DConfig, RendererConfig
from empatheia_jax.generators.dreamtalk.content_encoder import window_rows
from empatheia_jax.generators.dreamtalk.denoiser import Denoiser
from empatheia_jax.generators.dreamtalk.errors import DreamTalkError
from empatheia_jax.generators.dreamtalk.face3d import Face3D
from empatheia_jax.generators.dreamtalk.motion import window_index
from empatheia_jax.generators.dreamtalk.renderer import Renderer
from empatheia_jax.weights import architecture_of, is_weights, read_facts

PARTS = {
    "denoiser": (Denoiser, DreamTalkConfig),
    "renderer": (Renderer, RendererConfig),
    "face3d": (Face3D, Face3DConfig),
    "wav2vec": (Hubert, HubertConfig),
}
MOTION_CHUNK, RENDER_CHUNK, FACE_CHUNK = 64, 8, 8  # frames that go through at once


class Networks:
    """What `python -m converters dreamtalk` wrote, on the first device; weights come to it with the first call.

    What `_project`, `_windows`, `_style`, `_motion`, `_render` and `_hear` take and give is for `torch_backend` to keep
    to.
    """

    def __init__(
        self, folder: Path | str, *, draw: Literal["ddim", "ddpm"] = "ddim", steps: int = 10, scale: float = 1.0
    ):
        """Read what the weights are of.

        Args:
          draw: "ddim", the published script's, in `steps`; or "ddpm", the paper's, in 1000.
          scale: of guidance by the style; at 1 the pass without one is not made.
        Raises:
          DreamTalkError: no denoiser or renderer in the folder, or another network in their place.
          ValueError: steps that do not divide 1000.
        """
        self.folder = Path(folder)
        if draw == "ddim":
            sampler.ddim_steps(steps)
        self.config: DreamTalkConfig = self._config("denoiser")
        self.renderer_config: RendererConfig = self._config("renderer")
        denoiser = self._network("denoiser", self.config)
        self._project = denoiser.compiled(lambda model, rows: model.content_encoder.project(rows))
        self._windows = denoiser.compiled(lambda model, rows, index: model.content_encoder.windows(rows, index))
        self._style = denoiser.compiled(lambda model, clips, lengths: model.style_encoder(clips, lengths))
        self._motion = denoiser.compiled(functools.partial(_draw, draw=draw, steps=steps, scale=scale))
        self._render = self._network("renderer", self.renderer_config).compiled(Renderer.__call__)

    def has(self, part: str) -> bool:
        """Whether the folder holds a part: "wav2vec" and "face3d" may be missing."""
        return is_weights(self.folder / part)

    def sha256(self, part: str) -> str:
        """Hash of a part's weights; empty where it is missing."""
        return read_facts(self.folder / part)["sha256"] if self.has(part) else ""

    def _config(self, part: str):
        network, config = PARTS[part]
        if not self.has(part):
            flag = "--input" if part == "denoiser" else f"--{part}"
            raise DreamTalkError(f"{self.folder}: no {part} in it; `python -m converters dreamtalk {flag}` writes it")
        family, sizes = architecture_of(self.folder / part)
        if family != config.__name__:
            raise DreamTalkError(f"{self.folder / part}: weights of a {family}, not of a {network.__name__}")
        return config(**sizes)

    def _network(self, part: str, config) -> FrozenNetwork:
        return FrozenNetwork(config, PARTS[part][0], str(self.folder / part), "generators.face_weights")

    @functools.cached_property
    def _hear(self):
        network = self._network("wav2vec", self._config("wav2vec"))
        return network.compiled(lambda hubert, waveform, lengths: hubert(waveform, lengths)[0])

    @functools.cached_property
    def _coefficients(self):
        return self._network("face3d", self._config("face3d")).compiled(Face3D.__call__)

    # Stages

    def hear(self, audio: np.ndarray) -> np.ndarray:
        """Mono float [samples] at 16 kHz -> rows float32 [R, 1024], 50 a second.

        Raises:
          DreamTalkError: shorter than one row (25 ms), or not finite mono sound.
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 1 or not np.isfinite(audio).all():
            raise DreamTalkError(f"speech is finite mono sound, not an array of shape {audio.shape}")
        rows = (len(audio) - 400) // 320 + 1
        if rows < 2:
            raise DreamTalkError(f"{len(audio) / HEARING_RATE:.3f} s of speech: a frame of video needs 0.045")
        padded = np.zeros((1, padded_samples(len(audio))), np.float32)
        padded[0, : len(audio)] = normalised(audio)
        return self._hear(padded, np.array([len(audio)], np.int32))[0, :rows]

    def project(self, rows: np.ndarray) -> np.ndarray:
        """Rows [R, 1024] -> projected float32 [R, 256], a row every 20 ms: a row of zeros is silence."""
        return self._project(_filled(rows))[: len(rows)]

    def windows(self, projected: np.ndarray, frames: int) -> np.ndarray:
        """Projected rows [R, 256] -> content float32 [frames, 11, 256]; beyond the recording it is silent."""
        index = window_rows(len(projected), self.config.window, frames)
        rows = _filled(projected)
        return np.concatenate([self._windows(rows, part)[:count] for part, count in _chunks(index, MOTION_CHUNK)])

    def content(self, rows: np.ndarray, frames: int) -> np.ndarray:
        """Rows [R, 1024] -> content float32 [frames, 11, 256]."""
        return self.windows(self.project(rows), frames)

    def style(self, expression: np.ndarray) -> np.ndarray:
        """Expression [n, 64] of a clip, n at least 1, of which the first 256 frames count -> code float32 [256]."""
        frames = self.config.style_frames
        clip = np.zeros((1, frames, expression.shape[1]), np.float32)
        count = min(len(expression), frames)
        clip[0, :count] = expression[:count]
        return self._style(clip, np.array([count], np.int32))[0]

    def motion(self, content: np.ndarray, style: np.ndarray, seed: int = 0) -> np.ndarray:
        """Content [F, 11, 256] and a style code [256] -> expression float32 [F, 64]."""
        parts = [
            self._motion(part, style[None], np.uint32(seed), np.int32(number))[:count]
            for number, (part, count) in enumerate(_chunks(content, MOTION_CHUNK))
        ]
        return np.concatenate(parts)

    def render(self, portrait: np.ndarray, motion: np.ndarray) -> Iterator[np.ndarray]:
        """Portrait uint8 [256, 256, 3] and motion [F, 73] -> frames uint8 [256, 256, 3], a chunk computed at a time."""
        for index, count in _chunks(window_index(len(motion)), RENDER_CHUNK):
            yield from self._render(portrait, motion[index])[:count]

    def coefficients(self, faces: np.ndarray) -> np.ndarray:
        """Aligned faces uint8 [n, 224, 224, 3] -> coefficients float32 [n, 257]."""
        found = []
        for part, count in _chunks(faces, FACE_CHUNK):
            found.append(self._coefficients(part.astype(np.float32) / 255)[:count])
        return np.concatenate(found)


def _filled(rows: np.ndarray) -> np.ndarray:
    """Rows filled up with zeros, so that few programs serve all lengths."""
    padded = np.zeros((128 * power_of_two(-(-len(rows) // 128)), rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded


def _chunks(array: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """([size, ...], how many of them count): the last is filled up with its last row."""
    for start in range(0, len(array), size):
        part = array[start : start + size]
        yield np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]), len(part)


def _draw(model: Denoiser, content, style, seed, number, *, draw: str, steps: int, scale: float) -> jax.Array:
    """Content [L, 11, 256], style [1, 256] -> expression [L, 64]; noise of the seed and of the chunk's number."""
    shape = (1, content.shape[0], model.config.expression_dim)
    noise, fresh = chunk_noise(seed, number, shape)

    def network(x, t, code):
        return model(x, t, content[None], code)

    null = style if scale == 1.0 else model.style_encoder.null()
    denoise = sampler.guided(network, null, style, scale)
    if draw == "ddim":
        return sampler.ddim(denoise, noise, steps)[0][0]
    return sampler.ddpm(denoise, noise, fresh)[0]


def chunk_noise(seed, number, shape: tuple[int, ...]) -> tuple[jax.Array, Callable]:
    """(normal numbers that a chunk of motion begins with, step t -> those that DDPM adds there)."""
    key = jax.random.fold_in(jax.random.key(seed), number)
    return jax.random.normal(key, shape), lambda t: jax.random.normal(jax.random.fold_in(key, t), shape)
