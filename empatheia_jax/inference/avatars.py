"""The one table of avatars: a number, a profile, a face and a voice that belong together.

Every combination of age, gender and timbre (4 x 2 x 3 = 24) has three avatars: two who act in the training part of the
sample corpus and one who acts only in its test part. Face and voice are functions of (profile, number), so whoever
shows the portrait of avatar 17 speaks with the voice of avatar 17.
"""

import dataclasses
import itertools

import numpy as np

from empatheia_jax.data.emotions import AGES, GENDERS, TIMBRES
from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.classical.appearance import Appearance, appearance_for
from empatheia_jax.generators.interfaces import Portrait

TRAIN_PER_PROFILE = 2


class AvatarError(ValueError):
    """No such avatar: says what was asked for and what there is."""


@dataclasses.dataclass(frozen=True)
class Avatar:
    """Someone who can speak and be seen. `profile.id` is the avatar's number in file names and on disk."""

    profile: Profile
    held_out: bool  # True: acts in no training dialogue of the sample corpus

    @property
    def id(self) -> int:
        """The avatar's number, from 1."""
        return self.profile.id

    @property
    def appearance(self) -> Appearance:
        """Skin, hair, background and the other choices of the parametric face."""
        return appearance_for(self.profile, self.id)

    @property
    def portrait(self) -> Portrait:
        """What a face generator animates."""
        return Portrait(appearance=self.appearance)

    def voice(self, emotion: str) -> np.ndarray:
        """Style float32 [style_dim] with which this avatar's voice performs one of the 7 avatar emotions."""
        from empatheia_jax.generators.classical.performance import speech_style  # the table itself needs no voice

        return speech_style(self.profile, emotion, self.id)

    def face(self, emotion: str) -> np.ndarray:
        """Style float32 [style_dim] with which this avatar's face performs one of the 7 avatar emotions."""
        from empatheia_jax.generators.classical.face_style import face_style  # nor OpenCV

        return face_style(self.profile, emotion, self.id)


def _table() -> tuple[Avatar, ...]:
    profiles = list(itertools.product(AGES, GENDERS, TIMBRES))
    casts = [(held_out, profile) for held_out in [False] * TRAIN_PER_PROFILE + [True] for profile in profiles]
    return tuple(Avatar(Profile(*profile, id=number), held_out) for number, (held_out, profile) in enumerate(casts, 1))


AVATARS: tuple[Avatar, ...] = _table()
TRAIN_AVATARS = tuple(avatar for avatar in AVATARS if not avatar.held_out)
TEST_AVATARS = tuple(avatar for avatar in AVATARS if avatar.held_out)


def avatar(number: int) -> Avatar:
    """The avatar of that number.

    Raises:
      AvatarError: there is none.
    """
    if not 1 <= number <= len(AVATARS):
        raise AvatarError(f"there is no avatar {number}: the table has 1 to {len(AVATARS)}")
    return AVATARS[number - 1]


def avatars_of(profile: Profile, held_out: bool | None = None) -> tuple[Avatar, ...]:
    """All avatars of an age, gender and timbre (`profile.id` is not looked at), by number.

    Args:
      profile: what is asked for.
      held_out: only those of the test part (True), only those of training (False), or both (None).
    Raises:
      AvatarError: the profile's words are not those of the table.
    """
    wanted = (profile.age, profile.gender, profile.timbre)
    found = tuple(a for a in AVATARS if (a.profile.age, a.profile.gender, a.profile.timbre) == wanted)
    if not found:
        raise AvatarError(
            f"no avatar is {', '.join(map(str, wanted))}: age is one of {', '.join(AGES)}; "
            f"gender of {', '.join(GENDERS)}; timbre of {', '.join(TIMBRES)}"
        )
    return tuple(a for a in found if held_out is None or a.held_out == held_out)


def choose_avatar(profile: Profile) -> Avatar:
    """The avatar who answers for a profile: its own number where that is in the table and fits, else the first one."""
    candidates = avatars_of(profile)
    return next((a for a in candidates if a.id == profile.id), candidates[0])
