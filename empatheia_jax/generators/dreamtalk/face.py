"""DreamTalk as a face generator (`interfaces.FaceGenerator`): content and style in, pictures of a portrait out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import librosa
import numpy as np

from empatheia_jax.generators.classical.portrait import find_faces, largest_of
from empatheia_jax.generators.dreamtalk import alignment, crop
from empatheia_jax.generators.dreamtalk.content_encoder import ROWS_A_FRAME
from empatheia_jax.generators.dreamtalk.errors import DreamTalkError
from empatheia_jax.generators.dreamtalk.motion import EXPRESSION, motion_of
from empatheia_jax.generators.dreamtalk.networks import HEARING_RATE, Networks
from empatheia_jax.generators.interfaces import VIDEO_FPS, Portrait, video_frame_count

LOOK_EVERY = 4  # frames
# Where the five points lie in the square of a found face, x and y down: of OpenCV's frontal cascade, on average.
POINTS_IN_BOX = np.array([[0.32, 0.40], [0.68, 0.40], [0.50, 0.58], [0.36, 0.76], [0.64, 0.76]])


def points_of_box(frame: np.ndarray) -> np.ndarray | None:
    """Where the five points of the largest face lie on average, given its box; None without a face."""
    found = find_faces(frame)
    return np.array([found[0].left, found[0].top]) + POINTS_IN_BOX * found[0].side if found else None


class DreamTalkFace:
    """Frozen DreamTalk with the weights of a converted folder, on the first device.

    C_video of a frame is E_aud's output (appendix D.3 read literally): a window of 11 vectors, flat. Compact, it is
    what E_aud's layers read, the two projected rows of the frame's 40 ms: neighbouring windows share nine of their
    rows, and the frozen layers rebuild them before motion is drawn.
    """

    name = "dreamtalk"
    version = 1
    on_device = True
    style_frames = 64  # 2.6 s of a recording; a clip of coefficients counts up to 256
    fps = VIDEO_FPS

    def __init__(
        self,
        weights: Path | str,
        *,
        draw: Literal["ddim", "ddpm"] = "ddim",
        steps: int = 10,
        scale: float = 1.0,
        seed: int = 0,
        compact: bool = False,
        points: Callable[[np.ndarray], np.ndarray | None] = points_of_box,
    ):
        """Read what the weights are of (`Networks`).

        Args:
          compact: C_video is [F, 2 * 256], not [F, 11 * 256].
          points: frame uint8 [h, w, 3] -> eye centres, nose tip, mouth corners [5, 2] (x right, y down), None without
            a face: any landmark detector. The one that is here knows only where the face's box is.
        Raises:
          DreamTalkError: as `Networks`.
        """
        self._use(Networks(weights, draw=draw, steps=steps, scale=scale), seed, compact, points)

    def _use(self, networks: Networks, seed: int, compact: bool, points: Callable) -> None:
        self.networks, self.config, self.seed = networks, networks.config, seed
        self.compact, self._points = compact, points
        self.content_dim = (ROWS_A_FRAME if compact else self.config.window) * self.config.width
        self.style_dim = self.config.width
        self.size = networks.renderer_config.size

    @property
    def identity(self) -> dict:
        """What content and style depend on, as JSON values."""
        return {f"weights_{part}": self.networks.sha256(part) for part in ("denoiser", "wav2vec", "face3d")}

    # The generator's interface

    def content(
        self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray
    ) -> np.ndarray:
        """Gold C_video of speech: float32 [F, content_dim], F by `phoneme_frames` [P]; `phonemes` are not read."""
        return self.content_of(audio, sample_rate, video_frame_count(phoneme_frames))

    def content_of(self, audio: np.ndarray, sample_rate: int, frames: int | None = None) -> np.ndarray:
        """Speech -> content [F, content_dim]; F of the sound itself without `frames`. Raises DreamTalkError."""
        if sample_rate != HEARING_RATE:
            audio = librosa.resample(np.asarray(audio, np.float32), orig_sr=sample_rate, target_sr=HEARING_RATE)
        rows = self.networks.hear(audio)
        frames = frames or len(rows) // ROWS_A_FRAME
        if self.compact:
            heard = np.zeros((ROWS_A_FRAME * frames, rows.shape[1]), np.float32)  # silence after the last
            heard[: len(rows)] = rows[: len(heard)]
            return self.networks.project(heard).reshape(frames, self.content_dim)
        return self.networks.content(rows, frames).reshape(frames, self.content_dim)

    def windows_of(self, content: np.ndarray) -> np.ndarray:
        """C_video [F, content_dim] -> the windows that motion is drawn from, [F, 11, 256]."""
        if self.compact:
            return self.networks.windows(content.reshape(-1, self.config.width), len(content))
        return content.reshape(-1, self.config.window, self.config.width)

    def style(self, frames: np.ndarray) -> np.ndarray:
        """Gold S_video of a face video uint8 [F, h, w, 3] RGB: float32 [256].

        Raises:
          DreamTalkError: no regressor in the weights.
        """
        return self.styles([self.prepare(frames)])[0]

    def styles(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`style` of many clips of aligned faces uint8 [n, 224, 224, 3]."""
        found = self.networks.coefficients(np.concatenate(prepared))[:, EXPRESSION]
        ends = np.cumsum([len(faces) for faces in prepared])[:-1]
        return [self.style_of(expression) for expression in np.split(found, ends)]

    def style_of(self, expression: np.ndarray) -> np.ndarray:
        """Style code [256] of a clip's expression coefficients [n, 64].

        Raises:
          DreamTalkError: no frames, another width, or values that are not numbers.
        """
        expression = np.asarray(expression, np.float32)
        width = self.config.expression_dim
        if expression.ndim != 2 or expression.shape[1] != width or not len(expression):
            raise DreamTalkError(f"a style clip is [n, {width}], n at least 1, not {list(expression.shape)}")
        if not np.isfinite(expression).all():
            raise DreamTalkError("a style clip holds values that are not numbers")
        return self.networks.style(expression)

    def no_style(self) -> np.ndarray:
        """Code [256] of a face that does as it likes: upstream's null clip."""
        return self.networks.style(np.zeros((self.config.style_frames, self.config.expression_dim), np.float32))

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 [F, h, w, 3] -> faces cut out and aligned, uint8 [F, 224, 224, 3]; needs no weights, no device.

        The face is looked for in every fourth frame and stands still in between. Where there is none it stands where
        it was; without any, as if it filled the frame.
        """
        height, width = frames.shape[1:3]
        points, aligned = alignment.fallback_points(width, height), []
        for number, frame in enumerate(frames):
            found = self._points(frame) if number % LOOK_EVERY == 0 else None
            if found is not None:
                points = found * [1, -1] + [0, height - 1]
            aligned.append(alignment.align(frame, points).image)
        return np.stack(aligned)

    def animate(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> np.ndarray:
        """C_video [F, content_dim] and S_video [256] -> frames uint8 [F, 256, 256, 3] RGB.

        Raises:
          DreamTalkError: wrong shapes, values that are not numbers, a portrait without a face.
        """
        return np.stack(list(self.frames(content, style, portrait)))

    def frames(
        self, content: np.ndarray, style: np.ndarray, portrait: Portrait, pose: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """As `animate`, a frame at a time: memory does not grow with the length; `pose` [n, 9] moves the head."""
        content, style = np.asarray(content, np.float32), np.asarray(style, np.float32)
        if content.ndim != 2 or content.shape[1] != self.content_dim or not len(content):
            raise DreamTalkError(f"C_video must be [F, {self.content_dim}], F at least 1, not {list(content.shape)}")
        if style.shape != (self.style_dim,):
            raise DreamTalkError(f"S_video must be [{self.style_dim}], not {list(style.shape)}")
        if not (np.isfinite(content).all() and np.isfinite(style).all()):
            raise DreamTalkError("C_video or S_video holds values that are not numbers")
        picture = self.picture(portrait)
        motion = motion_of(self.networks.motion(self.windows_of(content), style, self.seed), pose)
        return self.networks.render(picture, motion)

    def picture(self, portrait: Portrait) -> np.ndarray:
        """What is animated, uint8 [256, 256, 3]: a picture cut around its face, or an avatar drawn at rest.

        Raises:
          DreamTalkError: no face in the picture, or an empty portrait.
        """
        return self._drawn(portrait) if portrait.image is None else self.cut(portrait.image)[0]

    def cut(self, image: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """A picture uint8 [h, w, 3] cut around its (largest) face, and what the user should be told.

        One of just 256 x 256 is taken as it is: cut already.

        Raises:
          DreamTalkError: not a picture, or no face in it.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DreamTalkError(f"a portrait must be uint8 [h, w, 3] RGB, not {image.dtype} {list(image.shape)}")
        if image.shape[:2] == (self.size, self.size):
            return image, []
        found = find_faces(image)
        if not found:
            raise DreamTalkError(
                f"no face found in the picture ({image.shape[1]} x {image.shape[0]} pixels); give a frontal, well lit "
                f"face that is not too small, or a portrait of {self.size} x {self.size} that is cut already"
            )
        face, notes = largest_of(found)
        box = face.left, face.top, face.left + face.side, face.top + face.side
        return crop.portrait(image, box, self.size), notes

    def _drawn(self, portrait: Portrait) -> np.ndarray:
        from empatheia_jax.generators.classical.face import ClassicalFace

        if portrait.appearance is None:
            raise DreamTalkError("a portrait has an image or an avatar's appearance")
        face = ClassicalFace(self.size)
        return face.animate(np.zeros((1, face.content_dim)), np.zeros(face.style_dim), portrait)[0]
