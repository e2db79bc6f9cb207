"""S_video: how an avatar performs an emotion."""

import numpy as np

from empatheia_jax.data.emotions import AVATAR_EMOTIONS
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.appearance import avatar_random
from empatheia_jax.generators.classical.expression import STYLE

#            raise slope skew  eye  cheek curve smirk part stretch lip wrinkle tilt drop
PERFORMANCE = {
    "happy": (0.35, 0.10, 0.0, 0.00, 1.0, 1.15, 0.0, 0.45, 0.6, 0.2, 0.0, 0.35, -0.2),
    "surprised": (1.30, 0.10, 0.0, 1.20, 0.0, 0.00, 0.0, 1.60, -1.0, 0.0, 0.0, 0.0, -0.4),
    "angry": (-0.9, -1.25, 0.0, 0.10, 0.2, -0.70, 0.0, 0.35, 0.3, 0.8, 0.5, 0.0, 0.5),
    "fear": (0.70, 1.00, 0.0, 1.05, 0.0, -0.55, 0.0, 0.55, 0.6, 0.0, 0.0, -0.4, 0.1),
    "sad": (0.10, 1.15, 0.0, -0.70, 0.1, -1.15, 0.0, -0.3, -0.3, 0.0, 0.0, 0.6, 0.9),
    "disgusted": (-0.5, -0.45, 0.3, -0.70, 0.6, -0.80, 0.3, 0.1, 0.0, 1.2, 1.3, -0.6, -0.3),
    "contempt": (0.10, -0.20, 1.1, -0.55, 0.1, 0.20, 1.15, -0.6, 0.1, 0.0, 0.0, -0.4, -0.8),
}
JITTER = 0.09


def face_style(profile: Profile, emotion: str, avatar_id: int) -> np.ndarray:
    """How an avatar performs one of the seven emotions: S_video, float32 [style_dim]."""
    style = np.array(PERFORMANCE[emotion])
    random = avatar_random(avatar_id, f"face/{emotion}")
    return (style + JITTER * random.standard_normal(len(STYLE))).astype(np.float32)


assert set(PERFORMANCE) == set(AVATAR_EMOTIONS)
