"""Sizes of DreamTalk's networks, as in its published configuration."""

import dataclasses


class DreamTalkError(ValueError):
    """Weights, a clip, a recording or a setting cannot be used; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class DreamTalkConfig:
    """The denoising network with its content and style encoders."""

    audio_dim: int = 1024  # width of wav2vec 2.0's features, 50 per second
    window: int = 11  # audio features that a frame (25 per second) sees
    width: int = 256
    heads: int = 8
    mlp_width: int = 1024
    layers: int = 3
    expression_dim: int = 64  # 3DMM expression coefficients
    style_frames: int = 256  # longest style clip
    lower_face: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 14)  # coefficients that move the mouth
    tail_width: int = 128


@dataclasses.dataclass(frozen=True)
class RendererConfig:
    """PIRenderer, which renders frames from motion."""

    size: int = 256  # pixels
    motion_dim: int = 73
    motion_window: int = 27  # frames
    descriptor: int = 256
    norm_width: int = 128
    flow_widths: tuple[int, ...] = (32, 64, 128, 256, 256, 256)  # from `size` pixels, halved at each step
    flow_levels: int = 3  # halvings that are undone: the flow has size / 4 pixels
    edit_widths: tuple[int, ...] = (64, 128, 256, 256)
    edit_blocks: int = 2


@dataclasses.dataclass(frozen=True)
class Face3DConfig:
    """Deep3DFaceRecon's regressor, which reads coefficients from an image."""

    size: int = 224
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # ResNet-50
    width: int = 64
    heads: tuple[int, ...] = (80, 64, 80, 3, 27, 2, 1)  # identity, expression, texture, angles, light, t_xy, t_z
