"""The avatar table: complete, split in two, and consistent."""

import collections

import numpy as np
import pytest

from empatheia_jax.data.schema import Profile
from empatheia_jax.generators.avatars import (
    AVATARS,
    TEST_AVATARS,
    TRAIN_AVATARS,
    AvatarError,
    avatar,
    avatars_with_profile,
    choose_avatar,
)


def labels(entry):
    return entry.profile.age, entry.profile.gender, entry.profile.timbre


def test_every_profile_is_in_both_parts():
    assert [entry.id for entry in AVATARS] == list(range(1, len(AVATARS) + 1))
    assert collections.Counter(map(labels, TRAIN_AVATARS)) == {labels(entry): 2 for entry in AVATARS}
    assert collections.Counter(map(labels, TEST_AVATARS)) == {labels(entry): 1 for entry in AVATARS}
    assert len({labels(entry) for entry in AVATARS}) == 24
    assert not {entry.id for entry in TRAIN_AVATARS} & {entry.id for entry in TEST_AVATARS}


def test_look_up():
    assert avatar(17).id == 17
    profile = Profile("elderly", "female", "low")
    assert all(labels(entry) == ("elderly", "female", "low") for entry in avatars_with_profile(profile))
    assert [entry.held_out for entry in avatars_with_profile(profile)] == [False, False, True]
    assert choose_avatar(profile) == avatars_with_profile(profile)[0]
    last = avatars_with_profile(profile)[-1]
    assert choose_avatar(last.profile) == last  # its own number
    assert choose_avatar(Profile("elderly", "female", "low", id=9999)) == avatars_with_profile(profile)[0]
    assert labels(choose_avatar(Profile("child", "male", "high", id=last.id))) == ("child", "male", "high")


@pytest.mark.parametrize("number", (0, -1, len(AVATARS) + 1))
def test_unknown_number(number):
    with pytest.raises(AvatarError, match="no avatar"):
        avatar(number)


def test_unknown_profile():
    with pytest.raises(AvatarError, match="timbre of high, mid, low"):
        avatars_with_profile(Profile("young", "male", "gentle"))


def test_face_and_voice_belong_to_the_avatar():
    first, second = avatars_with_profile(Profile("young", "female", "mid"))[:2]
    assert first.portrait.appearance == first.appearance != second.appearance
    assert np.array_equal(first.style_speech("sad"), avatar(first.id).style_speech("sad"))
    assert not np.array_equal(first.style_speech("sad"), second.style_speech("sad"))
    assert not np.array_equal(first.style_video("sad"), first.style_video("happy"))
