"""DreamTalk as a face generator (`interfaces.FaceGenerator`): content and style in, frames of a portrait out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import librosa
import numpy as np

from empatheia_jax.generators.classical.portrait import find_faces, select_largest
from empatheia_jax.generators.dreamtalk import alignment
from empatheia_jax.generators.dreamtalk.config import DreamTalkError
from empatheia_jax.generators.dreamtalk.encoders import FEATURES_PER_FRAME
from empatheia_jax.generators.dreamtalk.motion import EXPRESSION, build_motion
from empatheia_jax.generators.dreamtalk.networks import AUDIO_SAMPLE_RATE, Networks
from empatheia_jax.generators.interfaces import VIDEO_FPS, Portrait, video_frame_count

DETECT_EVERY = 4  # frames
# Average places of the five points in the square that OpenCV's frontal cascade returns for a face; x right, y down.
POINTS_IN_BOX = np.array([[0.32, 0.40], [0.68, 0.40], [0.50, 0.58], [0.36, 0.76], [0.64, 0.76]])


def points_from_box(frame: np.ndarray) -> np.ndarray | None:
    """Estimate the five points [5, 2] of the largest face from its box alone; None without a face."""
    faces = find_faces(frame)
    return np.array([faces[0].left, faces[0].top]) + POINTS_IN_BOX * faces[0].side if faces else None


class DreamTalkFace:
    """Frozen DreamTalk with the weights of a converted folder, on the first device.

    C_video of a frame is E_aud's output (appendix D.3 read literally): a flattened window of 11 vectors. Compact, it is
    the input of E_aud's layers, the two projected audio features of the frame's 40 ms: neighbouring windows share nine
    of their features, and the frozen layers rebuild the windows before motion is sampled.
    """

    name = "dreamtalk"
    version = 1
    on_device = True
    style_frames = 64  # 2.6 s of a recording; of a clip of coefficients the first 256 are used
    fps = VIDEO_FPS

    def __init__(
        self,
        weights: Path | str,
        *,
        sampler: Literal["ddim", "ddpm"] = "ddim",
        steps: int = 10,
        scale: float = 1.0,
        seed: int = 0,
        compact: bool = False,
        detect_points: Callable[[np.ndarray], np.ndarray | None] = points_from_box,
    ):
        """Read the architecture of the weights; they are loaded when first used.

        Args:
          weights: the output of `python -m converters dreamtalk`.
          sampler: "ddim", as in the published script, or "ddpm", as in the paper, in 1000 steps.
          steps: steps of DDIM.
          scale: strength of guidance by the style; 1 is none.
          seed: seed of the diffusion's noise.
          compact: C_video is [F, 2 * 256], not [F, 11 * 256].
          detect_points: any landmark detector: frame uint8 [h, w, 3] -> eye centres, nose tip, mouth corners [5, 2]
            (x right, y down), None without a face. The default estimates them from the face's box.

        Raises:
          DreamTalkError: no denoiser or renderer in the folder, or another network in their place.
          ValueError: steps that do not divide 1000.
        """
        self._set_networks(Networks(weights, sampler=sampler, steps=steps, scale=scale), seed, compact, detect_points)

    def _set_networks(self, networks: Networks, seed: int, compact: bool, detect_points: Callable) -> None:
        self.networks, self.config, self.seed = networks, networks.config, seed
        self.compact, self._detect_points = compact, detect_points
        self.content_dim = (FEATURES_PER_FRAME if compact else self.config.window) * self.config.width
        self.style_dim = self.config.width
        self.size = networks.renderer_config.size

    @property
    def identity(self) -> dict:
        """The values that content and style depend on, for JSON."""
        return {f"weights_{part}": self.networks.sha256(part) for part in ("denoiser", "wav2vec", "face3d")}

    # The generator's interface

    def content(
        self, audio: np.ndarray, sample_rate: int, phonemes: np.ndarray, phoneme_frames: np.ndarray
    ) -> np.ndarray:
        """Return gold C_video of speech: float32 [F, content_dim].

        Args:
          audio: mono float [samples].
          sample_rate: its rate in Hz.
          phonemes: not used; part of the interface.
          phoneme_frames: int [P], which give F (`video_frame_count`).

        Raises:
          DreamTalkError: the audio is too short, or not finite and mono.
        """
        return self.content_from_audio(audio, sample_rate, video_frame_count(phoneme_frames))

    def content_from_audio(self, audio: np.ndarray, sample_rate: int, frames: int | None = None) -> np.ndarray:
        """Return the content float32 [F, content_dim] of speech.

        Args:
          audio: mono float [samples].
          sample_rate: its rate in Hz.
          frames: F; by default as many as the audio covers.

        Raises:
          DreamTalkError: the audio is too short, or not finite and mono.
        """
        if sample_rate != AUDIO_SAMPLE_RATE:
            audio = librosa.resample(np.asarray(audio, np.float32), orig_sr=sample_rate, target_sr=AUDIO_SAMPLE_RATE)
        features = self.networks.audio_features(audio)
        frames = frames or len(features) // FEATURES_PER_FRAME
        if self.compact:
            padded = np.zeros((FEATURES_PER_FRAME * frames, features.shape[1]), np.float32)  # silence at the end
            padded[: len(features)] = features[: len(padded)]
            return self.networks.project(padded).reshape(frames, self.content_dim)
        return self.networks.content(features, frames).reshape(frames, self.content_dim)

    def content_windows(self, content: np.ndarray) -> np.ndarray:
        """Return the windows [F, 11, 256] of C_video [F, content_dim], from which motion is sampled."""
        if self.compact:
            return self.networks.windows(content.reshape(-1, self.config.width), len(content))
        return content.reshape(-1, self.config.window, self.config.width)

    def style(self, frames: np.ndarray) -> np.ndarray:
        """Return gold S_video float32 [256] of a face video uint8 [F, h, w, 3] RGB.

        Raises:
          DreamTalkError: no regressor in the weights.
        """
        return self.styles([self.prepare(frames)])[0]

    def styles(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return `style` of many clips, each the result of `prepare`: aligned faces uint8 [n, 224, 224, 3]."""
        expressions = self.networks.coefficients(np.concatenate(prepared))[:, EXPRESSION]
        ends = np.cumsum([len(faces) for faces in prepared])[:-1]
        return [self.style_from_expression(expression) for expression in np.split(expressions, ends)]

    def style_from_expression(self, expression: np.ndarray) -> np.ndarray:
        """Return the style code float32 [256] of a clip's expression coefficients [n, 64].

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

    def null_style(self) -> np.ndarray:
        """Return the style code [256] of no style, that of upstream's null clip."""
        return self.networks.style(np.zeros((self.config.style_frames, self.config.expression_dim), np.float32))

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """Crop and align the faces of frames uint8 [F, h, w, 3] to uint8 [F, 224, 224, 3].

        The face is detected in every fourth frame and keeps its place until the next detection that finds one. Before
        the first, it is assumed to fill the frame. Needs no weights and no device.
        """
        height, width = frames.shape[1:3]
        points, aligned = alignment.fallback_points(width, height), []
        for number, frame in enumerate(frames):
            detected = self._detect_points(frame) if number % DETECT_EVERY == 0 else None
            if detected is not None:
                points = detected * [1, -1] + [0, height - 1]
            aligned.append(alignment.align(frame, points).image)
        return np.stack(aligned)

    def animate(self, content: np.ndarray, style: np.ndarray, portrait: Portrait) -> np.ndarray:
        """Render frames uint8 [F, 256, 256, 3] RGB from C_video [F, content_dim] and S_video [256].

        Raises:
          DreamTalkError: wrong shapes, values that are not numbers, a portrait without a face.
        """
        return np.stack(list(self.frames(content, style, portrait)))

    def frames(
        self, content: np.ndarray, style: np.ndarray, portrait: Portrait, pose: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """Return an iterator over the frames of `animate`, whose memory does not grow with their number.

        Args:
          content: C_video [F, content_dim].
          style: S_video [256].
          portrait: the face to animate.
          pose: head poses [n, 9]; without them the head does not move.

        Raises:
          DreamTalkError: as `animate`.
          ValueError: poses of another width, or none.
        """
        content, style = np.asarray(content, np.float32), np.asarray(style, np.float32)
        if content.ndim != 2 or content.shape[1] != self.content_dim or not len(content):
            raise DreamTalkError(f"C_video must be [F, {self.content_dim}], F at least 1, not {list(content.shape)}")
        if style.shape != (self.style_dim,):
            raise DreamTalkError(f"S_video must be [{self.style_dim}], not {list(style.shape)}")
        if not (np.isfinite(content).all() and np.isfinite(style).all()):
            raise DreamTalkError("C_video or S_video holds values that are not numbers")
        image = self.portrait_image(portrait)
        expression = self.networks.sample_expression(self.content_windows(content), style, self.seed)
        return self.networks.render(image, build_motion(expression, pose))

    def portrait_image(self, portrait: Portrait) -> np.ndarray:
        """Return the image to animate, uint8 [256, 256, 3]: a cropped picture, or an avatar at rest.

        Raises:
          DreamTalkError: no face in the picture, or an empty portrait.
        """
        return self._render_avatar(portrait) if portrait.image is None else self.crop_portrait(portrait.image)[0]

    def crop_portrait(self, image: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Crop a picture to its largest face.

        A picture of 256 x 256 is taken to be cropped already.

        Args:
          image: uint8 [h, w, 3] RGB.

        Returns:
          The portrait uint8 [256, 256, 3], and notes for the user.

        Raises:
          DreamTalkError: not a picture, or no face in it.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DreamTalkError(f"a portrait must be uint8 [h, w, 3] RGB, not {image.dtype} {list(image.shape)}")
        if image.shape[:2] == (self.size, self.size):
            return image, []
        faces = find_faces(image)
        if not faces:
            raise DreamTalkError(
                f"no face found in the picture ({image.shape[1]} x {image.shape[0]} pixels); give a frontal, well lit "
                f"face that is not too small, or a cropped portrait of {self.size} x {self.size}"
            )
        face, notes = select_largest(faces)
        box = face.left, face.top, face.left + face.side, face.top + face.side
        return alignment.crop_face(image, box, self.size), notes

    def _render_avatar(self, portrait: Portrait) -> np.ndarray:
        from empatheia_jax.generators.classical.face import ClassicalFace

        if portrait.appearance is None:
            raise DreamTalkError("a portrait has an image or an avatar's appearance")
        face = ClassicalFace(self.size)
        return face.animate(np.zeros((1, face.content_dim)), np.zeros(face.style_dim), portrait)[0]
