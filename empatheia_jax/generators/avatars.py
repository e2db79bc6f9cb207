"""The table of avatars: a number, a profile, a face and a voice that belong together.

Every combination of age, gender and timbre (4 x 2 x 3 = 24) has three avatars: two who appear in the training part of
the sample corpus and one who appears only in its test part. Face and voice are functions of (profile, number), so the
portrait of avatar 17 always speaks with the voice of avatar 17.
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
    """No such avatar: says what was asked for and what the table has."""


@dataclasses.dataclass(frozen=True)
class Avatar:
    """Someone who can speak and be seen."""

    id: int  # the avatar's number, from 1, in file names and on disk; that of `profile` too
    profile: Profile
    held_out: bool  # True: appears in no training dialogue of the sample corpus

    @property
    def appearance(self) -> Appearance:
        """Skin, hair, background and the other choices of the parametric face."""
        return appearance_for(self.profile, self.id)

    @property
    def portrait(self) -> Portrait:
        """What a face generator animates."""
        return Portrait(appearance=self.appearance)

    def style_speech(self, emotion: str) -> np.ndarray:
        """Return S_speech float32 [style_dim] of this avatar's voice with one of the 7 avatar emotions."""
        from empatheia_jax.generators.classical.voices import speech_style_for

        return speech_style_for(self.profile, emotion, self.id)

    def style_video(self, emotion: str) -> np.ndarray:
        """Return S_video float32 [style_dim] of this avatar's face with one of the 7 avatar emotions."""
        from empatheia_jax.generators.classical.face_style import face_style_for  # needs OpenCV

        return face_style_for(self.profile, emotion, self.id)


def _table() -> tuple[Avatar, ...]:
    profiles = list(itertools.product(AGES, GENDERS, TIMBRES))
    entries = [(held_out, profile) for held_out in [False] * TRAIN_PER_PROFILE + [True] for profile in profiles]
    return tuple(
        Avatar(number, Profile(*profile, id=number), held_out) for number, (held_out, profile) in enumerate(entries, 1)
    )


AVATARS: tuple[Avatar, ...] = _table()
TRAIN_AVATARS = tuple(avatar for avatar in AVATARS if not avatar.held_out)
TEST_AVATARS = tuple(avatar for avatar in AVATARS if avatar.held_out)


def avatar(number: int) -> Avatar:
    """Return the avatar of that number.

    Raises:
      AvatarError: there is none.
    """
    if not 1 <= number <= len(AVATARS):
        raise AvatarError(f"there is no avatar {number}: the table has 1 to {len(AVATARS)}")
    return AVATARS[number - 1]


def avatars_with_profile(profile: Profile, held_out: bool | None = None) -> tuple[Avatar, ...]:
    """Return all avatars of an age, gender and timbre, by number.

    Args:
      profile: what is asked for; its id is ignored.
      held_out: only those of the test part (True), only those of training (False), or both (None).

    Raises:
      AvatarError: the profile's words are not those of the table.
    """
    wanted = (profile.age, profile.gender, profile.timbre)
    matches = tuple(a for a in AVATARS if (a.profile.age, a.profile.gender, a.profile.timbre) == wanted)
    if not matches:
        raise AvatarError(
            f"no avatar is {', '.join(map(str, wanted))}: age is one of {', '.join(AGES)}; "
            f"gender of {', '.join(GENDERS)}; timbre of {', '.join(TIMBRES)}"
        )
    return tuple(a for a in matches if held_out is None or a.held_out == held_out)


def choose_avatar(profile: Profile) -> Avatar:
    """Return the avatar for a profile: that of `profile.id` where the profile fits it, else the first that has it."""
    candidates = avatars_with_profile(profile)
    return next((a for a in candidates if a.id == profile.id), candidates[0])
